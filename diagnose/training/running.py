"""Training runs: one after another for any model, or stacked with ``vmap`` for linear models.

Which way is faster was measured (torch 2.13, two CPU threads, float32, batch 32, milliseconds for a step of one run,
alone -> in a stack): logistic regression with 30 features 0.060 -> 0.010 in 30 runs and 0.003 in 120; softmax
regression, d = 640, 0.072 -> 0.020 in 27; MLP, d = 8,970, 0.25 -> 0.18 in 5, the most that its tuning can stack;
CNN, d = 10,026, 1.0 -> 0.93 in 5 for a step and 14 -> 58 for an evaluation; a language model's time is all
arithmetic. So linear models are stacked and all others run alone, where each finished run can be kept and a run
that diverges ends at once. The choice follows the kind of model, never the clock.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, vmap

from diagnose.training.batches import batches
from diagnose.training.legs import Leg, RaceSettings, evaluation_steps
from diagnose.training.update_rules import RULES, Rate, State, Tensors
from estimators.problem import Parameters, Problem, Samples

DIVERGED = 1e6
"""A loss above the starting one by this many times its size counts as diverged. AdaGrad's first steps have full size
in every coordinate: at its best rate they may overshoot several hundredfold and recover, so only the absurd stops."""
GRADIENT_LIMIT = 100_000
"""Up to this many parameters the gradient of the whole sample set is taken at each evaluation, not its loss alone."""
STACK_NUMBERS = 1 << 24
"""The batches and the state of one stack hold at most this many numbers."""
EVALUATED = 1 << 17
"""Samples times runs that an evaluation of a stack takes at once."""
SMALL_BATCH = 1 << 13
"""A batch of at most this many numbers is too small to share between threads."""

Seen = tuple[float, float | None, float | None]
"""Loss, ||gradient||_1 and ||gradient||_2 of the whole sample set."""
Tick = Callable[[float], None]
"""Told the share of its steps, in 0..1, that a run or a stack has done."""


class Trace:
    """What one run shows on its way; becomes a leg."""

    def __init__(self, method: str, learning_rate: float, seed: int, start: Seen) -> None:
        self.method, self.learning_rate, self.seed = method, learning_rate, seed
        self.limit = start[0] + DIVERGED * abs(start[0]) if start[0] else math.inf
        self.steps: list[int] = []
        self.seen: list[Seen] = []
        self.diverged = False
        self.see(0, start)

    def see(self, step: int, seen: Seen) -> None:
        self.steps.append(step)
        self.seen.append(seen)
        self.diverged = not seen[0] <= self.limit or math.isinf(seen[0])

    def leg(self, d_inf: float, d_2: float) -> Leg:
        losses, l1, l2 = (tuple(_finite(value) for value in column) for column in zip(*self.seen, strict=True))
        return Leg(
            method=self.method,
            learning_rate=self.learning_rate,
            seed=self.seed,
            steps=tuple(self.steps),
            losses=losses,
            gradient_l1=l1,
            gradient_l2=l2,
            diverged=self.diverged,
            d_inf=_finite(d_inf),
            d_2=_finite(d_2),
        )


def look(problem: Problem, w: Parameters) -> Seen:
    """Loss and, up to GRADIENT_LIMIT parameters, gradient norms of the whole sample set at w."""
    if problem.d > GRADIENT_LIMIT:
        return problem.at(w).loss(), None, None
    loss, gradient = problem.at(w).loss_and_gradient()
    flat = problem.flatten(gradient).double()
    return loss, flat.abs().sum().item(), flat.norm().item()


def walk(problem: Problem, settings: RaceSettings, method: str, rate: float, seed: int) -> Iterator[Parameters]:
    """w_0, w_1, ..., w_steps of one run. Step through it inside ``problem.measuring()``.

    Cost: batch_size / n passes for each step.
    """
    rule = RULES[method]
    w: Parameters = {name: part.clone() for name, part in problem.parameters.items()}
    state = rule.init(w)
    yield w
    stream = None if settings.batch_size >= problem.n else _stream(problem, settings, seed)
    for _ in range(settings.steps):
        g = problem.at(w).gradient() if stream is None else _batch_gradient(problem, w, next(stream))
        change, state = rule.update(g, state, rate)
        w = {name: part + change[name] for name, part in w.items()}
        yield w


def run_alone(
    problem: Problem, settings: RaceSettings, method: str, rate: float, seed: int, start: Seen, tick: Tick
) -> Leg:
    """One run of any model; ``start`` is what :func:`look` sees at the starting point."""
    trace = Trace(method, rate, seed, start)
    when = set(evaluation_steps(settings.steps, settings.evaluations))
    origin = problem.flatten(problem.parameters)
    d_inf, d_2 = torch.zeros_like(origin[0]), torch.zeros_like(origin[0])
    with problem.measuring(), threads(problem, settings):
        for step, w in enumerate(walk(problem, settings, method, rate, seed)):
            if not step:
                continue
            away = problem.flatten(w) - origin
            d_inf, d_2 = torch.maximum(d_inf, away.abs().amax()), torch.maximum(d_2, away.norm())
            if step in when:
                trace.see(step, look(problem, w))
                tick(step / settings.steps)
                if trace.diverged:
                    break
    return trace.leg(d_inf.item(), d_2.item())


def stack_size(problem: Problem, settings: RaceSettings) -> int:
    """How many runs one stack may hold: a bound on memory that depends on model and batch alone."""
    return max(1, STACK_NUMBERS // (_batch_numbers(problem, settings) + 8 * problem.d))


@contextlib.contextmanager
def threads(problem: Problem, settings: RaceSettings) -> Iterator[None]:
    """One CPU thread while steps are short: stacks, and small networks on small batches.

    Threads gain nothing on steps of less than a millisecond, and on a busy machine each waits for the others: with
    another process on one of two cores, steps of the MLP took 20 times and those of the stacks 25 times as long with
    two threads as with one.
    """
    before = torch.get_num_threads()
    if settings.every_rate or (problem.d <= GRADIENT_LIMIT and _batch_numbers(problem, settings) <= SMALL_BATCH):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run_stack(
    problem: Problem, settings: RaceSettings, method: str, runs: Sequence[tuple[float, int]], start: Seen, tick: Tick
) -> list[Leg]:
    """Runs of one method, (rate, seed) each, trained at once; one leg for each, in their order.

    A run that diverged leaves the stack at the evaluation where that shows.
    """
    rule = RULES[method]

    def loss(w: Parameters, samples: Samples) -> Tensor:
        return problem.losses(w, samples).mean()

    def advance(w: Tensors, state: State, rate: Rate, samples: Samples) -> tuple[Tensors, State]:
        change, state = rule.update(grad(loss)(w, samples), state, rate)
        return {name: part + change[name] for name, part in w.items()}, state

    whole = settings.batch_size >= problem.n
    share = 1.0 if whole else settings.batch_size / problem.n
    steps_at_once = vmap(advance, in_dims=(0, 0, 0, None if whole else 0))
    streams = {} if whole else {seed: _stream(problem, settings, seed) for seed in sorted({s for _, s in runs})}
    when = set(evaluation_steps(settings.steps, settings.evaluations))
    traces = [Trace(method, rate, seed, start) for rate, seed in runs]
    legs: dict[int, Leg] = {}

    rates = torch.tensor([rate for rate, _ in runs], dtype=problem.dtype, device=problem.device)
    alive = list(range(len(runs)))
    w = _copies(problem.parameters, len(runs))
    state = {kind: _copies(parts, len(runs)) for kind, parts in rule.init(problem.parameters).items()}
    origin = problem.flatten(problem.parameters)
    d_inf, d_2 = torch.zeros_like(rates), torch.zeros_like(rates)
    with problem.measuring(), threads(problem, settings):
        for step in range(1, settings.steps + 1):
            if whole:
                samples = problem.samples
            else:
                index = {seed: next(stream) for seed, stream in streams.items()}
                samples = problem.take(torch.stack([index[runs[run][1]] for run in alive]))
            w, state = steps_at_once(w, state, rates, samples)
            problem.passes.add(len(alive) * share)
            away = _rows(problem, w) - origin
            d_inf, d_2 = torch.maximum(d_inf, away.abs().amax(1)), torch.maximum(d_2, away.norm(dim=1))
            if step not in when:
                continue
            for run, seen in zip(alive, _look_at_stack(problem, w), strict=True):
                traces[run].see(step, seen)
            tick(step / settings.steps)
            stay = [row for row, run in enumerate(alive) if not traces[run].diverged]
            for row, run in enumerate(alive):
                if traces[run].diverged or step == settings.steps:
                    legs[run] = traces[run].leg(d_inf[row].item(), d_2[row].item())
            if len(stay) < len(alive):
                alive = [alive[row] for row in stay]
                if not alive:
                    break
                keep = torch.tensor(stay, device=problem.device)
                w = _some(w, keep)
                state = {kind: _some(parts, keep) for kind, parts in state.items()}
                rates, d_inf, d_2 = rates[keep], d_inf[keep], d_2[keep]
    return [legs[run] for run in range(len(runs))]


def replay(
    problem: Problem, method: str, learning_rate: float, seed: int, settings: RaceSettings, steps: Sequence[int]
) -> list[tuple[int, Parameters]]:
    """The parameters along one run of the race at the given steps, ascending.

    A run of a stack comes out equal but for rounding. Cost: batch_size / n passes for each step up to the last.
    """
    wanted = set(steps)
    if not wanted <= set(range(settings.steps + 1)):
        raise ValueError(f"steps {sorted(wanted)} outside 0..{settings.steps}")
    kept: list[tuple[int, Parameters]] = []
    with problem.measuring(), threads(problem, settings):
        for step, w in enumerate(walk(problem, settings, method, learning_rate, seed)):
            if step in wanted:
                kept.append((step, {name: part.clone() for name, part in w.items()}))
            if len(kept) == len(wanted):
                break
    return kept


def _batch_numbers(problem: Problem, settings: RaceSettings) -> int:
    """Numbers in the inputs and targets of a batch."""
    tensors = problem.samples.values() if isinstance(problem.samples, dict) else problem.samples
    return min(settings.batch_size, problem.n) * sum(tensor[0].numel() for tensor in tensors)


def _stream(problem: Problem, settings: RaceSettings, seed: int) -> Iterator[Tensor]:
    for index in batches(problem.n, settings.batch_size, settings.seed, seed):
        yield index.to(problem.device)


def _batch_gradient(problem: Problem, w: Parameters, index: Tensor) -> Parameters:
    """Gradient of the mean loss of a batch; 0 where the loss does not reach a parameter."""
    leaves = {name: part.detach().requires_grad_() for name, part in w.items()}
    loss = problem.losses(leaves, problem.trimmed(problem.take(index))).mean()
    problem.passes.add(index.numel() / problem.n)
    if not loss.requires_grad:
        return {name: torch.zeros_like(part) for name, part in w.items()}
    parts = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, parts, strict=True))


def _look_at_stack(problem: Problem, w: Tensors) -> list[Seen]:
    """What :func:`look` sees, for each run of a stack; sums over samples in float64."""

    def total(one: Parameters, samples: Samples) -> Tensor:
        return problem.losses(one, samples).sum()

    runs = next(iter(w.values())).shape[0]
    gradient = torch.zeros(runs, problem.d, dtype=torch.float64, device=problem.device)
    value = torch.zeros(runs, dtype=torch.float64, device=problem.device)
    both = vmap(grad_and_value(total), in_dims=(0, None))
    width = max(1, EVALUATED // runs)
    for first in range(0, problem.n, width):
        parts, losses = both(w, problem.take(slice(first, first + width)))
        gradient += _rows(problem, parts)
        value += losses
    problem.passes.add(runs)
    gradient /= problem.n
    columns = (value / problem.n, gradient.abs().sum(1), gradient.norm(dim=1))
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _rows(problem: Problem, stacked: Tensors) -> Tensor:
    """A stack of parameter dicts as the rows of a matrix, (runs, d)."""
    return torch.cat([stacked[name].flatten(1) for name in problem.names], 1)


def _copies(tensors: Tensors, runs: int) -> Tensors:
    return {name: part.expand(runs, *part.shape).clone() for name, part in tensors.items()}


def _some(stacked: Tensors, keep: Tensor) -> Tensors:
    return {name: part[keep] for name, part in stacked.items()}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
