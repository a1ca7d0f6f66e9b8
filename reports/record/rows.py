"""Types of result.json down to its rows, and the check of a file that was read against them.

Keys may be missing (older files) and unknown ones are left alone; a key that is there must have its type. What a page
cannot do without in a row is required.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal, Required, get_type_hints

from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from estimators.results import Ending, Interval, stored_keys
from reports.record.checks import impossible

Number = float | None
Why = dict[str, str]


class Tensor(TypedDict, total=False):
    name: Required[str]
    parameters: int
    l1: Number
    l2: Number
    density: Number
    dead_fraction: Number
    trace: Number
    abs_sum: Number
    l0_l1: Number
    gradient_range: Number


class Group(TypedDict, total=False):
    tensor: Required[str]
    decile: Required[int]
    tokens: Required[int]
    least: Required[int]
    most: Required[int]
    l1: Number
    share: Number
    mean: Number
    dead_fraction: Number


class TailIndex(TypedDict, total=False):
    median: Number
    lower: Number
    upper: Number
    coordinates: Number
    samples: Number
    why: Why


class Batch(TypedDict, total=False):
    batch_size: Number
    l1: Number
    l2: Number
    l1_predicted: Number
    l2_predicted: Number
    batches: Number
    why: Why


class Point(TypedDict, total=False):
    method: str | None
    step: Required[int]
    l1_lower: Number
    l1_upper: Number
    gap_wanted: Number
    ended_by: Ending | None
    sharpness: Number
    density: Number
    density_interval: Interval | None
    gradient_l1: Number
    gradient_l2: Number
    preconditioned: Number
    preconditioned_interval: Interval | None
    why: Why


class WholeData(TypedDict, total=False):
    interval: Interval | None
    mean: Number
    inflation: Number
    rare_rows: Number
    samples: int
    rows: int
    products: Number
    why: Why


class Density(TypedDict, total=False):
    grid: list[float] | None
    density: list[float] | None
    spread: list[float] | None
    lower: list[float] | None
    upper: list[float] | None
    width: Number
    resolution: Number
    outliers: int | None
    starts: int | None
    mean: Number
    mean_interval: Interval | None
    mean_square: Number
    mean_square_interval: Interval | None
    why: Why


class Direction(TypedDict, total=False):
    sharpness: Number
    decrease: Number
    why: Why


class Kink(TypedDict, total=False):
    direction: str
    h: Number
    curvature: Number
    finite: Number


class Isotropic(TypedDict, total=False):
    l0: Number
    l1: Number
    l0_interval: Interval | None
    l1_interval: Interval | None
    coverage: Number
    tightness: Number
    permutation_p: Number
    why: Why


class Tighter(TypedDict, total=False):
    assumption: str | None
    factor: Number
    why: Why


class WholePair(TypedDict, total=False):
    l0: Number
    l1: Number
    gradient_range: Number
    why: Why


class Grouped(TypedDict, total=False):
    group: str
    points: int
    gradient_norms: Interval
    gradient_range: Number
    isotropic_l1: Number
    l1_median: Number
    isotropic_l1_interval: Interval | None
    l1_median_interval: Interval | None
    why: Why


class Control(TypedDict, total=False):
    l1_median: Number
    isotropic_l1: Number
    why: Why


class Fitted(TypedDict, total=False):
    fitted: bool
    group: str
    gradient_l1: Number
    gradient_l2: Number
    sharpness: Number
    l1_lower: Number
    l1_upper: Number
    gap_wanted: Number
    ended_by: Ending | None
    density: Number
    density_interval: Interval | None
    why: Why


class Method(TypedDict, total=False):
    learning_rate: Number
    final_loss: Required[Number]
    final_loss_interval: Interval | None
    loss_resolution: Number
    lowest_loss: Number
    lowest_loss_interval: Interval | None
    lowest_loss_rate: Number
    steps_to_target: Number
    orders: int
    tuning_range: Number
    adagrad_speedup: Number
    adagrad_speedup_interval: Interval | None
    adagrad_target: Number
    adagrad_rates: list[float] | None
    adagrad_steps: list[float] | None
    validation_loss: Number
    validation_loss_interval: Interval | None
    validation_accuracy: Number
    validation_accuracy_interval: Interval | None
    state_bytes: Number
    why: Why


class AtTarget(TypedDict, total=False):
    loss: Required[float]
    speedup: Number
    interval: Interval | None
    why: Why


class Looked(TypedDict, total=False):
    orders: Required[int]
    speedup: Number
    interval: Interval | None
    answer: str
    why: Why


class BatchSize(TypedDict, total=False):
    batch_size: Required[int]
    methods: Required[dict[str, Method]]
    speedup: Number
    speedup_interval: Interval | None
    why: Why


class NoiseTerm(TypedDict, total=False):
    slope: Number
    slope_interval: Interval | None
    predicted: Number
    pays_up_to: Number
    pays_at_least: bool | None
    why: Why


class Row(TypedDict, total=False):
    quantity: str
    value: Number
    interval: Interval | None
    neutral: str
    says: str
    side: str


class Assumed(TypedDict, total=False):
    assumption: str
    status: Literal["supported", "not supported", "not testable here"]
    measure: str
    value: Number
    interval: Interval | None
    n: int | None
    says: str


class Stage(TypedDict, total=False):
    share: Number
    speedup: Number
    interval: Interval | None
    probability_adagrad: Number
    calibration: dict[str, Any] | None


class Warned(TypedDict, total=False):
    code: str
    severity: str
    stage: str
    found: str
    meaning: str
    action: str


class Settings(TypedDict, total=False):
    max_length: int | None


class Files(TypedDict, total=False):
    vectors: list[str]
    runs: int


NESTED: Mapping[str, Any] = {
    "noise.tensors": list[Tensor] | None,
    "noise.token_deciles": list[Group] | None,
    "noise.tail_index": TailIndex | None,
    "noise.batch_scaling": list[Batch] | None,
    "hessian_diagonal.tensors": list[Tensor] | None,
    "smoothness.tensors": list[Tensor] | None,
    "smoothness.token_deciles": list[Group] | None,
    "smoothness.points": list[Point] | None,
    "smoothness.whole_data": WholeData | None,
    "spectrum.eigenvalue_density": Density | None,
    "spectrum.directional": dict[str, Direction] | None,
    "spectrum.kinks": list[Kink] | None,
    "generalized_smoothness.tensors": list[Tensor] | None,
    "generalized_smoothness.points": list[Fitted] | None,
    "generalized_smoothness.isotropic": Isotropic | None,
    "generalized_smoothness.control": Control | None,
    "generalized_smoothness.tighter": Tighter | None,
    "generalized_smoothness.whole": WholePair | None,
    "generalized_smoothness.l1_by_group": list[Grouped] | None,
    "training.methods": dict[str, Method] | None,
    "training.batch_sizes": list[BatchSize] | None,
    "training.noise_terms": dict[str, NoiseTerm] | None,
    "prediction.calibration": dict[str, Any] | None,
    "prediction.stages": list[Stage] | None,
    "training.speedup_by_target": list[AtTarget] | None,
    "training.looks": list[Looked] | None,
    "verdict.evidence": list[Row] | None,
    "verdict.assumptions": list[Assumed] | None,
}
"""What the dataclasses leave open: the types of objects and rows inside a part."""
TOP: Mapping[str, Any] = {
    "schema": int,
    "tool_version": str,
    "versions": dict[str, str],
    "status": Literal["started", "finished", "interrupted"],
    "command": str,
    "settings": Settings | None,
    "stages": list[str] | None,
    "inputs": dict[str, dict[str, Any]] | None,
    "warnings": list[Warned],
    "files": Files | None,
}


def fault(text: str, parts: Mapping[str, type[Any]]) -> str | None:
    """The first key of a result.json whose value is of another type than was written, or impossible
    (``checks``), with what it should be.

    Args:
        text: the file, known to be JSON.
        parts: the classes of the parts by name.
    """
    from pydantic import ValidationError

    try:
        body = _adapter(tuple(parts.items())).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        return f"`{_path(first['loc']) or 'the whole'}`: {first['msg'].removeprefix('Input ').lower()}"
    return impossible(body)


@cache
def _adapter(parts: Sequence[tuple[str, type[Any]]]) -> Any:
    from pydantic import ConfigDict, TypeAdapter

    body = {name: _part(name, kind) | None for name, kind in parts}
    result = TypedDict("result", TOP | body, total=False)  # type: ignore[misc]
    result.__pydantic_config__ = ConfigDict(allow_inf_nan=False)  # type: ignore[attr-defined]
    return TypeAdapter(result)


def _part(name: str, kind: type[Any]) -> Any:
    hints = get_type_hints(kind)
    keys = {key: NESTED.get(f"{name}.{key}", hints[key]) for key in stored_keys(kind)}
    return TypedDict(name, keys | {"why": Why | None}, total=False)  # type: ignore[operator]


def _path(place: Sequence[str | int]) -> str:
    """noise.tensors[3].l1 from the pieces of a place."""
    text = ""
    for piece in place:
        text += f"[{piece}]" if isinstance(piece, int) else f".{piece}" if text else piece
    return text
