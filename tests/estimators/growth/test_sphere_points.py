"""sphere(): at its distance, uniform in direction, the same for the same seed."""

from __future__ import annotations

import pytest
import torch

from estimators import InputError, sphere
from tests.problems import BY_NAME


def test_points_lie_on_the_sphere_and_average_to_its_center() -> None:
    problem = BY_NAME["mlp"].problem()
    center = problem.flatten(problem.parameters)
    steps = torch.stack([problem.flatten(point) - center for point in sphere(problem, 2.5, 4000, seed=1)])
    torch.testing.assert_close(steps.norm(dim=1), torch.full((4000,), 2.5, dtype=steps.dtype))
    # Each coordinate of a uniform direction has mean 0 and variance 1/d.
    units = steps / 2.5
    assert float(units.mean(0).abs().max()) < 5 / (4000 * problem.d) ** 0.5
    torch.testing.assert_close(
        units.square().mean(0) * problem.d, torch.ones(problem.d, dtype=units.dtype), atol=0.15, rtol=0
    )


def test_points_are_parameters_of_the_problem() -> None:
    problem = BY_NAME["mlp"].problem()
    first, again = sphere(problem, 0.1, 2, seed=3), sphere(problem, 0.1, 3, seed=3)
    assert problem.at(first[0]).loss() != problem.loss()
    for one, other in zip(first, again, strict=False):
        assert all(torch.equal(one[name], other[name]) for name in problem.names)
    assert {name: tensor.shape for name, tensor in first[0].items()} == problem.shapes


@pytest.mark.parametrize("radius", [0.0, -1.0, float("nan"), float("inf")])
def test_a_radius_must_be_a_distance(radius: float) -> None:
    with pytest.raises(InputError, match="radius"):
        sphere(BY_NAME["mlp"].problem(), radius, 3)


def test_a_sphere_holds_a_point() -> None:
    with pytest.raises(InputError, match="0 points"):
        sphere(BY_NAME["mlp"].problem(), 1.0, 0)
