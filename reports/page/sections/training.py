"""Section 4.5: the tuned race."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from reports.page import race
from reports.page.curves import Curve, Rate, best_curves, orders, tuning
from reports.page.methods import beside_adagrad, tuned
from reports.page.race import Chosen
from reports.page.sections.parts import Figure, Section, cost
from reports.page.tables import Quantity, Table, of_batch_sizes, of_curves, of_noise_terms, of_rates, quantity
from reports.record.diagnosis import Diagnosis
from reports.words.numbers import number, rate, ratio
from reports.words.sentences import best_line, chosen_other, method_name, spread, stage_line

OVER = "steps over AdaGrad's"
Methods = Mapping[str, Mapping[str, Any]]


def training(diagnosis: Diagnosis) -> Section:
    """The tuned race of all methods."""
    part, runs = diagnosis.training, diagnosis.runs
    methods: Methods = part.methods or {}
    rates = {method: found for method, found in tuning(runs).items() if method in methods}
    curves = best_curves(runs, methods)
    pair = {m: methods[m] for m in ("adagrad", "sgd") if m in methods}
    gradients = best_curves(runs, pair, "gradient_l1"), best_curves(runs, pair, "gradient_l2")
    pictures = (
        *_tuning_figure(methods, rates, part.initial_loss),
        *_race_figure(curves, part.target_loss),
        *_gradients_figure(*gradients),
        *_sweep_figure(part),
    )
    finding, best = stage_line("training", part), best_line(diagnosis)
    return Section(
        id="training",
        title="Training",
        question="When both are tuned alike, how many steps does each need to reach the same loss?",
        finding=finding + (f". {best}." if best else ""),
        remarks=(),
        cautions=(),
        figures=pictures,
        quantities=(
            _speedup(part, "speedup", "speedup_interval", "speed-up", f"SGD's {OVER}, each at its best rate"),
            *_best_other(part),
            quantity(part, "steps", "T", "steps of every run"),
            quantity(part, "initial_loss", "f(w₀)", "loss of the samples at the start"),
            quantity(part, "target_loss", "target", _target(part)),
        ),
        tables=_tables(part, methods),
        cost=cost(diagnosis, "training"),
    )


def _target(part: Any) -> str:
    """What the target loss is, and whether it was raised."""
    raised = "; raised to 1% of the decrease, below which the race is over" if part.target_floored else ""
    return f"the worse of the best final losses of SGD and AdaGrad{raised}"


def _tables(part: Any, methods: Methods) -> tuple[Table, ...]:
    tables = [tuned(methods), beside_adagrad(methods)] if methods else []
    if part.batch_sizes:
        tables.append(of_noise_terms("The noise term of the bounds", part.noise_terms or {}))
    if part.speedup_seeds:
        rows = tuple((number(k), ratio(value)) for k, value in enumerate(part.speedup_seeds))
        head = ("order of the batches", "SGD's steps over AdaGrad's")
        tables.append(Table("Speed-up of each order, at the best rates", head, rows))
    return tuple(table for table in tables if table is not None)


def _race_figure(curves: tuple[Curve, ...], target: float | None) -> tuple[Figure, ...]:
    """The losses over logarithmic steps, where the early part of the runs shows."""
    if not curves:
        return ()
    ranked = sorted(curves, key=lambda one: float(one.mean[-1]))
    ends = [f"{method_name(one.method)} ends at {number(float(one.mean[-1]))}" for one in (ranked[0], ranked[-1])]
    said = f"At its best rate {ends[0]}" + (f", the lowest, and {ends[1]}, the highest" if ranked[1:] else "")
    data = of_curves("Losses of all methods, as drawn", curves)
    return (Figure("race", race.race("race", curves, target), f"{said}. {orders(curves)}", data),)


def _tuning_figure(
    methods: Methods, rates: Mapping[str, tuple[Rate, ...]], initial: float | None
) -> tuple[Figure, ...]:
    """The final loss of each rate, with the rates that result.json names marked."""
    if not any(one.final_loss is not None for series in rates.values() for one in series):
        return ()
    chosen = {m: Chosen(methods[m].get("learning_rate"), methods[m].get("lowest_loss_rate")) for m in rates}
    caption = "Best learning rates: " + ", ".join(
        f"{method_name(m)} {'none' if one.first is None else rate(one.first)}" for m, one in chosen.items()
    )
    caption += ". Large marks: the rates that meet the target first"
    caption += "; rings: those that end lowest" if any(one.lowest is not None for one in chosen.values()) else ""
    caption += ". A cross: a run diverged there or ended above the axis."
    svg = race.tuning("tuning", rates, chosen, initial)
    return (Figure("tuning", svg, caption, of_rates("Final loss by learning rate, as drawn", rates)),)


def _gradients_figure(first: tuple[Curve, ...], second: tuple[Curve, ...]) -> tuple[Figure, ...]:
    if not first or len(first) != len(second):
        return ()
    ends = ", ".join(f"{method_name(one.method)} {number(float(one.mean[-1]))}" for one in first)
    data = of_curves("‖∇f‖₁ at the best rates, as drawn", first, "‖∇f‖₁")
    svg = race.gradients("gradients", first, second)
    return (Figure("gradients", svg, f"‖∇f‖₁ at the end of the runs at the best rates: {ends}.", data),)


def _sweep_figure(part: Any) -> tuple[Figure, ...]:
    if not part.batch_sizes:
        return ()
    data = of_batch_sizes("Batch sizes, each with the same number of steps", part.batch_sizes)
    svg = race.batch_sizes("batch-sizes", part.batch_sizes)
    return (Figure("batch-sizes", svg, sweep_finding(part.noise_terms or {}), data),)


def _speedup(part: Any, key: str, interval_key: str, symbol: str, meaning: str) -> Quantity:
    plain, ends = quantity(part, key, symbol, meaning, show=ratio), getattr(part, interval_key)
    return plain if ends is None else replace(plain, detail=spread(ends))


def _best_other(part: Any) -> tuple[Quantity, ...]:
    """AdaGrad's speed-up over the other method that ended lowest; nothing where there was none to choose."""
    if chosen_other(part) is None:
        return ()
    wider = "" if part.best_other_interval is None else "; as it was picked after the race, its interval is wider"
    meaning = f"{method_name(part.best_other)}'s {OVER}: of the other methods it ended lowest{wider}"
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
