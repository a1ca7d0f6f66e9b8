"""The stages of a diagnosis: each takes the bench and what is known so far, and returns what it adds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import estimators
from diagnose.schema import NOT_YET, Diagnosis, Prediction, Training, absent
from diagnose.settings import LARGE_NETWORK, Resolved
from diagnose.training import RaceSettings, race, replay
from diagnose.training.findings import findings as race_findings
from diagnose.training.legs import Contender, LegStore, rows
from diagnose.training.speedup import summarise
from diagnose.training.stacking import stackable
from diagnose.verdict import bounds, decide
from estimators.anisotropic import norms
from estimators.generalized import FEWEST
from estimators.lanczos import Ritz, extremes
from estimators.problem import Parameters, Problem
from estimators.products import DENSE_LIMIT
from estimators.results import Finding, GeneralizedSmoothness, Progress, Smoothness
from estimators.rotation import rotated, rotated_density

if TYPE_CHECKING:
    from diagnose.inputs import Opened

HUGE_NETWORK = 1_000_000
"""Above this many parameters the bracket is taken at the start alone."""
ONE_NORM = 20
"""Products for sum|H_jk| where H is not formed: an error of 11 to 17%."""
EXTRA_PASSES = 1.25
"""What tail index and batches may cost where the gradients of single samples are not kept."""
LARGEST_BASIS = 4_000_000
"""Above this many parameters the basis of a Lanczos run (80 vectors) is not kept for the diagonal."""
POINTS = 5
"""Points along each of the two best runs, the start apart."""


@dataclass(frozen=True)
class Bench:
    """What the stages work on: f over the sample set, and a draw of it for curvature."""

    opened: Opened
    resolved: Resolved
    problem: Problem
    curvature: Problem
    legs: LegStore
    progress: Progress
    kept: dict[str, Ritz] = field(default_factory=dict)

    @classmethod
    def build(cls, opened: Opened, resolved: Resolved, legs: LegStore, progress: Progress) -> Bench:
        """Raises InputError where :class:`estimators.Problem` does."""
        problem = Problem(opened.model, opened.samples, opened.loss)
        if resolved.rotate:
            problem = rotated(problem, stream(resolved.seed, "rotation"))
        curvature = problem
        if resolved.curvature_samples < problem.n:
            generator = torch.Generator().manual_seed(stream(resolved.seed, "curvature"))
            drawn = torch.randperm(problem.n, generator=generator)[: resolved.curvature_samples]
            curvature = problem.subset(drawn.sort().values)
        return cls(opened, resolved, problem, curvature, legs, progress)

    def lanczos_run(self) -> Ritz | None:
        """The run behind the spectrum with its basis, made once: its products serve the diagonal too.

        An attempt that takes over a stored spectrum makes it again, from the same seed: the same numbers.
        """
        if not DENSE_LIMIT < self.curvature.d <= LARGEST_BASIS:
            return None
        if "spectrum" not in self.kept:
            seed = stream(self.resolved.seed, "spectrum")
            run = extremes(self.curvature, seed=seed, progress=self.progress, keep=True)
            self.kept["spectrum"] = run
        return self.kept["spectrum"]

    @property
    def passes(self) -> float:
        """Forward+backward passes so far, in units of the whole sample set."""
        if self.curvature is self.problem:
            return self.problem.passes.total
        return self.problem.passes.total + self.curvature.passes.total * self.curvature.n / self.problem.n


@dataclass(frozen=True)
class Update:
    """What a stage adds: parts by name, vectors by kind, findings, rows of runs.csv, and the amount in words."""

    parts: Mapping[str, Any]
    vectors: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    findings: Sequence[Finding] = ()
    runs: Sequence[Mapping[str, Any]] | None = None
    amount: str = ""


def stream(seed: int, purpose: str) -> int:
    """A seed for one purpose, derived from ``--seed``."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:7], "big")


def noise(bench: Bench, _: Diagnosis) -> Update:
    part = estimators.noise(
        bench.problem,
        rows=bench.opened.rows,
        extra_passes=EXTRA_PASSES,
        seed=stream(bench.resolved.seed, "noise"),
        progress=bench.progress,
    )
    return Update({"noise": part}, {"noise": part.vectors}, part.warnings, amount=f"{bench.problem.n:,} samples")


def smoothness(bench: Bench, _: Diagnosis) -> Update:
    seed = stream(bench.resolved.seed, "smoothness")
    part = estimators.smoothness(bench.curvature, gap=bench.resolved.gap, seed=seed, progress=bench.progress)
    start = _point("start", 0, bench.curvature, part)
    turned, reason = _rotated_density(bench, part)
    found: dict[str, Any] = {"points": [start], "density_rotated": turned}
    if part.hessian_11 is None and bench.curvature.d <= HUGE_NETWORK:
        seed = stream(bench.resolved.seed, "one-norm")
        norm = estimators.hessian_one_norm(bench.curvature, probes=ONE_NORM, seed=seed, progress=bench.progress)
        found |= {"hessian_11": norm.value, "hessian_11_interval": norm.interval}
    why = {**part.why, "density_rotated": reason}
    if "hessian_11" not in found and part.hessian_11 is None:
        costly = f"not measured above {HUGE_NETWORK:,} parameters: `estimators.hessian_one_norm` does it"
        why |= dict.fromkeys(("hessian_11", "hessian_11_interval"), costly)
    why = {key: text for key, text in why.items() if found.get(key) is None}
    part = replace(part, **found, why=why)
    return Update(
        {"smoothness": part}, {"smoothness": part.vectors}, part.warnings, amount=f"{part.products:,} products"
    )


def _rotated_density(bench: Bench, part: Smoothness) -> tuple[float | None, str]:
    """R_L after a random rotation, or None and the reason."""
    if bench.resolved.rotate:
        return None, "everything here is measured after a random rotation"
    if bench.curvature.d > DENSE_LIMIT:
        return None, f"above {DENSE_LIMIT:,} parameters `--rotate` measures it"
    if not part.sharpness:
        return None, "the Hessian is zero"
    return rotated_density(bench.curvature, stream(bench.resolved.seed, "rotation")), ""


def spectrum(bench: Bench, known: Diagnosis) -> Update:
    seed = stream(bench.resolved.seed, "spectrum")
    part = estimators.spectrum(bench.curvature, run=bench.lanczos_run(), seed=seed, progress=bench.progress)
    amount = "dense" if part.confidence == 1 else f"{part.steps} Lanczos steps"
    found, why, findings = dict[str, Any](), dict(part.why), list(part.warnings)
    if known.vectors.get("noise"):
        sigma = _tensors(known.vectors["noise"], bench.curvature)
        rules = estimators.update_sharpness(bench.curvature, sigma, batch_size=bench.resolved.batch_size).directions
        found["directional"] = {rule: _numbers(along, ("sharpness", "decrease")) for rule, along in rules.items()}
    else:
        why["directional"] = "the noise is not known, and AdaGrad's update follows it"
    if bench.opened.family == "linear":
        why["kinks"] = "linear models with a smooth loss have none"
    else:
        kinks = estimators.finite_step_curvature(bench.curvature, directions=1, seed=seed, progress=bench.progress)
        found["kinks"] = [_numbers(row, ("direction", "h", "curvature", "finite")) for row in kinks.rows]
        findings += kinks.warnings
    why = {key: text for key, text in why.items() if key not in found}
    return Update({"spectrum": replace(part, **found, why=why)}, findings=findings, amount=amount)


def _numbers(row: Any, keys: Sequence[str]) -> dict[str, Any]:
    """A row for result.json, with the reasons of its nulls."""
    return {key: getattr(row, key) for key in keys} | ({"why": dict(row.why)} if row.why else {})


def hessian_diagonal(bench: Bench, known: Diagnosis) -> Update:
    bound = replace(known.smoothness, vectors=_tensors(known.vectors["smoothness"], bench.problem))
    part = estimators.hessian_diagonal(
        bench.curvature,
        probes=bench.resolved.probes,
        smoothness=bound,
        krylov=bench.lanczos_run(),
        shrink=True,
        seed=stream(bench.resolved.seed, "diagonal"),
        progress=bench.progress,
    )
    bench.kept.clear()
    parts: dict[str, Any] = {"hessian_diagonal": part}
    if known.smoothness.diagonal_sum is None:
        why = {key: reason for key, reason in known.smoothness.why.items() if key != "diagonal_sum"}
        parts["smoothness"] = replace(known.smoothness, diagonal_sum=part.abs_sum, why=why)
    kinds = {
        "hessian_diagonal": part.vectors,
        "hessian_diagonal_lower": part.lower,
        "hessian_diagonal_upper": part.upper,
    }
    return Update(parts, kinds, part.warnings, amount=f"{part.probes} products" if part.probes else "dense")


def training(bench: Bench, known: Diagnosis) -> Update:
    if not bench.resolved.training:
        off = absent(Training, "training was off (--no-training)")
        return Update({"training": off, "bounds": bounds(known.noise, known.smoothness, None)}, runs=[])
    settings = race_settings(bench, known)
    ended = race(bench.problem, settings, bench.legs, bench.progress)
    part = summarise(ended)
    amount = f"{len(settings.optimizers)} methods, {len(ended.legs)} runs"
    parts = {"training": part, "bounds": bounds(known.noise, known.smoothness, ended)}
    return Update(parts, findings=race_findings(ended, part), runs=rows(ended), amount=amount)


def generalized_smoothness(bench: Bench, known: Diagnosis) -> Update:
    if not bench.resolved.training:
        reason = "needs points along a run, and training was off (--no-training)"
        return Update({"generalized_smoothness": absent(GeneralizedSmoothness, reason)})
    if bench.problem.d > HUGE_NETWORK:
        reason = f"above {HUGE_NETWORK:,} parameters curvature is measured at the start alone"
        return Update({"generalized_smoothness": absent(GeneralizedSmoothness, reason)})
    seed = stream(bench.resolved.seed, "along")
    places = _along(bench, known)
    if not places:
        reason = "neither sgd nor adagrad has a run that did not diverge"
        return Update({"generalized_smoothness": absent(GeneralizedSmoothness, reason)})
    if len(places) + 1 < FEWEST:
        part = absent(
            GeneralizedSmoothness,
            f"above {LARGE_NETWORK:,} parameters curvature is measured at the start and at the end alone, and a fit "
            f"needs {FEWEST} points along the runs",
        )
        found = []
        for number, (method, step, parameters) in enumerate(places):
            there = bench.curvature.at(parameters)
            curved = estimators.smoothness(there, gap=bench.resolved.gap, seed=seed + number, progress=bench.progress)
            found.append(_point(method, step, there, curved))
    else:
        trajectory = [bench.problem.parameters, *(parameters for _, _, parameters in places)]
        part = estimators.generalized_smoothness(
            bench.curvature, trajectory, gap=bench.resolved.gap, seed=seed, progress=bench.progress
        )
        keys = ("l1_lower", "l1_upper", "sharpness", "density", "gradient_l1", "gradient_l2")
        found = [
            {"method": method, "step": step, **{key: row[key] for key in keys}}
            for (method, step, _), row in zip(places, (part.points or ())[1:], strict=True)
        ]
    points = [*(known.smoothness.points or ()), *sorted(found, key=lambda row: (row["method"], row["step"]))]
    vectors = {"l0": part.l0, "l1": part.l1} if part.l0 else {}
    return Update(
        {"generalized_smoothness": part, "smoothness": replace(known.smoothness, points=points)},
        vectors,
        part.warnings,
        amount=f"{len(points)} points",
    )


def verdict(bench: Bench, known: Diagnosis) -> Update:
    """Prediction and verdict: pure functions of what was measured."""
    prediction = absent(Prediction, NOT_YET)
    part, findings = decide(
        known.noise, known.smoothness, known.generalized_smoothness, known.bounds, known.training, prediction
    )
    return Update({"prediction": prediction, "verdict": part}, findings=findings)


Stage = Callable[[Bench, Diagnosis], Update]
STAGES: Mapping[str, Stage] = {
    "noise": noise,
    "smoothness": smoothness,
    "spectrum": spectrum,
    "hessian_diagonal": hessian_diagonal,
    "training": training,
    "generalized_smoothness": generalized_smoothness,
    "verdict": verdict,
}


def race_settings(bench: Bench, known: Diagnosis) -> RaceSettings:
    """The race's settings from the run's."""
    r = bench.resolved
    return RaceSettings(
        steps=r.steps,
        batch_size=r.batch_size,
        seeds=r.seeds,
        seed=r.seed,
        evaluations=r.evaluations,
        optimizers=r.optimizers,
        learning_rates=r.learning_rates,
        every_rate=bench.opened.family == "linear",
        stacked=bench.opened.family == "linear" or stackable(bench.problem),
        sharpness=known.smoothness.sharpness,
    )


def _along(bench: Bench, known: Diagnosis) -> list[tuple[str, int, Parameters]]:
    """Points of the best runs, the first of each pair in turn that of either method.

    Every other point is fitted and the rest held out, so this order gives both halves points of both methods.
    """
    methods = known.training.methods or {}
    last = bench.resolved.steps
    steps = [last]
    names = [name for name in ("adagrad", "sgd") if (methods.get(name) or {}).get("learning_rate") is not None]
    if bench.problem.d > LARGE_NETWORK:
        names = names[:1]
    else:
        steps = sorted({round(float(s)) for s in np.geomspace(1, last, POINTS)})
    runs = [
        replay(bench.problem, Contender(name, methods[name]["learning_rate"], 0), race_settings(bench, known), steps)
        for name in names
    ]
    along = []
    for number, places in enumerate(zip(*runs, strict=True)):
        pair = [(name, *place) for name, place in zip(names, places, strict=True)]
        along += pair if number % 2 == 0 else pair[::-1]
    return along


def _point(method: str, step: int, problem: Problem, part: Smoothness) -> dict[str, Any]:
    """A row of ``smoothness.points``; costs one gradient at the problem's point."""
    gradient_l1, gradient_l2 = norms(problem.flatten(problem.gradient()))
    return {
        "method": method,
        "step": step,
        "l1_lower": part.l1_lower,
        "l1_upper": part.l1_upper,
        "sharpness": part.sharpness,
        "density": part.density,
        "gradient_l1": gradient_l1,
        "gradient_l2": gradient_l2,
    }


def _tensors(vectors: Mapping[str, Any], problem: Problem) -> Parameters:
    return {name: torch.as_tensor(array).to(problem.device, problem.dtype) for name, array in vectors.items()}
