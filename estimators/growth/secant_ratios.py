"""Secants of recorded gradients: ||g_(t+1) - g_t|| / ||w_(t+1) - w_t|| step by step, and what they do not say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from estimators.errors import InputError
from estimators.results import Finding

STAGE = "secants"
FEWEST = 20
"""Differences of gradients below which nothing is said about what they have in common."""
INDEPENDENT = (-0.5, 0.0)
"""Correlation of differences one and two steps apart, where every gradient is a draw of its own."""
NEAR = 0.25


@dataclass(frozen=True, kw_only=True)
class Secants:
    """Step by step: ``steps`` ||dw||, ``ratios`` ||dg||/||dw|| (None where w did not move), ``cosines`` between the
    two gradients.

    ``difference_cosines``: mean cosine between dg_t and dg_(t+1), and between dg_t and dg_(t+2); None with fewer than
    20 differences that are not zero.
    """

    steps: Sequence[float]
    ratios: Sequence[float | None]
    cosines: Sequence[float | None]
    difference_cosines: tuple[float, float] | None
    why: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[Finding, ...] = ()


def secants(points: Sequence[Mapping[str, Tensor]], gradients: Sequence[Mapping[str, Tensor]]) -> Secants:
    """Ratios ||g_(t+1) - g_t|| / ||w_(t+1) - w_t|| of gradients recorded along a run.

    They fit no pair (L0, L1). Along descent on a quadratic, whose L1 is 0, they follow ||g|| (correlation 0.998,
    an L1 of 0.175 where the truth is 0): descent removes sharp directions first. Use ``generalized_smoothness``,
    which measures curvature at points.

    Where the two ends of a step were measured on different minibatches they do not even measure curvature: the
    difference is that of two draws, ||dg|| is about sqrt(2) ||g|| where noise rules, whatever the loss, and the ratio
    goes like 1/step. Then dg_t = e_(t+1) - e_t for independent e: consecutive differences share one end, with cosine
    -1/2, those two steps apart share none, with cosine 0. On the same samples differences along a run have
    cosines near +1, or near -1 and +1 where it oscillates; only where steps are so long that the gradient at one end
    tells nothing of the other do they look like draws, and then the ratio is 1/step as well. The finding
    ``step-length`` is raised where both cosines lie within 0.25 of (-1/2, 0).

    Args:
        points: w_t, parameter dicts.
        gradients: g_t at these points, all on the same samples.

    Raises:
        InputError: fewer than two points, not one gradient for each point, names or shapes that do not fit,
            numbers that are not finite.

    Examples:
        >>> import torch
        >>> from estimators import secants
        >>> points = [{"w": torch.tensor([w])} for w in (2.0, 1.0, 0.5)]
        >>> secants(points, [{"w": 3 * point["w"]} for point in points]).ratios  # of f = 3 w^2 / 2
        [3.0, 3.0]
    """
    if len(points) != len(gradients):
        raise InputError(f"{len(gradients)} gradients at {len(points)} points", "gradients", "give one for each point")
    if len(points) < 2:
        raise InputError(f"{len(points)} points make no step", "points", "record two or more")
    shapes = {name: tensor.shape for name, tensor in points[0].items()}
    places = [_flat(each, shapes, f"points[{t}]") for t, each in enumerate(points)]
    slopes = [_flat(each, shapes, f"gradients[{t}]") for t, each in enumerate(gradients)]
    steps = [float((b - a).norm()) for a, b in pairwise(places)]
    differences = [b - a for a, b in pairwise(slopes)]
    ratios = [float(dg.norm()) / step if step > 0 else None for dg, step in zip(differences, steps, strict=True)]
    cosines = [_cosine(a, b) for a, b in pairwise(slopes)]
    why = {}
    if None in ratios:
        why["ratios"] = "the parameters did not move in some step"
    if None in cosines:
        why["cosines"] = "a gradient is zero"
    moving = [dg for dg in differences if float(dg.norm()) > 0]
    both: tuple[float, float] | None = None
    if len(moving) < FEWEST:
        why["difference_cosines"] = f"{len(moving)} differences that are not zero, {FEWEST} are needed"
    else:
        both = (_mean_cosine(moving, 1), _mean_cosine(moving, 2))
    warnings: tuple[Finding, ...] = ()
    if both and all(abs(own - draw) < NEAR for own, draw in zip(both, INDEPENDENT, strict=True)):
        sizes = [
            ratio * step / float(g.norm())
            for ratio, step, g in zip(ratios, steps, slopes, strict=False)
            if ratio is not None and float(g.norm()) > 0
        ]
        warnings = (_step_length(both, sizes, cosines),)
    return Secants(steps=steps, ratios=ratios, cosines=cosines, difference_cosines=both, why=why, warnings=warnings)


def _flat(vector: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], where: str) -> Tensor:
    for name, shape in shapes.items():
        if name not in vector:
            raise InputError("a parameter is missing", f"{where}, {name}", "give every parameter at every point")
        if vector[name].shape != shape:
            raise InputError(f"shape {tuple(vector[name].shape)} instead of {tuple(shape)}", f"{where}, {name}")
    flat = torch.cat([vector[name].detach().reshape(-1).double() for name in shapes])
    if not bool(torch.isfinite(flat).all()):
        raise InputError("NaN or infinity", where, "leave out the part of the run that diverged")
    return flat


def _cosine(a: Tensor, b: Tensor) -> float | None:
    size = float(a.norm()) * float(b.norm())
    return float(a @ b) / size if size > 0 else None


def _mean_cosine(vectors: Sequence[Tensor], lag: int) -> float:
    units = [vector / vector.norm() for vector in vectors]
    return math.fsum(float(a @ b) for a, b in zip(units, units[lag:], strict=False)) / (len(units) - lag)


def _median(values: Sequence[float | None]) -> float:
    return float(torch.tensor([value for value in values if value is not None], dtype=torch.float64).median())


def _step_length(both: tuple[float, float], sizes: Sequence[float], cosines: Sequence[float | None]) -> Finding:
    told = ""
    if sizes:
        told = f"; ‖Δg‖ is {_median(sizes):.2f} times ‖g‖, cosine of the two gradients {_median(cosines):.2f} (medians)"
    return Finding(
        code="step-length",
        severity="warning",
        stage=STAGE,
        found=f"differences of gradients have cosine {both[0]:.2f} one step apart and {both[1]:.2f} two steps apart, "
        f"those of independent draws -0.50 and 0{told}",
        meaning="the two gradients of a step have nothing in common, as when they are of different samples or the "
        "steps very long: the ratios are the size of a gradient over the step length, whatever the curvature",
        action="record both gradients of a step on the same samples",
    )
