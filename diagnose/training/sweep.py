"""Several batch sizes: how the tuned final loss falls with M, and up to which M a larger batch pays.

The bounds of arXiv 2406.15244 have a noise term ||sigma||_1 D_inf / sqrt(MT) for AdaGrad and ||sigma||_2 D_2 / sqrt(MT)
for SGD, up to constants. A batch is a piece of a permutation, so its noise is sigma s(M) with
s(M) = sqrt((n - M) / (M (n - 1))), which is 1/sqrt(M) for M far below n and 0 for all n rows that runs train on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from diagnose.training.racing import expected_passes, race
from diagnose.training.resolution import resolution
from diagnose.training.runs import LOOKS, LegStore, Race, RaceSettings
from diagnose.training.speedup import FEW_ORDERS, FEWEST_ORDERS
from diagnose.training.summary import summarise, t_interval
from estimators.results import Noise, Progress
from estimators.task.problem import Problem
from reports.record.diagnosis import PAIR, Bounds

FEWEST_SIZES = 3
KEYS = ("learning_rate", "final_loss", "final_loss_interval")


def races(
    problem: Problem,
    settings: RaceSettings,
    sizes: Sequence[int],
    legs: LegStore,
    progress: Progress | None = None,
    trained: Problem | None = None,
) -> list[Race]:
    """SGD and AdaGrad tuned at each batch size of :func:`settings_of`, with the same number of steps each.

    Runs that ``legs`` holds, such as those of the main race, are taken over.
    """
    n = problem.n if trained is None else trained.n
    each = settings_of(settings, sizes, n)
    costs = [expected_passes(problem, one) for one in each]
    ended: list[Race] = []
    for number, one in enumerate(each):
        before, after = sum(costs[:number]), sum(costs[number + 1 :])

        def told(stage: str, done: float, total: float, before: float = before, after: float = after) -> None:
            if progress is not None:
                progress(stage, before + done, before + total + after)

        ended.append(race(problem, one, legs, told, trained=trained))
    return ended


def settings_of(settings: RaceSettings, sizes: Sequence[int], n: int) -> list[RaceSettings]:
    """SGD and AdaGrad alone, at each batch size, ascending, with one number of orders for all: that of the first block
    where the main race goes on until it is decided. Sizes from n on are one: all n rows that runs train on."""
    methods = tuple(method for method in settings.optimizers if method in PAIR)
    within = sorted({min(size, n) for size in sizes})
    fixed = replace(settings, optimizers=methods, auto=False, seeds=LOOKS[0] if settings.auto else settings.seeds)
    return [replace(fixed, batch_size=size) for size in within]


def rows(ended: Sequence[Race]) -> list[dict[str, Any]]:
    """For result.json: what each size gave, ascending."""
    found = []
    for one in ended:
        part = summarise(one)
        row: dict[str, Any] = {
            "batch_size": one.settings.batch_size,
            "speedup": part.speedup,
            "speedup_interval": part.speedup_interval,
            "methods": {method: _short(entry) for method, entry in (part.methods or {}).items()},
        }
        why = {key: part.why[key] for key in ("speedup", "speedup_interval") if row[key] is None}
        found.append(row | ({"why": why} if why else {}))
    return found


def _short(entry: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: entry[key] for key in KEYS}
    why = {key: text for key, text in entry.get("why", {}).items() if key in KEYS}
    return kept | ({"why": why} if why else {})


def relative_noise(size: int, n: int) -> float:
    """s(M): the noise of a batch of M of n samples without replacement, in units of sigma."""
    return math.sqrt((n - size) / (size * (n - 1))) if size < n else 0.0


def noise_terms(ended: Sequence[Race], n: int, predicted: Mapping[str, float | None]) -> dict[str, dict[str, Any]]:
    """For SGD and AdaGrad: the slope of the final loss in s(M), and up to which size a larger batch pays.

    ``slope`` is that of the least-squares line final = floor + slope s(M) in each seed, averaged over seeds, with a t
    interval; ``predicted`` is the theory's, constants dropped: ||sigma||_1 D_inf / sqrt(T) or ||sigma||_2 D_2 /
    sqrt(T). ``pays_up_to``: the largest size up to which each step to the next size took the final loss down, by a
    95% t interval over seeds of the difference; ``pays_at_least``: it is the largest of the sweep.

    Args:
        ended: one race for each size, ascending.
        n: rows that runs train on.
        predicted: the theory's slope by method; None where a factor of it is not known.
    """
    raced = ended[0].settings.optimizers if ended else ()
    return {method: _term(ended, method, n, value) for method, value in predicted.items() if method in raced}


def predicted(noise: Noise, bounds: Bounds, steps: int) -> dict[str, float | None]:
    """||sigma||_2 D_2 / sqrt(T) for SGD and ||sigma||_1 D_inf / sqrt(T) for AdaGrad, with the distances of the runs."""
    factors = {"sgd": (noise.l2, bounds.d_2), "adagrad": (noise.l1, bounds.d_inf)}
    return {
        method: None if size is None or distance is None else size * distance / math.sqrt(steps)
        for method, (size, distance) in factors.items()
    }


def _term(ended: Sequence[Race], method: str, n: int, predicted: float | None) -> dict[str, Any]:
    term: dict[str, Any] = {
        "slope": None,
        "slope_interval": None,
        "predicted": predicted,
        "pays_up_to": None,
        "pays_at_least": None,
    }
    why = {} if predicted is not None else {"predicted": "noise or distance was not measured"}
    best = [one.best(method) for one in ended]
    if len(ended) < FEWEST_SIZES or not all(best):
        few = f"a line needs {FEWEST_SIZES} batch sizes or more"
        reason = few if len(ended) < FEWEST_SIZES else "a run of every learning rate diverged at one of the sizes"
        why |= dict.fromkeys((key for key, value in term.items() if value is None and key != "predicted"), reason)
        return term | {"why": why}
    count = max(len(legs) for legs in best)
    # Of all rows there is one run, which stands for every order.
    finals = np.array([[leg.final for leg in legs] * (count if len(legs) == 1 else 1) for legs in best])
    noise = np.array([relative_noise(one.settings.batch_size, n) for one in ended])
    slopes = np.polyfit(noise, finals, 1)[0].tolist()
    term["slope"], term["slope_interval"] = float(np.mean(slopes)), t_interval(slopes)
    if finals.shape[1] < FEWEST_ORDERS:
        why |= dict.fromkeys(("slope_interval", "pays_up_to", "pays_at_least"), FEW_ORDERS)
    else:
        last = 0
        while last + 1 < len(ended) and _lower(ended[last : last + 2], method, finals[last] - finals[last + 1]):
            last += 1
        if last:
            term["pays_up_to"] = min(ended[last].settings.batch_size, n)
            term["pays_at_least"] = last + 1 == len(ended) and term["pays_up_to"] < n
        else:
            why |= dict.fromkeys(
                ("pays_up_to", "pays_at_least"), "the seeds do not show that the second size ends lower"
            )
    return term | ({"why": why} if why else {})


def _lower(sizes: Sequence[Race], method: str, gained: np.ndarray) -> bool:
    """Whether the second size ends lower: by more than the orders of the batches and rounding explain."""
    ends = t_interval(gained.tolist())
    return ends is not None and ends[0] > max(resolution(leg.rounding for leg in one.best(method)) for one in sizes)
