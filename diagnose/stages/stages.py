"""The stages of a diagnosis: each takes the bench and what is known so far, and returns what it adds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import estimators
from diagnose.continuation import BRACKET, no_orders
from diagnose.errors import HELD_OUT, TRAINED_ON, among
from diagnose.limits import EXTRA_PASSES, LEAST_WHOLE_DATA, Limits, Work, budget_reason, whole_data_products
from diagnose.settings import LARGE_NETWORK, Optimizer, Resolved
from diagnose.stages.nested import eigenvalue_density, in_own_metric, numbers, whole_data
from diagnose.stages.points_along_runs import places
from diagnose.stages.thresholds import at_later_point, at_start, unclear
from diagnose.training import RaceSettings, race, sweep
from diagnose.training.findings import findings as race_findings
from diagnose.training.findings import sizes_above
from diagnose.training.racing import Affordable
from diagnose.training.running import step_seconds
from diagnose.training.runs import LOOKS, LegStore, rows
from diagnose.training.stacking import stackable
from diagnose.training.summary import summarise
from diagnose.verdict.advice import Raced
from diagnose.verdict.rule import decide
from diagnose.verdict.theory import bounds
from estimators.curvature.lanczos import MAX_STEPS, Extremes, extremes
from estimators.growth.generalized import FEWEST
from estimators.results import Finding, GeneralizedSmoothness, HessianDiagonal, Progress, Smoothness, Spectrum
from estimators.smoothness_vector.at_a_point import norms
from estimators.task.memory_limit import DENSE_LIMIT, vectors
from estimators.task.problem import Parameters, Problem
from estimators.task.rotation import rotated, rotated_density
from reports.record.diagnosis import NOT_YET, Diagnosis, Prediction, Training, absent

if TYPE_CHECKING:
    from diagnose.inputs import Opened

HUGE_NETWORK = 1_000_000
"""Above this many parameters the bracket is taken at the start alone."""
SHARED = 200
"""Vectors of d numbers that there must be room for if the basis of a Lanczos run is to be held from stage to stage."""
MOST_EVALUATED = 10_000
"""Up to this many samples a stack of runs is evaluated twice as often: it costs 2 to 30% of a race, and narrows the
interval as much as half as many orders again."""
NO_TRAINING = "training was off (--no-training)"
LARGEST_BASIS = 4_000_000
"""Above this many parameters the basis of a Lanczos run (80 vectors) is not kept for the diagonal."""


@dataclass(frozen=True)
class Bench:
    """What the stages work on: f over the sample set, over a draw of it for curvature, over all rows that runs train on
    (the same object as f where these are the sample set) and over samples held out."""

    opened: Opened
    resolved: Resolved
    problem: Problem
    trained: Problem
    curvature: Problem
    legs: LegStore
    progress: Progress
    own: Mapping[str, Optimizer] = field(default_factory=dict)
    kept: dict[str, Extremes] = field(default_factory=dict)
    held_out: Problem | None = None
    limits: Limits = field(default_factory=Limits)
    affordable: Affordable | None = None
    late: Callable[[], bool] | None = None

    @classmethod
    def build(
        cls,
        opened: Opened,
        resolved: Resolved,
        legs: LegStore,
        progress: Progress,
        own: Mapping[str, Optimizer],
    ) -> Bench:
        """Raises InputError where :class:`estimators.Problem` does."""
        problem = Problem(opened.model, opened.samples, opened.loss, memory_bytes=resolved.memory)
        if resolved.rotate:
            problem = rotated(problem, stream(resolved.seed, "rotation"))
        trained = problem
        curvature = drawn(problem, resolved.curvature_samples, stream(resolved.seed, "curvature"))
        held_out = None
        if resolved.training and opened.held_out is not None:
            with among(HELD_OUT):
                held_out = problem.with_samples(opened.held_out)
        if resolved.training and opened.training is not opened.samples:
            with among(TRAINED_ON):
                trained = problem.with_samples(opened.training, every=False)
        return cls(opened, resolved, problem, trained, curvature, legs, progress, own, held_out=held_out)

    def at(self, work: Work) -> Bench:
        """The same with other numbers: on a draw of the samples where those are fewer."""
        problem = drawn(self.problem, work.resolved.samples, stream(work.resolved.seed, "samples"))
        curvature, counted = self.curvature, 0.0
        if problem is not self.problem and self.trained is not self.problem:
            counted += self.problem.passes.total * self.problem.n
        if problem is not self.problem or work.resolved.curvature_samples != curvature.n:
            counted += 0.0 if curvature is self.problem else curvature.passes.total * curvature.n
            curvature = drawn(problem, work.resolved.curvature_samples, stream(work.resolved.seed, "curvature"))
        problem.passes.add(counted / problem.n)
        return replace(self, resolved=work.resolved, limits=work.limits, problem=problem, curvature=curvature)

    def lanczos_run(self) -> Extremes | None:
        """The Lanczos run on H with its basis, made once: it serves lambda, the spectrum and the diagonal.

        None where its basis may not be held beside what these stages hold themselves. An attempt that takes over a
        stored stage makes it again, from the same seed: the same numbers.
        """
        if not DENSE_LIMIT < self.curvature.d <= LARGEST_BASIS or vectors(self.curvature) < SHARED:
            return None
        if "spectrum" not in self.kept:
            seed = stream(self.resolved.seed, "spectrum")
            self.kept["spectrum"] = extremes(
                self.curvature, seed=seed, progress=self.progress, keep=True, late=self.late
            )
        return self.kept["spectrum"]

    @property
    def cut(self) -> str:
        """Why something is left out that only a budget leaves out."""
        return budget_reason(self.resolved.budget or 0.0)

    def skipped(self, part: str) -> str | None:
        """Why a part of the result was left out; None where it was not."""
        if part in self.limits.left_out:
            return self.cut
        option = part.replace("_", "-")
        if option not in self.resolved.skip:
            return None
        return f"skipped (--skip {option}{', --no-training' if option == 'training' else ''})"

    def without_curvature(self, part: str) -> str | None:
        """Why a part that needs second derivatives is not measured; None where it is."""
        fault = self.curvature.curvature_fault
        return self.skipped(part) or (None if fault is None else f"second derivatives can't be measured: {fault}")

    @property
    def passes(self) -> float:
        """Forward+backward passes so far, in units of the whole sample set."""
        others = (self.trained, self.curvature, self.held_out)
        apart = [part for part in others if part is not None and part is not self.problem]
        return self.problem.passes.total + sum(part.passes.total * part.n / self.problem.n for part in apart)


@dataclass(frozen=True)
class Update:
    """What a stage adds: parts by name, vectors by kind, findings, rows of runs.csv, the amount in words, and for the
    cost the time of a training step by method."""

    parts: Mapping[str, Any]
    vectors: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    findings: Sequence[Finding] = ()
    runs: Sequence[Mapping[str, Any]] | None = None
    amount: str = ""
    step_seconds: Mapping[str, float] = field(default_factory=dict)


def stream(seed: int, purpose: str) -> int:
    """A seed for one purpose, derived from ``--seed``."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:7], "big")


def drawn(problem: Problem, count: int, seed: int) -> Problem:
    """The problem on so many of its samples, drawn without replacement and in their order; itself where it has no more.

    Passes are counted apart.
    """
    if count >= problem.n:
        return problem
    order = torch.randperm(problem.n, generator=torch.Generator().manual_seed(seed))
    return problem.subset(order[:count].sort().values)


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
    if (reason := bench.without_curvature("smoothness")) is not None:
        return Update({"smoothness": absent(Smoothness, reason)})
    seed = stream(bench.resolved.seed, "smoothness")
    runs = bench.lanczos_run()
    part = estimators.smoothness(
        bench.curvature,
        gap=bench.resolved.gap,
        thresholds=at_start(bench.resolved),
        max_products=bench.limits.products,
        run=None if runs is None else runs.norm,
        seed=seed,
        progress=bench.progress,
    )
    start = _point("start", 0, bench.curvature, part)
    start = _joined(start, in_own_metric(bench.curvature, "start", {}, seed=seed, progress=bench.progress))
    turned, reason = _rotated_density(bench, part)
    found: dict[str, Any] = {"points": [start], "density_rotated": turned}
    found["whole_data"] = whole_data(
        bench.curvature,
        part,
        bench.opened.rows,
        products=LEAST_WHOLE_DATA if bench.curvature.d <= DENSE_LIMIT else whole_data_products(bench.limits),
        affordable=bench.curvature.d <= HUGE_NETWORK,
        cut="" if bench.limits.whole_data else bench.cut,
        seed=stream(bench.resolved.seed, "crossfit"),
        progress=bench.progress,
    )
    if part.hessian_11 is None and bench.curvature.d <= HUGE_NETWORK and bench.limits.one_norm:
        seed = stream(bench.resolved.seed, "one-norm")
        norm = estimators.hessian_one_norm(
            bench.curvature, probes=bench.limits.one_norm, seed=seed, progress=bench.progress
        )
        found |= {"hessian_11": norm.value, "hessian_11_interval": norm.interval}
    why = {**part.why, "density_rotated": reason}
    if "hessian_11" not in found and part.hessian_11 is None:
        costly = f"not measured above {HUGE_NETWORK:,} parameters: `estimators.hessian_one_norm` does it"
        reason = costly if bench.curvature.d > HUGE_NETWORK else bench.cut
        why |= dict.fromkeys(("hessian_11", "hessian_11_interval"), reason)
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
    if (reason := bench.without_curvature("spectrum")) is not None:
        return Update({"spectrum": absent(Spectrum, reason)})
    seed = stream(bench.resolved.seed, "spectrum")
    runs = bench.lanczos_run()
    if runs is None and bench.curvature.d > DENSE_LIMIT:
        runs = extremes(bench.curvature, seed=seed, progress=bench.progress, late=bench.late)
    run = None if runs is None else runs.whole
    part = estimators.spectrum(bench.curvature, run=run, seed=seed, progress=bench.progress)
    amount = "dense" if part.confidence == 1 else f"{part.steps} Lanczos steps"
    found, why, findings = dict[str, Any](), dict(part.why), list(part.warnings)
    if bench.late is not None and run is not None and run.steps < MAX_STEPS:
        longer = "use a larger `--budget`: this one left no time for more steps"
        findings = [replace(finding, action=longer) for finding in findings]
    starts = bench.limits.density_starts
    if bench.curvature.d <= HUGE_NETWORK and starts:
        seed = stream(bench.resolved.seed, "density")
        found["eigenvalue_density"] = eigenvalue_density(
            bench.curvature, run, starts=starts, seed=seed, progress=bench.progress
        )
    elif not starts:
        why["eigenvalue_density"] = bench.cut
    else:
        costly = f"not measured above {HUGE_NETWORK:,} parameters: `estimators.eigenvalue_density` does it"
        why["eigenvalue_density"] = costly
    if not bench.limits.directions:
        why["directional"] = bench.cut
    elif known.vectors.get("noise"):
        sigma = _tensors(known.vectors["noise"], bench.curvature)
        rules = estimators.update_sharpness(bench.curvature, sigma, batch_size=bench.resolved.batch_size).directions
        found["directional"] = {rule: numbers(along, ("sharpness", "decrease")) for rule, along in rules.items()}
    else:
        why["directional"] = "the noise is not known, and AdaGrad's update follows it"
    if bench.opened.family == "linear":
        why["kinks"] = "linear models with a smooth loss have none"
    elif not bench.limits.directions:
        why["kinks"] = bench.cut
    else:
        kinks = estimators.finite_step_curvature(bench.curvature, directions=1, seed=seed, progress=bench.progress)
        found["kinks"] = [numbers(row, ("direction", "h", "curvature", "finite")) for row in kinks.rows]
        findings += kinks.warnings
    why = {key: text for key, text in why.items() if key not in found}
    return Update({"spectrum": replace(part, **found, why=why)}, findings=findings, amount=amount)


def hessian_diagonal(bench: Bench, known: Diagnosis) -> Update:
    if (reason := bench.without_curvature("hessian_diagonal")) is not None:
        bench.kept.clear()
        left_out: dict[str, Any] = {"hessian_diagonal": absent(HessianDiagonal, reason)}
        return Update(left_out | _with_sum(known.smoothness, None, reason))
    # Absent where a number of it was not finite: then nothing cuts the bounds of the diagonal.
    vector = known.vectors.get("smoothness")
    bound = None if vector is None else replace(known.smoothness, vectors=_tensors(vector, bench.problem))
    runs = bench.lanczos_run()
    part = estimators.hessian_diagonal(
        bench.curvature,
        probes=bench.resolved.probes,
        smoothness=bound,
        krylov=None if runs is None else runs.whole,
        shrink=True,
        seed=stream(bench.resolved.seed, "diagonal"),
        progress=bench.progress,
    )
    bench.kept.clear()
    parts: dict[str, Any] = {"hessian_diagonal": part}
    parts |= _with_sum(known.smoothness, part.abs_sum, part.why.get("abs_sum", ""))
    kinds = {
        "hessian_diagonal": part.vectors,
        "hessian_diagonal_lower": part.lower,
        "hessian_diagonal_upper": part.upper,
    }
    return Update(parts, kinds, part.warnings, amount=f"{part.probes} products" if part.probes else "exact")


def _with_sum(part: Smoothness, total: float | None, reason: str) -> dict[str, Smoothness]:
    """The smoothness with the sum of the diagonal, or why there is none; empty where it has that, or was left out."""
    if part.points is None or part.diagonal_sum is not None:
        return {}
    why = {key: text for key, text in part.why.items() if key != "diagonal_sum"}
    why |= {"diagonal_sum": reason} if total is None else {}
    return {"smoothness": replace(part, diagonal_sum=total, why=why)}


def training(bench: Bench, known: Diagnosis) -> Update:
    if (reason := bench.skipped("training")) is not None:
        off: dict[str, Any] = {"training": absent(Training, reason)}
        off["bounds"] = bounds(known.noise, known.smoothness, None)
        off["task"] = replace(known.task, seeds=None, why={**known.task.why, **no_orders("nothing was trained")})
        return Update(off, runs=[])
    settings = race_settings(bench, known.smoothness.sharpness)
    ended = race(bench.problem, settings, bench.legs, bench.progress, bench.held_out, bench.trained, bench.affordable)
    if bench.limits.race_blocks is not None and ended.decided_by == "orders":
        ended = replace(ended, decided_by="budget")
    ratios = bounds(known.noise, known.smoothness, ended)
    part = summarise(ended)
    if bench.resolved.batch_sizes is not None:
        part = _with_sweep(part, bench, settings, sweep.predicted(known.noise, ratios, settings.steps))
    found = (*race_findings(ended, part), *sizes_above(bench.resolved.batch_sizes or (), bench.trained.n))
    count = len(settings.optimizers)
    amount = f"{count} {'method' if count == 1 else 'methods'}, {len(ended.legs)} runs"
    parts = {"training": part, "bounds": ratios, "task": replace(known.task, seeds=ended.looks[-1].orders, why={})}
    tuned = {method: entry["learning_rate"] for method, entry in (part.methods or {}).items()}
    seconds = {
        method: step_seconds(bench.trained, settings, method, rate)
        for method, rate in tuned.items()
        if rate is not None
    }
    return Update(parts, findings=found, runs=rows(ended), amount=amount, step_seconds=seconds)


def _with_sweep(
    part: Training, bench: Bench, settings: RaceSettings, predicted: Mapping[str, float | None]
) -> Training:
    """The race, with what ``--batch-sizes`` asks for."""
    sizes = bench.resolved.batch_sizes or ()
    ended = sweep.races(bench.problem, settings, sizes, bench.legs, bench.progress, bench.trained)
    terms = sweep.noise_terms(ended, bench.trained.n, predicted)
    why = {key: text for key, text in part.why.items() if key not in ("batch_sizes", "noise_terms")}
    return replace(part, batch_sizes=sweep.rows(ended), noise_terms=terms, why=why)


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
            measured.append(_point(place.method, place.step, there, curved))
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
            _told({"method": place.method, "step": place.step, **{key: row[key] for key in keys}})
            for place, row in zip(found, (part.points or ())[1:], strict=True)
        ]
    along = [
        _joined(row, in_own_metric(place.problem, place.method, place.state, seed=seed, progress=bench.progress))
        for row, place in zip(measured, found, strict=True)
        if place.best
    ]
    ordered = sorted(along, key=lambda row: (row["method"], row["step"]))
    vectors = {"l0": part.l0, "l1": part.l1} if part.l0 else {}
    parts: dict[str, Any] = {"generalized_smoothness": part}
    if known.smoothness.points is not None:
        start = _start(bench, known.smoothness, ordered, part)
        parts["smoothness"] = replace(known.smoothness, points=[start, *ordered])
    return Update(parts, vectors, part.warnings, amount=f"{len(found) + 1} points")


def _start(
    bench: Bench, part: Smoothness, later: Sequence[Mapping[str, Any]], pairs: GeneralizedSmoothness
) -> dict[str, Any]:
    """The row of the start, its bracket narrowed where it was ended too wide to say how later points differ from it.

    By the bracket that a fit of pairs has taken there to the default gap, or by one more.
    """
    assert part.points is not None
    row = {**part.points[0], **{key: getattr(part, key) for key in BRACKET}}
    if part.ended_by != "thresholds" or not unclear([row, *later]):
        return row
    if pairs.points is not None:
        return {**row, **{key: pairs.points[0][key] for key in BRACKET}}
    seed = stream(bench.resolved.seed, "smoothness")
    narrow = estimators.smoothness(bench.curvature, seed=seed, progress=bench.progress)
    return {**row, **{key: getattr(narrow, key) for key in BRACKET}}


def verdict(bench: Bench, known: Diagnosis) -> Update:
    """Prediction and verdict: pure functions of what was measured."""
    prediction = absent(Prediction, NOT_YET)
    r, rows = bench.resolved, known.task.training_rows or bench.problem.n
    raced = Raced(
        batch_size=r.batch_size,
        schedule=r.schedule,
        box=r.box,
        rotated=r.rotate,
        rows=rows,
        deterministic=r.batch_size >= rows,
    )
    part, findings = decide(
        known.noise,
        known.smoothness,
        known.spectrum,
        known.generalized_smoothness,
        known.bounds,
        known.training,
        prediction,
        raced,
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


def race_settings(bench: Bench, sharpness: float | None = None) -> RaceSettings:
    """The race's settings from the run's, and max|eig H| at the start where it was measured."""
    r = bench.resolved
    stacked = stackable(bench.problem)
    return RaceSettings(
        steps=r.steps,
        batch_size=r.batch_size,
        rows=bench.trained.n,
        samples=bench.problem.n,
        seeds=LOOKS[0] if r.seeds == "auto" else r.seeds,
        auto=r.seeds == "auto",
        seed=r.seed,
        evaluations=r.evaluations * (2 if stacked and bench.problem.n <= MOST_EVALUATED else 1),
        optimizers=r.optimizers,
        learning_rates=r.learning_rates,
        every_rate=bench.opened.family == "linear",
        stacked=stacked,
        sharpness=sharpness,
        schedule=r.schedule,
        box=r.box,
        own=bench.own,
    )


def _point(method: str, step: int, problem: Problem, part: Smoothness) -> dict[str, Any]:
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
    return _told(row)


def _told(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of ``smoothness.points`` with the reason where it has no R_L."""
    zero = dict.fromkeys(("density", "density_interval"), "the Hessian is zero there")
    return {**row, **({"why": zero} if row["density"] is None else {})}


def _joined(row: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Both, and the reasons of both."""
    why = {**row.get("why", {}), **more.get("why", {})}
    return {**row, **more, **({"why": why} if why else {})}


def _tensors(vectors: Mapping[str, Any], problem: Problem) -> Parameters:
    return {name: torch.as_tensor(array).to(problem.device, problem.dtype) for name, array in vectors.items()}
