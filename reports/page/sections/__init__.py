"""The sections of measurements, one module for each."""

from __future__ import annotations

from dataclasses import replace

from reports.page.sections.curvature import curvature
from reports.page.sections.generalized import generalized
from reports.page.sections.noise import noise
from reports.page.sections.parts import Figure, Section
from reports.page.sections.smoothness import smoothness
from reports.page.sections.training import training
from reports.record.diagnosis import NOT_YET, Diagnosis

__all__ = ["Figure", "Section", "sections"]


def sections(diagnosis: Diagnosis) -> tuple[Section, ...]:
    """The five sections of part 4, in order, without rows of what this version does not have."""
    made = (make(diagnosis) for make in (noise, smoothness, generalized, curvature, training))
    return tuple(replace(one, quantities=tuple(q for q in one.quantities if q.detail != NOT_YET)) for one in made)
