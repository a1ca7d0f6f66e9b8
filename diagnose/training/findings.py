"""What a race has to warn about, from its legs and its summary."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diagnose.training.pairs import compared
from diagnose.training.runs import Race
from diagnose.training.speedup import overshoot_limit
from estimators.results import Finding
from reports.record.diagnosis import Training
from reports.words.numbers import number, rate

STAGE = "training"
DISAGREEING = 0.1
"""Share of the orders on each side from which on they disagree."""


def findings(race: Race, training: Training) -> tuple[Finding, ...]:
    """lr-at-grid-edge, overshoot, loss-vanishes, run-diverged, all-runs-diverged, seeds-disagree, where they hold."""
    found = [finding for method in race.settings.optimizers for finding in _of_method(race, training, method)]
    return (*found, *_vanishing(training), *_diverged(race), *_disagreeing(race))


def sizes_above(sizes: Sequence[int], n: int) -> tuple[Finding, ...]:
    """batch-sizes-above: sizes of ``--batch-sizes`` that are larger than the n rows that runs train on."""
    above = [number(size) for size in sorted(sizes) if size > n]
    if not above:
        return ()
    one = len(above) == 1
    return (
        Finding(
            code="batch-sizes-above",
            severity="note",
            stage=STAGE,
            found=f"{' and '.join(above)} of `--batch-sizes` {'is' if one else 'are'} above the {number(n)} rows that "
            "runs train on",
            meaning=f"a batch has no more than all of them: {'it stands' if one else 'they stand together'} "
            f"as {number(n)}, once",
            action=f"leave {'it' if one else 'them'} away",
        ),
    )


def _of_method(race: Race, training: Training, method: str) -> list[Finding]:
    entry = (training.methods or {}).get(method) or {}
    chosen = entry.get("learning_rate")
    if chosen is None:
        return [_none_came_through(race, method)]
    edges = _at_edge(race, method, sorted({chosen, entry["lowest_loss_rate"]}))
    return [*edges, *_overshooting(race, training, method, chosen)]


def _none_came_through(race: Race, method: str) -> Finding:
    legs = race.of(method)
    diverged, sharpness = sum(leg.diverged for leg in legs), race.settings.sharpness
    stable = (
        f": on a quadratic SGD is stable below 2/λ = {rate(2 / sharpness)}" if sharpness and method == "sgd" else ""
    )
    return Finding(
        code="all-runs-diverged",
        severity="warning",
        stage=STAGE,
        found=f"no learning rate of {method} came through with all orders of the batches: {diverged} of {len(legs)} "
        f"runs diverged, at {_range(race.rates(method))}",
        meaning=f"{method} has no final loss here and cannot be compared",
        action=f"try smaller rates with `--learning-rates`{stable}; or bring the inputs to a common scale",
    )


def _at_edge(race: Race, method: str, chosen: Sequence[float]) -> list[Finding]:
    rates = race.judged(method)
    at = [one for one in chosen if one in (rates[0], rates[-1])]
    if not at:
        return []
    where = "the only one tried" if len(rates) == 1 else f"the {'smallest' if at[0] == rates[0] else 'largest'} tried"
    fixed = race.settings.learning_rates is not None
    return [
        Finding(
            code="lr-at-grid-edge",
            severity="warning",
            stage=STAGE,
            found=f"{method}'s best learning rate, {rate(at[0])}, is {where}",
            meaning=f"a better rate may lie beyond it, and then {method} is better than it looks here",
            action="name rates further out with `--learning-rates`, or leave it away: the grid then grows by itself"
            if fixed
            else "the grid has grown as far as it may: name rates further out with `--learning-rates`",
        )
    ]


def _overshooting(race: Race, training: Training, method: str, chosen: float) -> list[Finding]:
    """Only a method with no calmer rate that descends has such a best rate."""
    start = training.initial_loss or 0.0
    means = np.array([leg.losses for leg in race.full(method)[chosen]], dtype=float).mean(0)
    top = float(means.max())
    if top <= overshoot_limit(start):
        return []
    return [
        Finding(
            code="overshoot",
            severity="warning",
            stage=STAGE,
            found=f"at its best learning rate, {rate(chosen)}, {method}'s mean loss rises to {number(top)} from "
            f"{number(start)} at the start before it falls; at no calmer rate does it fall below the start",
            meaning="a run that jumps so far may land anywhere: the rate is no advice for other data or a longer run",
            action="bring the inputs to a common scale, or try smaller rates with `--learning-rates`",
        )
    ]


def _vanishing(training: Training) -> list[Finding]:
    """The target was raised to the least share of the decrease."""
    if not training.target_floored or training.target_loss is None or training.initial_loss is None:
        return []
    target, start = number(training.target_loss), number(training.initial_loss)
    return [
        Finding(
            code="loss-vanishes",
            severity="note",
            stage=STAGE,
            found=f"both methods end within 1% of the decrease from {start} of each other: the race is over at a loss "
            f"of {target}",
            meaning="below it steps would count the digits of a loss that both have reached, not how fast they learn",
            action="nothing to do",
        )
    ]


def _diverged(race: Race) -> list[Finding]:
    """One note for all methods that still have a best rate."""
    parts, count, ran = [], 0, 0
    for method in race.settings.optimizers:
        bad = [leg for leg in race.of(method) if leg.diverged]
        if not race.best(method):
            continue
        ran += len(race.of(method))
        if bad:
            count += len(bad)
            parts.append(
                f"{method} at {', '.join(rate(value) for value in sorted({leg.learning_rate for leg in bad}))}"
            )
    if not parts:
        return []
    return [
        Finding(
            code="run-diverged",
            severity="note",
            stage=STAGE,
            found=f"{count} of {ran} runs diverged: {'; '.join(parts)}",
            meaning="at these learning rates the loss left all bounds; the runs were stopped and count as infinite",
            action="nothing to do: the best rate of each method is another one",
        )
    ]


def _range(rates: Sequence[float]) -> str:
    if len(rates) == 1:
        return f"a rate of {rate(rates[0])}"
    return f"rates from {rate(rates[0])} to {rate(rates[-1])}"


def _disagreeing(race: Race) -> list[Finding]:
    """At the best rates a good part of the orders says the one thing, a good part the other."""
    found, _ = compared(race, "sgd")
    if found is None or min(found.leads) < max(1, DISAGREEING * found.orders):
        return []
    return [
        Finding(
            code="seeds-disagree",
            severity="warning",
            stage=STAGE,
            found=f"at the best rates AdaGrad meets the target first in {found.leads[1]} of {found.orders} orders of "
            f"the batches, SGD in {found.leads[0]}",
            meaning="the speed-up is that of the mean over the orders; in one training run either may be ahead",
            action="use larger batches, whose order matters less, where one run is to be sure",
        )
    ]
