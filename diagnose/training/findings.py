"""What a race has to warn about, from its legs and its summary."""

from __future__ import annotations

from collections.abc import Sequence

from diagnose.schema import CLEAR, Training
from diagnose.training.legs import Race
from diagnose.training.speedup import seeds_that_tell
from estimators.results import Finding
from reports.numbers import number, rate, ratio

STAGE = "training"


def findings(race: Race, training: Training) -> tuple[Finding, ...]:
    """lr-at-grid-edge, run-diverged, all-runs-diverged and seeds-disagree, where they hold."""
    found = [finding for method in race.settings.optimizers for finding in _of_method(race, method)]
    return (*found, *_diverged(race), *_disagreeing(training))


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


def _of_method(race: Race, method: str) -> list[Finding]:
    rates, best = race.judged(method), race.best(method)
    if not best:
        rates = race.rates(method)
        legs = race.of(method)
        diverged = sum(leg.diverged for leg in legs)
        return [
            Finding(
                code="all-runs-diverged",
                severity="warning",
                stage=STAGE,
                found=f"no learning rate of {method} came through with all seeds: {diverged} of {len(legs)} runs "
                f"diverged, at {_range(rates)}",
                meaning=f"{method} has no final loss here and cannot be compared",
                action="try smaller rates with `--learning-rates`, or bring the inputs to a common scale",
            )
        ]
    chosen = best[0].learning_rate
    if rates[0] < chosen < rates[-1]:
        return []
    where = "the only one tried" if len(rates) == 1 else f"the {'smallest' if chosen == rates[0] else 'largest'} tried"
    fixed = race.settings.learning_rates is not None
    return [
        Finding(
            code="lr-at-grid-edge",
            severity="warning",
            stage=STAGE,
            found=f"{method}'s best learning rate, {rate(chosen)}, is {where}",
            meaning=f"a better rate may lie beyond it, and then {method} is better than it looks here",
            action="name rates further out with `--learning-rates`, or leave it away: the grid then grows by itself"
            if fixed
            else "the grid has grown as far as it may: name rates further out with `--learning-rates`",
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


def _disagreeing(training: Training) -> list[Finding]:
    ratios = [value for value in training.speedup_seeds or () if value is not None]
    if not ratios or not (min(ratios) <= 1 / CLEAR and max(ratios) >= CLEAR):
        return []
    return [
        Finding(
            code="seeds-disagree",
            severity="warning",
            stage=STAGE,
            found=f"AdaGrad's speed-up is {ratio(min(ratios))} in one seed and {ratio(max(ratios))} in another",
            meaning="the order of the batches alone decides which method wins",
            action=f"use {_more(training)}larger batches, whose order matters less",
        )
    ]


def _more(training: Training) -> str:
    """The number of seeds that the advice of the verdict names too; empty where none would do."""
    needed = seeds_that_tell(training)
    return "" if needed is None else f"more seeds, such as `--seeds {needed}`, or "
