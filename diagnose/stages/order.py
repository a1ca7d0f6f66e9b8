"""The stages of a diagnosis in their order: each takes the bench and what is known so far, and returns what it adds."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from diagnose.stages.bench import Bench, Update
from diagnose.stages.generalized_smoothness import generalized_smoothness
from diagnose.stages.hessian_diagonal import hessian_diagonal
from diagnose.stages.noise import noise
from diagnose.stages.smoothness import smoothness
from diagnose.stages.spectrum import spectrum
from diagnose.stages.training import training
from diagnose.stages.verdict import verdict
from reports.record.diagnosis import Diagnosis

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
