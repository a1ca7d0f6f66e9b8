"""Tables of the page as text cells; numbers are formatted here, laid out in the templates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports.page.curves import Curve, Rate
from reports.page.deciles import group_name, is_output, occurrences
from reports.page.layers import Layer
from reports.words.numbers import bracket, certified, interval, number, percent, rate, ratio, ratio_interval, rounded
from reports.words.sentences import method_name, printable, reason

MOST_ROWS = 60


@dataclass(frozen=True)
class Table:
    """Text cells under a caption that is unique in the page; the first ``text`` columns are left-aligned.

    A ``stacked`` table lays each row out as a block on a narrow screen, and folds away when it is long.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text: int = 1
    note: str = ""
    stacked: bool = False


@dataclass(frozen=True)
class Quantity:
    """One measured quantity: symbol, value, a second line (interval or reason), and what it is."""

    symbol: str
    value: str
    detail: str
    meaning: str


def quantity(
    part: Any,
    key: str,
    symbol: str,
    meaning: str,
    *,
    interval_key: str = "",
    show: Callable[[Any], str] = number,
) -> Quantity:
    """The row of one key of a part: its value to four digits, its interval or why there is none below it."""
    value = getattr(part, key)
    if value is None:
        known = getattr(part, interval_key) if interval_key else None
        if known is not None:
            return Quantity(symbol, interval(known), f"95% interval; no value: {reason(part, key)}", meaning)
        return Quantity(symbol, "not measured", reason(part, key), meaning)
    detail = ""
    if interval_key:
        pair = getattr(part, interval_key)
        if pair is None:
            detail = f"no interval: {reason(part, interval_key)}"
        elif pair[0] == pair[1]:
            detail = "exact"
        else:
            return Quantity(symbol, rounded(value, pair), f"95% interval {interval(pair)}", meaning)
    return Quantity(symbol, show(value), detail, meaning)


def entry(
    body: Mapping[str, Any], key: str, symbol: str, meaning: str, show: Callable[[Any], str] = number
) -> Quantity:
    """The row of one key of a part that is stored as a dict, such as the isotropic pair."""
    if body.get(key) is None:
        return Quantity(symbol, "not measured", str((body.get("why") or {}).get(key, "")), meaning)
    return Quantity(symbol, show(body[key]), "", meaning)


def largest(table: Sequence[Mapping[str, Any]] | None, key: str, symbol: str) -> tuple[list[Mapping[str, Any]], str]:
    """At most 60 rows, the largest ``key`` first, and a sentence that sums those left out."""
    ordered = sorted(table or (), key=lambda row: -(row.get(key) or 0.0))
    kept, left = ordered[:MOST_ROWS], ordered[MOST_ROWS:]
    parameters = sum(row.get("parameters") or 0 for row in left)
    return kept, _left_out(len(left), "tensors", parameters, sum(row.get(key) or 0.0 for row in left), symbol)


def _left_out(count: int, what: str, parameters: int, total: float, symbol: str) -> str:
    """What a table leaves out, summed; nothing where it is whole."""
    if not count:
        return ""
    return (
        f"The {MOST_ROWS} largest are shown. The other {number(count)} {what} have {number(parameters)} parameters "
        f"and {symbol} {number(float(total))} together."
    )


def by_tensor(
    caption: str,
    table: Sequence[Mapping[str, Any]] | None,
    key: str,
    columns: Sequence[tuple[str, str, Callable[[Any], str]]],
) -> Table | None:
    """One row for each tensor with its size and the given (key, heading, format); None without tensors."""
    if not table:
        return None
    kept, note = largest(table, key, next(heading for k, heading, _ in columns if k == key))
    rows = tuple(
        (printable(row.get("name", "")), number(row.get("parameters")), *(show(row.get(k)) for k, _, show in columns))
        for row in kept
    )
    return Table(
        caption, ("tensor", "parameters", *(heading for _, heading, _ in columns)), rows, note=note, stacked=True
    )


def of_layers(caption: str, layers: Sequence[Layer], symbol: str, density: str = "") -> Table:
    """One row for each layer in the network's order, the 60 largest; ``density`` heads l1/(√d·l2) where it is known."""
    ranked = sorted(layers, key=lambda layer: -layer.share)
    kept = {layer.name for layer in ranked[:MOST_ROWS]}
    left = ranked[MOST_ROWS:]
    rows = tuple(
        (
            printable(layer.name),
            number(layer.tensors),
            number(layer.parameters),
            number(layer.l1),
            percent(layer.share),
            *((number(layer.density, 3),) if density else ()),
        )
        for layer in layers
        if layer.name in kept
    )
    head = ("layer", "tensors", "parameters", symbol, "share of the sum", *((density,) if density else ()))
    note = _left_out(len(left), "layers", sum(one.parameters for one in left), sum(one.l1 for one in left), symbol)
    return Table(caption, head, rows, note=note, stacked=True)


def of_deciles(caption: str, groups: Sequence[Mapping[str, Any]], symbol: str, entry_symbol: str) -> Table:
    """One row for each group of tokens, those never seen first."""
    rows = tuple(
        (
            group_name(one),
            occurrences(one),
            number(one.get("tokens")),
            number(one.get("l1")),
            percent(one.get("share")),
            number(one.get("mean")),
            percent(one.get("dead_fraction")),
        )
        for one in groups
    )
    counted = "as a label" if any(map(is_output, groups)) else "seen"
    head = ("tokens", counted, "rows", symbol, "share of the sum", f"mean {entry_symbol}", f"{entry_symbol} = 0")
    return Table(caption, head, rows, stacked=True)


def of_decile_means(caption: str, groups: Sequence[Mapping[str, Any]], symbol: str, entry_symbol: str) -> Table:
    """The numbers of a figure by token frequency."""
    rows = tuple((group_name(one), number(one.get("mean")), percent(one.get("share"))) for one in groups)
    return Table(caption, ("tokens", f"mean {entry_symbol}", f"share of {symbol}"), rows)


def shares(table: Sequence[Mapping[str, Any]] | None, key: str, most: int = 8) -> list[tuple[str, float, float]]:
    """(name, share of the parameters, share of ``key``) of the tensors that hold most of ``key``."""
    known = [row for row in table or () if row.get(key) is not None and row.get("parameters")]
    size, mass = sum(row["parameters"] for row in known), sum(row[key] for row in known)
    if len(known) < 2 or not mass:
        return []
    ordered = sorted(known, key=lambda row: -row[key])[:most]
    return [(str(row.get("name", "")), row["parameters"] / size, row[key] / mass) for row in ordered]


def of_curves(caption: str, curves: Sequence[Curve], what: str = "loss") -> Table:
    """Mean and range over the orders of the batches of each curve at every step drawn."""
    rows = tuple(
        (method_name(one.method), number(int(step)), number(float(mean)), number(float(low)), number(float(high)))
        for one in curves
        for step, mean, low, high in zip(
            one.steps, one.mean, one.values.min(axis=0), one.values.max(axis=0), strict=True
        )
    )
    return Table(caption, ("method", "step", f"{what}, mean", "lowest order", "highest order"), rows)


def of_rates(caption: str, rates: Mapping[str, Sequence[Rate]]) -> Table:
    """Every learning rate that ran with its final loss."""
    rows = tuple(
        (
            method_name(method),
            rate(one.learning_rate),
            f"diverged ({one.diverged} of {one.seeds})" if one.final_loss is None else number(one.final_loss),
            number(one.seeds),
        )
        for method, series in rates.items()
        for one in series
    )
    return Table(caption, ("method", "learning rate", "final loss", "orders of the batches"), rows)


def of_batch_sizes(caption: str, found: Sequence[Mapping[str, Any]]) -> Table:
    """Final losses of SGD and AdaGrad and the speed-up at each batch size of a sweep."""
    rows = []
    for one in found:
        cells = [number(one["batch_size"])]
        for method in ("sgd", "adagrad"):
            body = one["methods"].get(method) or {}
            cells.append(rounded(body.get("final_loss"), body.get("final_loss_interval")))
        rows.append((*cells, ratio(one.get("speedup")), ratio_interval(one.get("speedup_interval"))))
    head = ("batch size", "final loss, SGD", "final loss, AdaGrad", "speed-up", "95% interval")
    return Table(caption, head, tuple(rows))


def of_noise_terms(caption: str, terms: Mapping[str, Mapping[str, Any]]) -> Table:
    """The measured slope of the noise term of each method beside the theory's, and how far larger batches pay."""
    rows = tuple(
        (
            method_name(method),
            number(body.get("slope"), 3),
            interval(body.get("slope_interval")),
            number(body.get("predicted"), 3),
            "not measured"
            if body.get("pays_up_to") is None
            else ("at least " if body.get("pays_at_least") else "") + number(body["pays_up_to"]),
        )
        for method, body in terms.items()
    )
    head = (
        "method",
        "slope in the noise",
        "95% interval",
        "the bound's, constants dropped",
        "a larger batch pays up to",
    )
    return Table(caption, head, rows)


def of_points(caption: str, points: Sequence[Mapping[str, Any]]) -> Table:
    """The bracket, λ, R_L and gradients at points along the runs."""
    rows = []
    for point in points:
        low, high = bracket(point.get("l1_lower"), point.get("l1_upper"))
        rows.append(
            (
                method_name(point.get("method") or "start"),
                number(point.get("step")),
                low,
                high,
                number(point.get("sharpness")),
                certified(point.get("density"), point.get("density_interval"), 3),
                number(point.get("gradient_l1")),
                number(point.get("gradient_l2")),
            )
        )
    head = ("run", "step", "‖L‖₁ at least", "‖L‖₁ at most", "λ", "R_L", "‖∇f‖₁", "‖∇f‖₂")
    return Table(caption, head, tuple(rows))


def of_shares(
    caption: str, found: Sequence[tuple[str, float, float]], quantity_name: str, what: str = "tensor"
) -> Table:
    """The numbers of a figure of tensors or layers."""
    rows = tuple((printable(name), percent(size), percent(mass)) for name, size, mass in found)
    return Table(caption, (what, "share of the parameters", f"share of {quantity_name}"), rows)
