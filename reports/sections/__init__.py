"""The sections of measurements, one module for each."""

from __future__ import annotations

from diagnose.schema import Diagnosis
from reports.sections.curvature import curvature
from reports.sections.generalized import generalized
from reports.sections.noise import noise
from reports.sections.parts import Figure, Section
from reports.sections.smoothness import smoothness
from reports.sections.training import training

__all__ = ["Figure", "Section", "sections"]


def sections(diagnosis: Diagnosis) -> tuple[Section, ...]:
    """The five sections of part 4, in order."""
    return tuple(make(diagnosis) for make in (noise, smoothness, generalized, curvature, training))
