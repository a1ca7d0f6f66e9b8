"""The smallest diagonal that dominates a symmetric matrix, from products alone.

Lambda(H) = min{1'd : -diag(d) <= H <= diag(d)} = max{sum_ij H_ij <u_i, v_j> : |u_i| = |v_j| = 1}.

The maximum is a Grothendieck program, solved here in low rank: for unit rows V the best U is rownorm(HV)
with value sum_i |(HV)_i|, so every sweep gives a lower bound. Scaling by D^(-1/2) and bounding the largest
eigenvalue gives the upper bound mu sum(D) with the feasible vector L = mu D. Shapes: d rows, k columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from estimators.curvature.lanczos import Ritz, rounding_slack
from estimators.curvature.scaled_lanczos import certify
from estimators.errors import InputError
from estimators.smoothness_vector.known_subspace import Known
from estimators.smoothness_vector.stopping import Goal, Mark
from estimators.smoothness_vector.subspace_rounds import (
    EXPLORING,
    FEWEST_VECTORS,
    KEPT,
    LONGEST,
    REFINED,
    WEAK,
    Scaled,
    explore,
    floor_share,
    settle,
)
from estimators.smoothness_vector.sweeps import LAST, Sweeps
from estimators.task.products import Curvature

COLUMNS, FEW = 12, 8
"""Columns of the sweeps, and of those before rounds: 8 alone stall at a gap of 5% on a GPT-2 at its start."""
OPENING, WARM_OPENING = 3, 2
"""Sweeps (from a start that was given) before steps within the known vectors."""
SETTLED_LEAST, SETTLED_MOST, SETTLED_TO = 2, 10, 0.02
"""Steps within the known vectors before the first round, at least and at most; and the growth of the lower bound, as a
share of the gap, below which they have settled."""
HISTORY = 6
"""Past sweeps of a round's that are held with their products."""
ROUNDS = 8
SETTLED = 16
"""Columns of the dual program within the known vectors; FEW of them are multiplied."""
MEMORY = 800
"""Vectors of d numbers that a bracket may hold at once."""
LEAN = 128
"""With fewer, sweeps keep no past products, Lanczos has no basis, and scalings are in the vectors' own precision."""
BESIDE = 25
"""Vectors beside the columns and the basis of a certificate: scalings in float64, a step, its product."""
FLOOR = 0.01
"""Floor of D for a plain certificate as a share of its mean; half the gap where that is less."""
ATTEMPTS = 6
"""Certifying Lanczos runs at most; each has its share of the probability."""
LANCZOS_STEPS = 160
FEWEST_PRODUCTS = 2 * COLUMNS


@dataclass(frozen=True)
class Bracket:
    """lower <= Lambda(H) <= upper = sum(vector), the vector feasible with probability 1 - delta.

    ``first_row_norms`` are the row norms of H times the first k unit columns: where these were random, an estimate of
    sqrt((H^2)_jj). ``rows``, where sweeps were by products, are the unit rows with which they ended, shape (d, k).
    """

    lower: float
    upper: float
    vector: Tensor
    first_row_norms: Tensor
    products: int
    rows: Tensor | None = None

    def times(self, scale: float) -> Bracket:
        """The bracket of ``scale`` times the operator."""
        return replace(
            self,
            lower=self.lower * scale,
            upper=self.upper * scale,
            vector=self.vector * scale,
            first_row_norms=self.first_row_norms * scale,
        )


def check_limits(gap: float | None, max_products: int, fewest: int = FEWEST_PRODUCTS) -> None:
    """What a bracket is asked for. ``gap`` None: a default holds.

    Raises:
        InputError: a gap that is not above 0 and finite, or fewer than ``fewest`` products.
    """
    if gap is not None and not 0 < gap < float("inf"):
        raise InputError(f"a gap of {gap} cannot be reached", "gap", "give a number above 0")
    if max_products < fewest:
        raise InputError(f"{max_products} products give no bracket", "max_products", f"allow {fewest} or more")


class Search:
    """A bracket under way: sweeps for the lower bound, the best certificate so far, products left."""

    def __init__(
        self,
        product: Curvature,
        generator: torch.Generator,
        like: Tensor,
        target: Goal,
        max_products: int,
        delta: float,
        progress: Callable[[int], None],
        memory: int,
        columns: int,
        start: Tensor | None = None,
    ) -> None:
        self.product, self.generator, self.like = product, generator, like
        self.target, self.max_products, self.progress = target, max_products, progress
        self.memory, self.lean = memory, memory < LEAN
        self.delta = delta / (ROUNDS + ATTEMPTS)
        self.before = product.products
        self.columns = self._fitting(columns)
        self.history = LAST if self.lean else history_in(memory)
        self.sweeps = self._sweeps(start)
        self.opening = OPENING if start is None else WARM_OPENING
        self.sweep()
        self.first = self.sweeps.norms[0]
        self.active = self.first > 0
        self.rounding = rounding_slack(like.dtype)
        self.upper, self.vector = float("inf"), torch.zeros_like(self.first)

    def _fitting(self, columns: int) -> int:
        """No more columns than the memory holds six times, beside norms, a scaling and the work of a product."""
        return max(min(columns, (self.memory - 12) // 6), 1)

    def start_again(self, columns: int) -> None:
        """Sweeps from other random rows; the lower bound reached so far stays."""
        lower = self.sweeps.lower
        self.columns = self._fitting(columns)
        self.sweeps = self._sweeps()
        self.sweeps.lower = lower

    def _sweeps(self, start: Tensor | None = None) -> Sweeps:
        d, history = self.product.d, self.history if self.columns == FEW else LAST
        return Sweeps(self.product, d, self.columns, self.generator, self.like, self.lean, start, history)

    @property
    def spent(self) -> int:
        return self.product.products - self.before

    @property
    def left(self) -> int:
        return self.max_products - self.spent

    @property
    def lower(self) -> float:
        """The lower bound, less what products in this format may have rounded it up by."""
        return self.sweeps.lower * (1 - self.rounding)

    @property
    def goal(self) -> float:
        """The upper end that would do, with the lower one so far."""
        return self.target.highest(self.lower)

    @property
    def slack(self) -> float:
        """The width to aim at."""
        return self.target.slack(self.lower)

    @property
    def reached(self) -> bool:
        return math.isfinite(self.upper) and self.upper <= self.goal

    def sweep(self) -> None:
        self.sweeps.sweep()
        self.progress(self.spent)

    def settle(self, known: Known) -> tuple[Tensor, bool]:
        """The dual program within the known vectors, then a sweep from there: D, and whether that one helped."""
        together = self.sweeps.known.and_(known)
        scaling, direction = settle(together, self._weights(together), self.columns)
        helped = self.sweeps.leap(direction)
        self.progress(self.spent)
        return (scaling if helped else self.sweeps.scaling), helped

    def _weights(self, together: Known) -> Tensor:
        """C for which S C is the last Z and, in further columns, a small random mixture of the other vectors."""
        last = slice(self.sweeps.known.count - self.columns, self.sweeps.known.count)
        c = torch.zeros(together.count, SETTLED, dtype=torch.float64, device=self.like.device)
        c[last, : self.columns] = torch.eye(self.columns, dtype=torch.float64)
        shape = (together.count - last.stop, SETTLED - self.columns)
        c[last.stop :, self.columns :] = torch.randn(shape, generator=self.generator, dtype=torch.float64).to(c)
        mixture = together.vectors @ c[:, self.columns :].to(together.vectors)
        c[:, self.columns :] *= 0.3 / max(float(mixture.square().sum(1).double().mean().sqrt()), 1e-30)
        return c

    @property
    def reserve(self) -> int:
        """Products that rounds leave for a plain certificate."""
        return self.max_products // 5

    @property
    def affordable(self) -> bool:
        """Whether there are products for a sweep and a round."""
        return self.left >= self.columns + EXPLORING + self.reserve

    def floor(self, known: Known, scaling: Tensor) -> tuple[float, bool]:
        """The share of its mean that D gets as a floor, and whether the known vectors then let it certify the goal."""
        return floor_share(self.sweeps.known.and_(known), scaling, self.goal / (1 + self.slack / 2))

    def total(self, scaling: Tensor) -> float:
        """Sum of D with the slack for rounding: a bound times it is an upper bound of Lambda."""
        return float(scaling.sum(dtype=torch.float64)) * (1 + self.rounding)

    def record(self, bound: float, scaling: Tensor) -> None:
        """Keep the certificate max|eig D^(-1/2) H D^(-1/2)| <= bound where it is the best."""
        self.progress(self.spent)
        if bound * self.total(scaling) < self.upper:
            self.upper, self.vector = bound * self.total(scaling), bound * (1 + self.rounding) * scaling

    def certify(self, scaling: Tensor, missed: bool) -> None:
        """A plain Lanczos run; ``missed``: stop once the scaling is seen to miss the goal."""
        total, goal = self.total(scaling), self.goal

        def done(run: Ritz) -> bool:
            return run.norm_bound * total <= goal or (missed and run.norm * total > goal)

        steps = min(LANCZOS_STEPS, self.left)
        if not self.lean:
            steps = min(steps, self.memory - 5 * self.columns - BESIDE)
        run = certify(self.product, scaling, self.active, self.generator, self.like, steps, self.delta, done, self.lean)
        self.record(run.norm_bound, scaling)


def bracket(
    product: Curvature,
    generator: torch.Generator,
    like: Tensor,
    gap: float,
    max_products: int,
    delta: float,
    progress: Callable[[int], None] = lambda _: None,
    known: Known | None = None,
    memory: int = MEMORY,
    start: Tensor | None = None,
    marks: tuple[Mark, ...] = (),
) -> Bracket:
    """Sweep and certify until upper/lower - 1 <= gap, all marks are told from it, or the products run out.

    Neither end depends on the start for its validity: any unit rows give a lower bound, and Lanczos draws its own
    start once D is fixed, from ``generator``. That must not be at a state from which the given start was made.

    Args:
        product: the operator, applied to blocks (d, k).
        like: a tensor with the dtype and device of the operator's vectors.
        gap: goal for upper/lower - 1.
        max_products: at least FEWEST_PRODUCTS.
        delta: probability with which the upper bound may fail.
        progress: called with the products so far.
        known: vectors whose products have been paid for, with which rounds start; without them sweeps and plain
            certificates are all there is.
        memory: vectors of d numbers that may be held; too few for a round leave the sweeps and plain certificates,
            fewer than LEAN a certificate without a basis and fewer columns, one at least.
        start: rows to begin with, shape (d, q), see ``Sweeps``.
        marks: values of Lambda that end the bracket once it is told from them, where there are any.
    """
    room = room_in(memory)
    known = known if room >= FEWEST_VECTORS else None
    columns = COLUMNS if known is None else FEW
    search = Search(product, generator, like, Goal(gap, marks), max_products, delta, progress, memory, columns, start)
    if bool(search.active.any()):
        if known is not None:
            rounds(search, known, room)
        if not search.reached:
            attempts(search)
    else:
        search.upper = 0.0
    return Bracket(search.lower, search.upper, search.vector, search.first, search.spent, search.sweeps.z)


def rounds(search: Search, known: Known, room: int) -> None:
    """Subspace rounds until the goal is certified, they are weak or certify no more, or products run out."""
    for _ in range(search.opening - 1):
        if not search.affordable:
            return
        search.sweep()
    weak, nearest = False, float("inf")
    for number in range(ROUNDS):
        least, most = (1, SETTLED_LEAST) if number else (SETTLED_LEAST, SETTLED_MOST)
        scaling, steps = settled(search, known, least, most)
        if not number and steps < least and search.affordable:
            search.start_again(COLUMNS)
            return
        if search.left < EXPLORING + search.reserve:
            return
        together = search.sweeps.known.and_(known)
        operator, goal = Scaled(search.product, scaling), search.goal / search.total(scaling)
        found = explore(operator, together, search.generator, goal, search.left, search.delta, room)
        before = search.upper
        search.record(found.bound, scaling)
        if search.reached:
            return
        # Where the scaling would do and the round does not certify it, the next will not either. One that misses the
        # goal may be weak once: what is seen there makes the next. And sweeps of too few columns stall: then a round
        # neither certifies more than the one before nor comes nearer.
        again, weak = weak or steps == SETTLED_MOST, found.beyond > WEAK
        stalls, nearest = search.upper == before and found.norm / goal >= nearest, min(nearest, found.norm / goal)
        if found.norm <= goal or (weak and again) or stalls:
            if search.left >= search.max_products // 2:
                search.start_again(COLUMNS)
            return
        known = found.known


def settled(search: Search, known: Known, least: int, most: int) -> tuple[Tensor, int]:
    """Steps within the known vectors until those let D certify the goal with half of the gap to spare, or gain little.

    A round costs as much as four, and shows little but that a scaling is not there yet.

    Returns:
        D with its floor, and how many steps raised the lower bound.
    """
    scaling, done = search.sweeps.scaling, 0
    share, ready = search.floor(known, scaling)
    while search.affordable and done < most and not (done >= least and ready):
        before = search.lower
        scaling, helped = search.settle(known)
        share, ready = search.floor(known, scaling)
        ready = ready or search.lower <= (1 + SETTLED_TO * search.slack) * before
        if not helped:
            break
        done += 1
    return floored(scaling, search.active, share), done


def history_in(memory: int) -> int:
    """Past sweeps that fit beside the basis of a round, which they are a part of."""
    most = ((memory - 3 * (LONGEST + REFINED)) // 7 - KEPT) // FEW
    return min(max(most, LAST), HISTORY)


def room_in(memory: int) -> int:
    """Basis vectors of a round that fit: each with its coupling and once more while they grow, beside what is known."""
    return (memory - 4 * (KEPT + history_in(memory) * FEW)) // 3


def attempts(search: Search) -> None:
    """Sweeps and plain certificates in turn until the goal is certified or products run out."""
    wanted = steps_for(search.target.gap / 2, int(search.active.sum()), search.delta)
    reserve = min(wanted, search.max_products // 3)

    def affordable() -> bool:
        return search.left >= search.columns + reserve

    due = 0
    for attempt in range(ATTEMPTS):
        last = attempt == ATTEMPTS - 1
        while affordable() and (last or due > 0 or search.sweeps.remaining > search.slack / 6):
            search.sweep()
            due -= 1
        last = last or not affordable()
        if search.left < 1:
            return
        search.certify(floored(search.sweeps.scaling, search.active, min(FLOOR, search.slack / 2)), missed=not last)
        if search.reached or last:
            return
        due = 3


def steps_for(slack: float, n: int, delta: float) -> int:
    """Lanczos steps after which the bound usually exceeds the norm by the slack: 0.8 of the a-priori number.

    That number (Kuczynski & Wozniakowski 1992) is for the share slack/2 of a spread of twice the norm.
    """
    return math.ceil(0.4 * (1 + math.log(1.648 * math.sqrt(n) / delta) / math.sqrt(slack / 2)))


def floored(scaling: Tensor, active: Tensor, share: float) -> Tensor:
    """D with a floor of a share of its mean on the active rows, 0 elsewhere."""
    floor = share * float(scaling.sum(dtype=torch.float64)) / max(int(active.sum()), 1)
    return torch.where(active, scaling + floor, torch.zeros_like(scaling))
