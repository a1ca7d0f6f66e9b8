"""Types of the rows and objects within the results: what a key holds stands here and nowhere else.

Keys may be missing; what a page cannot do without in a row is required.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Required

from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

Interval = tuple[float, float]
Ending = Literal["gap", "thresholds", "products"]
"""What ended a bracket."""
Object = Mapping[str, Any]
Rows = Sequence[Object]
Named = Mapping[str, Object]
"""What code that handles rows in general sees; a field says beside it what such a row holds (``Annotated``)."""
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
    l0: Number
    l0_l1: Number
    l1_median: Number
    helps_fraction: Number
    gradient_range: Number


class Group(TypedDict, total=False):
    tensor: Required[str]
    role: str
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
    helps_fraction: Number
    tensors_l1: Number
    whole_l1: Number
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
