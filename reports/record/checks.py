"""Values of result.json that no run writes although their types are right: the page cannot show them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

LARGEST = 1e300
"""Sizes from here on overflow where a page scales them."""
RATIOS = ("speedup", "adagrad_speedup", "best_other_speedup")
RATIO_INTERVALS = ("speedup_interval", "adagrad_speedup_interval", "best_other_interval")
POSITIVE = (*RATIOS, "batch_size", "learning_rate")
CURVES = ("grid", "density", "spread", "lower", "upper")
ROUNDING = 1e-9
"""Of a mean against the ends of its interval, as a share of its size."""


def impossible(value: Any, key: str = "", path: str = "") -> str | None:
    """The first impossible value within this one, with what it should be.

    Sizes below 1e300; ends of intervals in order, those of ratios above 0; a final loss inside its interval; grid,
    density, spread and band of one length; learning rates, batch sizes and ratios above 0; each batch size with all
    methods.

    Args:
        value: of the types of ``rows``.
        key: under which it stands.
        path: to it, for the message.
    """
    wanted = _wanted(value, key, path)
    if wanted is not None:
        return f"`{path}`: should be {wanted}"
    return next((found for inner in _inside(value, key, path) if (found := impossible(*inner)) is not None), None)


def _inside(value: Any, key: str, path: str) -> Iterator[tuple[Any, str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name == "why":  # reasons under the names of values
                continue
            yield inner, name, f"{path}.{name}" if path else name
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield inner, "", f"{path}[{place}]"


def _wanted(value: Any, key: str, path: str) -> str | None:
    """What the value should be; None where it may be what it is."""
    if isinstance(value, int | float):
        if abs(value) >= LARGEST:
            return f"below {LARGEST:g} in size"
        if key in POSITIVE and value <= 0:
            return "above 0"
    elif isinstance(value, tuple) and key.endswith("interval"):
        if value[0] > value[1]:
            return "in order, the lower end first"
        ratio = key in RATIO_INTERVALS or path.startswith("prediction.")
        if ratio and value[0] <= 0:
            return "above 0"
    elif isinstance(value, Mapping):
        return _fitting(value)
    elif isinstance(value, list) and path == "training.batch_sizes":
        names = {name for row in value for name in row["methods"]}
        lacking = sorted({name for row in value for name in names - set(row["methods"])})
        if lacking:
            return f"complete: {lacking[0]} is missing at a batch size"
    return None


def _fitting(row: Mapping[str, Any]) -> str | None:
    """What the values of an object should be to each other."""
    lengths = {len(row[key]) for key in CURVES if isinstance(row.get(key), list)}
    if len(lengths) > 1:
        return f"of one length in {', '.join(CURVES[:-1])} and {CURVES[-1]}"
    final, ends = row.get("final_loss"), row.get("final_loss_interval")
    if final is not None and ends is not None:
        slack = ROUNDING * max(abs(final), *map(abs, ends))
        if not ends[0] - slack <= final <= ends[1] + slack:
            return "of a final_loss inside its final_loss_interval"
    return None
