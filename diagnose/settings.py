"""Every option with its default, range and one sentence; help, checks and documentation read this file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from diagnose.errors import InputError

Family = Literal["linear", "network", "language"]
OPTIMIZERS = ("sgd", "adagrad", "adagrad-norm", "adam")
LARGE_NETWORK = 100_000
"""Above this many parameters a network is measured on fewer samples, for fewer steps."""


def option(default: Any, help: str, **limits: Any) -> Any:
    """A setting with its one sentence and its limits (least, most, choices)."""
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the user asked for; None stands for the default of the model's family (:func:`resolve`)."""

    out: str | None = option(None, "folder to write; default diagnosis-MODEL-DATA")
    loss: str | None = option(None, "loss of a sample", choices=("cross-entropy", "logistic", "squared"))
    samples: int | None = option(None, "size of the sample set, a seeded draw from the data", least=1)
    probes: int | None = option(None, "random probes of the Hessian diagonal", least=2)
    batch_size: int | None = option(None, "samples in a training batch", least=1)
    steps: int | None = option(None, "training steps of every run", least=1)
    seeds: int = option(3, "batch orders that every method is trained on; below 3 no intervals", least=1)
    seed: int = option(0, "the number that every random choice follows", least=0)
    optimizers: Sequence[str] = option(OPTIMIZERS, "methods to race, comma-separated", choices=OPTIMIZERS)
    learning_rates: Sequence[float] | None = option(
        None, "fixed list of learning rates for all methods, comma-separated; default a grid that grows", above=0.0
    )
    device: str = option("cpu", "torch device: cpu, cuda, cuda:1")
    dtype: str = option("float32", "number format of weights and data", choices=("float32", "float64"))
    max_length: int | None = option(None, "tokens in a text sample", least=2)
    features: int | None = option(None, "number of features of a LIBSVM file; default its largest index", least=1)
    gap: float | None = option(
        None, "width of the smoothness bracket to reach, upper/lower - 1; default 0.05, 0.01 where H is formed", above=0.0
    )
    training: bool = option(True, "train the methods; --no-training only measures")
    plan: bool = option(False, "print passes, minutes and memory of each stage, and stop")
    quiet: bool = option(False, "print the path of the report alone")
    fresh: bool = option(False, "start again, whatever the folder holds")


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """Numbers of one run after the defaults: what the pipeline works with and the folder is compared by."""

    samples: int
    curvature_samples: int
    probes: int
    batch_size: int
    steps: int
    seeds: int
    seed: int
    evaluations: int
    optimizers: tuple[str, ...]
    learning_rates: tuple[float, ...] | None
    gap: float | None
    training: bool
    dtype: str
    device: str
    max_length: int | None
    features: int | None
    loss: str | None


def check(settings: Settings) -> None:
    """Hold every value against its limits.

    Raises:
        InputError: naming the option as it is typed, the value and what would do.
    """
    for item in fields(settings):
        value = getattr(settings, item.name)
        flag = "--" + item.name.replace("_", "-")
        limits = item.metadata
        values = value if isinstance(value, (list, tuple)) else [value]
        if not values:
            raise InputError("no value given", flag, f"{limits['help']}")
        for one in values:
            if one is None:
                continue
            if "choices" in limits and one not in limits["choices"] and not callable(one):
                raise InputError(f"unknown value `{one}`", flag, "one of " + ", ".join(limits["choices"]))
            if "least" in limits and (isinstance(one, bool) or not isinstance(one, int) or one < limits["least"]):
                raise InputError(f"`{one}` is not a whole number of at least {limits['least']}", flag)
            if "above" in limits and not (limits["above"] < one < float("inf")):
                raise InputError(f"`{one}` is not a finite number above {limits['above']:g}", flag)


def resolve(settings: Settings, family: Family, parameters: int, rows: int) -> Resolved:
    """Fill in the defaults of the model's family (design: linear, network, language model).

    Args:
        family: what the model is.
        parameters: coordinates d, a tied tensor once.
        rows: samples that the data set holds (for text: blocks).
    """
    large = parameters > LARGE_NETWORK
    if family == "linear":
        samples, batch, steps, probes, curvature = rows, 32, 2000, 64, rows
    elif family == "language":
        samples, batch, steps, probes, curvature = 64, 8, 60, 32, 16
    elif large:
        samples, batch, steps, probes, curvature = 256, 32, 100, 64, 64
    else:
        samples, batch, steps, probes, curvature = 1024, 32, 500, 64, 512
    samples = min(settings.samples or samples, rows)
    return Resolved(
        samples=samples,
        curvature_samples=min(curvature if family != "linear" else samples, samples),
        probes=settings.probes or probes,
        batch_size=min(settings.batch_size or batch, samples),
        steps=settings.steps or steps,
        seeds=settings.seeds,
        seed=settings.seed,
        evaluations=12 if family == "language" or large else 40,
        optimizers=tuple(settings.optimizers),
        learning_rates=tuple(settings.learning_rates) if settings.learning_rates else None,
        gap=settings.gap,
        training=settings.training,
        dtype=settings.dtype,
        device=settings.device,
        max_length=settings.max_length,
        features=settings.features,
        loss=settings.loss,
    )
