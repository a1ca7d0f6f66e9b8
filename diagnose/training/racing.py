"""The race: every method tuned on the same task, from the same start, with the same batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from diagnose.training.legs import Contender, Leg, LegStore, Race, RaceSettings, evaluation_steps
from diagnose.training.running import GRADIENT_LIMIT, Course, look, run_alone
from diagnose.training.stacking import grouped, run_stack
from diagnose.training.steppers import state_bytes
from diagnose.training.tuning import Tuning, expected_runs, tune
from estimators.errors import InputError
from estimators.problem import Problem
from estimators.results import Progress

STAGE = "training"


def race(
    problem: Problem,
    settings: RaceSettings,
    legs: LegStore,
    progress: Progress | None = None,
    held_out: Problem | None = None,
    trained: Problem | None = None,
) -> Race:
    """Train every method from the problem's point and tune it, on batches of ``trained`` (None: of the problem).

    All methods are tuned side by side: what each wants next is trained together, in stacks where ``settings.stacked``
    says so (optimizers of the user's always run alone). A finished run is put into ``legs`` at once, and taken from
    there when it is found. Runs of a stack are taken only all together, so that an interrupted race goes on to the
    same bits. Where a batch is the whole sample set seeds change nothing but for an optimizer of the user's, which
    may draw random numbers: of the other methods one seed is run and stands for all.

    Cost: steps * batch_size / n passes for each run, one for each evaluation (a third above GRADIENT_LIMIT
    parameters), two thirds at its end (``running.rounding``) and a forward pass over the ``held_out`` samples.
    ``progress`` counts passes over the sample set; its total grows when a grid does.

    Raises:
        InputError: the loss at the starting point is not finite; an optimizer of the user's cannot be used.
    """
    start = look(problem, problem.parameters)
    if not math.isfinite(start[0]):
        raise InputError(
            "the loss at the starting point is not finite", type(problem.model).__name__, "scale the data or weights"
        )
    memory = {method: state_bytes(method, settings.own, problem.parameters) for method in settings.optimizers}
    rows = problem.n if trained is None else trained.n
    runner = _Runner(Course(problem, settings, start, held_out, trained), legs, progress)
    finished: dict[str, list[Leg]] = {}
    tunings: dict[str, Tuning] = {
        method: tune(method, _tuned(rows, settings, method)) for method in settings.optimizers
    }
    wanted = {method: next(tuning) for method, tuning in tunings.items()}
    while wanted:
        runs = [Contender(method, rate, seed) for method, asked in wanted.items() for rate, seed in asked]
        made = runner.train(runs)
        for method in list(wanted):
            own = [leg for leg in made if leg.method == method]
            try:
                wanted[method] = tunings[method].send(own)
            except StopIteration as end:
                finished[method] = end.value
                del wanted[method]
                runner.finish(method)
    every: list[Leg] = []
    for method in settings.optimizers:
        copied = _tuned(rows, settings, method).seeds < settings.seeds
        seeds = range(settings.seeds)
        every += [replace(leg, seed=seed) for leg in finished[method] for seed in seeds] if copied else finished[method]
    return Race(settings, tuple(every), memory, held_out is not None)


def expected_passes(problem: Problem, settings: RaceSettings, rows: int) -> float:
    """Passes over the sample set of a race on so many rows whose best rates lie inside their first grids."""
    runs = sum(expected_runs(_tuned(rows, settings, method)) for method in settings.optimizers)
    return runs * _passes(problem, settings, rows)


def _tuned(rows: int, settings: RaceSettings, method: str) -> RaceSettings:
    """With full batches all seeds of a pure rule are the same run."""
    same = settings.batch_size >= rows and method not in settings.own
    return replace(settings, seeds=1) if same else settings


def _passes(problem: Problem, settings: RaceSettings, rows: int) -> float:
    """Passes of one run over the sample set."""
    evaluations = len(evaluation_steps(settings.steps, settings.evaluations)) - 1
    evaluation = 1.0 if problem.d <= GRADIENT_LIMIT else 1 / 3
    return settings.steps * min(settings.batch_size, rows) / problem.n + evaluations * evaluation + 2 / 3


class _Runner:
    """Trains the runs that tuning asks for, keeps each finished leg and tells the progress."""

    def __init__(self, course: Course, legs: LegStore, progress: Progress | None) -> None:
        self.course, self.legs, self.progress = course, legs, progress
        self.settings = course.settings
        rows = course.trained.n
        self.passes = _passes(course.problem, course.settings, rows)
        self.expected = {
            method: expected_runs(_tuned(rows, course.settings, method)) for method in self.settings.optimizers
        }
        self.done = dict.fromkeys(self.settings.optimizers, 0)

    def train(self, runs: Sequence[Contender]) -> list[Leg]:
        """The legs of the runs, in their order."""
        for method in self.done:
            asked = sum(run.method == method for run in runs)
            self.expected[method] = max(self.expected[method], self.done[method] + asked)
        made: dict[Contender, Leg] = {}
        for group in grouped(self.course.trained, self.settings, runs):
            made.update(zip(group, self._group(group), strict=True))
            for run in group:
                self.done[run.method] += 1
            self._tell()
        return [made[run] for run in runs]

    def finish(self, method: str) -> None:
        """The method needs no further run."""
        self.expected[method] = self.done[method]
        self._tell()

    def _group(self, group: Sequence[Contender]) -> list[Leg]:
        """Runs that are trained together: all of them from the store, or all anew."""
        kept = [self.legs.get(run.key(self.settings.batch_size)) for run in group]
        legs = [leg for leg in kept if leg is not None]
        if len(legs) == len(group):
            return legs

        def tick(share: float) -> None:
            self._tell(share * len(group))

        one, *others = group
        legs = run_stack(self.course, group, tick) if others else [run_alone(self.course, one, tick)]
        for leg in legs:
            self.legs.put(leg)
        return legs

    def _tell(self, more: float = 0.0) -> None:
        if self.progress is not None:
            done, total = sum(self.done.values()) + more, sum(self.expected.values())
            self.progress(STAGE, done * self.passes, total * self.passes)
