"""Models whose samples depend on each other, hidden in what the first samples show, are refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from estimators import InputError, Problem
from estimators.task import coupling
from tests.problems import CASES, Case

Change = Callable[[Tensor], Tensor]
N = 60


class Changed(nn.Module):
    """A linear layer with something done to its input or output."""

    def __init__(self, change: Change, *, before: bool = False) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.change, self.before = change, before

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layer(self.change(x)) if self.before else self.change(self.layer(x))
        return output


def _capacity(y: Tensor) -> Tensor:
    """The first half of the rows with a positive score keep it, as where an expert takes only so many."""
    turned = (y[:, :1] > 0).double()
    return y * (turned.cumsum(0) <= max(1, len(y) // 4)).to(y)


COUPLED: dict[str, Change] = {
    "mean": lambda y: y - y.mean(0),
    "mean-of-many": lambda y: y - 0.1 * y.mean(0) if len(y) > 8 else y,
    "largest": lambda y: y / y.abs().amax(),
    "capacity": _capacity,
    "neighbour": lambda y: y + 0.1 * torch.cat([torch.zeros_like(y[:1]), y[:-1]]),
    "softmax": lambda y: y.softmax(0),
    "training-norm": lambda y: F.batch_norm(y, None, None, training=True),
}
HIDDEN: dict[str, Change] = {
    "mean": lambda y: y + (y.mean(0) - y.mean(0).detach()),
    "norm": lambda y: y * (y.norm() / y.norm().detach()),
    "of-many": lambda y: y + (y.mean(0) - y.mean(0).detach()) if len(y) > 8 else y,
}
"""The loss is that of each sample alone, its gradient is not."""


def _samples(n: int = N) -> tuple[Tensor, Tensor]:
    """The first four rows, on which everything else is tried, are equal."""
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(5))
    x[:4] = x[0]
    y = torch.arange(n) % 3
    y[:4] = 0
    return x, y


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("name", COUPLED)
def test_a_loss_in_company(name: str, before: bool) -> None:
    torch.manual_seed(0)
    with pytest.raises(InputError, match="the loss of a sample depends on the other samples of its batch: Changed"):
        Problem(Changed(COUPLED[name], before=before), _samples())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", HIDDEN)
def test_a_gradient_in_company(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    with pytest.raises(InputError, match="the gradient of a sample depends on the other samples of its batch: Changed"):
        Problem(Changed(HIDDEN[name]).to(dtype), _samples())


def test_first_rows_that_hide_it_do_so() -> None:
    """The losses of the first four are the same alone and together: what the tests above stand on."""
    model, (x, _) = Changed(lambda y: y - y.mean(0), before=True), _samples()
    x = x - x[0]
    with torch.no_grad():
        together, alone, all_rows = model(x[:4]), torch.cat([model(row[None]) for row in x[:4]]), model(x)
    torch.testing.assert_close(together, alone)
    assert float((all_rows[:4] - alone).abs().max()) > 1e-2


@pytest.mark.parametrize("n", [2, 3, 5, 64, 65, 300])
def test_sets_of_every_size(n: int) -> None:
    Problem(nn.Linear(4, 3), _samples(n))
    x, y = torch.randn(n, 4), torch.arange(n) % 3
    with pytest.raises(InputError, match="depends on the other samples"):
        Problem(Changed(COUPLED["mean"]), (x, y))


def test_other_samples_show_what_the_first_hid() -> None:
    x, y = _samples()
    problem = Problem(Changed(COUPLED["mean"], before=True), (torch.zeros(N, 4), y))  # no row differs from their mean
    with pytest.raises(InputError, match="depends on the other samples"):
        problem.with_samples((x, y))


def test_a_sample_without_a_finite_loss_is_no_coupling() -> None:
    """It is named when gradients are measured; the others are compared without it."""

    def loss(output: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(output, targets, reduction="none") / (targets != 2)

    x, y = torch.randn(8, 4), torch.tensor([0, 1, 0, 1, 0, 2, 1, 2])
    Problem(nn.Linear(4, 3), (x, y), loss)
    with pytest.raises(InputError, match="depends on the other samples"):
        Problem(Changed(COUPLED["mean"]), (x, y), loss)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_sound_models_are_taken(case: Case) -> None:
    problem = case.problem()
    with problem.measuring():
        coupling.refuse_coupled(problem, problem.chunk)
        coupling.refuse_coupled(problem, 1)


def test_probes_are_spread() -> None:
    generator = torch.Generator().manual_seed(0)
    for n in (1, 2, 7, 8, 9, 1000):
        probes = coupling.spread(n, 8, generator)
        assert len(set(probes.tolist())) == min(n, 8)
        assert int(probes.min()) >= 0
        assert int(probes.max()) < n
        if n == 1000:
            assert [int(probe) // 125 for probe in probes] == list(range(8))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("residual", [1e-2, 1e-3, 1e-4, 1e-6, 0.0])
def test_rounding_of_a_small_residual_is_no_coupling(residual: float, dtype: torch.dtype) -> None:
    """Kernels round one row otherwise than many: a share of the output, which is much of a small residual."""
    for seed in range(4):
        torch.manual_seed(seed)
        x, model = torch.randn(64, 20, dtype=dtype), nn.Linear(20, 1).to(dtype)
        Problem(model, (x, model(x).detach() + residual), "squared")


def test_a_coupling_of_more_samples_than_are_looked_at_one_by_one() -> None:
    class Crowd(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            return y - y.mean(0) if len(x) > 64 else y

    torch.manual_seed(0)
    with pytest.raises(InputError, match="depends on the other samples"):
        Problem(Crowd(20, 3), (torch.randn(400, 20), torch.arange(400) % 3))
