"""Times as ratios: what is compared runs in turn, and the fastest of a few runs counts."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping


def seconds(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The least time of each call over ``repeats`` rounds, in which they take turns; one round more warms up."""
    best = dict.fromkeys(calls, float("inf"))
    for round_ in range(repeats + 1):
        for name, call in calls.items():
            gc.collect()
            began = time.perf_counter()
            result = call()
            spent = time.perf_counter() - began
            del result
            if round_:
                best[name] = min(best[name], spent)
    return best
