"""Losses that rounding alone tells apart decide nothing, whichever number format they were computed in."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from diagnose.answers import answer_of_one_run
from diagnose.training import MemoryStore, race
from diagnose.training.pairs import meeting
from diagnose.training.resolution import ROUNDINGS, lowest
from diagnose.training.running import look, rounding
from diagnose.training.runs import Race
from diagnose.training.summary import summarise
from estimators.task.problem import Problem
from tests.diagnose.training.tasks import made_race, settings
from tests.markers import marked


def least_squares(seed: int, dtype: torch.dtype, offset: float = 0.0, n: int = 64, d: int = 6) -> Problem:
    """A linear model on isotropic features: both methods converge long before 1,000 full-batch steps."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    w = torch.randn(d, generator=generator, dtype=torch.float64)
    y = x @ w + 0.3 * torch.randn(n, generator=generator, dtype=torch.float64) + offset
    torch.manual_seed(seed)
    model = nn.Linear(d, 1).to(dtype)
    return Problem(model, (x.to(dtype), y[:, None].to(dtype)), "squared")


def written_out(problem: Problem, w: dict[str, torch.Tensor]) -> float:
    """The loss of least squares in float64, at the same numbers."""
    x, y = (part.double().numpy() for part in problem.samples)  # type: ignore[union-attr]
    residual = x @ w["weight"].double().numpy()[0] + float(w["bias"]) - y[:, 0]
    return float(0.5 * np.mean(residual**2))


def minimum(problem: Problem) -> dict[str, torch.Tensor]:
    """The best weights that the problem's number format can hold, nearly."""
    x, y = (part.double().numpy() for part in problem.samples)  # type: ignore[union-attr]
    best = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), y[:, 0])[0]
    parts = {"weight": best[None, :-1], "bias": best[-1:]}
    return {name: torch.tensor(part).to(problem.dtype) for name, part in parts.items()}


def raced(problem: Problem) -> Race:
    how = settings(steps=1000, batch_size=problem.n, rows=problem.n, evaluations=40, optimizers=("sgd", "adagrad"))
    return race(problem, how, MemoryStore())


@pytest.mark.parametrize("seed", marked("coverage", [0, 1, 3], [0]))
def test_least_squares_in_float32_and_float64_give_the_same_answer(seed: int) -> None:
    """Before, seed 3 was `adagrad` in float32 and `no-difference` in float64, and seed 0 `adagrad` and `sgd`."""
    single, double = raced(least_squares(seed, torch.float32)), raced(least_squares(seed, torch.float64))
    one, other = summarise(single), summarise(double)
    assert answer_of_one_run(one.speedup) == answer_of_one_run(other.speedup)
    # The race is over at a hundredth of the decrease, and on the curves of float64 that is met as much sooner.
    problem = least_squares(seed, torch.float64)
    floor = written_out(problem, minimum(problem))
    assert one.target_floored
    assert one.target_loss is not None
    assert one.initial_loss is not None
    assert 0 < one.target_loss - floor < 0.011 * (one.initial_loss - floor)
    assert one.target_loss == pytest.approx(other.target_loss, rel=1e-4)
    sgd, adagrad = (meeting(double, method, one.target_loss) for method in ("sgd", "adagrad"))
    assert sgd is not None
    assert adagrad is not None
    assert one.speedup == pytest.approx(sgd[0] / adagrad[0], rel=1e-3)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
@pytest.mark.parametrize("seed", range(5))
def test_what_rounding_does_is_no_less_than_the_error_of_the_loss(seed: int, offset: float) -> None:
    problem = least_squares(seed, torch.float32, offset)
    w = minimum(problem)
    loss = look(problem, w)[0]
    error = abs(loss - written_out(problem, w))
    told = ROUNDINGS * rounding(problem, w, loss, seed)
    assert error <= told
    # Targets near 10^6 are known to 0.06 in float32: nothing below about 10^-3 can be said of their squares.
    # Targets near 10^6 are held to 0.06 in float32, and their squared errors near 0.1 to no more than 0.01.
    assert (told > 1e-2) == (offset == 1e6)
    assert told < 1e3 * error


def test_full_sums_are_taken_in_float64() -> None:
    n = 5000
    x = torch.linspace(0, 1, n)[:, None]
    problem = Problem(nn.Linear(1, 1), (x, 1e4 + 1e3 * x), "squared")
    each = problem.losses(problem.parameters, problem.samples).detach()
    exact = math.fsum(each.tolist()) / n
    assert look(problem, problem.parameters)[0] == pytest.approx(exact, rel=1e-13)
    assert problem.loss() == pytest.approx(exact, rel=1e-13)
    still = settings(optimizers=("sgd",), learning_rates=(1e-30, 2e-30, 3e-30, 4e-30), seeds=1, steps=1, evaluations=1)
    for leg in race(problem, still, MemoryStore()).legs:
        # The kernels of a stack may round a sample's loss otherwise, but not their sum.
        assert leg.final == pytest.approx(exact, rel=1e-8)


def test_losses_are_lowest_within_their_resolution() -> None:
    finals = {"adam": 1.0, "sgd": 1.5, "adagrad": 1.1}
    assert lowest(finals, {}) == ["adam"]
    assert lowest(finals, {"adagrad": 0.2}) == ["adam", "adagrad"]
    assert lowest(finals, {"adam": 0.6}) == ["adam", "sgd", "adagrad"]
    assert lowest({}, {}) == []


def rounded(made: Race, by: float) -> Race:
    return replace(made, legs=tuple(replace(leg, rounding=by / ROUNDINGS) for leg in made.legs))


def test_the_target_lies_above_the_worse_loss_by_what_is_not_told_apart() -> None:
    """Of two evaluations none is smoothed; crossings are linear in the logarithm of the step."""
    curves = {"sgd": {0.1: [[10.0, 6.0, 2.0]]}, "adagrad": {0.1: [[10.0, 2.5, 1.0]]}}
    made = made_race(curves)
    assert summarise(made).target_loss == 2.0
    part = summarise(rounded(made, 0.2))
    assert part.target_loss == pytest.approx(2.2)
    assert part.target_floored is False
    assert part.speedup == pytest.approx(2 ** (3.8 / 4) / 2 ** (0.3 / 1.5))
    assert (part.methods or {})["sgd"]["loss_resolution"] == pytest.approx(0.2)


def test_nothing_is_gained_by_less_than_rounding() -> None:
    curves = {"sgd": {0.1: [[10.0, 9.999]] * 3}, "adagrad": {0.1: [[10.0, 9.998]] * 3}}
    part = summarise(rounded(made_race(curves), 0.1))
    assert part.speedup is None
    assert "by more than rounding" in part.why["speedup"]


def test_of_rates_that_end_alike_the_middle_one_is_best() -> None:
    ends = {0.1: 1.0002, 1.0: 1.0001, 10.0: 1.0, 100.0: 5.0, 1000.0: 6.0}
    curves = {"sgd": {rate: [[10.0, end]] for rate, end in ends.items()}}
    assert made_race(curves).best("sgd")[0].learning_rate == 10.0
    made = made_race({"sgd": {rate: [[10.0, end]] for rate, end in list(ends.items())[:3]}})
    assert made.best("sgd")[0].learning_rate == 10.0
    assert rounded(made, 0.001).best("sgd")[0].learning_rate == 1.0
