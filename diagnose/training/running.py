"""One training run after another, for any model."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from diagnose.training.batches import batches
from diagnose.training.runs import Contender, Leg, RaceSettings, evaluation_steps
from diagnose.training.steps import state_of, stepper
from diagnose.training.threads import one_thread
from diagnose.training.update_rules import State
from diagnose.training.validation import Score, score
from estimators.numbers.vectors import loss_gradients
from estimators.task.function import Parameters
from estimators.task.problem import Problem

DIVERGED = 1e6
"""A loss above the starting one by this many times its size counts as diverged. AdaGrad's first steps have full size
in every coordinate: at its best rate they may overshoot several hundredfold and recover, so only the absurd stops."""
GRADIENT_LIMIT = 100_000
"""Up to this many parameters evaluations take the gradient of the whole sample set, not its loss alone."""
LEAST_SLOPES = 16
"""Evaluations of a stacked run that take the gradient, at least."""
TIMED = 3
"""Steps of each method that are timed."""
SMALL_BATCH = 1 << 13
"""A batch of at most this many numbers is too small to share between threads."""

Seen = tuple[float, float | None, float | None]
"""Loss, ||gradient||_1 and ||gradient||_2 of the whole sample set."""
Ends = dict[str, tuple[Tensor, Tensor]]
"""The two ends of the box that the iterates stay in, for each parameter."""
Tick = Callable[[float], None]
"""Told the share of its steps, in 0..1, that a run or a stack has done."""


@dataclass(frozen=True)
class Course:
    """What all runs of a race share.

    Attributes:
        problem: f over the sample set, at the start: what every run is measured by.
        settings: of the race.
        start: what :func:`look` sees at the start.
        held_out: samples that the last iterates are scored on.
        rows: the same over all rows that batches are drawn from; None: the sample set.
        processes: how many runs that train alone go on at once, each on one thread; 1: one after another.
        gradients: the evaluated steps at which the gradient is taken too; None: all.
    """

    problem: Problem
    settings: RaceSettings
    start: Seen
    held_out: Problem | None = None
    rows: Problem | None = None
    processes: int = 1
    gradients: frozenset[int] | None = None

    @property
    def problems(self) -> list[Problem]:
        """All of them, each once."""
        return list({id(one): one for one in (self.problem, self.trained, self.held_out) if one is not None}.values())

    @property
    def trained(self) -> Problem:
        """What runs take their gradients of."""
        return self.problem if self.rows is None else self.rows


def loss_limit(first: float) -> float:
    """The loss above which a run that started at ``first`` has diverged."""
    return first + DIVERGED * abs(first) if first else math.inf


class Trace:
    """What one run shows on its way; becomes a leg."""

    def __init__(self, course: Course, run: Contender) -> None:
        self.course, self.run = course, run
        self.limit = loss_limit(course.start[0])
        self.steps: list[int] = []
        self.seen: list[Seen] = []
        self.diverged = False
        self.see(0, course.start)

    def see(self, step: int, seen: Seen) -> None:
        self.steps.append(step)
        self.seen.append(seen)
        self.diverged = not seen[0] <= self.limit or math.isinf(seen[0])

    def leg(self, w: Parameters, d_inf: float, d_2: float) -> Leg:
        """What is left of the run, which ended at w."""
        held_out = self.course.held_out
        found = Score(None, None) if self.diverged or held_out is None else score(held_out, w)
        losses, l1, l2 = (tuple(_finite(value) for value in column) for column in zip(*self.seen, strict=True))
        return Leg(
            **self.run._asdict(),
            batch_size=self.course.settings.batch_size,
            steps=tuple(self.steps),
            losses=losses,
            gradient_l1=l1,
            gradient_l2=l2,
            diverged=self.diverged,
            d_inf=_finite(d_inf),
            d_2=_finite(d_2),
            validation_loss=_finite(found.loss),
            validation_accuracy=_finite(found.accuracy),
            course=self.course.settings.course,
            rounding=None if self.diverged else _finite(self._rounding(w)),
        )

    def _rounding(self, w: Parameters) -> float:
        key = self.run.key(self.course.settings.course)
        return rounding(self.course.problem, w, self.seen[-1][0], zlib.crc32(key.encode()))


def gradient_steps(settings: RaceSettings, d: int, samples: int) -> tuple[int, ...]:
    """The evaluated steps at which the gradient of so many samples is taken too: as many, evenly spaced up to the last,
    as leave evaluations no more passes than the steps take; at least LEAST_SLOPES in stacks, where passes cost less."""
    evaluated = evaluation_steps(settings.steps, settings.evaluations)[1:]
    if d > GRADIENT_LIMIT:
        return ()
    steps = settings.steps * min(settings.batch_size, settings.rows) / samples
    least = LEAST_SLOPES if settings.stacked else 0
    count = min(len(evaluated), max(least, int(1.5 * (steps - len(evaluated) / 3))))
    return tuple(evaluated[-1 - place * len(evaluated) // count] for place in reversed(range(count)))


def look(problem: Problem, w: Parameters, gradient: bool = True) -> Seen:
    """Loss and, where the gradient is taken and up to GRADIENT_LIMIT parameters, its norms, of the whole sample set."""
    if not gradient or problem.d > GRADIENT_LIMIT:
        return problem.at(w).loss(), None, None
    loss, slope = problem.at(w).loss_and_gradient()
    flat = problem.flatten(slope).double()
    return loss, flat.abs().sum().item(), flat.norm().item()


def rounding(problem: Problem, w: Parameters, loss: float, seed: int) -> float:
    """How far rounding moves a loss: max |f(w +- e) - f(w)| + rms_i(l_i(w + e) - l_i(w - e)) / (2 sqrt(n)) + u' |f(w)|.

    u is the unit in the last place of the number format, e_j = +-u w_j with random signs: the parameters cannot be told
    from w +- e, and what rounding does on the way through the model is as large as such a change of its weights
    (backward error), but another one for each sample: the second term is that of their mean. So the conditioning of
    model and data is in it: where outputs near 10^6 have errors near 0.1, this is large.
    u' is u, but that of float32 for finer formats: nobody asks which method is the first within 10^-12 of a loss, and
    the answer shall not hang on the format.

    Cost: two forward passes over the samples.
    """
    generator = torch.Generator().manual_seed(seed)
    unit = torch.finfo(problem.precision).eps
    signs = {name: 1 - 2 * torch.randint(2, part.shape, generator=generator) for name, part in w.items()}
    above, below = (
        _each(problem, {name: part * (1 + side * signs[name].to(part.device, part.dtype)) for name, part in w.items()})
        for side in (unit, -unit)
    )
    moved = max(abs(float(each.mean()) - loss) for each in (above, below))
    apart = float((above - below).norm()) / (2 * problem.n)
    return moved + apart + max(unit, torch.finfo(torch.float32).eps) * abs(loss)


def _each(problem: Problem, w: Parameters) -> Tensor:
    """The loss of every sample at w, (n,) float64."""
    with problem.measuring(), torch.no_grad():
        parts = [problem.losses(w, chunk).double() for chunk in problem.chunks()]
    problem.passes.add(1 / 3)
    return torch.cat(parts)


def walk(problem: Problem, settings: RaceSettings, run: Contender) -> Iterator[tuple[Parameters, State]]:
    """w_0, w_1, ..., w_steps of one run, each with the rule's state there (none for an optimizer of the user's).

    Step through it inside ``problem.measuring()``.

    Args:
        problem: over all rows that batches are drawn from.
        settings: of the race.
        run: its method, rate and order of the batches.

    Cost: batch_size / n passes over these n rows for each step.
    """
    w: Parameters = {name: part.clone() for name, part in problem.parameters.items()}
    step = stepper(run, settings, w)
    yield w, state_of(step)
    batches = None if settings.batch_size >= problem.n else stream(problem, settings, run.seed)
    ends = box_ends(problem, settings)
    for number in range(1, settings.steps + 1):
        g = problem.at(w).gradient() if batches is None else _batch_gradient(problem, w, next(batches))
        w = step(w, g, run.learning_rate * settings.factor(number))
        if ends is not None:
            w = {name: part.clamp(*ends[name]) for name, part in w.items()}
        yield w, state_of(step)


def box_ends(problem: Problem, settings: RaceSettings) -> Ends | None:
    """w_0 - box and w_0 + box; None where the iterates go where they like."""
    if settings.box is None:
        return None
    return {name: (part - settings.box, part + settings.box) for name, part in problem.parameters.items()}


def run_alone(course: Course, run: Contender, tick: Tick) -> Leg:
    """One run of any model."""
    problem, settings = course.problem, course.settings
    trace, w = Trace(course, run), problem.parameters
    when = set(evaluation_steps(settings.steps, settings.evaluations))
    origin = problem.flatten(problem.parameters)
    d_inf, d_2 = torch.zeros_like(origin[0]), torch.zeros_like(origin[0])
    with problem.measuring(), threads(course.trained, settings, course.processes):
        for step, (w, _) in enumerate(walk(course.trained, settings, run)):
            if not step:
                continue
            away = problem.flatten(w) - origin
            d_inf, d_2 = torch.maximum(d_inf, away.abs().amax()), torch.maximum(d_2, away.norm())
            if step in when:
                trace.see(step, look(problem, w, course.gradients is None or step in course.gradients))
                tick(step / settings.steps)
                if trace.diverged:
                    break
        return trace.leg(w, d_inf.item(), d_2.item())


def step_seconds(trained: Problem, settings: RaceSettings, method: str, learning_rate: float) -> float:
    """Seconds of one training step of a method by itself: the shortest of TIMED, after one that warms up."""
    moments = []
    with trained.measuring(), threads(trained, settings):
        for step, _ in enumerate(walk(trained, settings, Contender(method, learning_rate, 0))):
            moments.append(time.perf_counter())
            if step > TIMED:
                break
    steps = [after - before for before, after in itertools.pairwise(moments)]
    return min(steps[1:] or steps)


def threads(problem: Problem, settings: RaceSettings, processes: int = 1) -> contextlib.AbstractContextManager[None]:
    """One CPU thread where several processes train, and while steps are short: stacks, and small networks on small
    batches.

    Threads gain nothing on steps of less than a millisecond, and on a busy machine each waits for the others: with
    another process on one of two cores, steps of the MLP took 20 times and those of the stacks 25 times as long with
    two threads as with one.
    """
    small = problem.d <= GRADIENT_LIMIT and batch_numbers(problem, settings) <= SMALL_BATCH
    return one_thread(processes > 1 or settings.stacked or small)


class Counted(NamedTuple):
    """A leg, and the passes that it took over each of ``Course.problems``."""

    leg: Leg
    passes: tuple[float, ...]


def counted(course: Course, run: Contender, tick: Tick) -> Counted:
    """:func:`run_alone`, its passes by themselves, so that their sum is the same wherever the run is made."""
    before = [problem.passes.total for problem in course.problems]
    for problem in course.problems:
        problem.passes.total = 0.0
    try:
        leg = run_alone(course, run, tick)
        return Counted(leg, tuple(problem.passes.total for problem in course.problems))
    finally:
        for problem, passes in zip(course.problems, before, strict=True):
            problem.passes.total = passes


class Visited(NamedTuple):
    """A point of a run: the step that led there, w, and the rule's state (for adagrad v)."""

    step: int
    parameters: Parameters
    state: State


def replay(problem: Problem, run: Contender, settings: RaceSettings, steps: Sequence[int]) -> list[Visited]:
    """The points along one run of the race after the given steps, ascending.

    A run of a stack comes out equal but for rounding. ``problem`` is over all n rows that batches are drawn from. Cost:
    batch_size / n passes over them for each step up to the last.
    """
    wanted = set(steps)
    if not wanted <= set(range(settings.steps + 1)):
        raise ValueError(f"steps {sorted(wanted)} outside 0..{settings.steps}")
    kept: list[Visited] = []
    with problem.measuring(), threads(problem, settings):
        for step, (w, state) in enumerate(walk(problem, settings, run)):
            if step in wanted:
                kept.append(Visited(step, w, state))
            if len(kept) == len(wanted):
                break
    return kept


def batch_numbers(problem: Problem, settings: RaceSettings) -> int:
    """Numbers in the inputs and targets of a batch of the problem's samples."""
    tensors = problem.samples.values() if isinstance(problem.samples, dict) else problem.samples
    return min(settings.batch_size, problem.n) * sum(tensor[0].numel() for tensor in tensors)


def stream(problem: Problem, settings: RaceSettings, seed: int) -> Iterator[Tensor]:
    """The batches of one seed, as numbers of the problem's samples on its device."""
    for index in batches(problem.n, settings.batch_size, settings.seed, seed):
        yield index.to(problem.device)


def _batch_gradient(problem: Problem, w: Parameters, index: Tensor) -> Parameters:
    """Gradient of the mean loss of a batch; 0 where the loss does not reach a parameter."""
    leaves = {name: part.detach().requires_grad_() for name, part in w.items()}
    loss = problem.losses(leaves, problem.trimmed(problem.take(index))).mean()
    problem.passes.add(index.numel() / problem.n)
    return dict(zip(leaves, loss_gradients(loss, list(leaves.values())), strict=True))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
