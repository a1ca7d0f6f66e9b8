"""The race: every method tuned on the same task, from the same start, with the same batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from diagnose.training.legs import Leg, LegStore, Race, RaceSettings, evaluation_steps, leg_key
from diagnose.training.running import GRADIENT_LIMIT, Seen, look, run_alone, run_stack, stack_size
from diagnose.training.tuning import Run, expected_runs, tune
from estimators.errors import InputError
from estimators.problem import Problem
from estimators.results import Progress

STAGE = "training"


def race(problem: Problem, settings: RaceSettings, legs: LegStore, progress: Progress | None = None) -> Race:
    """Train every method from the problem's point and tune it.

    A finished run is put into ``legs`` at once, and taken from there when it is found. Runs of a stack are taken
    only all together, so that an interrupted race goes on to the same bits. Where a batch is the whole sample set
    seeds change nothing: one is run and stands for all.

    Cost: steps * batch_size / n passes for each run, and one for each evaluation (a third above GRADIENT_LIMIT
    parameters). ``progress`` counts passes; its total grows when a grid does.

    Raises:
        InputError: the loss at the starting point is not finite.
    """
    start = look(problem, problem.parameters)
    if not math.isfinite(start[0]):
        raise InputError(
            "the loss at the starting point is not finite", type(problem.model).__name__, "scale the data or weights"
        )
    runner = _Runner(problem, settings, legs, start, progress)
    tuned = runner.settings
    finished: list[Leg] = []
    for method in settings.optimizers:
        finished += tune(method, tuned, partial(runner.train, method))
        runner.finish(method)
    if tuned.seeds < settings.seeds:
        finished = [replace(leg, seed=seed) for leg in finished for seed in range(settings.seeds)]
    return Race(settings, tuple(finished))


class _Runner:
    """Trains the runs that tuning asks for, keeps each finished leg and tells the progress."""

    def __init__(
        self, problem: Problem, settings: RaceSettings, legs: LegStore, start: Seen, progress: Progress | None
    ) -> None:
        self.problem, self.legs, self.start, self.progress = problem, legs, start, progress
        self.settings = replace(settings, seeds=1) if settings.batch_size >= problem.n else settings
        evaluations = len(evaluation_steps(settings.steps, settings.evaluations)) - 1
        evaluation = 1.0 if problem.d <= GRADIENT_LIMIT else 1 / 3
        self.passes = settings.steps * min(settings.batch_size / problem.n, 1.0) + evaluations * evaluation
        self.expected = dict.fromkeys(settings.optimizers, expected_runs(self.settings))
        self.done = dict.fromkeys(settings.optimizers, 0)

    def train(self, method: str, runs: Sequence[Run]) -> list[Leg]:
        """The legs of the runs, in their order."""
        self.expected[method] = max(self.expected[method], self.done[method] + len(runs))
        width = stack_size(self.problem, self.settings) if self.settings.every_rate else 1
        legs: list[Leg] = []
        for first in range(0, len(runs), width):
            group = runs[first : first + width]
            legs += self._group(method, group)
            self.done[method] += len(group)
            self._tell()
        return legs

    def finish(self, method: str) -> None:
        """The method needs no further run."""
        self.expected[method] = self.done[method]
        self._tell()

    def _group(self, method: str, group: Sequence[Run]) -> list[Leg]:
        """Runs that are trained together: all of them from the store, or all anew."""
        kept = [self.legs.get(leg_key(method, rate, seed)) for rate, seed in group]
        legs = [leg for leg in kept if leg is not None]
        if len(legs) == len(group):
            return legs

        def tick(share: float) -> None:
            self._tell(share * len(group))

        if self.settings.every_rate:
            legs = run_stack(self.problem, self.settings, method, group, self.start, tick)
        else:
            legs = [run_alone(self.problem, self.settings, method, *run, self.start, tick) for run in group]
        for leg in legs:
            self.legs.put(leg)
        return legs

    def _tell(self, more: float = 0.0) -> None:
        if self.progress is not None:
            done, total = sum(self.done.values()) + more, sum(self.expected.values())
            self.progress(STAGE, done * self.passes, total * self.passes)
