"""Tables of the methods that ran: all of them at a glance, each beside AdaGrad, and how each was tuned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports.page.curves import in_order
from reports.page.tables import Table
from reports.record.diagnosis import PAIR, Diagnosis
from reports.words.numbers import (
    duration,
    interval,
    number,
    rate,
    ratio,
    ratio_interval,
    rounded,
    size,
    steps,
    steps_that_divide,
)
from reports.words.sentences import method_name

Methods = Mapping[str, Mapping[str, Any]]
ABSENT = "—"


@dataclass(frozen=True)
class Cell:
    """One value, what stands small beside it, and whether it is told apart from all others of its column."""

    value: str
    detail: str = ""
    bold: bool = False


@dataclass(frozen=True)
class Overview:
    """All methods at a glance: one row for each, the name first; columns without any value are left out."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    note: str


def steps_of_pair(methods: Methods) -> tuple[float, float] | None:
    """SGD's and AdaGrad's steps to the target; None where one never met it."""
    first, second = ((methods.get(method) or {}).get("steps_to_target") for method in PAIR)
    return None if first is None or second is None else (float(first), float(second))


def further_decimals(diagnosis: Diagnosis) -> int:
    """Decimals of steps at which the pair's divide to the headline's speed-up, as printed."""
    return steps_that_divide(steps_of_pair(diagnosis.training.methods or {}), diagnosis.training.speedup)


def overview(diagnosis: Diagnosis) -> Overview | None:
    """Every method at its best rate; None where nothing was trained."""
    methods: Methods = diagnosis.training.methods or {}
    names = in_order(methods)
    if not names:
        return None
    seconds, more = diagnosis.cost.step_seconds or {}, further_decimals(diagnosis)
    soonest = _soonest(methods)
    hits = [methods[name].get("steps_to_target") for name in names]
    columns = [
        ("best rate", [_cell(methods[name].get("learning_rate"), rate) for name in names]),
        (
            "steps to target",
            [
                _cell(hit, lambda count: steps(count, more), bold=name == soonest)
                for name, hit in zip(names, hits, strict=True)
            ],
        ),
        ("final loss", _with_intervals(methods, names, "final_loss", rounded, interval, lowest=True)),
        ("held-out loss", _with_intervals(methods, names, "validation_loss", rounded, interval, lowest=True)),
        ("held-out accuracy", _with_intervals(methods, names, "validation_accuracy", _share, _shares, lowest=False)),
        ("memory of its state", [_cell(methods[name].get("state_bytes"), size) for name in names]),
        ("time of a step", [_cell(seconds.get(name), step_time) for name in names]),
    ]
    shown = [(head, cells) for head, cells in columns if any(cell.value != ABSENT for cell in cells)]
    rows = tuple((method_name(name), tuple(cells[k] for _, cells in shown)) for k, name in enumerate(names))
    return Overview(("method", *(head for head, _ in shown)), rows, _note(diagnosis, shown, hits))


def _note(diagnosis: Diagnosis, shown: Sequence[tuple[str, Sequence[Cell]]], hits: Sequence[Any]) -> str:
    said = []
    if (target := diagnosis.training.target_loss) is not None:
        never = f" ({ABSENT}: never met)" if any(hit is None for hit in hits) else ""
        said.append(f"Steps are those to the target loss of {number(target, 3)}{never}, each at its best rate.")
    if any(cell.detail for _, cells in shown for cell in cells):
        said.append("Brackets hold 95% intervals over the orders of the batches.")
    if any(cell.bold for _, cells in shown for cell in cells):
        said.append(
            "Bold: the best of its column, and its interval meets no other one (for steps: the interval of AdaGrad's "
            "speed-up over each other method leaves out 1)."
        )
    return " ".join(said)


def _cell(value: Any, show: Callable[[Any], str], bold: bool = False) -> Cell:
    return Cell(ABSENT) if value is None else Cell(show(value), bold=bold)


def _with_intervals(
    methods: Methods,
    names: Sequence[str],
    key: str,
    show: Callable[[Any, Any], str],
    spread: Callable[[Any], str],
    lowest: bool,
) -> list[Cell]:
    """The values of one key with their intervals; the best one is bold where its interval meets no other."""
    values = [methods[name].get(key) for name in names]
    pairs = [methods[name].get(f"{key}_interval") for name in names]
    best = told_apart(values, pairs, lowest)
    return [
        Cell(ABSENT)
        if value is None
        else Cell(show(value, pair), "" if pair is None or pair[0] == pair[1] else spread(pair), k == best)
        for k, (value, pair) in enumerate(zip(values, pairs, strict=True))
    ]


def told_apart(values: Sequence[float | None], pairs: Sequence[Sequence[float] | None], lowest: bool) -> int | None:
    """Where the best value stands if its interval meets none of the others'; None if one of them has no interval."""
    ran = [k for k, value in enumerate(values) if value is not None]
    ends = {k: pair for k in ran if (pair := pairs[k]) is not None}
    if len(ran) < 2 or len(ends) < len(ran):
        return None
    best = (min if lowest else max)(ran, key=lambda k: float(values[k] or 0.0))
    others = [ends[k] for k in ran if k != best]
    apart = all(ends[best][1] < pair[0] if lowest else ends[best][0] > pair[1] for pair in others)
    return best if apart else None


def _soonest(methods: Methods) -> str | None:
    """AdaGrad where it has the fewest steps and its speed-up over every other method is told from 1; of two methods
    also the other one.
    """
    others = [name for name in methods if name != "adagrad"]
    pairs = [methods[name].get("adagrad_speedup_interval") for name in others]
    hits = {name: hit for name in methods if (hit := methods[name].get("steps_to_target")) is not None}
    if "adagrad" not in hits or not others:
        return None
    if min(hits, key=lambda name: hits[name]) == "adagrad" and all(pair is not None and pair[0] > 1 for pair in pairs):
        return "adagrad"
    return others[0] if len(others) == 1 and pairs[0] is not None and pairs[0][1] < 1 else None


def _share(value: float, pair: Any) -> str:
    return f"{100 * value:.1f}%"


def _shares(pair: Sequence[float]) -> str:
    return f"[{100 * pair[0]:.1f}, {100 * pair[1]:.1f}]"


def step_time(seconds: float) -> str:
    """The time of one step: "0.42 ms", "1.3 ms", "420 ms", from ten seconds on as any duration."""
    if seconds >= 9.95:
        return duration(seconds)
    return f"{number(1000 * seconds, 2)} ms" if seconds < 0.995 else f"{seconds:.2g} s"


def beside_adagrad(methods: Methods) -> Table | None:
    """Each other method beside AdaGrad: the pair's own target, rates and steps, which divide to its speed-up."""
    others = [name for name in in_order(methods) if name != "adagrad"]
    rows = tuple(_beside(name, methods[name]) for name in others if methods[name].get("adagrad_speedup") is not None)
    if not rows:
        return None
    head = (
        "method",
        "AdaGrad's speed-up over it",
        "95% interval",
        "target of the two",
        "its rate",
        "AdaGrad's rate",
        "its steps",
        "AdaGrad's steps",
    )
    note = (
        "Each row is a pair of its own: the target is the worse of the best losses of the two, and its steps over "
        "AdaGrad's are the speed-up."
    )
    return Table("Each method beside AdaGrad", head, rows, note=note, stacked=True)


def _beside(name: str, body: Mapping[str, Any]) -> tuple[str, ...]:
    rates, pair = body.get("adagrad_rates"), body.get("adagrad_steps")
    more = steps_that_divide(pair, body.get("adagrad_speedup"))
    spread = body.get("adagrad_speedup_interval")
    return (
        method_name(name),
        ratio(body.get("adagrad_speedup")),
        ABSENT if spread is None else ratio_interval(spread),
        ABSENT if body.get("adagrad_target") is None else number(body["adagrad_target"]),
        *((ABSENT, ABSENT) if rates is None else map(rate, rates)),
        *((ABSENT, ABSENT) if pair is None else (steps(count, more) for count in pair)),
    )


def tuned(methods: Methods) -> Table:
    """How each method was tuned: the rate that meets the target first, the one that ends lowest, and their width."""
    rows = tuple(
        (
            method_name(name),
            rate(body.get("learning_rate")),
            ABSENT if body.get("lowest_loss_rate") is None else rate(body["lowest_loss_rate"]),
            ABSENT if body.get("lowest_loss") is None else number(body["lowest_loss"]),
            ("at least " if body.get("tuning_range_at_least") else "") + number(body.get("tuning_range"), 2),
            ABSENT if body.get("orders") is None else number(body["orders"]),
        )
        for name in in_order(methods)
        for body in (methods[name],)
    )
    head = (
        "method",
        "rate that meets the target first",
        "rate that ends lowest",
        "lowest loss",
        "tuning range (decades)",
        "orders of the batches",
    )
    return Table("How each method was tuned", head, rows, stacked=True)
