"""Made-up races of two methods whose true speed-up is known: stochastic gradient steps on a quadratic, by themselves.

The first method is w_j <- (1 - eta h_j) w_j + eta sqrt(h_j) s z, with z from a normal: a loss that falls like that of a
real run and then wanders on a level that grows with the rate. The second is the same process on a clock that runs S
times as fast, with noise of its own. In the mean it meets every loss after 1/S of the steps at the same rate, so the
true speed-up is S at any target; S = 1 is an exact tie.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diagnose.training.runs import evaluation_steps
from diagnose.training.speedup import Curves

Array = NDArray[np.float64]
CURVATURE = np.geomspace(1.0, 0.01, 8)
"""h: two decades, so that the loss falls like a power of the steps."""
RATES = 10.0 ** (np.arange(-4, 3) / 4)
"""Quarter decades up to 3.2 times the inverse of the largest curvature, where the mean loss grows."""
EVALUATIONS = 40
LEAST = 0.02
"""The loss at the minimum, in units of the one at the start above it."""


@dataclass(frozen=True)
class MadeRace:
    """Losses (rates, orders, evaluations) of both methods at the same steps and rates."""

    steps: Array
    rates: Array
    losses: tuple[Array, Array]

    def curves(self, orders: slice = slice(None)) -> tuple[Curves, Curves]:
        """Those of some orders."""
        told = np.zeros(len(self.rates))
        first, second = (Curves(self.steps, self.rates, losses[:, orders], told) for losses in self.losses)
        return first, second


def made_race(speedup: float, orders: int, seed: int, *, steps: int = 200, noise: float = 0.3) -> MadeRace:
    """Both methods on so many orders; the second's curves are the process read at ``speedup`` times the step.

    Args:
        speedup: the true one.
        orders: of the batches.
        seed: of the noise.
        steps: of every run.
        noise: s, for a start at a distance of 1 in each coordinate.
    """
    when = np.array(evaluation_steps(steps, EVALUATIONS))
    first, second = np.random.default_rng(seed).spawn(2)
    pair = _losses(when, orders, noise, first), _losses(np.round(speedup * when).astype(int), orders, noise, second)
    return MadeRace(when.astype(np.float64), RATES, pair)


def _losses(when: NDArray[np.int_], orders: int, noise: float, random: np.random.Generator) -> Array:
    """The loss of every rate and order after the steps ``when``, ascending."""
    h = CURVATURE
    share = RATES[:, None, None] * h
    w = np.ones((len(RATES), orders, len(h)))
    losses = np.empty((len(RATES), orders, len(when)))
    place = 0
    for step in range(int(when[-1]) + 1):
        if step:
            # The batches are the same at every rate.
            push = noise * np.sqrt(h) * random.standard_normal((orders, len(h)))
            w = (1 - share) * w + RATES[:, None, None] * push
        while place < len(when) and when[place] == step:
            losses[..., place] = LEAST + (w**2) @ (h / h.sum())
            place += 1
    return losses
