"""The stages of a diagnosis in their order: each takes the bench and what is known so far, and returns what it adds."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from diagnose.stages import generalized_smoothness, hessian_diagonal, noise, smoothness, spectrum, training, verdict
from diagnose.stages.bench import Bench, Update
from diagnose.stages.estimate import Plan
from reports.record.diagnosis import Diagnosis

Stage = Callable[[Bench, Diagnosis], Update]
STAGES: Mapping[str, Stage] = {
    "noise": noise.noise,
    "smoothness": smoothness.smoothness,
    "spectrum": spectrum.spectrum,
    "hessian_diagonal": hessian_diagonal.hessian_diagonal,
    "training": training.training,
    "generalized_smoothness": generalized_smoothness.generalized_smoothness,
    "verdict": verdict.verdict,
}
PLANS: Mapping[str, Plan] = {
    "noise": noise.plan,
    "smoothness": smoothness.plan,
    "spectrum": spectrum.plan,
    "hessian_diagonal": hessian_diagonal.plan,
    "training": training.plan,
    "generalized_smoothness": generalized_smoothness.plan,
    "verdict": verdict.plan,
}
"""What each of them will take."""
