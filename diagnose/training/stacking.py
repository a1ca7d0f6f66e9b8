"""Many runs at once: batched matrix products for the gradients of all, then each method's rule on its own rows.

What it gains was measured (torch 2.13, one CPU thread of a busy machine, float32, batch 32, half of the runs by SGD and
half by AdaGrad; milliseconds of one run): logistic regression with 123 features 0.29 for a step alone, 0.013 in 32 and
0.004 in 128 (0.018 under ``vmap``); softmax regression, d = 610, 0.46 and 0.008 (0.029); an MLP 64-100-20-10 0.74 and
0.087 in 84 (0.111). Evaluations: 0.08 for that logistic regression on 4,781 samples (0.30 under ``vmap``), 0.17 for the
softmax on 1,797 (0.73), 1.3 for an MLP with GELU on 1,024 (1.8 to 2.4). Two runs are enough: a step of either takes
half of what it takes alone. A CNN lost under ``vmap`` (1.0 -> 0.93 for a step, 14 -> 58 for an evaluation); a language
model's time is all arithmetic. So models of linear layers are stacked, the others run alone, where each finished run
can be kept and a run that diverges ends at once. The choice follows the model and the number of runs, never the clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from diagnose.training.plain_layers import plain
from diagnose.training.running import (
    GRADIENT_LIMIT,
    Course,
    Tick,
    Trace,
    Visited,
    batch_numbers,
    replay,
    stream,
    threads,
)
from diagnose.training.runs import Contender, Leg, RaceSettings, evaluation_steps
from diagnose.training.stack import Stack
from estimators.task.problem import Problem

STACK_NUMBERS = 1 << 24
"""The batches and the state of one stack hold at most this many numbers."""


def stackable(problem: Problem) -> bool:
    """Whether runs of this model are faster in a stack: nothing but linear layers and what goes between them."""
    return plain(problem) and problem.d <= GRADIENT_LIMIT


def stack_size(trained: Problem, settings: RaceSettings) -> int:
    """How many runs one stack may hold: a bound that depends on model and batch alone."""
    batch = 0 if settings.batch_size >= trained.n else batch_numbers(trained, settings)
    return max(1, STACK_NUMBERS // (batch + 8 * trained.d))


def grouped(trained: Problem, settings: RaceSettings, runs: Sequence[Contender]) -> list[list[Contender]]:
    """The runs that are trained together: in stacks where they may be, the others alone."""
    together = [run for run in runs if settings.stacked and run.method not in settings.own]
    width = stack_size(trained, settings)
    stacks = [together[first : first + width] for first in range(0, len(together), width)]
    return stacks + [[run] for run in runs if run not in together]


def run_stack(course: Course, runs: Sequence[Contender], tick: Tick) -> list[Leg]:
    """Runs of any methods trained at once; one leg for each, in their order. The model is ``stackable``.

    A run that diverged leaves the stack at the evaluation where that shows.
    """
    problem, trained, settings = course.problem, course.trained, course.settings
    batches = _batches(trained, settings, runs)
    when = set(evaluation_steps(settings.steps, settings.evaluations))
    traces = [Trace(course, run) for run in runs]
    legs: dict[int, Leg] = {}
    stack = Stack(problem, settings, runs)
    with problem.measuring(), threads(trained, settings):
        for step in range(1, settings.steps + 1):
            stack.step(trained, None if batches is None else next(batches), settings.factor(step))
            if step not in when:
                continue
            gradient = course.gradients is None or step in course.gradients
            for run, seen in zip(stack.alive, stack.look(gradient), strict=True):
                traces[run].see(step, seen)
            tick(step / settings.steps)
            over = [run for run in stack.alive if traces[run].diverged or step == settings.steps]
            legs |= {run: traces[run].leg(*stack.end(run)) for run in over}
            stack.drop(over)
            if not stack.alive:
                break
    return [legs[run] for run in range(len(runs))]


def replays(
    trained: Problem, settings: RaceSettings, runs: Sequence[Contender], steps: Sequence[int]
) -> list[list[Visited]]:
    """What :func:`running.replay` gives for each of the runs, but for rounding: in a stack where they may be in one."""
    if not settings.stacked or any(run.method in settings.own for run in runs):
        return [replay(trained, run, settings, steps) for run in runs]
    batches, stack = _batches(trained, settings, runs), Stack(trained, settings, runs)
    visited: list[list[Visited]] = [[] for _ in runs]
    with trained.measuring(), threads(trained, settings):
        for step in range(max(steps) + 1):
            if step:
                stack.step(trained, None if batches is None else next(batches), settings.factor(step))
            for run in range(len(runs)) if step in steps else ():
                visited[run].append(Visited(step, *stack.visit(run)))
    return visited


def _batches(trained: Problem, settings: RaceSettings, runs: Sequence[Contender]) -> Iterator[Tensor] | None:
    """The batches of all orders, ascending, (orders, batch size); None where each is all rows."""
    if settings.batch_size >= trained.n:
        return None
    streams = [stream(trained, settings, seed) for seed in sorted({run.seed for run in runs})]
    return (torch.stack(each) for each in zip(*streams, strict=True))
