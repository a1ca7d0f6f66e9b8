"""Measurement: a :class:`Problem` in, a frozen result out. Importing this package loads no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from estimators.anisotropic import smoothness
    from estimators.diagonal import hessian_diagonal
    from estimators.errors import InputError
    from estimators.generalized import generalized_smoothness
    from estimators.gradient_noise import noise
    from estimators.lanczos import spectrum
    from estimators.problem import Problem

_HOME = {
    "InputError": "errors",
    "Problem": "problem",
    "generalized_smoothness": "generalized",
    "hessian_diagonal": "diagonal",
    "noise": "gradient_noise",
    "smoothness": "anisotropic",
    "spectrum": "lanczos",
}
__all__ = [
    "InputError",
    "Problem",
    "generalized_smoothness",
    "hessian_diagonal",
    "noise",
    "smoothness",
    "spectrum",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"estimators.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
