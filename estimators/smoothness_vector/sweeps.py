"""Alternating sweeps for the dual of Lambda(H) = max{sum_ij H_ij <u_i, v_j> : |u_i| = |v_j| = 1}, in low rank.

For unit rows V the best U is rownorm(HV), with value sum_i |(HV)_i|: every sweep gives a lower bound of Lambda and
its row norms a scaling D for the upper one. Shapes: d rows, k columns.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from estimators.numbers.vectors import SLICE
from estimators.smoothness_vector.known_subspace import Known, gram, symmetric
from estimators.task.products import Product

LAST = 2
"""Past sweeps that are held at least: momentum and scalings take two."""
FRESH = 0.1
"""Length of the random vector that is added to each of the unit rows that sweeps are given to start from."""


class Sweeps:
    """Alternating sweeps Z+ = rownorm(HZ - beta_t n Z_prev), n the row norms of HZ; ``lower`` never falls.

    beta_t = t / (2 (t + 3)) in the t-th sweep: at a fixed point the step is stable for beta < 1/2, and a fixed beta
    that is good at the beginning is several times too small later on.

    ``lean`` holds what the next sweep needs alone: no products of past sweeps (``known``), row norms in the vectors'
    own precision. Some six times the columns are in memory then, with two vectors of norms.

    ``history``: how many of the last Z are held with their products, two or more.

    ``start``: rows of any length, shape (d, q), to begin with, say those that ended at a point nearby. A sweep gives a
    lower bound from any unit rows, so what they are decides how soon it is close, not whether it holds. HZ has no
    direction that Z lacks: each row gets a random vector of the length ``fresh``, without which rows in a subspace
    would stay there. It is also all that a zero row has.
    """

    def __init__(
        self,
        product: Product,
        d: int,
        columns: int,
        generator: torch.Generator,
        like: Tensor,
        lean: bool = False,
        start: Tensor | None = None,
        history: int = LAST,
        fresh: float = FRESH,
    ) -> None:
        self.product, self.lean, self.history = product, lean, history
        self.z = torch.empty(columns, d, dtype=like.dtype, device=like.device).T
        given = None if start is None else torch.split(within(start, columns), SLICE)
        for number, rows in enumerate(torch.split(self.z, SLICE)):
            unit = _unit(torch.randn(len(rows), columns, generator=generator, dtype=torch.float64))
            if given is not None:
                unit = _unit(given[number].to(unit) + fresh * unit)
            rows.copy_(unit)
        self.previous: Tensor | None = None
        self.norms: list[Tensor] = []
        self.done: list[Known] = []
        self.values: list[float] = []
        self.lower = 0.0

    def sweep(self) -> None:
        image = self.product(self.z)
        norms = self._row_norms(image)
        self.norms = [*self.norms[-1:], norms]
        if not self.lean:
            self.done = [*self.done[1 - self.history :], Known(self.z, image)]
        self.values.append(float(norms.sum(dtype=torch.float64)))
        self.lower = max(self.lower, self.values[-1])
        step = image
        if self.previous is not None:
            t = len(self.values) - 1
            step = image - 0.5 * t / (t + 3) * norms.to(image.dtype)[:, None] * self.previous
        self.previous, self.z = self.z, self._rows(step)

    def _row_norms(self, image: Tensor) -> Tensor:
        """Taken in float64; kept so unless ``lean``."""
        narrow = torch.promote_types(image.dtype, torch.float32)
        norms = torch.empty(len(image), dtype=narrow if self.lean else torch.float64, device=image.device)
        for rows, into in zip(torch.split(image, SLICE), torch.split(norms, SLICE), strict=True):
            into.copy_(rows.double().norm(dim=1))
        return norms

    def _rows(self, direction: Tensor) -> Tensor:
        """rownorm; a row without a direction (a token never seen) keeps its old one."""
        length = direction.norm(dim=1, keepdim=True)
        return torch.where(length > 0, direction / length.clamp_min(1e-30), self.z)

    def leap(self, direction: Tensor) -> bool:
        """One sweep from the rows of a direction, momentum anew; taken back where it gives less than the last one."""
        before = self.z, self.previous, self.norms, self.done, self.values
        self.z, self.previous, self.values = self._rows(direction), None, []
        self.sweep()
        if self.values[-1] > before[-1][-1]:
            return True
        self.z, self.previous, self.norms, self.done, self.values = before
        return False

    @property
    def scaling(self) -> Tensor:
        """D: mean of the last two row norms, shape (d,)."""
        return sum(self.norms[1:], self.norms[0]) / len(self.norms)

    @property
    def known(self) -> Known:
        """The last Z, ``history`` of them, with their products."""
        return self.done[0].and_(*self.done[1:])

    @property
    def remaining(self) -> float:
        """Relative growth of the lower bound still to come, from the last two gains as if they were geometric."""
        if len(self.values) < 3:
            return float("inf")
        first, second, third = self.values[-3:]
        ratio = min(abs(third - second) / max(abs(second - first), 1e-300), 0.95)
        return abs(third - second) * ratio / (1 - ratio) / max(third, 1e-300)


def within(rows: Tensor, columns: int) -> Tensor:
    """Rows (d, q) as (d, columns) up to a rotation: the part along their leading axes, or zeros in further columns."""
    if rows.shape[1] <= columns:
        padded: Tensor = F.pad(rows, (0, columns - rows.shape[1]))
        return padded
    axes = torch.linalg.eigh(symmetric(gram(rows, rows))).eigenvectors[:, -columns:]
    leading: Tensor = rows @ axes.to(rows)
    return leading


def _unit(rows: Tensor) -> Tensor:
    unit: Tensor = rows / rows.norm(dim=1, keepdim=True)
    return unit
