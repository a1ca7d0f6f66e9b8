"""Rows of ``smoothness.points``, and results as objects of result.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import estimators
from diagnose.stages.across import BRACKET
from diagnose.training.update_rules import State
from estimators.results import Progress, Smoothness
from estimators.smoothness_vector.at_a_point import norms
from estimators.task.problem import Problem
from estimators.task.products import passing

IDENTITY = "sgd moves by the gradient itself: its P is I, and the value is `sharpness`"
OVERFLOWN = "the squares of AdaGrad's gradients add up to more than the number format holds"
NO_GRADIENT = "no gradient has been accumulated at the start"


def fields(row: Any, keys: Sequence[str]) -> dict[str, Any]:
    """Some fields of a result as an object of result.json, with the reasons of its nulls."""
    why = {key: reason for key, reason in row.why.items() if key in keys}
    return {key: getattr(row, key) for key in keys} | ({"why": why} if why else {})


def in_own_metric(problem: Problem, method: str, state: State, *, seed: int, progress: Progress) -> Mapping[str, Any]:
    """max|eig P^-1/2 H P^-1/2| with AdaGrad's P = diag(sqrt(v)) at a point of its run, for ``smoothness.points``."""
    keys = ("preconditioned", "preconditioned_interval")
    if method != "adagrad":
        return {**dict.fromkeys(keys), "why": dict.fromkeys(keys, IDENTITY if method == "sgd" else NO_GRADIENT)}
    scale = {name: v.sqrt() for name, v in state["v"].items()}
    if not all(bool(part.isfinite().all()) for part in scale.values()):
        return {**dict.fromkeys(keys), "why": dict.fromkeys(keys, OVERFLOWN)}
    with passing(problem):
        found = estimators.preconditioned_sharpness(problem, scale, seed=seed, progress=progress)
    return dict(zip(keys, (found.value, found.interval), strict=True))


def point_row(method: str, step: int, problem: Problem, part: Smoothness) -> dict[str, Any]:
    """A row of ``smoothness.points``; costs one gradient at the problem's point."""
    gradient_l1, gradient_l2 = norms(problem.flatten(problem.gradient()))
    row = {
        "method": method,
        "step": step,
        **{key: getattr(part, key) for key in BRACKET},
        "sharpness": part.sharpness,
        "gradient_l1": gradient_l1,
        "gradient_l2": gradient_l2,
    }
    return with_reason(row)


def with_reason(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of ``smoothness.points`` with the reason where it has no R_L."""
    zero = dict.fromkeys(("density", "density_interval"), "the Hessian is zero there")
    return {**row, **({"why": zero} if row["density"] is None else {})}


def joined(row: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Both, and the reasons of both."""
    why = {**row.get("why", {}), **more.get("why", {})}
    return {**row, **more, **({"why": why} if why else {})}
