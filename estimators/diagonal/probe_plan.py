"""Finding the best way to estimate diag(H) by random probes from a few of them.

The variance of a way is predicted from squared lengths of products: E||Mz||^2 = ||M||_F^2, which is that of the
off-diagonal plus the squares of the diagonal, small beside it wherever the choice matters. The probes of the pilot are
not used again: what was chosen says nothing about the noise of the estimate, which stays unbiased.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from estimators.curvature.lanczos import DELTA, Ritz, lanczos
from estimators.diagonal.deflation import Deflation, deflation
from estimators.diagonal.gauss_newton import can_split, parts, rest
from estimators.diagonal.probes import DRAW, GROUPS, OPEN, OPEN_DRAW, Plan, Purse, image_of, signs
from estimators.numbers.vectors import dot, random_start
from estimators.task import memory_limit
from estimators.task.problem import Problem
from estimators.task.products import Product

PILOT_FROM = 24
"""With fewer probes a pilot takes too many of them: plain Hutchinson."""
LANCZOS_FROM = 48
"""With fewer, a Lanczos run of a quarter of them is too short."""
FEWEST_PROBES = 8
"""Of a colour: fewer give no standard error to lean on."""
FEWEST_DRAWS, FEWEST_SQUARES = 16, 128
"""Least numbers of draws and of squares (J'u)^2 behind a coordinate: a mean of fewer is too skewed for its interval."""
MODULES = 8
"""With more modules of their own parameters, one probe for each costs more than colours gain."""
WORTH_SQUARES = 2.0
"""With ``shrink``: the variance that a way with squares may have beside one without them."""
WORTH_A_LANCZOS = 0.16
"""A Lanczos run is tried where no other way brings the variance below this share of plain Hutchinson's."""
BESIDE = 50
"""Vectors beside the basis of that run: the sums over probes, and the work of a probe."""
CARRIED = 0.25
"""It goes on where its Ritz values carry this share of ||H||_F^2."""

Candidate = tuple[float, Plan]
"""The predicted sum of variances of a plan."""


def choose(
    problem: Problem, purse: Purse, known: Deflation | None, generator: torch.Generator, shrink: bool = False
) -> Plan:
    """The way with the smallest predicted sum of variances for the products that the pilot leaves.

    With ``shrink``, where what probes add is scaled down by its noise, a way whose Gauss-Newton part needs no probes
    may have up to WORTH_SQUARES times the variance. Where memory is short, ways that hold more than a few vectors or
    further graphs are left out.
    """
    if purse.budget < PILOT_FROM:
        return Plan("plain", [None], [_fours(purse.budget)])
    room = memory_limit.vectors(problem) - BESIDE
    split = can_split(problem) and memory_limit.keeps_all(problem)
    with purse.products(problem) as product:
        pairs = [(z, image_of(product, z)) for z in (signs(problem, generator), signs(problem, generator))]
    whole = _mean([_energy(image) for _, image in pairs])
    masks, both, square = groups_of_tensors(problem), None, None
    both_rows = 3 * parts(problem)  # the gradients of all parts, projected
    nested: list[tuple[list[Tensor | None], list[float]]] = []
    if split or len(masks) > 1:
        with purse.products(rest(problem) if split else problem) as product:
            coupling = _coupling(product, problem, masks, generator)
            nested = [(_merged(masks, colours), _sums(coupling, colours)) for colours in colourings(coupling)]
            both = _remainder(product, problem, known, generator) if split and known and room >= both_rows else None
    if split:
        square = _square_variance(problem, purse, generator)

    def without_lanczos() -> list[Candidate]:
        name = "apart" if split else "coloured"
        found = [_candidate(name, purse, problem, colours, variances, square) for colours, variances in nested]
        return [_candidate("plain", purse, problem, [None], [whole], None), *found]

    candidates = without_lanczos()
    best = min(candidates, key=_first)[0]
    worth = purse.budget >= LANCZOS_FROM and best > WORTH_A_LANCZOS * candidates[0][0]
    if known is None and worth and room >= purse.budget // 4:
        known = _short_lanczos(problem, purse, whole, generator)
        if split and room >= both_rows + purse.budget // 4:
            with purse.products(rest(problem)) as product:
                both = _remainder(product, problem, known, generator)
        candidates = without_lanczos()
    if known is not None:
        left = _mean([_energy(known.remainder(z, image)) for z, image in pairs])
        candidates.append(_candidate("deflated", purse, problem, [None], [left], None, known))
    if both is not None:
        candidates.append(_candidate("both", purse, problem, [None], [both], square, known))
    return min(candidates, key=lambda c: c[0] / (WORTH_SQUARES if shrink and c[1].draws else 1))[1]


def _first(candidate: Candidate) -> float:
    return candidate[0]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _energy(vector: Tensor) -> float:
    return dot(vector, vector)


def _fours(number: float) -> int:
    return GROUPS * int((number + 1e-9) // GROUPS)


def groups_of_tensors(problem: Problem) -> list[Tensor]:
    """Masks (d,) of the tensors of each module; one mask of everything where there are many modules."""
    owners: dict[str, int] = {}
    numbers = torch.tensor([owners.setdefault(name.rpartition(".")[0], len(owners)) for name in problem.names])
    if len(owners) > MODULES:
        return [torch.ones(problem.d, dtype=torch.bool, device=problem.device)]
    label = torch.repeat_interleave(numbers, torch.tensor(problem.sizes)).to(problem.device)
    return [label == k for k in range(len(owners))]


def _coupling(product: Product, problem: Problem, masks: list[Tensor], generator: torch.Generator) -> np.ndarray:
    """Estimates of ||M_bc||_F^2 for the groups b and c, from one probe on each group."""
    found = np.zeros((len(masks), len(masks)))
    for c, mask in enumerate(masks):
        image = image_of(product, signs(problem, generator) * mask)
        found[:, c] = [_energy(image[other]) for other in masks]
    return (found + found.T) / 2


def colourings(coupling: np.ndarray) -> list[list[list[int]]]:
    """Groups merged step by step into fewer colours, each time the two that are coupled least for their size."""
    colours = [[k] for k in range(len(coupling))]
    nested = [colours]
    while len(colours) > 1:
        trials = [
            [c for k, c in enumerate(colours) if k not in (a, b)] + [colours[a] + colours[b]]
            for a in range(len(colours))
            for b in range(a)
        ]
        colours = min(trials, key=lambda trial: sum(math.sqrt(v) for v in _sums(coupling, trial)))
        nested.append(colours)
    return nested


def _sums(coupling: np.ndarray, colours: list[list[int]]) -> list[float]:
    return [float(coupling[np.ix_(colour, colour)].sum()) for colour in colours]


def _merged(masks: list[Tensor], colours: list[list[int]]) -> list[Tensor | None]:
    if len(colours) == 1:
        return [None]
    return [torch.stack([masks[k] for k in colour]).any(0) for colour in colours]


def _square_variance(problem: Problem, purse: Purse, generator: torch.Generator) -> float:
    """Sum of the variances of one draw, from two."""
    with purse.draws(problem) as draw:
        one, other = draw(generator, 2)
        return _energy(one - other) / 2


def _remainder(product: Product, problem: Problem, known: Deflation, generator: torch.Generator) -> float:
    """||C R C||_F^2 for the product with R, from two probes."""
    probes = [known.complement(signs(problem, generator)) for _ in range(2)]
    return _mean([_energy(known.complement(image_of(product, v))) for v in probes])


def _short_lanczos(problem: Problem, purse: Purse, whole: float, generator: torch.Generator) -> Deflation:
    """A quarter of the products, or the first six where these show that few directions don't carry the curvature."""
    like = problem.like

    def hopeless(run: Ritz) -> bool:
        return float(np.square(run.values).sum()) < CARRIED * whole

    with purse.products(problem) as product:
        start = random_start(problem.d, generator, like)
        steps = min(purse.budget // 4, problem.d)
        run = lanczos(product, start, problem.d, steps, DELTA, generator, hopeless, keep=True)
    return deflation(run, problem.d)


def _candidate(
    name: str,
    purse: Purse,
    problem: Problem,
    colours: Sequence[Tensor | None],
    variances: list[float],
    square: float | None,
    known: Deflation | None = None,
) -> Candidate:
    """A plan for the products that are left and its predicted sum of variances, infinite where they are too few.

    Draws and probes are shared out by the roots of variance over cost, fours of probes to the colour that gains most.
    """
    left, draws = purse.left - OPEN, 0
    counts = [FEWEST_PROBES] * len(colours)
    if square is not None:
        left -= OPEN_DRAW
        root = sum(math.sqrt(v) for v in variances)
        share = math.sqrt(square * DRAW) / (math.sqrt(square * DRAW) + root) if square + root else 0.5
        least = max(FEWEST_DRAWS, -(-FEWEST_SQUARES // parts(problem)))
        draws = int(max(least, min(share * left, left - sum(counts)) / DRAW))
    left -= draws * DRAW
    if left < sum(counts):
        return math.inf, Plan(name, colours, counts, draws, known)
    while left - sum(counts) >= GROUPS:
        gains = [v / m - v / (m + GROUPS) for v, m in zip(variances, counts, strict=True)]
        counts[gains.index(max(gains))] += GROUPS
    if square is not None:
        draws = _fours(draws + (left - sum(counts)) / DRAW)
    predicted = sum(v / m for v, m in zip(variances, counts, strict=True))
    return predicted + (square / draws if square else 0.0), Plan(name, colours, counts, draws, known)
