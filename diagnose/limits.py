"""How much the stages measure where no option of the command says it: what a budget may make smaller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

from diagnose.settings import Resolved

MAX_PRODUCTS = 480
"""Products that the bracket at the start may take, those for lambda apart; as ``estimators.smoothness`` has it."""
DENSITY_STARTS, DENSITY_STEPS = 4, 24
"""Lanczos runs behind the density of eigenvalues, that of the spectrum included, and the steps of the others."""
ONE_NORM = 20
"""Products for sum|H_jk| where H is not formed: an error of 11 to 17%."""
EXTRA_PASSES = 1.25
"""What tail index and batches may cost where the gradients of single samples are not kept."""
WHOLE_DATA, LEAST_WHOLE_DATA = 75, 32
"""Products for Lambda of the whole data where H is not formed, and at least; half of the bracket's where that is more.
"""
POINTS = 5
"""Points along each of the two best runs at which curvature is measured, the start apart."""


class Number(NamedTuple):
    """A number that a budget may make smaller: the first stage that it has a say in, and its name in words."""

    stage: str
    words: str


NUMBERS: Mapping[str, Number] = {
    "samples": Number("noise", "samples"),
    "curvature_samples": Number("smoothness", "samples for curvature"),
    "products": Number("smoothness", "products of the bracket"),
    "whole_data": Number("smoothness", "‖L‖₁ of the whole data"),
    "one_norm": Number("smoothness", "Σ|Hⱼₖ|"),
    "density_starts": Number("spectrum", "density of the eigenvalues"),
    "directions": Number("spectrum", "sharpness along the updates and kinks"),
    "probes": Number("hessian_diagonal", "probes of the Hessian diagonal"),
    "batch_sizes": Number("training", "batch sizes"),
    "optimizers": Number("training", "methods"),
    "seeds": Number("training", "orders of the batches"),
    "evaluations": Number("training", "evaluations of a run"),
    "steps": Number("training", "steps of a run"),
    "race_blocks": Number("training", "further orders of the batches"),
    "points": Number("generalized_smoothness", "points along each run"),
}
CUTS, ENOUGH = "cuts", "uncut_seconds"
"""Under which settings of result.json hold what was cut, and how long a run without cuts takes."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much is measured beyond what options say.

    Attributes:
        products: of the bracket at the start.
        whole_data: whether Lambda of the whole data is estimated from the draw.
        one_norm: products for sum|H_jk|; 0: it is left out.
        density_starts: Lanczos runs behind the density of eigenvalues; 0: it is left out.
        directions: whether the updates' directional sharpness and kinks are measured.
        points: along each of the two best runs.
        race_blocks: blocks of added orders that the race may make; None: until it is decided.
        fewer_orders: whether a budget ends the race: by blocks, or by fewer orders than the command says.
        left_out: stages that are not measured.
    """

    products: int = MAX_PRODUCTS
    whole_data: bool = True
    one_norm: int = ONE_NORM
    density_starts: int = DENSITY_STARTS
    directions: bool = True
    points: int = POINTS
    race_blocks: int | None = None
    fewer_orders: bool = False
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Work:
    """The numbers that decide how long a run takes."""

    resolved: Resolved
    limits: Limits = Limits()

    def with_cuts(self, cuts: Mapping[str, Any]) -> Work:
        """With some numbers made smaller, each by the name that it has in settings or limits."""
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in cuts.items()}
        limited = {item.name for item in fields(Limits)}
        here: dict[str, Any] = {name: value for name, value in values.items() if name in limited}
        there: dict[str, Any] = {name: value for name, value in values.items() if name not in limited}
        if not {"seeds", "race_blocks"}.isdisjoint(values):
            here["fewer_orders"] = True
        return Work(replace(self.resolved, **there), replace(self.limits, **here))

    def number(self, name: str) -> Any:
        """The value that goes by this name."""
        return getattr(self.limits if hasattr(self.limits, name) else self.resolved, name)


def whole_data_products(limits: Limits) -> int:
    """Products that Lambda of the whole data may take, whatever ended the bracket: half of what that may at most."""
    return max(min(WHOLE_DATA, limits.products // 2), LEAST_WHOLE_DATA)


def typed(seconds: float) -> str:
    """A length of time as ``--budget`` takes it."""
    if seconds < 120 or seconds % 60:
        return f"{seconds:g}s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if minutes else "")


def budget_reason(seconds: float) -> str:
    """Why something is null that only a budget leaves out."""
    return f"cut to keep `--budget {typed(seconds)}`"


def cuts_of(stage: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a budget cut of what a stage reads, from the settings of a result; empty where nothing."""
    cuts = settings.get(CUTS, {})
    drawn = {"samples"} | ({"curvature_samples"} if stage not in ("noise", "training") else set())
    read = drawn | {name for name, number in NUMBERS.items() if number.stage == stage}
    found = {name: value for name, value in cuts.items() if name in read}
    return found | ({"left_out": True} if stage in cuts.get("left_out", ()) else {})


def recorded(settings: Mapping[str, Any], budget: float | None) -> dict[str, Any]:
    """What an earlier attempt with the same budget cut, as settings hold it; empty where none did."""
    if budget is None or settings.get("budget") != budget:
        return {}
    return {name: settings[name] for name in (CUTS, ENOUGH) if name in settings}
