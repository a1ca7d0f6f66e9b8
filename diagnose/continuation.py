"""A folder of other settings: whether the new ones only add to it, and what of it they leave as it is.

A stage reads its settings and what earlier stages have found. What it has read of that which may change, its *inputs*,
is stored beside it; a stored stage is taken over as long as it would read the same again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from diagnose.limits import CUTS, cuts_of
from diagnose.stages.across import NOT_REACHED, along, derived
from reports.record.diagnosis import PAIR, PARTS, Diagnosis, absent

TRAINING = "training"
Adds = Callable[[Any, Any, Diagnosis], bool]
"""(stored value, new value, the stored diagnosis) -> whether the new one only asks for more."""


def _more_orders(stored: Any, new: Any, known: Diagnosis) -> bool:
    if new == "auto":
        return True  # a race that stops when it is decided takes stored orders like any other
    # Of an undecided number none has been used before the race has ended.
    used = (known.task.seeds or 0) if stored == "auto" else stored
    return bool(used < new)


def _more_methods(stored: Any, new: Any, known: Diagnosis) -> bool:
    return set(stored) <= set(new)


def _more_optimizers(stored: Any, new: Any, known: Diagnosis) -> bool:
    return all(new.get(name) == digest for name, digest in (stored or {}).items())


def _less_skipped(stored: Any, new: Any, known: Diagnosis) -> bool:
    return set(new) <= set(stored)


def _longer(stored: Any, new: Any, known: Diagnosis) -> bool:
    return stored is not None and (new is None or new > stored)


ADDS: Mapping[str, Adds] = {
    "budget": _longer,
    "seeds": _more_orders,
    "optimizers": _more_methods,
    "own_optimizers": _more_optimizers,
    "skip": _less_skipped,
}
"""Settings that may change in a folder that goes on; every other one that differs makes it another diagnosis."""
SETTINGS: Mapping[str, tuple[str, ...]] = {TRAINING: ("seeds", "optimizers", "own_optimizers"), "verdict": tuple(ADDS)}
"""Which of them a stage reads, besides whether it is skipped."""


def _for_training(known: Diagnosis) -> dict[str, Any]:
    return {"sharpness": known.smoothness.sharpness, "l1_upper": known.smoothness.l1_upper}


def _for_points(known: Diagnosis) -> dict[str, Any]:
    methods = known.training.methods or {}
    rates = {name: (methods.get(name) or {}).get("learning_rate") for name in PAIR}
    return {"trained": known.training.steps is not None, **rates}


FINDINGS: Mapping[str, Callable[[Diagnosis], dict[str, Any]]] = {
    TRAINING: _for_training,
    "generalized_smoothness": _for_points,
}
"""What a stage reads of earlier ones that can change while the stage itself is asked for as before."""
WRITES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "noise": (("noise",), ("noise",)),
    "smoothness": (("smoothness",), ("smoothness",)),
    "spectrum": (("spectrum",), ()),
    "hessian_diagonal": (
        ("hessian_diagonal",),
        ("hessian_diagonal", "hessian_diagonal_lower", "hessian_diagonal_upper"),
    ),
    TRAINING: ((TRAINING, "bounds"), ()),
    "generalized_smoothness": (("generalized_smoothness",), ("l0", "l1")),
    "verdict": (("prediction", "verdict"), ()),
}
"""The parts and the kinds of vectors that a stage writes."""
INTO: Mapping[str, tuple[str, ...]] = {"smoothness": ("hessian_diagonal", "generalized_smoothness")}
"""Stages that measure for the part of another: they follow wherever that one is made anew."""


def added(known: Diagnosis, settings: Mapping[str, Any]) -> list[str]:
    """Names of the settings that differ and only ask for more than is stored."""
    return [name for name in differing(known, settings) if _adds(name, known, settings)]


def refused(known: Diagnosis, settings: Mapping[str, Any]) -> list[str]:
    """Names of the settings that differ otherwise."""
    return [name for name in differing(known, settings) if not _adds(name, known, settings)]


def differing(known: Diagnosis, settings: Mapping[str, Any]) -> list[str]:
    """Names of the settings whose stored value is another."""
    return [name for name, value in settings.items() if known.settings.get(name) != value]


def _adds(name: str, known: Diagnosis, settings: Mapping[str, Any]) -> bool:
    return name in ADDS and ADDS[name](known.settings.get(name), settings[name], known)


def inputs(stage: str, known: Diagnosis) -> dict[str, Any]:
    """What the stage reads now of all that may change in a folder that goes on."""
    return {**_asked(stage, known), **(FINDINGS[stage](known) if stage in FINDINGS else {})}


def _asked(stage: str, known: Diagnosis) -> dict[str, Any]:
    """Those of the inputs that are settings."""
    skipped = stage.replace("_", "-") in known.settings.get("skip", ())
    asked = {"skipped": skipped, **{name: known.settings.get(name) for name in SETTINGS.get(stage, ())}}
    cuts = cuts_of(stage, known.settings)
    return asked | ({CUTS: cuts} if cuts else {})


def holds(stage: str, known: Diagnosis) -> bool:
    """Whether the stage has ended, with what it would read now."""
    return stage in known.stages and known.inputs.get(stage) == inputs(stage, known)


def going_on(known: Diagnosis, new: Diagnosis) -> Diagnosis:
    """What is stored under the settings of a new diagnosis, without the stages that those change.

    Stages that follow from others are left in place until those have ended (:func:`holds`).

    Args:
        known: the stored diagnosis.
        new: one of the new settings in which no stage has run.
    """
    task = replace(new.task, parameters=known.task.parameters)
    found = derived(replace(known, status="started", command=new.command, settings=new.settings, task=task))
    for stage in WRITES:
        stored, now = found.inputs.get(stage, {}), _asked(stage, found)
        if stage not in found.stages or any(stored.get(name) != value for name, value in now.items()):
            found = without(stage, found)
    return found


def without(stage: str, known: Diagnosis) -> Diagnosis:
    """The diagnosis as if the stage had not run, nor those that add to its part."""
    parts, kinds = WRITES[stage]
    found = replace(
        known,
        **{name: absent(PARTS[name], NOT_REACHED) for name in parts},
        stages=tuple(name for name in known.stages if name != stage),
        inputs={name: read for name, read in known.inputs.items() if name != stage},
        vectors={kind: part for kind, part in known.vectors.items() if kind not in kinds},
        warnings=tuple(finding for finding in known.warnings if finding.stage != stage),
    )
    if stage == TRAINING:
        found = replace(found, runs=())
    if stage == "generalized_smoothness":
        found = replace(found, smoothness=along(found.smoothness, ()))
    for other in INTO.get(stage, ()):
        found = without(other, found)
    return derived(found)
