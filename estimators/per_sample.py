"""Moments of the per-sample gradients g_i = nabla l_i(w): their mean and sum of squared deviations, in O(d) memory.

Three engines. The loop differentiates one sample at a time: it works for every model and is the reference. Layer
rules (``layer_rules.py``) read the samples' gradients off one backward pass over a chunk. Where an operation has no
rule and d is small, ``vmap`` maps ``grad`` over a chunk. Whatever is not the loop is held against it on two samples
before it is used.

Which one runs follows the model and its samples alone, never the clock: the same problem gives the same bits.
Measured on one CPU thread with torch 2.13 in float32, in forward+backward passes over the same samples (the check
once, the rules for each measurement):

                                                      check   rules    loop
    GPT-2, 4 x 256, T = 128     n =  32, d = 3,258,112     0.19    1.16    1.82
    ResNet-20, 32 x 32          n =  64, d =   269,722     0.24    1.45    3.80
    MLP 784-256-256-10          n = 256, d =   269,322     0.56    1.62    53

A pass does three matrix products for each linear layer; for rows without a second axis the rules do four.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import overload
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.func import grad, vmap

from estimators import layer_rules
from estimators.errors import InputError
from estimators.layer_rules import Use
from estimators.moments import Moments, Sums, moments_of_outer_products, moments_of_rows
from estimators.problem import Parameters, Problem, Samples
from estimators.results import Finding, Progress
from estimators.sites import Plan, Unfit

VMAP_LIMIT = 100_000
"""Above this many coordinates vmap gives way to the loop: rows no longer stay in the cache, and it is as fast."""
ROW_NUMBERS = 1 << 20
"""The rows that are in memory at once hold at most this many numbers (8 MB in float64), or one row."""
LOOP_GROUP = 16
"""Samples between two calls of progress in the loop."""
STAGE = "noise"

Done = Callable[[int], None]
"""Told how many samples were just measured."""
Engine = Callable[[Problem, range, Done], Moments]
"""Moments of the samples of a range."""


@overload
def gradient_moments(problem: Problem, progress: Progress | None = None) -> tuple[Moments, tuple[Finding, ...]]: ...
@overload
def gradient_moments(
    problem: Problem, progress: Progress | None = None, *, groups: int
) -> tuple[tuple[Moments, ...], tuple[Finding, ...]]: ...
def gradient_moments(
    problem: Problem, progress: Progress | None = None, *, groups: int | None = None
) -> tuple[Moments | tuple[Moments, ...], tuple[Finding, ...]]:
    """Mean and sum of squared deviations of the per-sample gradients, and what was found on the way.

    Cost: about one forward+backward pass over the samples, and four samples more for each engine that is checked.
    Memory: a few (d,) vectors in float64, two more for each group, what one chunk keeps for backward, and its rows.

    Args:
        problem: the task at a point.
        progress: called with ("noise", samples done, samples).
        groups: give the moments of so many groups of samples, sample i in group i mod groups, not those of all.

    Raises:
        InputError: the gradient of a sample is not finite, or more groups than samples.
    """
    number = 1 if groups is None else groups
    if not 1 <= number <= problem.n:
        raise InputError(f"{problem.n} samples do not make {number} groups", "groups")
    with problem.measuring():
        engine, trouble = _choice(problem)
        try:
            parts = _by_group(problem, engine, number, progress)
        except Unfit as late:
            trouble = f"layer rules were not used: {late}"
            parts = _by_group(problem, _by_loop, number, progress)
    return (parts[0] if groups is None else parts), ((_loop_note(trouble),) if trouble else ())


def _by_group(problem: Problem, engine: Engine, groups: int, progress: Progress | None) -> tuple[Moments, ...]:
    finished = 0

    def done(samples: int) -> None:
        nonlocal finished
        finished += samples
        problem.passes.add(samples / problem.n)
        if progress is not None:
            progress(STAGE, finished, problem.n)

    parts = []
    for group in range(groups):
        samples = range(group, problem.n, groups)
        parts.append(engine(problem, samples, done))
        _refuse_not_finite(problem, parts[-1], samples)
    return tuple(parts)


def _pieces(samples: range, width: int) -> Iterator[range]:
    for start in range(0, len(samples), width):
        yield samples[start : start + width]


def _take(problem: Problem, samples: range) -> Samples:
    """The samples of a range, side by side in memory: what torch does with others may depend on their number."""
    if samples.step == 1:
        return problem.take(slice(samples.start, samples.stop))
    return problem.take(torch.tensor(samples, device=problem.device))


# -- one sample at a time --------------------------------------------------------------------------


def _by_loop(problem: Problem, samples: range, done: Done) -> Moments:
    total: Moments | None = None
    for piece in _pieces(samples, LOOP_GROUP):
        part = _loop_moments(problem, piece.start, piece.stop, piece.step)
        total = part if total is None else total.merge(part)
        done(part.count)
    assert total is not None  # a group holds at least one sample
    return total


def _loop_moments(problem: Problem, start: int, stop: int, step: int = 1) -> Moments:
    """Welford's recursion, in place on two vectors."""
    samples = range(start, stop, step)
    mean = _loop_row(problem, samples[0]).double()
    squares = torch.zeros_like(mean)
    for count, sample in enumerate(samples[1:], 2):
        delta = _loop_row(problem, sample).double() - mean
        mean.add_(delta, alpha=1 / count)
        squares.addcmul_(delta, delta, value=(count - 1) / count)
    return Moments(len(samples), mean, squares)


def _loop_row(problem: Problem, sample: int) -> Tensor:
    """Gradient of one sample, (d,); 0 where its loss does not reach a parameter."""
    named = _leaves(problem)
    loss = problem.losses(named, problem.trimmed(problem.take(slice(sample, sample + 1)))).sum()
    if not loss.requires_grad:
        return torch.zeros(problem.d, dtype=problem.dtype, device=problem.device)
    parts = torch.autograd.grad(loss, list(named.values()), allow_unused=True, materialize_grads=True)
    return torch.cat([part.reshape(-1) for part in parts])


def _leaves(problem: Problem) -> Parameters:
    return {name: parameter.detach().requires_grad_() for name, parameter in problem.parameters.items()}


# -- layer rules -----------------------------------------------------------------------------------


def _by_rules(plan: Plan, problem: Problem, samples: range, done: Done) -> Moments:
    """Matrices that each sample enters by one outer product through their factors, the rest through rows.

    Raises:
        Unfit: the graph of a chunk is not that of the plan.
    """
    mean, squares = (torch.empty(problem.d, dtype=torch.float64, device=problem.device) for _ in range(2))
    places = zip(torch.split(mean, problem.sizes), torch.split(squares, problem.sizes), strict=True)
    sums = [Sums(*pair) for pair in places]
    width = problem._chunk
    if problem.n * plan.numbers > 2 * problem.d:
        # What a chunk keeps is the larger part of memory: half of the samples keep less than a training step of all.
        width = min(width, (problem.n + 1) // 2)
    for piece in _pieces(samples, width):
        _add_chunk(plan, problem, _take(problem, piece), sums)
        done(len(piece))
    for each in sums:
        each.close()
    return Moments(len(samples), mean, squares)


def _add_chunk(plan: Plan, problem: Problem, chunk: Samples, sums: list[Sums]) -> None:
    chunk = problem.trimmed(chunk)
    named = _leaves(problem)
    leaves = list(named.values())
    losses = problem.losses(named, chunk)
    samples = losses.shape[0]
    uses = layer_rules.planned_uses(plan, losses.sum(), leaves, samples, _kept(chunk))
    with torch.no_grad():
        for each, leaf, into in zip(uses, leaves, sums, strict=True):
            _add_uses(each, samples, leaf.numel(), into)


def _add_uses(uses: list[Use], samples: int, size: int, into: Sums) -> None:
    """The gradients of one parameter."""
    if len(uses) == 1 and uses[0].factors is not None and into.takes_moments:
        into.merge(moments_of_outer_products(*uses[0].factors, ROW_NUMBERS))
    elif uses:
        width = max(1, ROW_NUMBERS // max(size, 1))
        for start in range(0, samples, width):
            into.add(layer_rules.rows(uses, start, min(start + width, samples)))


def _kept(samples: Samples) -> int:
    """Positions with logits, where the samples are token sequences."""
    if not isinstance(samples, dict):
        return 0
    return samples.get("logits_to_keep", samples["labels"].reshape(samples["labels"].shape[0], -1)[0]).numel()


# -- vmap ------------------------------------------------------------------------------------------


def _by_vmap(problem: Problem, samples: range, done: Done) -> Moments:
    total: Moments | None = None
    for piece in _pieces(samples, max(1, min(problem._chunk, ROW_NUMBERS // problem.d))):
        part = moments_of_rows(_vmap_rows(problem, _take(problem, piece)))
        total = part if total is None else total.merge(part)
        done(part.count)
    assert total is not None  # a group holds at least one sample
    return total


def _vmap_rows(problem: Problem, samples: Samples) -> Tensor:
    """Gradients of the samples as rows, (m, d)."""

    def loss(parameters: Parameters, sample: Samples) -> Tensor:
        alone: Samples
        if isinstance(sample, dict):
            alone = {name: tensor[None] for name, tensor in sample.items()}
        else:
            alone = (sample[0][None], sample[1][None])
        return problem.losses(parameters, alone)[0]

    rows: Parameters = vmap(grad(loss), in_dims=(None, 0))(problem.parameters, samples)
    return torch.cat([rows[name].flatten(1) for name in problem.names], 1)


# -- which one -------------------------------------------------------------------------------------


_CHOSEN: WeakKeyDictionary[Problem, tuple[Engine, str]] = WeakKeyDictionary()


def _choice(problem: Problem) -> tuple[Engine, str]:
    """The engine, and where it is the loop, why; checked the first time that a problem is measured."""
    if problem not in _CHOSEN:
        _CHOSEN[problem] = _checked(problem)
    return _CHOSEN[problem]


def _checked(problem: Problem) -> tuple[Engine, str]:
    if problem.n < 2:
        return _by_loop, ""
    ends = range(0, problem.n, problem.n - 1)
    wanted = torch.stack([_loop_row(problem, sample) for sample in ends])
    problem.passes.add(2 / problem.n)
    problem.passes.add(2 / problem.n)
    try:
        plan, found = _surveyed_rows(problem, _take(problem, ends))
    except Unfit as reason:
        if problem.d > VMAP_LIMIT:
            return _by_loop, f"layer rules were not used: {reason}"
    else:
        trouble = _difference(problem, found, wanted)
        return (_by_loop, f"layer rules were not used: {trouble}") if trouble else (partial(_by_rules, plan), "")
    problem.passes.add(2 / problem.n)
    try:
        rows = _vmap_rows(problem, _take(problem, ends))
        trouble = _difference(problem, torch.split(rows, problem.sizes, 1), wanted)
    except Exception as error:
        # Whatever a model raises under vmap, the loop calls it without; the note quotes the beginning.
        trouble = textwrap.shorten(f"{type(error).__name__}: {error}", 90, placeholder=" …")
    return (_by_loop, f"vmap was not used: {trouble}") if trouble else (_by_vmap, "")


def _surveyed_rows(problem: Problem, two: Samples) -> tuple[Plan, Sequence[Tensor]]:
    """The plan of the rules, and by it the gradients of the two samples, (2, numbers) for each parameter.

    Raises:
        Unfit: where the rules do not apply.
    """
    two, named = problem.trimmed(two), _leaves(problem)
    leaves = list(named.values())
    losses = problem.losses(named, two)
    plan, sites = layer_rules.survey(losses, leaves, _kept(two))
    uses = layer_rules.uses(sites, losses.sum(), leaves, 2)
    with torch.no_grad():
        pairs = zip(uses, leaves, strict=True)
        return plan, [layer_rules.rows(u, 0, 2) if u else leaf.new_zeros(2, leaf.numel()) for u, leaf in pairs]


def _difference(problem: Problem, found: Sequence[Tensor], wanted: Tensor) -> str:
    """Which parameter's gradients of two samples are not those of the loop, (2, d); empty when all are."""
    # The scale of the whole gradient judges a tensor whose own is pure rounding (a bias that the softmax cancels).
    rough = min(4096 * torch.finfo(problem.precision).eps, 0.1)
    whole = wanted.abs().amax()
    for name, ours, theirs in zip(problem.names, found, torch.split(wanted, problem.sizes, 1), strict=True):
        if not bool((ours - theirs).abs().amax() <= rough * (theirs.abs().amax() + whole / 64)):
            return f"its gradients of {name} differ from those of one sample at a time"
    return ""


def _loop_note(trouble: str) -> Finding:
    return Finding(
        code="loop-over-samples",
        severity="note",
        stage=STAGE,
        found=trouble,
        meaning="gradients were taken one sample at a time: the same numbers, more slowly",
        action="nothing to do",
    )


def _refuse_not_finite(problem: Problem, part: Moments, samples: range) -> None:
    if bool(torch.isfinite(part.squares.sum())):  # none is negative
        return
    for sample in samples:
        for name, values in problem.unflatten(_loop_row(problem, sample)).items():
            if not bool(torch.isfinite(values).all()):
                raise InputError(
                    "the gradient of a sample is not finite", f"sample {sample}, {name}", "drop the sample, or scale it"
                )
    raise InputError(
        "the gradients of the samples overflow", type(problem.model).__name__, "scale the data or use float64"
    )
