"""The sections of measurements, one module for each."""

from __future__ import annotations

from dataclasses import replace

from diagnose.schema import NOT_YET, Diagnosis
from reports.sections.curvature import curvature
from reports.sections.generalized import generalized
from reports.sections.noise import noise
from reports.sections.parts import Figure, Section
from reports.sections.smoothness import smoothness
from reports.sections.training import training

__all__ = ["Figure", "Section", "sections"]


def sections(diagnosis: Diagnosis) -> tuple[Section, ...]:
    """The five sections of part 4, in order, without rows of what this version does not have."""
    made = (make(diagnosis) for make in (noise, smoothness, generalized, curvature, training))
    return tuple(replace(one, quantities=tuple(q for q in one.quantities if q.detail != NOT_YET)) for one in made)
