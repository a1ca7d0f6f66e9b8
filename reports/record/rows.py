"""Types of the rows and objects within the parts of result.json that are not the estimators' (``estimators.rows``).

Keys may be missing; what a page cannot do without in a row is required.
"""

from __future__ import annotations

from typing import Literal, Required

from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from estimators.rows import Interval, Number, Why


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
    runs: int
    diverged: int
    tuning_range: Number
    tuning_range_at_least: bool | None
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


class Evidence(TypedDict, total=False):
    """A row of the page's "why": a measured quantity and the side that it speaks for; "none" where it takes none."""

    quantity: str
    value: Number
    interval: Interval | None
    neutral: str
    says: str
    side: Literal["adagrad", "sgd", "neither", "undecided", "unknown", "none"]


class Assumption(TypedDict, total=False):
    """A row of the table of assumptions: what the theory assumes, and whether it was seen to hold here.

    ``value`` is the number that the status rests on, ``n`` how many things it was counted on (samples, points).
    """

    assumption: str
    status: Literal["supported", "not supported", "not testable here"]
    measure: str
    value: Number
    interval: Interval | None
    n: int | None
    says: str


class PredictedAt(TypedDict, total=False):
    share: Number
    speedup: Number
    interval: Interval | None
    probability_adagrad: Number
    calibration: dict[str, Number] | None


class Asked(TypedDict, total=False):
    """Settings that may change in a folder that goes on."""

    seeds: int | Literal["auto"]
    skip: list[str]
    optimizers: list[str]
    own_optimizers: dict[str, str] | None
    budget: float | None


class Cuts(TypedDict, total=False):
    """What a budget made smaller, by the name that it has in settings or limits."""

    samples: int
    curvature_samples: int
    probes: int
    optimizers: list[str]
    batch_sizes: list[int] | None
    seeds: int
    evaluations: int
    steps: int
    products: int
    whole_data: bool
    one_norm: int
    density_starts: int
    directions: bool
    points: int
    race_blocks: int | None
    left_out: list[str] | bool


class Settings(Asked, total=False):
    """What a folder is compared by."""

    model: str | None
    data: str | None
    samples: int
    curvature_samples: int
    probes: int
    batch_size: int
    steps: int
    seed: int
    evaluations: int
    batch_sizes: list[int] | None
    learning_rates: list[float] | None
    schedule: Literal["constant", "inverse-sqrt"]
    box: Number
    gap: Number
    memory: int | None
    rotate: bool
    dtype: str
    device: str
    max_length: int | None
    features: int | None
    loss: str | None
    tokenizer: str | None
    architecture: str | None
    fingerprint: str | None
    tool_version: str
    cuts: Cuts
    uncut_seconds: Number


class Inputs(Asked, total=False):
    """What a stage has read of all that may change; the rates by method."""

    skipped: bool
    cuts: Cuts
    trained: bool
    sharpness: Number
    l1_upper: Number
    sgd: Number
    adagrad: Number


class Files(TypedDict, total=False):
    vectors: list[str]
    runs: int
