"""Every option with its default, range and one sentence; help, checks and documentation read this file."""

from __future__ import annotations

import difflib
import re
import shlex
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, get_args

from diagnose.errors import InputError
from reports.record.diagnosis import PAIR

Family = Literal["linear", "network", "language"]
Schedule = Literal["constant", "inverse-sqrt"]
Optimizer = Callable[..., Any]
"""A class of torch.optim, or a function (parameters, lr=rate) -> an optimizer."""
Loss = str | Callable[..., Any]
"""A loss by name, or through Python a function (output, targets) -> one loss for each sample."""
METHODS = (
    "sgd",
    "sgd-momentum",
    "sgd-clip",
    "adagrad",
    "adagrad-norm",
    "adagrad-momentum",
    "rmsprop",
    "adam",
    "sign-sgd",
)
"""Every method that can race by name."""
OPTIMIZERS = ("sgd", "adagrad", "adagrad-norm", "adam")
"""Those that do unless said."""
SKIPPABLE = ("smoothness", "spectrum", "hessian-diagonal", "generalized-smoothness", "training")
"""Parts that can be left out."""
LARGE_NETWORK = 100_000
"""Above this many parameters a network is measured on fewer samples, for fewer steps."""
LARGE_LANGUAGE = 1_000_000
"""Above this many parameters a language model is measured on fewer sequences, for fewer steps."""
UNSTORED = ("out", "plan", "quiet", "fresh")
"""Options that change where and how a run is shown, never what it finds."""
CALLABLE = ("--loss", "--optimizers")
"""Options whose values may be Python objects too."""
LONGEST_NAME = 60
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)([KMGT]?)", re.ASCII | re.IGNORECASE)

DECIMAL = r"([0-9]{1,9}(?:\.[0-9]{1,9})?)"
LENGTH = re.compile(rf"{DECIMAL}|(?:{DECIMAL}h)?(?:{DECIMAL}m)?(?:{DECIMAL}s)?", re.ASCII | re.IGNORECASE)
"""Seconds alone; or hours, minutes and seconds, each of which may be missing."""


def option(default: Any, help: str, **limits: Any) -> Any:
    """A setting with its one sentence and its limits (least, most, above, choices; words that do beside numbers)."""
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the user asked for; None stands for the default of the model's family (:func:`resolve`).

    Through Python a module keeps its own number format and device unless ``dtype`` or ``device`` are given, and
    ``optimizers`` also takes classes of ``torch.optim.Optimizer`` or functions (parameters, lr=...) that make one; they
    race under their own names.
    """

    out: str | None = option(None, "folder to write; default diagnosis-MODEL-DATA")
    loss: Loss | None = option(  # noqa: RUF009 - a frozen field() like the others
        None,
        "loss of a sample; default logistic for logreg, else cross-entropy",
        choices=("cross-entropy", "logistic", "squared"),
    )
    samples: int | None = option(None, "size of the sample set, a seeded draw from the data", least=1)
    probes: int | None = option(None, "random probes of the Hessian diagonal", least=4)
    batch_size: int | None = option(None, "samples in a training batch", least=1)
    steps: int | None = option(None, "training steps of every run", least=1)
    seeds: int | Literal["auto"] = option(
        "auto",
        "batch orders that methods are judged on: as many as it takes (auto), or a number; below 4 no intervals",
        least=1,
        words=("auto",),
    )
    skip: Sequence[str] = option((), "parts to leave out, comma-separated; default none", choices=SKIPPABLE)
    seed: int = option(0, "the number that every random choice follows", least=0, most=2**32 - 1)
    batch_sizes: Sequence[int] | None = option(
        None, "batch sizes at which sgd and adagrad are tuned besides, comma-separated", least=1
    )
    optimizers: Sequence[str | Optimizer] = option(OPTIMIZERS, "methods to race, comma-separated", choices=METHODS)
    schedule: Schedule = option(  # noqa: RUF009 - a frozen field() like the others
        "constant",
        "learning rate along a run: as it is, or divided by the root of the step",
        choices=get_args(Schedule),
    )
    box: float | None = option(
        None, "keep every coordinate within this distance of its start, by projection; default off", above=0.0
    )
    learning_rates: Sequence[float] | None = option(
        None, "fixed list of learning rates for all methods, comma-separated; default a grid that grows", above=0.0
    )
    device: str | None = option(None, "torch device: cpu (default), cuda, cuda:1")
    dtype: str | None = option(
        None,
        "number format of weights and data; default float32",
        choices=("float32", "float64"),
    )
    max_length: int | None = option(None, "tokens in a text sample", least=2)
    features: int | None = option(None, "number of features of a LIBSVM file; default its largest index", least=1)
    tokenizer: str | None = option(None, "folder of the tokenizer; default the model's own, else bytes")
    architecture: str | None = option(
        None, "what a bare state dict or a config without its class holds: a built-in name or a transformers class"
    )
    trust_pickle: bool = option(False, "unpickle a model file, which may run any code that it holds")
    trust_remote_code: bool = option(False, "run the Python code that a model folder brings along")
    gap: float | Literal["auto"] = option(
        "auto",
        "width of the smoothness bracket, upper/lower - 1: as narrow as its reading takes (auto), or a number",
        above=0.0,
        words=("auto",),
    )
    memory: int | str | None = option(
        None, "most that measuring may take beyond model and data: 8G, 512M or bytes; default no limit"
    )
    budget: float | str | None = option(
        None, "time that the run may take, 90s, 10m, 1h30m or seconds: parts are cut to keep it; default no limit"
    )
    rotate: bool = option(
        False, "measure and train in coordinates that are rotated at random: a control, not your training"
    )
    training: bool = option(True, "measure only, train nothing")
    plan: bool = option(False, "print passes, minutes and memory of each stage, and stop")
    quiet: bool = option(False, "print the path of the report alone")
    fresh: bool = option(False, "start again, whatever the folder holds")


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """Numbers of one run after the defaults: what the pipeline works with and the folder is compared by.

    ``gap`` None: brackets end where their readings are certain.
    """

    samples: int
    curvature_samples: int
    probes: int
    batch_size: int
    steps: int
    seeds: int | Literal["auto"]
    skip: tuple[str, ...]
    seed: int
    evaluations: int
    batch_sizes: tuple[int, ...] | None
    optimizers: tuple[str, ...]
    learning_rates: tuple[float, ...] | None
    schedule: Schedule
    box: float | None
    gap: float | None
    memory: int | None
    budget: float | None
    rotate: bool
    dtype: str
    device: str
    max_length: int | None
    features: int | None
    loss: str | None
    tokenizer: str | None
    architecture: str | None

    @property
    def training(self) -> bool:
        """Whether methods are trained."""
        return "training" not in self.skip


def flag(name: str) -> str:
    """A setting's name as it is typed on the command line."""
    return "--no-training" if name == "training" else "--" + name.replace("_", "-")


def check(settings: Settings) -> None:
    """Hold every value against its limits.

    Raises:
        InputError: naming the option as it is typed, the value and what would do.
    """
    for item in fields(settings):
        value = getattr(settings, item.name)
        if value is None and item.default is None:
            continue
        if isinstance(item.default, bool):
            if not isinstance(value, bool):
                raise InputError(f"{_quoted(value)} is not True or False", item.name)
            continue
        if item.name in ("out", "device", "tokenizer", "architecture"):
            if not isinstance(value, (str, Path)) or not str(value).strip() or "\0" in str(value):
                raise InputError(f"{_quoted(value)} is not a name", flag(item.name), item.metadata["help"])
            continue
        if item.name in MEASURED:
            MEASURED[item.name](value)
            continue
        values = several(value) if str(item.type).startswith("Sequence") else (value,)
        if not values and values != item.default:
            raise InputError("no value given", flag(item.name), item.metadata["help"])
        for one in values:
            _check_one(one, flag(item.name), item.metadata)
        if len(set(values)) < len(values):
            twice = next(one for one in values if values.count(one) > 1)
            raise InputError(f"{_quoted(twice)} is given twice", flag(item.name), "name each value once")
    own_optimizers(settings)
    raced = map(method_name, several(settings.optimizers))
    if settings.batch_sizes is not None and not set(PAIR).intersection(raced):
        raise InputError("neither sgd nor adagrad races", "--batch-sizes", "name one of them in `--optimizers`")


def _check_one(one: Any, where: str, limits: Mapping[str, Any]) -> None:
    if isinstance(one, str) and one in limits.get("words", ()):
        return
    if "choices" in limits and one not in limits["choices"] and not (where in CALLABLE and callable(one)):
        near = difflib.get_close_matches(str(one), limits["choices"], n=1)
        valid = "one of " + ", ".join(limits["choices"])
        raise InputError(
            f"unknown value {_quoted(one)}", where, f"did you mean `{near[0]}`? {valid}" if near else valid
        )
    if "least" in limits:
        whole = isinstance(one, Integral) and not isinstance(one, bool)
        if not whole or one < limits["least"]:
            words = "".join(f"{word} or " for word in limits.get("words", ()))
            raise InputError(f"{_quoted(one)} is not {words}a whole number of at least {limits['least']}", where)
        if "most" in limits and one > limits["most"]:
            raise InputError(f"{_quoted(one)} is larger than {limits['most']}", where)
    number = isinstance(one, Real) and not isinstance(one, bool)
    if "above" in limits and not (number and limits["above"] < one < float("inf")):
        words = "".join(f"{word} or " for word in limits.get("words", ()))
        raise InputError(f"{_quoted(one)} is not {words}a finite number above {limits['above']:g}", where)


def in_bytes(memory: Any) -> int:
    """A size of memory in bytes: a number, or text such as 8G, 1.5G, 512M (G = 2^30).

    Raises:
        InputError: anything else, or less than one byte.
    """
    whole = isinstance(memory, Integral) and not isinstance(memory, bool)
    number = int(memory) if whole else None
    if isinstance(memory, str) and (parts := SIZE.fullmatch(memory.strip())):
        number = int(float(parts[1]) * UNITS[parts[2].upper()])
    if number is None or number < 1:
        raise InputError(
            f"{_quoted(memory)} is no size of memory", flag("memory"), "give bytes, or a number with K, M, G or T: `8G`"
        )
    return number


def in_seconds(budget: Any) -> float:
    """A length of time in seconds: a number, or text such as 90s, 10m, 1.5h, 1h30m.

    Raises:
        InputError: anything else, or no time at all.
    """
    number = isinstance(budget, Real) and not isinstance(budget, bool)
    seconds = float(budget) if number else None
    if isinstance(budget, str) and (parts := LENGTH.fullmatch(budget.strip())) and any(parts.groups()):
        bare, hours, minutes, alone = (float(part or 0) for part in parts.groups())
        seconds = bare + 3600 * hours + 60 * minutes + alone
    if seconds is None or not 0 < seconds < float("inf"):
        raise InputError(
            f"{_quoted(budget)} is no length of time", flag("budget"), "give 90s, 10m, 1h, 1h30m or seconds"
        )
    return seconds


MEASURED: Mapping[str, Callable[[Any], float]] = {"memory": in_bytes, "budget": in_seconds}
"""Options with units, and what reads them."""


def several(value: Any) -> tuple[Any, ...]:
    """The values of an option that takes one or many."""
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)


def _quoted(value: Any) -> str:
    return f"`{printable(value)}`"


def resolve(settings: Settings, family: Family, parameters: int, rows: int, costly: bool = False) -> Resolved:
    """Fill in the defaults of the model's family (design: linear, network, language model).

    ``dtype``, ``device``, ``max_length`` and ``loss`` are those asked for; ``open_task`` puts those in use, and cuts
    the batch to the rows that are not held out.

    Args:
        family: what the model is.
        parameters: coordinates d, a tied tensor once.
        rows: samples that the data set holds (for text: blocks).
        costly: long sequences (instruction rows read as bytes), for which fewer are taken.
    """
    large, evaluations = parameters > LARGE_NETWORK, 40
    if family == "linear":
        samples, batch, steps, probes, curvature = rows, 32, 2000, 64, rows
    elif family == "language" and (costly or parameters > LARGE_LANGUAGE):
        samples, batch, steps, probes, curvature, evaluations = 32, 2, 80, 32, 8, 12
    elif family == "language":
        samples, batch, steps, probes, curvature, evaluations = 32, 8, 120, 32, 16, 20
    elif large:
        samples, batch, steps, probes, curvature, evaluations = 256, 16, 140, 64, 64, 20
    else:
        samples, batch, steps, probes, curvature = 1024, 32, 500, 64, 512
    samples, sizes = min(settings.samples or samples, rows), settings.batch_sizes
    return Resolved(
        samples=samples,
        curvature_samples=min(curvature if family != "linear" else samples, samples),
        probes=settings.probes or probes,
        batch_size=min(settings.batch_size or batch, rows),
        steps=settings.steps or steps,
        seeds=settings.seeds,
        skip=skipped(settings),
        seed=settings.seed,
        evaluations=evaluations,
        batch_sizes=None if sizes is None else tuple(sorted(several(sizes))),
        optimizers=tuple(method_name(one) for one in several(settings.optimizers)),
        learning_rates=None if settings.learning_rates is None else several(settings.learning_rates),
        schedule=settings.schedule,
        box=settings.box,
        gap=None if settings.gap == "auto" else settings.gap,
        memory=None if settings.memory is None else in_bytes(settings.memory),
        budget=None if settings.budget is None else in_seconds(settings.budget),
        rotate=settings.rotate,
        dtype=settings.dtype or "float32",
        device=settings.device or "cpu",
        max_length=settings.max_length,
        features=settings.features,
        loss=settings.loss if isinstance(settings.loss, str) or settings.loss is None else _python(settings.loss),
        tokenizer=None if settings.tokenizer is None else task_name(settings.tokenizer),
        architecture=settings.architecture,
    )


def skipped(settings: Settings) -> tuple[str, ...]:
    """The parts that are left out, in a fixed order; ``training=False`` is one more way to say it."""
    named = {*several(settings.skip), *(() if settings.training else ("training",))}
    return tuple(part for part in SKIPPABLE if part in named)


def method_name(method: str | Optimizer) -> str:
    """A method's name in results; that of a class or function is its own."""
    if isinstance(method, str):
        return method
    made = getattr(method, "func", method)  # of functools.partial
    return printable(getattr(made, "__name__", type(made).__name__))


def own_optimizers(settings: Settings) -> dict[str, Optimizer]:
    """The optimizers of the user's by name.

    Raises:
        InputError: two of the same name, or one that is taken by a built-in method.
    """
    own: dict[str, Optimizer] = {}
    for one in several(settings.optimizers):
        name = method_name(one)
        if not isinstance(one, str):
            if name in own or name in METHODS:
                raise InputError(f"two optimizers called `{name}`", "optimizers", "wrap one in a function of its own")
            own[name] = one
    return own


def printable(text: object) -> str:
    """Text on one line that cannot drive a terminal: control and format characters become escapes."""
    return "".join(
        c if c.isprintable() or unicodedata.category(c) == "Zs" else c.encode("unicode_escape").decode("ascii")
        for c in str(text)
    )


def listed(names: Sequence[object], most: int) -> str:
    """The first names, printable: "a, b, …"."""
    return ", ".join(printable(name) for name in names[:most]) + ", …" * (len(names) > most)


def default_directory(model: str, data: str) -> str:
    """The folder of a run without --out: diagnosis-MODEL-DATA from the stems of both, at most 60 characters."""
    name = f"diagnosis-{Path(model).stem}-{Path(data).stem}"
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)[:LONGEST_NAME]


def task_name(named: Any) -> str:
    """What a model or a data set is called in results: the last part of a path, else what kind of object it is."""
    if isinstance(named, (str, Path)):
        return printable(Path(named).name or named)
    if isinstance(named, Mapping):
        return "mapping"
    return "tensors" if isinstance(named, (tuple, list)) else printable(type(named).__name__)


def command_line(settings: Settings, model: Any, data: Any) -> str:
    """The command that repeats a run: options in a fixed order, defaults omitted, paths cut to their last part.

    Objects that only Python can name give the call of ``diagnose.run`` instead.
    """
    chosen = {
        item.name: task_name(value) if item.name == "tokenizer" else value
        for item in fields(settings)
        if item.name not in UNSTORED and not _same(value := getattr(settings, item.name), item.default)
    }
    names = task_name(model), task_name(data)
    typed = all(isinstance(named, (str, Path)) for named in (model, data))
    if not typed or callable(settings.loss) or own_optimizers(settings):
        keywords = [f"{name}={_python(value)}" for name, value in chosen.items()]
        shown = [
            repr(name) if isinstance(named, (str, Path)) else name
            for name, named in zip(names, (model, data), strict=True)
        ]
        return f"diagnose.run({', '.join([*shown, *keywords])})"
    words = ["diagnose", names[0], "--data", names[1]]
    for name, value in chosen.items():
        words.append(flag(name))
        if not isinstance(value, bool):
            words.append(",".join(_number(one) for one in several(value)))
    return shlex.join(words)


def _same(value: Any, default: Any) -> bool:
    return bool(several(value) == several(default))


def _number(value: Any) -> str:
    return f"{value:.15g}" if isinstance(value, float) else printable(value)


def _python(value: Any) -> str:
    if callable(value):
        return method_name(value)
    return f"[{', '.join(map(_python, value))}]" if isinstance(value, (tuple, list)) else repr(value)
