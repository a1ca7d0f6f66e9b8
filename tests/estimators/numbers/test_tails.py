"""Tail indices and shapes on samples of known distributions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from estimators.numbers.tails import hill, pareto_shape, settling


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def power(index: float, *shape: int, seed: int = 0) -> Tensor:
    """P(|x| > t) = t^-index for t >= 1, both signs."""
    signs = 2.0 * (uniform(*shape, seed=seed + 1) < 0.5) - 1
    return signs * uniform(*shape, seed=seed).pow(-1 / index)


@pytest.mark.parametrize("index", [1.5, 2.0, 4.0])
def test_hill_finds_the_index(index: float) -> None:
    found = hill(power(index, 2000, 40))
    assert float(found.median()) == pytest.approx(index, rel=0.1)
    # The relative error of one coordinate is about 1/sqrt(250).
    assert float((found / found.median()).std()) < 0.12


def laplace(*shape: int) -> Tensor:
    return uniform(*shape).log() * (1 - 2.0 * (uniform(*shape, seed=1) < 0.5))


@pytest.mark.parametrize(
    ("rows", "read"), [(normal(1000, 50), 4.3), (laplace(1000, 50), 2.9)], ids=["normal", "laplace"]
)
def test_what_light_tails_read(rows: Tensor, read: float) -> None:
    assert float(hill(rows).median()) == pytest.approx(read, rel=0.05)


def test_hill_is_free_of_scale_and_place() -> None:
    rows = normal(100, 5)
    torch.testing.assert_close(hill(1e-8 * rows + 1e-8), hill(rows))


def test_hill_leaves_out_what_it_cannot_see() -> None:
    rows = normal(64, 4)
    rows[:, 1] = 3.0
    rows[10:, 2] = 0
    rows[:, 2] -= rows[:, 2].mean()
    assert hill(rows).isnan().tolist() == [False, True, False, False]
    assert bool(hill(rows[:9]).isnan().all())


def test_settling_tells_infinite_variance() -> None:
    light, heavy, infinite = (settling(rows) for rows in (normal(200, 60), power(3, 200, 60), power(1, 200, 60)))
    assert light is not None
    assert heavy is not None
    assert infinite is not None
    assert 0.6 < light < 0.9
    assert 0.2 < heavy < 0.5  # 1 - 2/3 in the limit
    assert infinite < 0.1


def test_settling_passes_over_sparse_columns() -> None:
    rows = normal(64, 40)
    sparse = rows * (uniform(64, 40, seed=3) < 0.03)
    assert settling(sparse) is None
    assert settling(torch.cat([rows, sparse], 1)) == pytest.approx(settling(rows))
    assert settling(rows[:15]) is None
    assert settling(torch.ones(64, 3)) is None


@pytest.mark.parametrize(("values", "shape"), [(-uniform(4000).log(), 0.0), (uniform(4000).pow(-0.5), 0.5)])
def test_pareto_shape(values: Tensor, shape: float) -> None:
    found = pareto_shape(values)
    assert found is not None
    assert found[1] == int(3 * math.sqrt(4000))
    assert found[0] == pytest.approx(shape, abs=0.2)
    scaled = pareto_shape(1e6 * values)
    assert scaled is not None
    assert scaled[0] == pytest.approx(found[0])


def test_pareto_shape_of_bounded_values_is_negative() -> None:
    found = pareto_shape(uniform(2000))
    assert found is not None
    assert found[0] < -0.5


def test_too_few_or_equal_values_have_no_shape() -> None:
    assert pareto_shape(uniform(20)) is None
    assert pareto_shape(torch.ones(200)) is None
