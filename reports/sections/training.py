"""Section 4.5: the tuned race."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from diagnose.schema import Diagnosis
from reports import race
from reports.curves import best_curves, in_order, tuning
from reports.numbers import number, rate, ratio
from reports.sections.parts import Figure, Section, cost
from reports.tables import (
    Quantity,
    Table,
    of_batch_sizes,
    of_curves,
    of_methods,
    of_methods_beside,
    of_noise_terms,
    of_rates,
    quantity,
)
from reports.text import best_line, chosen_other, method_name, spread, stage_line

OVER = "steps over AdaGrad's"


def training(diagnosis: Diagnosis) -> Section:
    """The tuned race of all methods."""
    part, runs = diagnosis.training, diagnosis.runs
    methods = part.methods or {}
    curves, rates = best_curves(runs, methods), {m: r for m, r in tuning(runs).items() if m in methods}
    pictures: list[Figure] = []
    if curves:
        ranked = sorted(curves, key=lambda c: float(c.mean[-1]))
        caption = (
            f"At its best rate {method_name(ranked[0].method)} ends lowest, at {number(float(ranked[0].mean[-1]))}; "
            f"{method_name(ranked[-1].method)} ends highest, at {number(float(ranked[-1].mean[-1]))}. "
            if ranked[1:]
            else f"{method_name(ranked[0].method)} ends at {number(float(ranked[0].mean[-1]))}. "
        )
        caption += f"{band(curves[0].values.shape[0])}"
        pictures.append(
            Figure(
                "race",
                race.race("race", curves, part.target_loss),
                caption,
                of_curves("Losses of all methods, as drawn", curves, "loss"),
            )
        )
    if any(r.final_loss is not None for series in rates.values() for r in series):
        caption = "Best learning rates: " + ", ".join(
            f"{method_name(m)} {rate(methods[m].get('learning_rate'))}" for m in rates
        )
        caption += ". A cross marks a rate at which a run diverged or ended above the axis."
        pictures.append(
            Figure(
                "tuning",
                race.tuning("tuning", rates, part.initial_loss),
                caption,
                of_rates("Final loss by learning rate, as drawn", rates),
            )
        )
    pair = {m: methods[m] for m in ("adagrad", "sgd") if m in methods}
    first, second = best_curves(runs, pair, "gradient_l1"), best_curves(runs, pair, "gradient_l2")
    if first and len(first) == len(second):
        ends = ", ".join(f"{method_name(c.method)} {number(float(c.mean[-1]))}" for c in first)
        caption = f"‖∇f‖₁ at the end of the best run: {ends}."
        data = of_curves("‖∇f‖₁ along the best runs, as drawn", first, "‖∇f‖₁")
        pictures.append(Figure("gradients", race.gradients("gradients", first, second), caption, data))
    tables = []
    if methods:
        order = in_order(methods)
        tables.append(of_methods("Each method at its best learning rate", methods, order))
        tables.append(of_methods_beside("Each method beside AdaGrad, and on held-out samples", methods, order))
    if part.batch_sizes:
        caption = sweep_finding(part.noise_terms or {})
        data = of_batch_sizes("Batch sizes, each with the same number of steps", part.batch_sizes)
        pictures.append(Figure("batch-sizes", race.batch_sizes("batch-sizes", part.batch_sizes), caption, data))
        tables.append(of_noise_terms("The noise term of the bounds", part.noise_terms or {}))
    if part.speedup_seeds:
        found = tuple((number(k), ratio(value)) for k, value in enumerate(part.speedup_seeds))
        tables.append(Table("Speed-up of each seed", ("seed", "SGD's steps over AdaGrad's"), found))
    finding = stage_line("training", part)
    best = best_line(diagnosis)
    return Section(
        id="training",
        title="Training",
        question="When both are tuned alike, how many steps does each need to reach the same loss?",
        finding=finding + (f". {best}." if best else ""),
        remarks=(),
        cautions=(),
        figures=tuple(pictures),
        quantities=(
            _speedup(part, "speedup", "speedup_interval", "speed-up", f"SGD's {OVER}, geometric mean over the seeds"),
            *_best_other(part),
            quantity(part, "steps", "T", "steps of every run"),
            quantity(part, "initial_loss", "f(w₀)", "loss of the samples at the start"),
            quantity(part, "target_loss", "target", "the worse of the final losses of SGD and AdaGrad"),
        ),
        tables=tuple(tables),
        cost=cost(diagnosis, "training"),
    )


def _speedup(part: Any, key: str, interval_key: str, symbol: str, meaning: str) -> Quantity:
    plain, ends = quantity(part, key, symbol, meaning, show=ratio), getattr(part, interval_key)
    return plain if ends is None else replace(plain, detail=spread(ends))


def _best_other(part: Any) -> tuple[Quantity, ...]:
    """AdaGrad's speed-up over the other method that ended lowest; nothing where there was none to choose."""
    if chosen_other(part) is None:
        return ()
    allowed = "" if part.best_other_interval is None else "; its interval allows for the choice"
    meaning = f"{method_name(part.best_other)}'s {OVER}: of the other methods it ended lowest{allowed}"
    return (_speedup(part, "best_other_speedup", "best_other_interval", "over the best other", meaning),)


def sweep_finding(terms: Mapping[str, Mapping[str, Any]]) -> str:
    """Up to which batch size each method gains, as a sentence."""
    said = []
    for method, body in terms.items():
        if body.get("pays_up_to") is None:
            said.append(
                f"for {method_name(method)} it is not known: {body.get('why', {}).get('pays_up_to', 'no reason')}"
            )
        else:
            least = "at least " if body.get("pays_at_least") else ""
            said.append(f"for {method_name(method)} {least}{number(body['pays_up_to'])}")
    return "Up to which size a larger batch ends lower in the same number of steps: " + ", ".join(said) + "."


def band(seeds: int) -> str:
    """How the lines of a loss figure are to be read."""
    return (
        "One seed." if seeds == 1 else f"Lines are means over {seeds} seeds, bands from the lowest to the highest seed."
    )
