"""R_L of a formed Hessian after a random rotation."""

from __future__ import annotations

import torch

from estimators.smoothness_vector.at_a_point import DENSE_GAP
from estimators.smoothness_vector.formed import dense_bracket
from estimators.task.problem import Problem
from estimators.task.products import dense_hessian
from estimators.task.rotation import Rotation


def rotated_density(problem: Problem, seed: int, gap: float = DENSE_GAP) -> float:
    """R_L = upper/(d lambda) of Q'HQ, for a Hessian that is small enough to be formed and is not 0."""
    matrix = dense_hessian(problem)
    rotation = Rotation(problem.d, seed, matrix)
    turned = rotation.inverse(rotation.inverse(matrix).T)
    found = dense_bracket((turned + turned.T) / 2, torch.Generator().manual_seed(seed), gap)
    return found.upper / (problem.d * float(torch.linalg.eigvalsh(matrix).abs().max()))
