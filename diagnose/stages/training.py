"""The stage of the race."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from diagnose.stages.across import completed
from diagnose.stages.bench import Bench, Update
from diagnose.training import RaceSettings, race, sweep
from diagnose.training.findings import findings as race_findings
from diagnose.training.findings import sizes_above
from diagnose.training.running import step_seconds
from diagnose.training.runs import LOOKS, rows
from diagnose.training.stacking import stackable
from diagnose.training.summary import summarise
from diagnose.verdict.theory import bounds
from reports.record.diagnosis import Diagnosis, Training, absent

NO_TRAINING = "training was off (--no-training)"
MOST_EVALUATED = 10_000
"""Up to this many samples a stack of runs is evaluated twice as often: it costs 2 to 30% of a race, and narrows the
interval as much as half as many orders again."""


def training(bench: Bench, known: Diagnosis) -> Update:
    if (reason := bench.skipped("training")) is not None:
        off: dict[str, Any] = {"training": absent(Training, reason)}
        off["bounds"] = bounds(known.noise, known.smoothness, None)
        return Update(off, runs=[])
    settings = race_settings(bench, known.smoothness.sharpness)
    ended = race(bench.problem, settings, bench.legs, bench.progress, bench.held_out, bench.trained, bench.affordable)
    if bench.limits.race_blocks is not None and ended.decided_by == "orders":
        ended = replace(ended, decided_by="budget")
    ratios = bounds(known.noise, known.smoothness, ended)
    part = summarise(ended)
    if bench.resolved.batch_sizes is not None:
        part = _with_sweep(part, bench, settings, sweep.predicted(known.noise, ratios, settings.steps))
    found = (*race_findings(ended, part), *sizes_above(bench.resolved.batch_sizes or (), bench.trained.n))
    count = len(settings.optimizers)
    amount = f"{count} {'method' if count == 1 else 'methods'}, {len(ended.legs)} runs"
    parts = {"training": part, "bounds": ratios}
    tuned = {method: entry["learning_rate"] for method, entry in (part.methods or {}).items()}
    seconds = {
        method: step_seconds(bench.trained, settings, method, rate)
        for method, rate in tuned.items()
        if rate is not None
    }
    return Update(parts, findings=found, runs=rows(ended), amount=amount, step_seconds=seconds)


def _with_sweep(
    part: Training, bench: Bench, settings: RaceSettings, predicted: Mapping[str, float | None]
) -> Training:
    """The race, with what ``--batch-sizes`` asks for."""
    sizes = bench.resolved.batch_sizes or ()
    ended = sweep.races(bench.problem, settings, sizes, bench.legs, bench.progress, bench.trained)
    terms = sweep.noise_terms(ended, bench.trained.n, predicted)
    return completed(part, {"batch_sizes": sweep.rows(ended), "noise_terms": terms})


def race_settings(bench: Bench, sharpness: float | None = None) -> RaceSettings:
    """The race's settings from the run's, and max|eig H| at the start where it was measured."""
    r = bench.resolved
    stacked = stackable(bench.problem)
    return RaceSettings(
        steps=r.steps,
        batch_size=r.batch_size,
        rows=bench.trained.n,
        samples=bench.problem.n,
        seeds=LOOKS[0] if r.seeds == "auto" else r.seeds,
        auto=r.seeds == "auto",
        seed=r.seed,
        evaluations=r.evaluations * (2 if stacked and bench.problem.n <= MOST_EVALUATED else 1),
        optimizers=r.optimizers,
        learning_rates=r.learning_rates,
        every_rate=bench.opened.family == "linear",
        stacked=stacked,
        sharpness=sharpness,
        schedule=r.schedule,
        box=r.box,
        own=bench.own,
    )
