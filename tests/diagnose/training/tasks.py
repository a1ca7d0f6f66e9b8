"""Small tasks and made-up legs for the tests of the race and of the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diagnose.training.runs import Leg, Race, RaceSettings
from estimators.task.problem import Problem


class Shift(nn.Module):
    """w - x, so that a loss of the output makes a quadratic with its minimum at the mean of x."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(d))

    def forward(self, x: Tensor) -> Tensor:
        return self.w - x


def quadratic(curvature: Tensor, noise: Tensor, n: int = 256, seed: int = 0) -> Problem:
    """f(w) = mean_i ½ sum_j h_j (w_j - w*_j - e_ij)² with w* and e_ij / noise_j from a normal, starting at w = 0."""
    generator = torch.Generator().manual_seed(seed)
    d = curvature.numel()
    minimum = torch.randn(d, generator=generator)
    x = minimum + noise * torch.randn(n, d, generator=generator)

    def loss(output: Tensor, targets: Tensor) -> Tensor:
        return 0.5 * (curvature * (output - targets).square()).sum(-1)

    model = nn.Linear(1, d, bias=False)
    nn.init.zeros_(model.weight)
    return Problem(model, (torch.ones(n, 1), x), loss)


def logistic(n: int = 96, d: int = 6, seed: int = 1) -> Problem:
    """Logistic regression with features of unequal scale, starting at w = 0."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator) * torch.logspace(0, -1, d)
    y = torch.where(x.sum(1) + torch.randn(n, generator=generator) > 0, 1.0, -1.0)
    model = nn.Linear(d, 1, bias=False)
    nn.init.zeros_(model.weight)
    return Problem(model, (x, y), "logistic")


def network(n: int = 64, seed: int = 2) -> Problem:
    """A small classifier with a hidden layer."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 5, generator=generator)
    y = torch.randint(0, 3, (n,), generator=generator)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return Problem(model, (x, y))


def settings(**changes: Any) -> RaceSettings:
    base: dict[str, Any] = {
        "steps": 40,
        "batch_size": 8,
        "rows": 64,
        "seeds": 3,
        "seed": 0,
        "evaluations": 10,
        "optimizers": ("sgd", "adagrad"),
        "every_rate": True,
        "sharpness": 1.0,
    }
    wanted = base | changes
    return RaceSettings(**({"stacked": wanted["every_rate"]} | wanted))


def leg(
    method: str,
    rate: float,
    seed: int,
    losses: Sequence[float | None],
    steps: Sequence[int] | None = None,
    diverged: bool = False,
    d_inf: float | None = 1.0,
    d_2: float | None = 2.0,
) -> Leg:
    """A leg with these losses, at steps 0, 1, 2, ... unless said."""
    nothing = (None,) * len(losses)
    return Leg(
        method=method,
        learning_rate=rate,
        seed=seed,
        batch_size=8,
        steps=tuple(steps or range(len(losses))),
        losses=tuple(losses),
        gradient_l1=nothing,
        gradient_l2=nothing,
        diverged=diverged,
        d_inf=d_inf,
        d_2=d_2,
    )


def made_race(curves: Mapping[str, Mapping[float, Sequence[Sequence[float | None]]]], **changes: Any) -> Race:
    """A race from losses: method -> rate -> seed -> losses; a curve that ends in None diverged."""
    legs = tuple(
        leg(method, rate, seed, losses, diverged=losses[-1] is None)
        for method, rates in curves.items()
        for rate, seeds in rates.items()
        for seed, losses in enumerate(seeds)
    )
    longest = max(len(one.losses) for one in legs)
    count = max(one.seed for one in legs) + 1
    return Race(
        settings(**({"steps": longest - 1, "seeds": count, "optimizers": tuple(curves)} | changes)),
        legs,
        dict.fromkeys(curves, 0),
    )
