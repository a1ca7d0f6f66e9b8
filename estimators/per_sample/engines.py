"""Ways to the gradients of single samples: the plain loop, rules for the operations, vmap.

The loop differentiates one sample at a time: it works for every model and is the reference. Layer rules
(``layer_rules.py``) read the samples' gradients off one backward pass over a chunk. vmap maps grad over a chunk.
All work within ``problem.measuring()``. Which one serves a problem is chosen in ``per_sample``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.func import grad, vmap

from estimators.numbers.moments import Moments, Sums, moments_of_outer_products, moments_of_rows
from estimators.numbers.vectors import loss_gradients
from estimators.per_sample import layer_rules
from estimators.per_sample.layer_rules import Use
from estimators.per_sample.parameter_uses import Plan
from estimators.task.function import Parameters, Samples, mapped
from estimators.task.problem import Problem

ROW_NUMBERS = 1 << 20
"""The rows that are worked on at once hold at most this many numbers (8 MB in float64), or one row."""
LOOP_GROUP = 16
"""Samples between two calls of progress in the loop."""

Done = Callable[[int], None]
"""Told how many samples were just measured."""


@dataclass(frozen=True)
class Engine:
    """One way to the gradients of the samples of a range: ``moments`` in O(d) memory, or ``rows``, (m, d).

    ``width``: samples whose rows are asked for at once.
    """

    name: str
    moments: Callable[[Problem, range, Done], Moments]
    rows: Callable[[Problem, range], Tensor]
    width: Callable[[Problem], int]


def _merged(samples: range, width: int, measure: Callable[[range], Moments], done: Done) -> Moments:
    """Moments of a range that are measured piece by piece."""
    total: Moments | None = None
    for piece in pieces(samples, width):
        part = measure(piece)
        total = part if total is None else total.merge(part)
        done(part.count)
    assert total is not None  # a group holds at least one sample
    return total


def pieces(samples: range, width: int) -> Iterator[range]:
    for start in range(0, len(samples), width):
        yield samples[start : start + width]


def take(problem: Problem, samples: range) -> Samples:
    """The samples of a range, side by side in memory: what torch does with others may depend on their number."""
    if samples.step == 1:
        return problem.take(slice(samples.start, samples.stop))
    return problem.take(torch.tensor(samples, device=problem.device))


def row_width(problem: Problem) -> int:
    """Samples whose rows are worked on at once."""
    return max(1, ROW_NUMBERS // problem.d)


# -- one sample at a time --------------------------------------------------------------------------


def loop_moments(problem: Problem, samples: range) -> Moments:
    """Welford's recursion, in place on two vectors."""
    mean = loop_row(problem, samples[0]).double()
    squares = torch.zeros_like(mean)
    for count, sample in enumerate(samples[1:], 2):
        delta = loop_row(problem, sample).double() - mean
        mean.add_(delta, alpha=1 / count)
        squares.addcmul_(delta, delta, value=(count - 1) / count)
    return Moments(len(samples), mean, squares)


def loop_row(problem: Problem, sample: int) -> Tensor:
    """Gradient of one sample, (d,); 0 where its loss does not reach a parameter. Within ``problem.measuring()``."""
    named = problem.leaves()
    loss = problem.losses(named, problem.trimmed(problem.take(slice(sample, sample + 1)))).sum()
    return torch.cat([part.reshape(-1) for part in loss_gradients(loss, list(named.values()))])


def loop_rows(problem: Problem, samples: range) -> Tensor:
    return torch.stack([loop_row(problem, sample) for sample in samples])


LOOP = Engine(
    "loop",
    lambda problem, samples, done: _merged(samples, LOOP_GROUP, partial(loop_moments, problem), done),
    loop_rows,
    lambda problem: LOOP_GROUP,
)


# -- layer rules -----------------------------------------------------------------------------------


def _by_rules(plan: Plan, problem: Problem, samples: range, done: Done) -> Moments:
    """Matrices that each sample enters by one outer product through their factors, the rest through rows.

    Raises:
        Unfit: the graph of a chunk is not that of the plan.
    """
    # One block: two smaller ones go back to the system, and the next measurement faults every page in anew.
    mean, squares = torch.empty(2, problem.d, dtype=torch.float64, device=problem.device)
    places = zip(torch.split(mean, problem.sizes), torch.split(squares, problem.sizes), strict=True)
    sums = [Sums(*pair) for pair in places]
    for piece in pieces(samples, _rules_width(plan, problem)):
        _add_chunk(plan, problem, piece, sums)
        done(len(piece))
    for each in sums:
        each.close()
    return Moments(len(samples), mean, squares)


def _add_chunk(plan: Plan, problem: Problem, piece: range, sums: list[Sums]) -> None:
    """The graph of the chunk ends with the call."""
    found = _chunk_uses(plan, problem, piece)
    with torch.no_grad():
        for uses, size, into in zip(found, problem.sizes, sums, strict=True):
            _add_uses(uses, len(piece), size, into)


def _rules_width(plan: Plan, problem: Problem) -> int:
    if problem.n * plan.numbers > 2 * problem.d:
        # What a chunk keeps is the larger part of memory: half of the samples keep less than a training step of all.
        return min(problem.chunk, (problem.n + 1) // 2)
    return problem.chunk


def _chunk_uses(plan: Plan, problem: Problem, piece: range) -> list[list[Use]]:
    """For each parameter its uses in the graph of a chunk."""
    chunk, named = problem.trimmed(take(problem, piece)), problem.leaves()
    losses = problem.losses(named, chunk)
    found, proved = layer_rules.planned_uses(plan, losses, list(named.values()), with_logits(chunk))
    problem.passes.add(len(piece) / problem.n / 3 if proved else 0)
    return found


def _rows_by_rules(plan: Plan, problem: Problem, piece: range) -> Tensor:
    uses = _chunk_uses(plan, problem, piece)
    with torch.no_grad():
        return torch.cat(rows_of(problem, uses, len(piece)), 1)


def rows_of(problem: Problem, uses: Sequence[list[Use]], samples: int) -> list[Tensor]:
    """Gradients of each parameter, (samples, numbers); 0 where no sample reaches it."""
    pairs = zip(uses, problem.parameters.values(), strict=True)
    return [layer_rules.rows(u, 0, samples) if u else p.new_zeros(samples, p.numel()) for u, p in pairs]


def _add_uses(uses: list[Use], samples: int, size: int, into: Sums) -> None:
    """The gradients of one parameter."""
    if len(uses) == 1 and uses[0].factors is not None and into.takes_moments:
        into.merge(moments_of_outer_products(*uses[0].factors, ROW_NUMBERS))
    elif uses:
        width = max(1, ROW_NUMBERS // max(size, 1))
        for start in range(0, samples, width):
            into.add(layer_rules.rows(uses, start, min(start + width, samples)))


def with_logits(samples: Samples) -> int:
    """Positions with logits, where the samples are token sequences."""
    if not isinstance(samples, dict):
        return 0
    return samples.get("logits_to_keep", samples["labels"].reshape(samples["labels"].shape[0], -1)[0]).numel()


def by_rules(plan: Plan) -> Engine:
    return Engine("rules", partial(_by_rules, plan), partial(_rows_by_rules, plan), partial(_rules_width, plan))


# -- vmap ------------------------------------------------------------------------------------------


def _by_vmap(problem: Problem, samples: range, done: Done) -> Moments:
    return _merged(
        samples, _vmap_width(problem), lambda piece: moments_of_rows(vmap_rows(problem, take(problem, piece))), done
    )


def _vmap_width(problem: Problem) -> int:
    return min(problem.chunk, row_width(problem))


def vmap_rows(problem: Problem, samples: Samples) -> Tensor:
    """Gradients of the samples as rows, (m, d). Within ``problem.measuring()``."""

    def loss(parameters: Parameters, sample: Samples) -> Tensor:
        return problem.losses(parameters, mapped(sample, lambda tensor: tensor[None]))[0]

    rows: Parameters = vmap(grad(loss), in_dims=(None, 0))(problem.parameters, samples)
    return torch.cat([rows[name].reshape(len(rows[name]), -1) for name in problem.names], 1)


VMAP = Engine("vmap", _by_vmap, lambda problem, samples: vmap_rows(problem, take(problem, samples)), _vmap_width)
