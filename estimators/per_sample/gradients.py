"""Moments of the per-sample gradients g_i = nabla l_i(w): their mean and sum of squared deviations, in O(d) memory.

Of the three engines (``engines.py``) layer rules come first; where an operation has no rule and d is small, vmap; else
the loop. Whatever is not the loop is held against it on two samples before it is used. vmap runs each sample alone; the
rules tell the samples of a chunk apart by the places of their rows, which are known or proved for every chunk
(``row_places.py``): a chunk that fails is measured by the loop, and so is all else.

Which one runs follows the model and its samples alone, never the clock: the same problem gives the same bits.
Measured on one CPU thread with torch 2.13 in float32, in forward+backward passes over the same samples (the check
once, the rules for each measurement):

                                                      check   rules    loop
    GPT-2, 4 x 256, T = 128     n =  32, d = 3,258,112     0.19    1.16    1.82
    ResNet-20, 32 x 32          n =  64, d =   269,722     0.24    1.45    3.80
    MLP 784-256-256-10          n = 256, d =   269,322     0.56    1.62    53

A pass does three matrix products for each linear layer; for rows without a second axis the rules do four. Chunks that
prove the places of their rows take a third of a pass more: those of models that sort, route or pick rows.
"""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable, Sequence
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from estimators.errors import InputError
from estimators.numbers.moments import Moments, moments_of_rows, stored_dtype
from estimators.per_sample import engines, layer_rules
from estimators.per_sample.engines import LOOP, VMAP, Done, Engine
from estimators.per_sample.parameter_uses import Plan, Unfit
from estimators.results import Finding, Progress, reporting
from estimators.task.function import Samples
from estimators.task.problem import Problem

VMAP_LIMIT = 100_000
"""Above this many coordinates vmap gives way to the loop: rows no longer stay in the cache, and it is as fast."""
STAGE = "noise"

Measured = TypeVar("Measured")


def gradient_moments(problem: Problem, progress: Progress | None = None) -> tuple[Moments, tuple[Finding, ...]]:
    """Mean and sum of squared deviations of the per-sample gradients, and what was found on the way.

    Cost: about one forward+backward pass over the samples, and four samples more for each engine that is checked.
    Memory: a few (d,) vectors in float64, what one chunk keeps for backward, and its rows.

    Args:
        problem: the task at a point.
        progress: called with ("noise", samples done, samples).

    Raises:
        InputError: the gradient of a sample is not finite.
    """
    (moments, _), findings = _measured(
        problem, lambda engine: _by_group(problem, engine, 1, _counted(problem, progress))
    )
    return moments, findings


def grouped_moments(
    problem: Problem, groups: int, at: Tensor | None = None, progress: Progress | None = None
) -> tuple[Moments, tuple[Moments, ...], tuple[Finding, ...]]:
    """The same of all samples and of each of so many groups of them, sample i in group i mod groups.

    As :func:`gradient_moments`, and two vectors a group in float64, at the coordinates with the numbers ``at`` (None:
    all). No more groups than samples.
    """
    if not 1 <= groups <= problem.n:
        raise InputError(f"{problem.n} samples do not make {groups} groups", "groups")
    (whole, parts), findings = _measured(
        problem, lambda engine: _by_group(problem, engine, groups, _counted(problem, progress), at)
    )
    return whole, parts, findings


def gradient_rows(problem: Problem, progress: Progress | None = None) -> tuple[Tensor, Moments, tuple[Finding, ...]]:
    """The per-sample gradients, (n, d), their moments, and what was found on the way.

    As :func:`gradient_moments`; in memory are n d numbers of :func:`stored_dtype`, beside what one chunk takes.
    """
    (rows, moments), findings = _measured(problem, lambda engine: _kept(problem, engine, _counted(problem, progress)))
    return rows, moments, findings


def _measured(problem: Problem, measure: Callable[[Engine], Measured]) -> tuple[Measured, tuple[Finding, ...]]:
    """What the chosen engine measures, or the loop where its rules turn out not to fit; and a note about the loop."""
    with problem.measuring():
        engine, trouble = _choice(problem)
        try:
            found = measure(engine)
        except Unfit as late:
            trouble = f"layer rules were not used: {late}"
            _CHOSEN[problem] = LOOP, trouble
            found = measure(LOOP)
    return found, ((_loop_note(trouble),) if trouble else ())


def _counted(problem: Problem, progress: Progress | None) -> Done:
    finished, report = 0, reporting(progress, STAGE, problem.n)

    def done(samples: int) -> None:
        nonlocal finished
        finished += samples
        problem.passes.add(samples / problem.n)
        report(finished)

    return done


def _by_group(
    problem: Problem, engine: Engine, groups: int, done: Done, at: Tensor | None = None
) -> tuple[Moments, tuple[Moments, ...]]:
    whole: Moments | None = None
    parts = []
    for group in range(groups):
        samples = range(group, problem.n, groups)
        part = engine.moments(problem, samples, done)
        _refuse_not_finite(problem, part, samples)
        parts.append(part if at is None else Moments(part.count, part.mean[at], part.squares[at]))
        whole = part if whole is None else whole.merge(part)
    assert whole is not None
    return whole, tuple(parts)


def _kept(problem: Problem, engine: Engine, done: Done) -> tuple[Tensor, Moments]:
    rows = torch.empty(problem.n, problem.d, dtype=stored_dtype(problem.dtype), device=problem.device)
    for piece in engines.pieces(range(problem.n), engine.width(problem)):
        rows[piece.start : piece.stop] = engine.rows(problem, piece)
        done(len(piece))
    moments = functools.reduce(Moments.merge, map(moments_of_rows, torch.split(rows, engines.row_width(problem))))
    _refuse_not_finite(problem, moments, range(problem.n))
    return rows, moments


# -- which one -------------------------------------------------------------------------------------


_CHOSEN: WeakKeyDictionary[Problem, tuple[Engine, str]] = WeakKeyDictionary()


def _choice(problem: Problem) -> tuple[Engine, str]:
    """The engine, and where it is the loop, why; checked the first time that a problem is measured."""
    if problem not in _CHOSEN:
        _CHOSEN[problem] = _checked(problem)
    return _CHOSEN[problem]


def _checked(problem: Problem) -> tuple[Engine, str]:
    if problem.n < 2:
        return LOOP, ""
    ends = range(0, problem.n, problem.n - 1)
    wanted = engines.loop_rows(problem, ends)
    problem.passes.add(4 / problem.n)  # two samples by the loop, and two by the rules
    try:
        plan, found = _surveyed_rows(problem, engines.take(problem, ends))
    except Unfit as reason:
        if problem.d > VMAP_LIMIT:
            return LOOP, f"layer rules were not used: {reason}"
    else:
        trouble = _difference(problem, found, wanted)
        return (LOOP, f"layer rules were not used: {trouble}") if trouble else (engines.by_rules(plan), "")
    problem.passes.add(2 / problem.n)
    try:
        rows = engines.vmap_rows(problem, engines.take(problem, ends))
        trouble = _difference(problem, torch.split(rows, problem.sizes, 1), wanted)
    except Exception as error:
        # Whatever a model raises under vmap, the loop calls it without; the note quotes the beginning.
        trouble = textwrap.shorten(f"{type(error).__name__}: {error}", 90, placeholder=" …")
    return (LOOP, f"vmap was not used: {trouble}") if trouble else (VMAP, "")


def _surveyed_rows(problem: Problem, two: Samples) -> tuple[Plan, Sequence[Tensor]]:
    """The plan of the rules, and by it the gradients of the two samples, (2, numbers) for each parameter.

    Raises:
        Unfit: where the rules do not apply.
    """
    two, named = problem.trimmed(two), problem.leaves()
    leaves = list(named.values())
    losses = problem.losses(named, two)
    plan, sites = layer_rules.survey(losses, leaves, engines.with_logits(two))
    uses = layer_rules.uses(sites, losses, leaves)
    with torch.no_grad():
        return plan, engines.rows_of(problem, uses, 2)


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
    # Squares show it, none of them negative; one sample has none.
    if bool(torch.isfinite((part.squares if part.count > 1 else part.mean).sum())):
        return
    for sample in samples:
        for name, values in problem.unflatten(engines.loop_row(problem, sample)).items():
            if not bool(torch.isfinite(values).all()):
                raise InputError(
                    "the gradient of a sample is not finite", f"sample {sample}, {name}", "drop the sample, or scale it"
                )
    raise InputError(
        "the gradients of the samples overflow",
        type(problem.model).__name__,
        "bring the data to a common scale, or use float64 (`--dtype float64`)",
    )
