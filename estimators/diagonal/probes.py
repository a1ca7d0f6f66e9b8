"""The ways in which random probes estimate diag(H), and the estimate by one of them.

Every one is unbiased; P and C as in ``deflation.py``, J'SJ and R = H - J'SJ as in ``gauss_newton.py``:

    plain      E[z * Hz]
    coloured   the same, with z on a few tensors (a colour) at a time
    deflated   diag(P) + E[z * CHCz]
    apart      E[(J'u)^2] + E[z * Rz], z on a colour at a time
    both       diag(P) + E[(C J'u)^2] + E[z * CRCz]

The variance of z * Mz is that of M's off-diagonal within the colour. Which way is best differs from problem to problem
and with training: ``probe_plan.py`` finds out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from estimators.diagonal.deflation import Deflation
from estimators.diagonal.gauss_newton import Draw, rest, squares, together
from estimators.numbers.t_intervals import Term, forms_term, student_term
from estimators.task import memory_limit
from estimators.task.problem import Problem
from estimators.task.products import Product, hessian

GROUPS = 4
"""Independent estimates that are kept apart; probes of a colour and draws come in multiples of it."""
DRAW, OPEN_DRAW, OPEN = 1 / 3, 1 / 6, 1 / 2
"""Costs in products of two passes each: a draw of J'u, its graph, the graph of a Hessian."""


@dataclass(frozen=True)
class Plan:
    """Probes of each colour (masks (d,), None for all coordinates), draws of J'u (0: H is not split)."""

    name: str
    colours: Sequence[Tensor | None]
    counts: Sequence[int]
    draws: int = 0
    known: Deflation | None = None


@dataclass(frozen=True)
class Estimate:
    """diag(H) from random probes.

    ``groups`` (4, d): independent unbiased estimates. ``anchor`` (d,): the part of their mean that is known or comes
    from squares, so that probes have not made it noisy. The variance of their mean is ``variance``, from means of
    ``freedom`` + 1 probes (one number where there is one colour), and ``square_variance``, from ``draws`` draws.
    ``traces``: independent terms; their sum and ``known_trace`` estimates tr H. ``products``
    were spent, the pilot's included.
    """

    groups: Tensor
    anchor: Tensor
    variance: Tensor
    freedom: Tensor
    square_variance: Tensor | None
    draws: int
    traces: list[Term]
    known_trace: float
    products: float


class Purse:
    """Counts products, and tells progress."""

    def __init__(self, budget: int, report: Callable[[float], None]) -> None:
        self.budget = budget
        self.spent = 0.0
        self._opened = False
        self._report = report

    @property
    def left(self) -> float:
        return self.budget - self.spent

    def spend(self, products: float) -> None:
        self.spent += products
        self._report(self.spent)

    @contextmanager
    def products(self, problem: Problem) -> Iterator[Product]:
        """V (d, k) -> H V. The first graph is not charged, as for plain Hutchinson."""
        self.spent += OPEN if self._opened else 0
        self._opened = True
        with hessian(problem) as product:

            def counted(block: Tensor) -> Tensor:
                image = product(block)
                self.spend(block.shape[1])
                return image

            yield counted

    @contextmanager
    def draws(self, problem: Problem, known: Deflation | None = None) -> Iterator[Draw]:
        """Draws of (J'u)^2, or of (C J'u)^2."""
        self.spent += OPEN_DRAW
        with squares(problem, None if known is None else known.complement) as draw:

            def counted(generator: torch.Generator, number: int) -> Tensor:
                drawn = draw(generator, number)
                self.spend(DRAW * number)
                return drawn

            yield counted


def signs(problem: Problem, generator: torch.Generator) -> Tensor:
    """A random sign vector, drawn on the CPU so that it is the same on every device."""
    drawn = torch.randint(0, 2, (problem.d,), generator=generator, dtype=torch.int8)
    return (2 * drawn - 1).to(problem.device, problem.dtype)


def image_of(product: Product, vector: Tensor) -> Tensor:
    return product(vector[:, None])[:, 0]


class Running:
    """Mean and sum of squared deviations of samples (d,) by Welford's recursion: nothing cancels."""

    def __init__(self, like: Tensor) -> None:
        self.mean = torch.zeros_like(like)
        self.squares = torch.zeros_like(self.mean)
        self.traces: list[float] = []

    def add(self, sample: Tensor) -> None:
        self.traces.append(float(sample.sum(dtype=torch.float64)))
        delta = sample - self.mean
        self.mean.add_(delta, alpha=1 / len(self.traces))
        self.squares.addcmul_(delta, sample - self.mean)

    @property
    def variance(self) -> Tensor:
        """Of the mean."""
        count = len(self.traces)
        return self.squares / ((count - 1) * count)


def carry_out(problem: Problem, plan: Plan, purse: Purse, generator: torch.Generator) -> Estimate:
    """The estimate by a plan, its sums in float64 or, where memory is short, in the parameters' format."""
    groups = torch.zeros(GROUPS, problem.d, dtype=memory_limit.sums_dtype(problem), device=problem.device)
    anchor, variance = torch.zeros_like(groups[0]), torch.zeros_like(groups[0])
    freedom = groups.new_zeros(1 if len(plan.colours) == 1 else problem.d)
    traces: list[Term] = []

    def collect(samples: Iterator[Tensor], count: int) -> Running:
        running = Running(anchor)
        for done, sample in enumerate(samples):
            running.add(sample)
            groups[done % GROUPS].add_(sample, alpha=GROUPS / count)
        return running

    square_variance = None
    if plan.draws:
        with purse.draws(problem, plan.known) as draw:
            blocks = range(0, plan.draws, together(problem))
            rows = (draw(generator, min(blocks.step, plan.draws - start)) for start in blocks)
            running = collect(itertools.chain.from_iterable(rows), plan.draws)
        anchor, square_variance = running.mean, running.variance
        traces.append(student_term(running.traces))
    with purse.products(rest(problem) if plan.draws else problem) as product:
        for colour, count in zip(plan.colours, plan.counts, strict=True):
            probes = (_probe(problem, product, plan, colour, generator, groups.dtype) for _ in range(count))
            running = collect(probes, count)
            variance += running.variance
            # Var(z'Mz) is twice the sum of the variances of z * Mz, ||M||_F^2 without its diagonal.
            spread = 2 * count * float(running.variance.sum(dtype=torch.float64))
            traces.append(forms_term(running.traces, spread))
            freedom += (count - 1) * (1 if colour is None else colour)
    known_trace = 0.0
    if plan.known is not None:
        diagonal = plan.known.diagonal()
        known_trace = float(diagonal.sum())
        groups += diagonal
        anchor += diagonal
    return Estimate(groups, anchor, variance, freedom, square_variance, plan.draws, traces, known_trace, purse.spent)


def _probe(
    problem: Problem,
    product: Product,
    plan: Plan,
    colour: Tensor | None,
    generator: torch.Generator,
    dtype: torch.dtype,
) -> Tensor:
    """One sample z * Mz on a colour."""
    z = signs(problem, generator)
    if plan.known is None:
        v = z if colour is None else z * colour
        image = image_of(product, v)
    elif plan.draws:
        v, image = z, plan.known.complement(image_of(product, plan.known.complement(z)))
    else:
        v, image = z, plan.known.remainder(z, image_of(product, z))
    return v.to(dtype) * image.to(dtype)
