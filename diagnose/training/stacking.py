"""Many runs at once: the gradients of all of them by one ``vmap``, then each method's rule on its own runs.

Which models are stacked was measured (torch 2.13, one CPU thread, float32, batch 32; milliseconds for a step of one
run, alone -> in a stack): logistic regression with 30 features 0.25 -> 0.047 in 30 runs and 0.013 in 120; softmax
regression, d = 610, 0.27 -> 0.075 in 27; MLP, d = 8,778, 0.63 -> 0.18 in 20, 0.13 in 40 and 0.11 in 84. Evaluations
gain little: 1.9 -> 1.4 for that MLP on 1,024 samples. A CNN, d = 10,026, loses: 1.0 -> 0.93 for a step, 14 -> 58 for an
evaluation; a language model's time is all arithmetic. So models of linear layers are stacked, the others run alone,
where each finished run can be kept and a run that diverges ends at once. The choice follows the model and the number of
runs, never the clock.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import grad, grad_and_value, vmap

from diagnose.training.legs import Contender, Leg, RaceSettings, evaluation_steps
from diagnose.training.running import (
    GRADIENT_LIMIT,
    Course,
    Seen,
    Tick,
    Trace,
    batch_numbers,
    box_ends,
    stream,
    threads,
)
from diagnose.training.update_rules import RULES, State, Tensors
from estimators.problem import Parameters, Problem, Samples
from estimators.products import PLAIN

STACK_NUMBERS = 1 << 24
"""The batches and the state of one stack hold at most this many numbers."""
FEWEST_STACKED = 3
"""A stack of fewer runs, one more for each method in it, takes as long as the same runs alone, or longer."""
EVALUATED = 1 << 17
"""Samples times runs that an evaluation of a stack takes at once."""
WHOLE = "w"
"""The name under which a rule sees all coordinates of a run."""
STACKED = (*PLAIN, nn.SiLU)
"""Modules that are known to run under vmap, and to gain by it."""


def stackable(problem: Problem) -> bool:
    """Whether runs of this model are faster in a stack: nothing but linear layers and what goes between them."""
    plain = all(type(module) in STACKED for module in problem.model.modules())
    return plain and not isinstance(problem.samples, dict) and problem.d <= GRADIENT_LIMIT


def stack_size(trained: Problem, settings: RaceSettings) -> int:
    """How many runs one stack may hold: a bound on memory that depends on model and batch alone."""
    return max(1, STACK_NUMBERS // (batch_numbers(trained, settings) + 8 * trained.d))


def grouped(trained: Problem, settings: RaceSettings, runs: Sequence[Contender]) -> list[list[Contender]]:
    """The runs that are trained together: stacks where they pay, and runs alone."""
    together = [run for run in runs if settings.stacked and run.method not in settings.own]
    width = stack_size(trained, settings)
    groups: list[list[Contender]] = []
    for first in range(0, len(together), width):
        stack = together[first : first + width]
        pays = len(stack) >= FEWEST_STACKED + len({run.method for run in stack})
        groups += [stack] if pays else [[run] for run in stack]
    return groups + [[run] for run in runs if run not in together]


def run_stack(course: Course, runs: Sequence[Contender], tick: Tick) -> list[Leg]:
    """Runs of any methods trained at once; one leg for each, in their order.

    A run that diverged leaves the stack at the evaluation where that shows.
    """
    problem, trained, settings = course.problem, course.trained, course.settings

    def loss(w: Parameters, samples: Samples) -> Tensor:
        return problem.losses(w, samples).mean()

    whole = settings.batch_size >= trained.n
    share = 1.0 if whole else settings.batch_size / trained.n
    gradients = vmap(grad(loss), in_dims=(0, None if whole else 0))
    streams = {} if whole else {seed: stream(trained, settings, seed) for seed in sorted({run.seed for run in runs})}
    when = set(evaluation_steps(settings.steps, settings.evaluations))
    traces = [Trace(course, run) for run in runs]
    legs: dict[int, Leg] = {}

    # Runs of a method stand side by side, so that each rule works on a slice.
    order = sorted(range(len(runs)), key=lambda run: runs[run].method)
    parts = [_Part(method, problem, settings, list(own), runs) for method, own in _by_method(order, runs)]
    origin, box = problem.flatten(problem.parameters), box_ends(problem, settings)
    ends = None if box is None else [problem.flatten({name: pair[k] for name, pair in box.items()}) for k in (0, 1)]
    w = origin.repeat(len(runs), 1)
    d_inf = torch.zeros(len(runs), dtype=problem.dtype, device=problem.device)
    d_2 = torch.zeros_like(d_inf)
    with problem.measuring(), threads(trained, settings):
        for step in range(1, settings.steps + 1):
            alive = [run for part in parts for run in part.alive]
            if whole:
                samples = trained.samples
            else:
                index = {seed: next(batches) for seed, batches in streams.items()}
                samples = trained.take(torch.stack([index[runs[run].seed] for run in alive]))
            g = _rows(problem, gradients(_views(problem, w), samples))
            trained.passes.add(len(alive) * share)
            _move(w, g, parts, settings.factor(step))
            if ends is not None:
                w.clamp_(*ends)
            away = w - origin
            d_inf, d_2 = torch.maximum(d_inf, away.abs().amax(1)), torch.maximum(d_2, away.norm(dim=1))
            if step not in when:
                continue
            for run, seen in zip(alive, _look_at_stack(problem, w), strict=True):
                traces[run].see(step, seen)
            tick(step / settings.steps)
            for row, run in enumerate(alive):
                if traces[run].diverged or step == settings.steps:
                    legs[run] = traces[run].leg(problem.unflatten(w[row]), d_inf[row].item(), d_2[row].item())
            stay = [row for row, run in enumerate(alive) if not traces[run].diverged]
            if len(stay) < len(alive):
                if not stay:
                    break
                keep = torch.tensor(stay, device=problem.device)
                w, d_inf, d_2 = w[keep], d_inf[keep], d_2[keep]
                for part in parts:
                    part.drop({run for run in part.alive if traces[run].diverged})
    return [legs[run] for run in range(len(runs))]


class _Part:
    """The runs of one method inside a stack, with their rates and the rule's state.

    A rule takes each run's coordinates as one tensor: what it does is by coordinate, or a norm over all of them.
    """

    def __init__(
        self, method: str, problem: Problem, settings: RaceSettings, own: list[int], runs: Sequence[Contender]
    ) -> None:
        rule = RULES[method]
        self.alive = own
        self.rates = torch.tensor([runs[run].learning_rate for run in own], dtype=problem.dtype, device=problem.device)
        first = rule.init({WHOLE: problem.flatten(problem.parameters)})
        self.state: State = {kind: _copies(part, len(own)) for kind, part in first.items()}
        self._update = vmap(rule.update)

    def change(self, g: Tensor, factor: float) -> Tensor:
        """The step of each run, for the gradients (runs, d)."""
        change, self.state = self._update({WHOLE: g}, self.state, self.rates * factor)
        return change[WHOLE]

    def drop(self, gone: set[int]) -> None:
        """Take runs out."""
        stay = [row for row, run in enumerate(self.alive) if run not in gone]
        if len(stay) < len(self.alive):
            keep = torch.tensor(stay, device=self.rates.device, dtype=torch.long)
            self.alive = [self.alive[row] for row in stay]
            self.rates = self.rates[keep]
            self.state = {
                kind: {name: stacked[keep] for name, stacked in part.items()} for kind, part in self.state.items()
            }


def _by_method(order: Sequence[int], runs: Sequence[Contender]) -> list[tuple[str, list[int]]]:
    return [(method, list(own)) for method, own in itertools.groupby(order, key=lambda run: runs[run].method)]


def _move(w: Tensor, g: Tensor, parts: Sequence[_Part], factor: float) -> None:
    """Take every run (a row of w and of g) to its next iterate, in place."""
    first = 0
    for part in parts:
        if part.alive:
            last = first + len(part.alive)
            w[first:last] += part.change(g[first:last], factor)
            first = last


def _look_at_stack(problem: Problem, w: Tensor) -> list[Seen]:
    """What :func:`look` sees, for each run (row) of a stack; sums over samples in float64."""

    def total(one: Parameters, samples: Samples) -> Tensor:
        return problem.losses(one, samples).double().sum()

    runs = w.shape[0]
    gradient = torch.zeros(runs, problem.d, dtype=torch.float64, device=problem.device)
    value = torch.zeros(runs, dtype=torch.float64, device=problem.device)
    both = vmap(grad_and_value(total), in_dims=(0, None))
    width = max(1, EVALUATED // runs)
    for first in range(0, problem.n, width):
        parts, losses = both(_views(problem, w), problem.take(slice(first, first + width)))
        gradient += _rows(problem, parts)
        value += losses
    problem.passes.add(runs)
    gradient /= problem.n
    columns = (value / problem.n, gradient.abs().sum(1), gradient.norm(dim=1))
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _rows(problem: Problem, stacked: Tensors) -> Tensor:
    """A stack of parameter dicts as the rows of a matrix, (runs, d)."""
    return torch.cat([stacked[name].flatten(1) for name in problem.names], 1)


def _views(problem: Problem, w: Tensor) -> Tensors:
    """The inverse of :func:`_rows`, without a copy."""
    parts = torch.split(w, problem.sizes, 1)
    return {
        name: part.reshape(w.shape[0], *shape)
        for part, (name, shape) in zip(parts, problem.shapes.items(), strict=True)
    }


def _copies(tensors: Tensors, runs: int) -> Tensors:
    return {name: part.expand(runs, *part.shape).clone() for name, part in tensors.items()}
