"""Measurement: a :class:`Problem` in, a frozen result out. Importing this package loads no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from estimators.curvature.along_updates import directional_sharpness, preconditioned_sharpness, update_sharpness
    from estimators.curvature.density import eigenvalue_density
    from estimators.curvature.kinks import finite_step_curvature
    from estimators.curvature.lanczos import spectrum
    from estimators.curvature.one_norm import hessian_one_norm
    from estimators.diagonal.estimate import hessian_diagonal
    from estimators.errors import InputError
    from estimators.gradient_noise.sigma import noise
    from estimators.growth.generalized import generalized_smoothness
    from estimators.growth.secant_ratios import secants
    from estimators.growth.sphere_points import sphere
    from estimators.smoothness_vector.at_a_point import smoothness
    from estimators.smoothness_vector.several_points import joint_smoothness
    from estimators.smoothness_vector.whole_data import crossfit_smoothness
    from estimators.task.problem import Problem
    from estimators.task.rotation import rotated

_HOME = {
    "InputError": "errors",
    "Problem": "task.problem",
    "crossfit_smoothness": "smoothness_vector.whole_data",
    "directional_sharpness": "curvature.along_updates",
    "eigenvalue_density": "curvature.density",
    "finite_step_curvature": "curvature.kinks",
    "generalized_smoothness": "growth.generalized",
    "hessian_diagonal": "diagonal.estimate",
    "hessian_one_norm": "curvature.one_norm",
    "joint_smoothness": "smoothness_vector.several_points",
    "noise": "gradient_noise.sigma",
    "preconditioned_sharpness": "curvature.along_updates",
    "rotated": "task.rotation",
    "secants": "growth.secant_ratios",
    "smoothness": "smoothness_vector.at_a_point",
    "spectrum": "curvature.lanczos",
    "sphere": "growth.sphere_points",
    "update_sharpness": "curvature.along_updates",
}
__all__ = [
    "InputError",
    "Problem",
    "crossfit_smoothness",
    "directional_sharpness",
    "eigenvalue_density",
    "finite_step_curvature",
    "generalized_smoothness",
    "hessian_diagonal",
    "hessian_one_norm",
    "joint_smoothness",
    "noise",
    "preconditioned_sharpness",
    "rotated",
    "secants",
    "smoothness",
    "spectrum",
    "sphere",
    "update_sharpness",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"estimators.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
