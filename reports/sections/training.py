"""Section 4.5: the tuned race."""

from __future__ import annotations

from diagnose.schema import Diagnosis
from reports import race
from reports.curves import best_curves, in_order, tuning
from reports.numbers import number, rate, ratio, ratio_interval
from reports.sections.parts import Figure, Section, cost
from reports.tables import Quantity, Table, of_curves, of_methods, of_rates, quantity
from reports.text import best_line, method_name, stage_line


def training(diagnosis: Diagnosis) -> Section:
    """The tuned race of all methods."""
    part, runs = diagnosis.training, diagnosis.runs
    methods = part.methods or {}
    curves, rates = best_curves(runs, methods), {m: r for m, r in tuning(runs).items() if m in methods}
    pictures: list[Figure] = []
    if curves:
        order = sorted(curves, key=lambda c: float(c.mean[-1]))
        caption = (
            f"At its best rate {method_name(order[0].method)} ends lowest, at {number(float(order[0].mean[-1]))}; "
            f"{method_name(order[-1].method)} ends highest, at {number(float(order[-1].mean[-1]))}. "
            f"{band(curves[0].values.shape[0])}"
        )
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
    tables = [of_methods("Each method at its best learning rate", methods, in_order(methods))] if methods else []
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
            quantity(
                part, "speedup", "speed-up", "SGD's steps over AdaGrad's, geometric mean over the seeds", show=ratio
            )
            if part.speedup_interval is None
            else Quantity(
                "speed-up",
                ratio(part.speedup),
                f"95% interval {ratio_interval(part.speedup_interval)}",
                "SGD's steps over AdaGrad's, geometric mean over the seeds",
            ),
            quantity(part, "steps", "T", "steps of every run"),
            quantity(part, "initial_loss", "f(w₀)", "loss of the samples at the start"),
            quantity(part, "target_loss", "target", "the worse of the final losses of SGD and AdaGrad"),
        ),
        tables=tuple(tables),
        cost=cost(diagnosis, "training"),
    )


def band(seeds: int) -> str:
    """How the lines of a loss figure are to be read."""
    return (
        "One seed." if seeds == 1 else f"Lines are means over {seeds} seeds, bands from the lowest to the highest seed."
    )
