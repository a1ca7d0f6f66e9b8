"""What the stages of a diagnosis work on, and what each returns."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diagnose.errors import HELD_OUT, TRAINED_ON, among
from diagnose.limits import Limits, Work, budget_reason
from diagnose.settings import Optimizer, Resolved
from diagnose.training.racing import Affordable
from diagnose.training.runs import LegStore
from estimators.curvature.lanczos import Extremes, extremes
from estimators.results import Finding, Progress
from estimators.task.function import Parameters
from estimators.task.memory_limit import vectors
from estimators.task.problem import Problem
from estimators.task.rotation import rotated

if TYPE_CHECKING:
    from diagnose.inputs import Opened


HUGE_NETWORK = 1_000_000
"""Above this many parameters the bracket is taken at the start alone."""
SHARED = 200
"""Vectors of d numbers that there must be room for if the basis of a Lanczos run is to be held from stage to stage."""
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

    @property
    def shares_lanczos(self) -> bool:
        """Whether one Lanczos run serves lambda, the spectrum and the diagonal: there is room to hold its basis."""
        curvature = self.curvature
        return not curvature.forms_hessian and curvature.d <= LARGEST_BASIS and vectors(curvature) >= SHARED

    def lanczos_run(self) -> Extremes | None:
        """The Lanczos run on H with its basis, made once: it serves lambda, the spectrum and the diagonal.

        None where its basis may not be held beside what these stages hold themselves. An attempt that takes over a
        stored stage makes it again, from the same seed: the same numbers.
        """
        if not self.shares_lanczos:
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


def tensors(vectors: Mapping[str, Any], problem: Problem) -> Parameters:
    return {name: torch.as_tensor(array).to(problem.device, problem.dtype) for name, array in vectors.items()}
