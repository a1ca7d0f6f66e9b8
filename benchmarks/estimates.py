"""Estimates of what is known exactly: what a method found, its error, and the bound that comes with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.tasks import Task

Ends = tuple[Any, Any]
"""Lower and upper end, numbers or tensors of the value's shape; the lower one is None where there is none."""


@dataclass(frozen=True)
class Found:
    """What one call of a method gave: its value, the products with the Hessian that it took, the bound and its level.

    ``products`` is None where a method works without such products. ``level`` is in words: "95%", "certain".
    """

    value: Any
    products: float | None = None
    bound: Ends | None = None
    level: str = ""


Method = Callable[[Task, int], Found]
"""The task and a seed to what was found."""


@dataclass(frozen=True)
class Benchmark:
    """Methods for one number (or tensor) of a task, with the exact value and what the error of a value is."""

    title: str
    tasks: Sequence[str]
    methods: Mapping[str, Method]
    exact: Callable[[Task], Any]
    error: Callable[[Any, Any], float]


def off(found: Tensor, wanted: Tensor) -> float:
    """Relative error in the 2-norm."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def off_number(found: float, wanted: float) -> float:
    """Relative error of a number."""
    return abs(found - wanted) / abs(wanted)


def root_mean_square(errors: Sequence[float]) -> float:
    return math.sqrt(sum(error * error for error in errors) / len(errors))


def bound_in_words(runs: Sequence[Found], exact: Any) -> str:
    """Level, mean ends beside the exact value, and how often that was inside; the level alone without a bound.

    For a tensor: the share of its entries inside, over all runs.
    """
    if runs[0].bound is None:
        return runs[0].level
    ends = [run.bound for run in runs if run.bound is not None]
    inside = [_inside(each, exact) for each in ends]
    if isinstance(exact, Tensor):
        share = float(torch.stack(inside).double().mean())
        return f"{runs[0].level} for each entry: {share:.1%} inside"
    lows, highs = [low for low, _ in ends if low is not None], [high for _, high in ends]
    shown = f"{_from_exact(lows, exact)} to" if lows else "at most"
    shown += f" {_from_exact(highs, exact)}"
    return f"{runs[0].level}: {shown}, held {sum(map(bool, inside))} of {len(inside)}"


def _inside(ends: Ends, exact: Any) -> Any:
    low, high = ends
    return exact <= high if low is None else (low <= exact) & (exact <= high)


def _from_exact(ends: Sequence[float], exact: float) -> str:
    """How far ends are from the exact value on average: in per cent, or as a multiple from twice on."""
    share = sum(ends) / len(ends) / exact
    return f"×{share:.3g}" if share >= 2 else f"{100 * (share - 1):+.2g}%"
