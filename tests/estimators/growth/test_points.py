"""Bounds of coordinates that H couples to no other, and the bounds of held-out points."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from estimators.growth.left_out import HeldOut, tighter
from estimators.growth.points import uncoupled
from estimators.smoothness_vector.formed import dense_bracket
from tests.problems import symmetric


def feasible(matrix: Tensor, bound: Tensor) -> float:
    """Largest eigenvalue of +-H - diag(L): at most 0 where L is feasible."""
    return max(float(torch.linalg.eigvalsh(sign * matrix - torch.diag(bound)).max()) for sign in (-1, 1))


def test_a_diagonal_hessian_has_its_diagonal_as_the_bound() -> None:
    h = torch.tensor([1e-4, -0.1, 10.0, 1000.0, 0.0]).double()
    bound = dense_bracket(torch.diag(h), torch.Generator().manual_seed(0), 0.01).vector
    assert float(bound[0]) > 1e-2  # the floor: a hundred times its curvature
    found, exact = uncoupled(torch.diag(h), bound)
    torch.testing.assert_close(found, h.abs())
    assert exact.all()


@pytest.mark.parametrize("seed", range(5))
def test_bounds_stay_feasible_where_some_coordinates_are_nearly_uncoupled(seed: int) -> None:
    block = symmetric(8, seed)
    matrix = torch.diag(torch.cat([torch.zeros(8), torch.logspace(-3, 3, 6)]).double())
    matrix[:8, :8] = block
    coupling = symmetric(14, seed + 50)
    root = matrix.diagonal().abs().sqrt()
    matrix = matrix + 1e-5 * root[:, None] * coupling * root * (1 - torch.eye(14).double())
    bound = dense_bracket(matrix, torch.Generator().manual_seed(seed), 0.01).vector
    assert feasible(matrix, bound) <= 1e-9
    found, exact = uncoupled(matrix, bound)
    assert not exact[:8].any()
    assert exact[8:].any()
    assert feasible(matrix, found) <= 1e-9
    torch.testing.assert_close(found[exact], matrix.diagonal().abs()[exact], rtol=1.1e-3, atol=0)


def test_a_coupled_hessian_keeps_its_bound() -> None:
    matrix = symmetric(20, 0)
    bound = dense_bracket(matrix, torch.Generator().manual_seed(0), 0.01).vector
    found, exact = uncoupled(matrix, bound)
    assert torch.equal(found, bound)
    assert not exact.any()


def test_which_assumption_is_tighter() -> None:
    assert tighter(HeldOut(1.0, 1.2), HeldOut(1.0, 1.8), 0.01) == {
        "assumption": "coordinate-wise",
        "factor": pytest.approx(1.5),
    }
    assert tighter(HeldOut(0.5, 1.8), HeldOut(0.5, 1.2), 0.01) == {
        "assumption": "isotropic",
        "factor": pytest.approx(1.5),
    }
    assert tighter(HeldOut(1.0, 1.2), HeldOut(1.0, 1.205), 0.01)["assumption"] == "neither"


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        (HeldOut(1.0, 1.2), HeldOut(0.8, 1.1), "100% (coordinate-wise) and 80% (isotropic)"),
        (HeldOut(0.0, 0.5), HeldOut(0.0, 0.5), "neither bound holds"),
        (HeldOut(1.0, None), HeldOut(1.0, None), "vanishes"),
    ],
)
def test_tightness_is_not_compared_where_it_cannot_be(one: HeldOut, other: HeldOut, reason: str) -> None:
    found = tighter(one, other, 0.01)
    assert found["assumption"] is found["factor"] is None
    assert reason in found["why"]["assumption"]
