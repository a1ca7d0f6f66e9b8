"""What a stage states its plan with: sizes of the problem, the pace of this machine, and what products and passes take.

Vectors that a computation holds are of d numbers each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from diagnose.limits import Work
from diagnose.stages.bench import Bench
from diagnose.training.processes import processes
from diagnose.training.running import batch_numbers
from diagnose.training.runs import RaceSettings
from diagnose.training.stacking import stack_size
from estimators.diagonal.estimate import layered_passes
from estimators.task.memory_limit import vectors
from estimators.task.products import forming_passes

LAMBDA, BRACKET = 30, 220
"""Products for lambda and for a bracket at the usual gap, on networks: 20 to 42, and 100 to 300."""


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
        formed: whether the Hessian is.
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
    formed: bool
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
        return cls(
            d=bench.problem.d,
            samples=bench.problem.n,
            curvature=bench.curvature.n,
            rows=bench.opened.rows,
            linear=bench.opened.family == "linear",
            without_curvature=bench.curvature.curvature_fault is not None,
            shared=bench.shares_lanczos,
            held=vectors(bench.curvature),
            number=bench.problem.dtype.itemsize,
            batch=0 if race is None else batch_numbers(bench.trained, race),
            stack=1 if race is None else stack_size(bench.trained, race),
            processes=1 if race is None else processes(bench.trained, race),
            formed=bench.curvature.forms_hessian,
            forming=forming_passes(bench.curvature) if bench.curvature.forms_hessian else 0.0,
            layered=layered_passes(bench.curvature),
            race=race,
            evaluated=1 if race is None else max(race.evaluations // bench.resolved.evaluations, 1),
        )


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds; those of the race are 0 where there is none.

    Attributes:
        gradient: of f over the sample set: a pass.
        noise: the gradients of single samples, all of them.
        product: H times one vector over the curvature samples, the graph being there, with what estimators make of it.
        graph: to build it.
        bracket: of a formed H, apart from forming it; 0 where it is not formed.
        step: of one run in the race, among as many as train at once.
        wave: of a step of all that train at once, beside what each run takes.
        evaluation: the loss of the sample set for one run, likewise.
        ending: what a run takes beside, once.
        alone: a step of a run that trains alone.
    """

    gradient: float
    noise: float
    product: float
    graph: float
    bracket: float
    step: float = 0.0
    wave: float = 0.0
    evaluation: float = 0.0
    ending: float = 0.0
    alone: float = 0.0


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


@dataclass(frozen=True)
class Estimate:
    """The numbers of a run, what it works on and how fast that goes: what the plan of a stage is made from."""

    work: Work
    shape: Shape
    pace: Pace

    @property
    def share(self) -> float:
        """What a pass over the curvature samples is of one over the sample set."""
        return self.work.resolved.curvature_samples / self.work.resolved.samples

    def products(self, count: float, graphs: int = 1) -> Amount:
        if not count:
            return NOTHING
        scale = self.work.resolved.curvature_samples / self.shape.curvature
        seconds = (count * self.pace.product + graphs * self.pace.graph) * scale
        return Amount((2 * count + graphs) * self.share, seconds)

    def passes(self, count: float) -> Amount:
        """Over the curvature samples."""
        gradient = self.pace.gradient * self.work.resolved.samples / self.shape.samples
        return Amount(count * self.share, count * gradient * self.share)

    def bracket(self, usual: int = BRACKET) -> Amount:
        """At one point."""
        if self.shape.formed:
            seconds = self.products(self.shape.d).seconds + self.pace.bracket
            return Amount(self.shape.forming * self.share, seconds)
        return self.products(LAMBDA + min(usual, self.work.limits.products))

    def memory(self, wanted: int, least: int) -> int:
        """Bytes of so many vectors, or of the fewest that do where those are too many; of H where it is formed."""
        shape = self.shape
        if shape.formed:
            return self.limited(shape.d * shape.d * 8 * 3)
        return self.limited(shape.number * shape.d * (wanted if shape.held >= wanted else min(shape.held, least)))

    def limited(self, size: float) -> int:
        """Bytes: a limit is a limit."""
        limit = self.work.resolved.memory
        return int(size) if limit is None else min(int(size), limit)


Plan = Callable[[Estimate], PlanRow | None]
"""What a stage will take; None where there is nothing for it to measure."""


def row(stage: str, amount: Amount, memory: int, most: Amount | None = None) -> PlanRow:
    """The plan of a stage; ``most``: what it takes when it must go on to the end."""
    return PlanRow(
        stage=stage,
        passes=amount.passes,
        seconds=amount.seconds,
        memory_bytes=memory,
        most_passes=None if most is None else most.passes,
        most_seconds=None if most is None else most.seconds,
    )
