"""What each stage will take: passes, time and memory, from its numbers and the pace of this machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from diagnose.limits import DENSITY_STEPS, EXTRA_PASSES, Work, whole_data_products
from diagnose.planning.pace import Pace
from diagnose.settings import Resolved
from diagnose.stages.bench import HUGE_NETWORK, LARGEST_BASIS, SHARED, Bench
from diagnose.stages.points_along_runs import expected
from diagnose.training import sweep
from diagnose.training.entrants import passes_of_a_run
from diagnose.training.processes import processes
from diagnose.training.running import batch_numbers
from diagnose.training.runs import RaceSettings, evaluation_steps
from diagnose.training.stacking import stack_size
from diagnose.training.tuning import first_runs
from estimators.curvature.kinks import STEPS as KINK_STEPS
from estimators.curvature.lanczos import MAX_STEPS
from estimators.diagonal.estimate import by_layers, layered_passes
from estimators.gradient_noise.draw import FEW_GROUPS, KEPT, MOST
from estimators.growth.frozen_quadratic import STARTS
from estimators.task.memory_limit import DENSE_LIMIT, FEWEST, STEP, WIDE, vectors
from estimators.task.products import forming_passes

LAMBDA, BRACKET, READ = 30, 220, 90
"""Products for lambda and for a bracket at the usual gap, on networks: 20 to 42, and 100 to 300; and for one that ends
once its reading is certain: 60 to 180."""
ENDS = 10
"""Further products until both ends of the spectrum are known."""
GROWN = 1.13
"""Runs of a race for each that its first grids take."""
WAVES = 1.7
"""Times that runs of linear models are trained together in the first block: the first grid, and what it grows by, which
fewer methods take part in."""
CONTENDERS = 5
"""Rates of a method that go on to further orders."""
GOING_ON = 3
"""Methods that do: the pair and the best other."""
NOISE_VECTORS = 14
"""Vectors of d numbers in float64 that moments take beside those of groups."""
REPORT = 2.0
"""Seconds for the verdict, the files and the page."""


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """What a stage will take: passes over the sample set, seconds, bytes at most.

    ``most_passes``, ``most_seconds``: where the stage ends by itself, what it takes when it must go on to the end.
    """

    stage: str
    passes: float
    seconds: float
    memory_bytes: int
    most_passes: float | None = None
    most_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What decides the work besides settings: sizes of the problem as it was when the pace was taken.

    Attributes:
        d: parameters.
        samples: in the sample set.
        curvature: samples for curvature.
        rows: of the data.
        linear: whether it is a linear model, without kinks.
        without_curvature: whether second derivatives can't be measured.
        shared: whether one Lanczos run serves lambda, the spectrum and the diagonal.
        held: vectors of d numbers that there is room for.
        number: bytes of one.
        batch: numbers in the inputs and targets of a batch.
        stack: runs that train at once at most.
        processes: runs that train alone at once.
        forming: passes over the curvature samples that a Hessian takes which is formed.
        layered: those of the diagonal where the layers give it exactly, infinite elsewhere.
        race: settings of the race without cuts; None where there is none.
        evaluated: times as many evaluations as the settings say.
    """

    d: int
    samples: int
    curvature: int
    rows: int
    linear: bool
    without_curvature: bool
    shared: bool
    held: int
    number: int
    batch: int = 0
    stack: int = 1
    processes: int = 1
    forming: float = 0.0
    layered: float = math.inf
    race: RaceSettings | None = None
    evaluated: int = 1

    @classmethod
    def of(cls, bench: Bench, race: RaceSettings | None) -> Shape:
        held = vectors(bench.curvature)
        return cls(
            d=bench.problem.d,
            samples=bench.problem.n,
            curvature=bench.curvature.n,
            rows=bench.opened.rows,
            linear=bench.opened.family == "linear",
            without_curvature=bench.curvature.curvature_fault is not None,
            shared=DENSE_LIMIT < bench.problem.d <= LARGEST_BASIS and held >= SHARED,
            held=held,
            number=bench.problem.dtype.itemsize,
            batch=0 if race is None else batch_numbers(bench.trained, race),
            stack=1 if race is None else stack_size(bench.trained, race),
            processes=1 if race is None else processes(bench.trained, race),
            forming=forming_passes(bench.curvature) if bench.problem.d <= DENSE_LIMIT else 0.0,
            layered=layered_passes(bench.curvature),
            race=race,
            evaluated=1 if race is None else max(race.evaluations // bench.resolved.evaluations, 1),
        )

    @property
    def formed(self) -> bool:
        return self.d <= DENSE_LIMIT


@dataclass(frozen=True)
class Amount:
    """Passes over the sample set and seconds."""

    passes: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.passes + other.passes, self.seconds + other.seconds)

    def times(self, number: float) -> Amount:
        return Amount(self.passes * number, self.seconds * number)


NOTHING = Amount()


def planned(work: Work, shape: Shape, pace: Pace) -> list[PlanRow]:
    """A row for each stage but those that are left out.

    Passes of the bracket and the race are those of a typical run: the bracket stops when its reading is certain, or its
    gap reached, a grid may grow, and with ``--seeds auto`` the race ends at the first look that decides it.
    """
    curve = _Curvature(work, shape, pace)
    rows = [_row("noise", _noise(work, shape, pace), _noise_bytes(work, shape))]
    if not shape.without_curvature:
        rows += [
            _row("smoothness", curve.smoothness(), curve.memory(180, FEWEST)),
            _row("spectrum", curve.spectrum(), curve.memory(MAX_STEPS + STEP, STEP)),
            _row("hessian_diagonal", curve.diagonal(), curve.memory(WIDE, FEWEST)),
        ]
    if shape.race is not None:
        race = race_of(shape.race, work.resolved, shape.evaluated)
        least, most = _race(race, work, shape, pace)
        rows.append(
            replace(
                _row("training", least, _race_bytes(race, shape)),
                most_passes=most.passes,
                most_seconds=most.seconds,
            )
        )
        if not shape.without_curvature and shape.d <= HUGE_NETWORK:
            rows.append(_row("generalized_smoothness", curve.along(race), curve.memory(100, FEWEST)))
    rows.append(_row("verdict", Amount(seconds=REPORT), 0))
    skipped = {*work.limits.left_out, *(part.replace("-", "_") for part in work.resolved.skip)}
    if "training" in skipped:
        skipped.add("generalized_smoothness")
    return [row for row in rows if row.stage not in skipped]


def seconds_of(rows: Sequence[PlanRow]) -> float:
    """Of all stages, the race ending at its first look."""
    return sum(row.seconds for row in rows)


def race_of(settings: RaceSettings, resolved: Resolved, evaluated: int = 1) -> RaceSettings:
    """The race's settings with the numbers of these, of the evaluations ``evaluated`` times as many."""
    return replace(
        settings,
        steps=resolved.steps,
        seeds=settings.seeds if resolved.seeds == "auto" else resolved.seeds,
        auto=resolved.seeds == "auto",
        evaluations=evaluated * resolved.evaluations,
        optimizers=resolved.optimizers,
    )


def _row(stage: str, amount: Amount, memory: int) -> PlanRow:
    return PlanRow(stage=stage, passes=amount.passes, seconds=amount.seconds, memory_bytes=memory)


def _limited(work: Work, taken: float) -> int:
    return int(taken) if work.resolved.memory is None else min(int(taken), work.resolved.memory)


def _noise(work: Work, shape: Shape, pace: Pace) -> Amount:
    share = work.resolved.samples / shape.samples
    extra = EXTRA_PASSES if shape.d * work.resolved.samples > KEPT else 0.0
    return Amount(1 + extra, (pace.noise + extra * pace.gradient) * share)


def _noise_bytes(work: Work, shape: Shape) -> int:
    groups = 0 if work.resolved.samples == shape.rows else 2 * FEW_GROUPS * min(shape.d, MOST)
    return _limited(work, 8 * (NOISE_VECTORS * shape.d + groups))


class _Curvature:
    """The stages made of products; ``share``: what a product is of a pass over the sample set."""

    def __init__(self, work: Work, shape: Shape, pace: Pace) -> None:
        self.work, self.shape, self.pace = work, shape, pace
        self.share = work.resolved.curvature_samples / work.resolved.samples
        self.scale = work.resolved.curvature_samples / shape.curvature
        self.gradient = pace.gradient * work.resolved.samples / shape.samples

    def products(self, count: float, graphs: int = 1) -> Amount:
        if not count:
            return NOTHING
        seconds = (count * self.pace.product + graphs * self.pace.graph) * self.scale
        return Amount((2 * count + graphs) * self.share, seconds)

    def passes(self, count: float) -> Amount:
        """Over the curvature samples."""
        return Amount(count * self.share, count * self.gradient * self.share)

    def bracket(self, usual: int = BRACKET) -> Amount:
        """At one point."""
        if self.shape.formed:
            seconds = self.products(self.shape.d).seconds + self.pace.bracket
            return Amount(self.shape.forming * self.share, seconds)
        return self.products(LAMBDA + min(usual, self.work.limits.products))

    def smoothness(self) -> Amount:
        resolved, limits = self.work.resolved, self.work.limits
        found = self.bracket(READ if resolved.gap is None else BRACKET)
        if limits.whole_data and resolved.curvature_samples < self.shape.rows and self.shape.d <= HUGE_NETWORK:
            found += self.products(whole_data_products(limits))
        if not self.shape.formed and self.shape.d <= HUGE_NETWORK:
            found += self.products(limits.one_norm)
        return found

    def spectrum(self) -> Amount:
        limits = self.work.limits
        found = NOTHING
        if not self.shape.formed:
            found += self.products(ENDS if self.shape.shared else LAMBDA + ENDS)
            if self.shape.d <= HUGE_NETWORK and limits.density_starts:
                found += self.products((limits.density_starts - 1) * DENSITY_STEPS)
        if limits.directions:
            found += self.passes(1) if self.shape.formed else self.products(3) + self.passes(1)
            found += NOTHING if self.shape.linear else self.products(2) + self.passes(4 * len(KINK_STEPS))
        return found

    def diagonal(self) -> Amount:
        probes = self.work.resolved.probes
        if self.shape.formed:
            return NOTHING
        return self.passes(self.shape.layered) if by_layers(self.shape.layered, probes) else self.products(probes)

    def along(self, race: RaceSettings) -> Amount:
        """Generalized smoothness: brackets along runs that are walked again, and three for the control."""
        shape = self.shape
        points, replayed = expected(race, shape.d, race.rows, self.work.resolved.samples, self.work.limits.points)
        brackets = points + (STARTS if shape.formed else 0)
        walked = Amount(replayed, replayed * self.work.resolved.samples / race.batch_size * self.pace.alone)
        found = walked + self.bracket().times(brackets)
        return found if shape.formed else found + self.products(LAMBDA * -(-points // 2))

    def memory(self, wanted: int, least: int) -> int:
        """Bytes of so many vectors, or of the fewest that do where those are too many; a limit is a limit."""
        shape = self.shape
        if shape.formed:
            return _limited(self.work, shape.d * shape.d * 8 * 3)
        return _limited(
            self.work, shape.number * shape.d * (wanted if shape.held >= wanted else min(shape.held, least))
        )


def _race(race: RaceSettings, work: Work, shape: Shape, pace: Pace) -> tuple[Amount, Amount]:
    """The race up to its first look, and to the last one."""
    swept = sweep.settings_of(race, work.resolved.batch_sizes or (), race.rows)
    # The sweep takes over the runs of the main race at its own size.
    others = [each for each in swept if each.batch_size != race.batch_size]
    least = NOTHING
    for each in (race, *others):
        fixed = each.learning_rates is not None
        further = 0 if each.auto else _further_runs(each)
        least += _run(each, work, shape, pace).times(first_runs(each) * (1 if fixed else GROWN) + further)
        least += Amount(seconds=(1 if fixed else WAVES) * each.steps * pace.wave)
    further = _further_runs(race) if race.auto and not race.full_batch else 0
    waves = Amount(seconds=(len(race.blocks) - 1) * race.steps * pace.wave) if further else NOTHING
    return least, least + _run(race, work, shape, pace).times(further) + waves


def _further_runs(race: RaceSettings) -> int:
    """Of all blocks but the first."""
    going = [method for method in race.optimizers if not race.deterministic(method)]
    count = min(len(going), GOING_ON) if race.auto else len(going)
    rates = CONTENDERS if race.learning_rates is None else min(CONTENDERS, len(race.learning_rates))
    return count * rates * (race.blocks[-1] - race.blocks[0])


def _run(race: RaceSettings, work: Work, shape: Shape, pace: Pace) -> Amount:
    """One run."""
    samples, batch = work.resolved.samples, min(race.batch_size, race.rows)
    looks = len(evaluation_steps(race.steps, race.evaluations)) - 1
    step = pace.step * batch / min((shape.race or race).batch_size, race.rows)
    seconds = race.steps * step + (looks * pace.evaluation + pace.ending) * samples / shape.samples
    return Amount(passes_of_a_run(race, shape.d, samples), seconds)


def _race_bytes(race: RaceSettings, shape: Shape) -> int:
    held = 6 * shape.d * shape.processes
    if race.stacked:
        orders = race.blocks[0]
        asked = 9 * orders if race.every_rate else 3 * max(1, orders - 1)
        held = min(shape.stack, len(race.optimizers) * asked) * (shape.batch + 8 * shape.d)
    return shape.number * held
