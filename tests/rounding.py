"""How far two computations of one number may be apart by rounding alone: the bounds of comparisons in the tests.

A result of an addition or a product is off by at most eps/2 of itself, eps the spacing of the number format at 1. Which
way depends on the order of the sum, and that on the number of threads, the kernels for this processor, the size of a
chunk and how the memory lies. So no test may count on it, and no bound be what one machine happened to show.
"""

from __future__ import annotations

import math

import torch

DEVIATIONS = 8
"""Of random rounding, allowed: the largest of a million normal numbers is 5, partial sums are not always smaller than
the result, and functions such as exp, tanh or a root are off by one or two units themselves."""


def bound(dtype: torch.dtype, length: int, scale: float = 1.0) -> float:
    """For numbers up to ``scale`` at the end of ``length`` roundings one after another, computed twice.

    Errors of random sign add up like a random walk: one deviation is eps/2 sqrt(length) scale, and that of a difference
    of two computations sqrt(2) as much. 8 deviations are allowed. The worst case, all signs alike, is eps length scale
    for both: above 32 roundings it is the larger of the two, and a test with so wide a bound would see less.

    ``length`` is the sum of the lengths of the sums on the way, one layer behind the other: for a gradient of a network
    twice that of its output, for a product with the Hessian four times, and the number of samples and positions that
    are added up in the end. Rounding it up by a factor of two widens the bound by 1.4 alone.
    """
    return DEVIATIONS * torch.finfo(dtype).eps / 2 * math.sqrt(2 * length) * scale
