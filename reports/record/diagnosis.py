"""A diagnosis as plain frozen dataclasses: what result.json, vectors.safetensors and runs.csv hold.

Needs the standard library alone to import; nothing here measures anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from estimators.errors import InputError
from estimators.results import (
    BESIDE,
    Finding,
    GeneralizedSmoothness,
    HessianDiagonal,
    Interval,
    Noise,
    Smoothness,
    Spectrum,
    absent,
    stored,
    stored_keys,
)
from estimators.rows import Named, Rows
from reports.record.rows import Assumption, AtTarget, BatchSize, Evidence, Looked, Method, NoiseTerm, PredictedAt

SCHEMA = 1
RESULT = "result.json"
RUN_COLUMNS = ("method", "learning_rate", "seed", "step", "loss", "gradient_l1", "gradient_l2", "diverged")
NOT_YET = "not available in this version"
NOISE_SIDES = (0.5, 0.95)
"""Noise density: below the first a strong case for AdaGrad, below the second some."""
SMOOTHNESS_SIDES = (0.1, 0.55)
"""R_L: below the first a strong case for AdaGrad, below the second some."""
CLEAR = 1.1
"""A speed-up this far from 1 matters, over all seeds and in one."""
LEVEL = (0.8, 1.25)
"""A speed-up within these makes no difference."""
PAIR = ("sgd", "adagrad")
"""The two methods that the question is about."""
ADDING = ("--budget", "--seeds", "--optimizers", "--skip", "--no-training")
"""Options with which a finished folder goes on (without the last one training is no longer skipped)."""
Answer = Literal["adagrad", "sgd", "no-difference", "undecided"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What was diagnosed; ``understood`` says in words how model and data were read.

    ``seeds`` counts the orders of the batches that sgd and adagrad were judged on, ``training_rows`` the rows that runs
    train on: all that are not held out.
    """

    model: str | None
    data: str | None
    loss: str | None
    parameters: int | None
    rows: int | None
    samples: int | None
    batch_size: int | None
    seed: int | None
    seeds: int | None
    dtype: str | None
    device: str | None
    fingerprint: str | None
    curvature_samples: int | None
    training_rows: int | None
    understood: Sequence[str] | None
    why: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Ratios of the bounds, AdaGrad's term over SGD's; d_inf and d_2 are measured on the best runs."""

    d_inf: float | None
    d_2: float | None
    smoothness_ratio: float | None
    noise_ratio: float | None
    smoothness_ratio_box: float | None
    noise_ratio_box: float | None
    why: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Training:
    """The tuned race.

    ``methods`` maps a name to learning_rate (the rate that meets the target first), final_loss, final_loss_interval,
    steps_to_target, lowest_loss, lowest_loss_rate, tuning_range, orders and, where one is null, why. ``speedup_se``
    is the standard error of the logarithm of the speed-up, ``speedup_seeds`` holds one ratio for each order of the
    batches, at the best rates. ``target_floored``: the target was raised to the least share of the decrease.
    ``speedup_by_target`` holds loss, speedup, interval along the decrease; ``looks`` orders, speedup, interval and
    answer each time the race was looked at; ``decided_by`` says what ended it.
    ``best_other`` is the method, other than adagrad, that ended lowest; ``best_other_interval``, of AdaGrad's speed-up
    over it, allows for that choice. ``batch_sizes`` and ``noise_terms`` are those of ``--batch-sizes``.
    """

    steps: int | None
    target_loss: float | None
    target_floored: bool | None
    initial_loss: float | None
    speedup: float | None
    speedup_interval: Interval | None
    speedup_se: float | None
    speedup_seeds: Sequence[float | None] | None
    speedup_by_target: Annotated[Rows | None, list[AtTarget]]
    looks: Annotated[Rows | None, list[Looked]]
    decided_by: Literal["interval", "budget", "orders"] | None
    best_other: str | None
    best_other_speedup: float | None
    best_other_interval: Interval | None
    curves_file: str | None
    methods: Annotated[Named | None, dict[str, Method]]
    batch_sizes: Annotated[Rows | None, list[BatchSize]]
    noise_terms: Annotated[Named | None, dict[str, NoiseTerm]]
    why: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The speed-up predicted before and during training."""

    speedup: float | None
    interval: Interval | None
    probability_adagrad: float | None
    calibration: Mapping[str, float] | None
    stages: Annotated[Rows | None, list[PredictedAt]]
    why: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The answer, the confidence with its meaning in words, and the reasons.

    ``best_by`` is the loss that ``best_method`` is the lowest in: held-out where there is one, else the training
    samples'; ``best_tied`` the methods that are not told apart from it, ``best_margin`` the share by which its loss
    lies below that of the better of sgd and adagrad. ``advice`` says what to do; ``evidence`` holds the rows of "why",
    and ``assumptions`` those of what the theory assumes.
    """

    answer: Answer | None
    confidence: float | None
    confidence_meaning: str | None
    best_method: str | None
    best_margin: float | None
    best_by: Literal["validation", "training"] | None
    best_tied: Sequence[str] | None
    theory: str | None
    advice: str | None
    reasons: Sequence[str] | None
    evidence: Annotated[Rows | None, list[Evidence]]
    assumptions: Annotated[Rows | None, list[Assumption]]
    why: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds, forward+backward passes over the sample set, attempts, and seconds by stage, over all attempts.

    ``step_seconds`` maps a method to the time of one training step of it alone.
    """

    seconds: float | None
    forward_backward_passes: float | None
    attempts: int | None
    stages: Mapping[str, float] | None
    step_seconds: Mapping[str, float] | None
    why: Mapping[str, str] = field(default_factory=dict)


PARTS: dict[str, type[Any]] = {
    "task": Task,
    "noise": Noise,
    "hessian_diagonal": HessianDiagonal,
    "smoothness": Smoothness,
    "spectrum": Spectrum,
    "generalized_smoothness": GeneralizedSmoothness,
    "bounds": Bounds,
    "training": Training,
    "prediction": Prediction,
    "verdict": Verdict,
    "cost": Costs,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Diagnosis:
    """Everything that one run found.

    ``stages`` names those that ended, in order, and ``inputs`` what each has read of all that may change when the
    folder goes on; ``settings`` is what a folder is compared by. ``vectors`` is kind -> parameter name -> array;
    ``runs`` the rows of runs.csv.

    Examples:
        >>> import tempfile
        >>> import torch
        >>> import diagnose
        >>> x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
        >>> y = (x[:, 0] > 0).float() * 2 - 1
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = diagnose.run(torch.nn.Linear(3, 1), (x, y), loss="logistic", skip="training", out=folder)
        ...     again = diagnose.Diagnosis.load(folder)
        >>> again.noise.l1 == result.noise.l1, again.smoothness.density == result.smoothness.density
        (True, True)
    """

    schema: int
    tool_version: str
    versions: Mapping[str, str]
    status: Literal["started", "finished", "interrupted"]
    command: str
    task: Task
    noise: Noise
    hessian_diagonal: HessianDiagonal
    smoothness: Smoothness
    spectrum: Spectrum
    generalized_smoothness: GeneralizedSmoothness
    bounds: Bounds
    training: Training
    prediction: Prediction
    verdict: Verdict
    warnings: tuple[Finding, ...]
    cost: Costs
    settings: Mapping[str, Any] = field(default_factory=dict)
    stages: Sequence[str] = ()
    inputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    vectors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, metadata=BESIDE, repr=False)
    runs: Sequence[Mapping[str, Any]] = field(default=(), metadata=BESIDE, repr=False)

    def __eq__(self, other: object) -> bool:
        """Vectors are equal by their numbers."""
        if not isinstance(other, Diagnosis):
            return NotImplemented
        plain = (item.name for item in fields(self) if item.name != "vectors")
        if any(getattr(self, name) != getattr(other, name) for name in plain):
            return False
        ours, theirs = self.flat_vectors, other.flat_vectors
        return ours.keys() == theirs.keys() and all(_same(array, theirs[name]) for name, array in ours.items())

    __hash__ = None  # type: ignore[assignment]  # holds dicts and arrays

    @property
    def flat_vectors(self) -> dict[str, Any]:
        """All vectors by the names that they have in vectors.safetensors, KIND/NAME."""
        return {f"{kind}/{name}": array for kind, part in self.vectors.items() for name, array in part.items()}

    def to_json(self) -> dict[str, Any]:
        """The object of result.json."""
        body: dict[str, Any] = {}
        for key in stored_keys(self):
            value = getattr(self, key)
            if key in PARTS:
                body[key] = stored(value)
            elif key == "warnings":
                body[key] = [asdict(w) for w in value]
            else:
                body[key] = value
        body["files"] = {"vectors": sorted(self.vectors), "runs": len(self.runs)}
        return body

    @classmethod
    def from_json(
        cls,
        body: Mapping[str, Any],
        vectors: Mapping[str, Mapping[str, Any]] | None = None,
        runs: Sequence[Mapping[str, Any]] = (),
    ) -> Diagnosis:
        """The inverse of ``to_json``; keys that the file lacks become null with "not in this file"."""
        parts = {name: read_part(kind, body.get(name) or {}) for name, kind in PARTS.items()}
        return cls(
            schema=body.get("schema", 0),
            tool_version=body.get("tool_version", ""),
            versions=body.get("versions", {}),
            status=body.get("status", "started"),
            command=body.get("command", ""),
            settings=body.get("settings") or {},
            stages=tuple(body.get("stages") or ()),
            inputs=body.get("inputs") or {},
            warnings=tuple(
                Finding(**{f.name: w.get(f.name, "") for f in fields(Finding)}) for w in body.get("warnings", ())
            ),
            vectors=vectors or {},
            runs=runs,
            **parts,
        )

    @classmethod
    def load(cls, directory: str | Path) -> Diagnosis:
        """Read a directory that ``diagnose`` wrote.

        Raises:
            InputError: the directory holds no readable result.json, or one with a value of another type than was
                written or that no run writes; the key is named.
        """
        from reports.record.schema import fault  # needs pydantic

        folder = Path(directory)
        path = folder / RESULT
        try:
            text = path.read_text(encoding="utf-8")
            body = json.loads(text)
        except FileNotFoundError:
            raise InputError(
                "no result.json", str(folder), "name a directory that `diagnose MODEL --data DATA` wrote"
            ) from None
        except OSError as error:
            raise InputError(f"{path.name} cannot be read", f"{path}: {error.strerror}", "check it") from None
        except ValueError as error:
            raise unreadable(path, error) from None
        if (found := fault(text, cls)) is not None:
            raise unreadable(path, found)
        vectors, runs = read_vectors(folder / "vectors.safetensors"), read_runs(folder / "runs.csv")
        try:
            _complete(folder, body.get("files") or {}, vectors, runs)
            return cls.from_json(body, vectors, runs)
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise unreadable(path, error) from None


def _same(a: Any, b: Any) -> bool:
    return bool(a.shape == b.shape and (a == b).all())


def _complete(folder: Path, files: Mapping[str, Any], vectors: Mapping[str, Any], runs: Sequence[Any]) -> None:
    """Hold what was read against what the result names; later stages may have left more."""
    missing = sorted(set(files.get("vectors", ())) - set(vectors))
    if missing:
        raise unreadable(folder / "vectors.safetensors", KeyError(f"no {missing[0]}"))
    if len(runs) < files.get("runs", 0):
        raise unreadable(folder / "runs.csv", IndexError(f"{len(runs)} of {files['runs']} rows"))


def unreadable(path: Path, error: Exception | str) -> InputError:
    """The error for a file of a folder that is not what was written."""
    return InputError(f"{path.name} is damaged", f"{path}: {error}", "start the diagnosis again with `--fresh`")


def as_read(part: Any) -> Any:
    """The part as it will be read back: without what is kept elsewhere, and with lists where it has tuples."""
    return read_part(type(part), json.loads(json.dumps(stored(part))))


def read_part(kind: type[Any], body: Mapping[str, Any]) -> Any:
    """A part from its JSON object; unknown keys are dropped, missing ones null with the reason."""
    why = dict(body.get("why") or {})
    values = {}
    for key in stored_keys(kind):
        value = body.get(key)
        if value is None:
            why.setdefault(key, "not in this file")
        elif key.endswith("interval"):
            value = (value[0], value[1])
        values[key] = value
    return kind(**values, why=why)


def read_vectors(path: Path) -> dict[str, dict[str, Any]]:
    """kind -> parameter name -> array, from a safetensors file with names ``kind/parameter``; empty without a file."""
    if not path.is_file():
        return {}
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        flat = load_file(path)
    except (OSError, SafetensorError) as error:
        raise unreadable(path, error) from None
    vectors: dict[str, dict[str, Any]] = {}
    for key, array in flat.items():
        kind, _, name = key.partition("/")
        vectors.setdefault(kind, {})[name] = array
    return vectors


def read_runs(path: Path) -> list[dict[str, Any]]:
    """Rows of runs.csv with numbers as numbers, an empty cell as None; empty without a file."""
    import csv

    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [_run_row(row) for row in csv.DictReader(file)]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise unreadable(path, error) from None


def _run_row(row: Mapping[str, str]) -> dict[str, Any]:
    return {
        "method": row["method"],
        "learning_rate": float(row["learning_rate"]),
        "seed": int(row["seed"]),
        "step": int(row["step"]),
        "loss": float(row["loss"]) if row["loss"] else None,
        "gradient_l1": float(row["gradient_l1"]) if row["gradient_l1"] else None,
        "gradient_l2": float(row["gradient_l2"]) if row["gradient_l2"] else None,
        "diverged": row["diverged"] == "True",
    }


__all__ = [
    "CLEAR",
    "LEVEL",
    "NOISE_SIDES",
    "NOT_YET",
    "PAIR",
    "PARTS",
    "RUN_COLUMNS",
    "SCHEMA",
    "SMOOTHNESS_SIDES",
    "Answer",
    "Assumption",
    "Bounds",
    "Costs",
    "Diagnosis",
    "Evidence",
    "Prediction",
    "Task",
    "Training",
    "Verdict",
    "absent",
    "as_read",
    "read_part",
    "unreadable",
]
