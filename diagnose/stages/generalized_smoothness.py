"""The stage of generalized smoothness: curvature at points along the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import estimators
from diagnose.settings import LARGE_NETWORK
from diagnose.stages.across import BRACKET, along
from diagnose.stages.bench import HUGE_NETWORK, Bench, Update, stream
from diagnose.stages.estimate import LAMBDA, Amount, Estimate, PlanRow, row
from diagnose.stages.points_along_runs import expected, places
from diagnose.stages.rows import in_own_metric, joined, point_row, with_reason
from diagnose.stages.thresholds import at_later_point, unclear
from diagnose.stages.training import race_of, race_settings
from estimators.growth.frozen_quadratic import STARTS
from estimators.growth.generalized import FEWEST
from estimators.results import GeneralizedSmoothness, Smoothness
from estimators.task import memory_limit
from reports.record.diagnosis import Diagnosis, absent

VECTORS = 100
"""Vectors that the brackets along the runs hold."""


def generalized_smoothness(bench: Bench, known: Diagnosis) -> Update:
    reason = bench.skipped("generalized_smoothness")
    if reason is None and (untrained := bench.skipped("training")) is not None:
        reason = f"needs points along a run, and training was {untrained}"
    reason = reason or bench.without_curvature("generalized_smoothness")
    if reason is not None:
        return Update({"generalized_smoothness": absent(GeneralizedSmoothness, reason)})
    if bench.problem.d > HUGE_NETWORK:
        reason = f"above {HUGE_NETWORK:,} parameters curvature is measured at the start alone"
        return Update({"generalized_smoothness": absent(GeneralizedSmoothness, reason)})
    seed = stream(bench.resolved.seed, "along")
    settings, methods = race_settings(bench, known.smoothness.sharpness), known.training.methods or {}
    seeded = stream(bench.resolved.seed, "sphere")
    found = places(bench.problem, bench.trained, bench.curvature, settings, methods, seeded, bench.limits.points)
    if not found:
        reason = "neither sgd nor adagrad has a run that did not diverge"
        return Update({"generalized_smoothness": absent(GeneralizedSmoothness, reason)})
    if len(found) + 1 < FEWEST:
        reason = f"{len(found) + 1} points along runs this short, and a fit needs {FEWEST}"
        if bench.problem.d > LARGE_NETWORK:
            reason = f"above {LARGE_NETWORK:,} parameters curvature is measured at the start and at the end alone"
        part = absent(GeneralizedSmoothness, reason)
        measured = []
        for number, place in enumerate(found):
            there = place.problem
            curved = estimators.smoothness(
                there,
                gap=bench.resolved.gap,
                thresholds=at_later_point(bench.resolved, known.smoothness),
                seed=seed + number,
                progress=bench.progress,
            )
            measured.append(point_row(place.method, place.step, there, curved))
    else:
        # The start belongs to every run; it goes with the first.
        part = estimators.generalized_smoothness(
            bench.curvature,
            [bench.curvature, *(place.problem for place in found)],
            groups=[found[0].group, *(place.group for place in found)],
            gap=bench.resolved.gap,
            seed=seed,
            progress=bench.progress,
        )
        keys = (*BRACKET, "sharpness", "gradient_l1", "gradient_l2")
        measured = [
            with_reason({"method": place.method, "step": place.step, **{key: point[key] for key in keys}})
            for place, point in zip(found, (part.points or ())[1:], strict=True)
        ]
    own = [
        joined(point, in_own_metric(place.problem, place.method, place.state, seed=seed, progress=bench.progress))
        for point, place in zip(measured, found, strict=True)
        if place.best
    ]
    later = sorted(own, key=lambda point: (point["method"], point["step"]))
    vectors = {"l0": part.l0, "l1": part.l1} if part.l0 else {}
    start = _narrowed(bench, known.smoothness, later, part)
    parts = {"generalized_smoothness": part, "smoothness": along(known.smoothness, later, start)}
    return Update(parts, vectors, part.warnings, amount=f"{len(found) + 1} points")


def _narrowed(
    bench: Bench, part: Smoothness, later: Sequence[Mapping[str, Any]], pairs: GeneralizedSmoothness
) -> Mapping[str, Any] | None:
    """A narrower bracket at the start where its own ended too wide to say how later points differ from it, else None.

    That which a fit of pairs has taken there to the default gap, or one more.
    """
    if part.points is None or part.ended_by != "thresholds" or not unclear(along(part, later).points or ()):
        return None
    if pairs.points is not None:
        return pairs.points[0]
    seed = stream(bench.resolved.seed, "smoothness")
    return vars(estimators.smoothness(bench.curvature, seed=seed, progress=bench.progress))


def plan(of: Estimate) -> PlanRow | None:
    """Brackets along runs that are walked again, and some for the control."""
    shape, resolved = of.shape, of.work.resolved
    if shape.race is None or shape.without_curvature or shape.d > HUGE_NETWORK:
        return None
    race = race_of(shape, resolved)
    points, replayed = expected(race, shape.d, race.rows, resolved.samples, of.work.limits.points)
    amount = Amount(replayed, replayed * resolved.samples / race.batch_size * of.pace.alone)
    amount += of.bracket().times(points + (STARTS if shape.formed else 0))
    if not shape.formed:
        amount += of.products(LAMBDA * -(-points // 2))
    return row("generalized_smoothness", amount, of.memory(VECTORS, memory_limit.FEWEST))
