"""Sums over very many coordinates from some of them: drawn evenly over each tensor, scaled to sums that are known.

What groups of samples show of the noise takes two vectors a group; where that is too much, they are kept at some
coordinates alone. The sums of the whole draw are exact all the same, and the sums at the coordinates are scaled to
them, tensor by tensor (a ratio estimate, Cochran 1977, chapter 6): only how they change when a group is left out
rests on the coordinates that were drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

WHOLE = 4096
"""Tensors of at most so many coordinates are taken whole."""


@dataclass(frozen=True)
class Thinned:
    """Coordinates that stand for all.

    Attributes:
        at: their numbers, ascending, (c,) int64.
        sizes: how many of them each tensor has.
        all_sizes: how many coordinates it has.
    """

    at: Tensor
    sizes: tuple[int, ...]
    all_sizes: tuple[int, ...]


def thinned(sizes: Sequence[int], most: int, seed: int) -> Thinned:
    """About ``most`` coordinates: one at random of each of equal pieces of a tensor, so that every row of it has its
    share; small tensors whole."""
    generator = torch.Generator().manual_seed(seed)
    share, start, places, counts = min(1.0, most / sum(sizes)), 0, list[Tensor](), list[int]()
    for size in sizes:
        count = min(size, max(WHOLE, round(share * size)))
        ends = torch.arange(count + 1) * size // max(count, 1)
        inside = torch.rand(count, generator=generator, dtype=torch.float64) * ends.diff()
        places.append(start + ends[:-1] + inside.long())
        counts.append(count)
        start += size
    return Thinned(torch.cat(places), tuple(counts), tuple(sizes))


@dataclass(frozen=True)
class Weights:
    """What a sum over the coordinates of each tensor is multiplied with to stand for all of the tensor, (T,) each.

    Attributes:
        sigma: sums of sigma_j.
        variance: of sigma_j^2.
        gradient: of abs(g_j), g the mean gradient.
        square: of g_j^2.
        count: of ones.
        d: coordinates of all tensors.
    """

    sigma: Tensor
    variance: Tensor
    gradient: Tensor
    square: Tensor
    count: Tensor
    d: int

    @staticmethod
    def none(sizes: Sequence[int], device: torch.device) -> Weights:
        """Of all coordinates."""
        one = torch.ones(len(sizes), dtype=torch.float64, device=device)
        return Weights(one, one, one, one, one, sum(sizes))

    @staticmethod
    def of(part: Thinned, sigma: Tensor, gradient: Tensor) -> Weights | None:
        """From both vectors at all coordinates, (d,) float64; None where a tensor's noise lies beside all that were
        drawn."""
        at = part.at.to(sigma.device)
        found = []
        for vector, power in ((sigma, 1), (sigma, 2), (gradient, 1), (gradient, 2)):
            whole, some = _sums(vector, power, part.all_sizes), _sums(vector[at], power, part.sizes)
            if bool(((some == 0) & (whole > 0)).any()):
                return None
            found.append(torch.where(some > 0, whole / some, 1.0))
        every, drawn = (torch.tensor(sizes, device=sigma.device).double() for sizes in (part.all_sizes, part.sizes))
        return Weights(found[0], found[1], found[2], found[3], every / drawn, len(sigma))


def _sums(vector: Tensor, power: int, sizes: Sequence[int]) -> Tensor:
    """sum |v_j|^power over each tensor, (T,)."""
    return torch.stack([part.abs().pow(power).sum() for part in torch.split(vector, list(sizes))])
