"""The stage of the race."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from diagnose.settings import Resolved
from diagnose.stages.across import completed
from diagnose.stages.bench import Bench, Update
from diagnose.stages.estimate import NOTHING, Amount, Estimate, PlanRow, Shape, row
from diagnose.training import RaceSettings, race, sweep
from diagnose.training.entrants import passes_of_a_run
from diagnose.training.findings import findings as race_findings
from diagnose.training.findings import sizes_above
from diagnose.training.running import step_seconds
from diagnose.training.runs import LOOKS, evaluation_steps, rows
from diagnose.training.stacking import stackable
from diagnose.training.summary import summarise
from diagnose.training.tuning import first_runs
from diagnose.verdict.theory import bounds
from reports.record.diagnosis import Diagnosis, Training, absent

GROWN = 1.13
"""Runs of a race for each that its first grids take."""
WAVES = 1.7
"""Times that runs of linear models are trained together in the first block: the first grid, and what it grows by, which
fewer methods take part in."""
CONTENDERS, GOING_ON = 5, 3
"""Rates of a method that go on to further orders; and methods that do, the pair and the best other."""
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
        limited=bench.limits.fewer_orders,
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


def race_of(shape: Shape, resolved: Resolved) -> RaceSettings:
    """The race's settings with the numbers of these, the evaluations as often again as without cuts."""
    assert shape.race is not None
    return replace(
        shape.race,
        steps=resolved.steps,
        seeds=shape.race.seeds if resolved.seeds == "auto" else resolved.seeds,
        auto=resolved.seeds == "auto",
        evaluations=shape.evaluated * resolved.evaluations,
        optimizers=resolved.optimizers,
    )


def plan(of: Estimate) -> PlanRow | None:
    """The race up to its first look; at most, up to its last one."""
    if of.shape.race is None:
        return None
    main = race_of(of.shape, of.work.resolved)
    swept = sweep.settings_of(main, of.work.resolved.batch_sizes or (), main.rows)
    # The sweep takes over the runs of the main race at its own size.
    others = [each for each in swept if each.batch_size != main.batch_size]
    least = NOTHING
    for each in (main, *others):
        fixed = each.learning_rates is not None
        further = 0 if each.auto else _further_runs(each)
        least += _run(of, each).times(first_runs(each) * (1 if fixed else GROWN) + further)
        least += Amount(seconds=(1 if fixed else WAVES) * each.steps * of.pace.wave)
    further = _further_runs(main) if main.auto and not main.full_batch else 0
    waves = Amount(seconds=(len(main.blocks) - 1) * main.steps * of.pace.wave) if further else NOTHING
    return row("training", least, _memory(main, of.shape), least + _run(of, main).times(further) + waves)


def _further_runs(race: RaceSettings) -> int:
    """Of all blocks but the first."""
    going = [method for method in race.optimizers if not race.deterministic(method)]
    count = min(len(going), GOING_ON) if race.auto else len(going)
    rates = CONTENDERS if race.learning_rates is None else min(CONTENDERS, len(race.learning_rates))
    return count * rates * (race.blocks[-1] - race.blocks[0])


def _run(of: Estimate, race: RaceSettings) -> Amount:
    """One run."""
    samples, shape, pace = of.work.resolved.samples, of.shape, of.pace
    looks = len(evaluation_steps(race.steps, race.evaluations)) - 1
    step = pace.step * min(race.batch_size, race.rows) / min((shape.race or race).batch_size, race.rows)
    seconds = race.steps * step + (looks * pace.evaluation + pace.ending) * samples / shape.samples
    return Amount(passes_of_a_run(race, shape.d, samples), seconds)


def _memory(race: RaceSettings, shape: Shape) -> int:
    """Bytes of what trains at once."""
    if not race.stacked:
        return shape.number * 6 * shape.d * shape.processes
    orders = race.blocks[0]
    asked = 9 * orders if race.every_rate else 3 * max(1, orders - 1)
    return shape.number * min(shape.stack, len(race.optimizers) * asked) * (shape.batch + 8 * shape.d)
