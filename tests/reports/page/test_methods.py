"""The methods that ran: the first figure, the table of all, each beside AdaGrad, the speed-up by target, tuning."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from html import unescape
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.page import answer, hero, race, targets
from reports.page.curves import best_curves, orders
from reports.page.methods import beside_adagrad, overview, told_apart, tuned
from reports.page.page import render
from reports.page.race import Chosen
from reports.page.svg import spread_out
from reports.record.diagnosis import Diagnosis
from reports.words.numbers import ratio, steps, steps_that_divide
from tests.reports import made


def raced(sgd: float | None, adagrad: float | None, **more: Any) -> Diagnosis:
    """The finished task with other steps to the target of the pair, and the speed-up that they make."""
    base = made.finished()
    methods = {name: dict(body) for name, body in (base.training.methods or {}).items()}
    methods["sgd"]["steps_to_target"], methods["adagrad"]["steps_to_target"] = sgd, adagrad
    speedup = None if sgd is None or adagrad is None else sgd / adagrad
    return replace(base, training=replace(base.training, methods=methods, speedup=speedup, **more))


def texts(svg: str) -> list[str]:
    return [unescape(re.sub(r"<[^>]+>", "", found)) for found in re.findall(r"<text.*?</text>", svg, re.DOTALL)]


def column(diagnosis: Diagnosis, head: str) -> dict[str, Any]:
    """A column of the table of all methods: name -> cell."""
    table = overview(diagnosis)
    assert table is not None
    at = table.head.index(head) - 1
    return {name: cells[at] for name, cells in table.rows}


def count(text: str) -> float:
    return float(text.replace(",", ""))


@pytest.mark.parametrize(("sgd", "adagrad"), [(500.0, 190.0), (467.5, 250.0), (37.26, 9.04), (12_345.6, 1_000.4)])
def test_figure_table_and_headline_name_the_same_steps(sgd: float, adagrad: float) -> None:
    diagnosis = raced(sgd, adagrad)
    cells = column(diagnosis, "steps to target")
    first, second = cells["SGD"].value, cells["AdaGrad"].value
    assert ratio(count(first) / count(second)) == ratio(sgd / adagrad)
    figure = answer.losses(diagnosis)
    assert figure is not None
    said = f"the same loss after {second} steps instead of {first}"
    assert said in texts(figure.svg)
    assert figure.caption.startswith(f"AdaGrad at a rate of 0.1 reaches {said} with SGD at 1: ")


def test_where_sgd_is_ahead_the_sentence_is_turned() -> None:
    figure = answer.losses(raced(190.0, 500.0))
    assert figure is not None
    assert "the same loss after 190 steps instead of 500" in texts(figure.svg)
    assert figure.caption.startswith(
        "SGD at a rate of 1 reaches the same loss after 190 steps instead of 500 with AdaGrad"
    )


@pytest.mark.parametrize(("sgd", "adagrad"), [(None, 190.0), (500.0, None), (200.0, 200.0)])
def test_no_bracket_where_a_method_never_meets_the_target_or_both_need_as_many_steps(
    sgd: float | None, adagrad: float | None
) -> None:
    figure = answer.losses(raced(sgd, adagrad))
    assert figure is not None
    assert not [text for text in texts(figure.svg) if "same loss" in text]
    assert "reaches the same loss" not in figure.caption


def test_the_figure_marks_the_start_and_names_all_methods() -> None:
    figure = answer.losses(made.finished())
    assert figure is not None
    shown = texts(figure.svg)
    assert "f(w₀) = 2.30" in shown
    assert {"AdaGrad", "SGD", "AdaGrad-Norm", "Adam"} <= set(shown)
    assert "loss (logarithmic)" in shown
    assert "step" in shown
    assert figure.data.rows[0][1] == "0"


def test_a_loss_that_is_not_positive_or_spans_little_has_a_linear_axis() -> None:
    base = made.finished()
    for shift in (-1.0, 10.0):
        runs = [{**row, "loss": None if row["loss"] is None else row["loss"] + shift} for row in base.runs]
        figure = answer.losses(replace(base, runs=runs))
        assert figure is not None
        assert "loss" in texts(figure.svg)
        assert "loss (logarithmic)" not in texts(figure.svg)


def test_lines_are_means_over_the_orders_that_each_rate_has() -> None:
    runs = [
        *made.rows(("sgd", "adagrad"), seeds=8),
        *(row for row in made.rows(("adam",), seeds=8) if row["seed"] < 4),
    ]
    curves = best_curves(runs, made.finished().training.methods)
    assert [one.values.shape[0] for one in curves] == [8, 8, 4]
    assert orders(curves) == (
        "Lines are means over 8 orders of the batches (Adam 4), bands from the lowest to the highest."
    )
    assert orders(best_curves(made.rows(("sgd",), seeds=1), {"sgd": {"learning_rate": 1.0}})) == "Each line is one run."


def test_columns_without_any_value_are_left_out() -> None:
    table = overview(made.finished())
    assert table is not None
    assert table.head == (
        "method",
        "best rate",
        "steps to target",
        "final loss",
        "held-out loss",
        "held-out accuracy",
        "memory of its state",
        "time of a step",
    )
    base = made.finished()
    gone = ("validation_loss", "validation_loss_interval", "validation_accuracy", "validation_accuracy_interval")
    methods = {
        name: {key: value for key, value in body.items() if key not in gone}
        for name, body in (base.training.methods or {}).items()
    }
    less = replace(base, training=replace(base.training, methods=methods), cost=replace(base.cost, step_seconds=None))
    table = overview(less)
    assert table is not None
    assert table.head == ("method", "best rate", "steps to target", "final loss", "memory of its state")
    some = replace(base, cost=replace(base.cost, step_seconds={"sgd": 0.0011}))
    assert [cell.value for cell in column(some, "time of a step").values()] == ["—", "1.1 ms", "—", "—"]


def test_bold_is_what_is_told_apart_from_every_other() -> None:
    assert told_apart([1.0, 2.0, 3.0], [(0.9, 1.1), (1.5, 2.5), (2.5, 3.5)], lowest=True) == 0
    assert told_apart([1.0, 2.0, 3.0], [(0.9, 1.6), (1.5, 2.5), (2.5, 3.5)], lowest=True) is None
    assert told_apart([1.0, 2.0, 3.0], [(0.9, 1.6), (1.5, 2.4), (2.5, 3.5)], lowest=False) == 2
    assert told_apart([1.0, None, 3.0], [(0.9, 1.6), None, (2.5, 3.5)], lowest=True) == 0
    assert told_apart([1.0, 2.0, 3.0], [(0.9, 1.1), None, (2.5, 3.5)], lowest=True) is None
    assert told_apart([1.0], [(0.9, 1.1)], lowest=True) is None
    cells = column(made.finished(), "final loss")
    assert {name: cell.bold for name, cell in cells.items()} == {
        "AdaGrad": False,
        "SGD": False,
        "AdaGrad-Norm": False,
        "Adam": True,
    }
    assert not any(cell.bold for cell in column(made.finished(), "held-out accuracy").values())


def test_steps_are_bold_where_adagrad_is_told_from_every_other_and_has_the_fewest() -> None:
    base = made.finished()
    assert not any(cell.bold for cell in column(base, "steps to target").values())  # Adam needs fewer
    methods = {name: dict(body) for name, body in (base.training.methods or {}).items()}
    methods["adam"]["steps_to_target"] = 300.0
    ahead = replace(base, training=replace(base.training, methods=methods))
    assert column(ahead, "steps to target")["AdaGrad"].bold
    methods["adam"]["adagrad_speedup_interval"] = (0.9, 1.5)
    assert not column(ahead, "steps to target")["AdaGrad"].bold


@given(st.floats(0.3, 30_000), st.floats(0.3, 30_000))
def test_printed_steps_divide_to_the_printed_speed_up(first: float, second: float) -> None:
    more = steps_that_divide((first, second), first / second)
    printed = [count(steps(value, more)) for value in (first, second)]
    assert ratio(printed[0] / printed[1]) == ratio(first / second)
    assert ratio(printed[1] / printed[0]) == ratio(second / first)


def test_each_pair_has_its_own_target_rates_and_steps() -> None:
    methods = {name: dict(body) for name, body in (made.finished().training.methods or {}).items()}
    methods["adam"] |= {
        "adagrad_speedup": 0.8,
        "adagrad_target": 0.31,
        "adagrad_rates": [0.01, 0.178],
        "adagrad_steps": [160.0, 200.0],
    }
    table = beside_adagrad(methods)
    assert table is not None
    assert [row[0] for row in table.rows] == ["SGD", "AdaGrad-Norm", "Adam"]
    assert table.rows[2] == ("Adam", "0.80×", "[1.20, 1.6]", "0.3100", "0.01", "0.178", "160", "200")
    older = {name: {k: v for k, v in body.items() if k[:8] != "adagrad_"} for name, body in methods.items()}
    assert beside_adagrad(older) is None


def test_the_rate_that_ends_lowest_stands_beside_the_one_that_meets_the_target_first() -> None:
    base = made.finished()
    methods = {name: dict(body) for name, body in (base.training.methods or {}).items()}
    methods["adagrad"] |= {"learning_rate": 0.1, "lowest_loss_rate": 0.0562}
    row = next(row for row in tuned(methods).rows if row[0] == "AdaGrad")
    assert row[1:3] == ("0.1", "0.0562")
    rates = {"adagrad": answer_rates(base)}
    plain = race.tuning("t", rates, {"adagrad": Chosen(0.1, None)}, 2.3)
    ringed = race.tuning("t", rates, {"adagrad": Chosen(0.1, 0.1 * 10**-0.25)}, 2.3)
    assert plain != ringed
    none = race.tuning("t", rates, {"adagrad": Chosen(None, None)}, 2.3)
    assert "AdaGrad" in texts(plain)
    assert "AdaGrad" not in texts(none)


def answer_rates(diagnosis: Diagnosis) -> Any:
    from reports.page.curves import tuning

    return tuning(diagnosis.runs)["adagrad"]


def test_the_speed_up_by_target() -> None:
    figure = answer.by_target(made.finished())
    assert figure is not None
    assert figure.caption.startswith("SGD's steps over AdaGrad's: 1.20× to a loss of 1.70, 1.9× to 0.487.")
    assert "target loss: training goes to the right →" in texts(figure.svg)
    assert figure.data.rows[0] == ("1.700", "1.20×", "[0.95, 1.5]")
    assert 'id="by-target-caption"' in render(made.finished()).partition('id="trust"')[0]


@pytest.mark.parametrize(
    "rows",
    [
        None,
        [],
        [{"loss": 1.0, "speedup": 1.2, "interval": None}],
        [{"loss": 1.0, "speedup": None, "interval": None, "why": {"speedup": "sgd never met it"}}] * 3,
    ],
)
def test_no_figure_by_target_without_two_speed_ups(rows: Any) -> None:
    base = made.finished()
    assert answer.by_target(replace(base, training=replace(base.training, speedup_by_target=rows))) is None


def test_targets_without_interval_or_above_zero_are_drawn() -> None:
    base = made.finished()
    for losses in ((2.0, 1.0), (2.0, -1.0), (1.0, 1.0)):
        rows = [{"loss": loss, "speedup": 1.5, "interval": None} for loss in losses]
        figure = answer.by_target(
            replace(base, training=replace(base.training, speedup_by_target=rows, target_loss=losses[-1]))
        )
        assert figure is not None
        assert "the band" not in figure.caption
        assert {row[2] for row in figure.data.rows} == {"—"}
    wide = [{"loss": loss, "speedup": 1.5, "interval": (1e-9, 1e9)} for loss in (2.0, 1.0)]
    assert targets.drawing("t", wide, None, None)


def test_assumptions_have_a_mark_besides_colour_and_take_the_figures_place_without_training() -> None:
    trained, untrained = render(made.finished()), render(made.untrained())
    for html in (trained, untrained):
        assert "✓ supported" in html
        assert "✗ not supported" in html
        assert "? not testable here" in html
        assert html.count("What the theory assumes, and whether") == 1
    assert "What the theory assumes" not in trained.partition("</header>")[0]
    assert "What the theory assumes: 1 supported, 1 not testable here, 1 not supported" in trained
    first = untrained.partition("</header>")[0]
    assert "What the theory assumes, and whether" in first
    assert "<svg" not in first
    base = made.untrained()
    older = render(replace(base, verdict=replace(base.verdict, assumptions=None)))
    assert "<svg" in older.partition("</header>")[0]  # the strip of ratios


def test_ratios_with_the_distances_of_the_runs_take_no_side() -> None:
    html = render(made.finished())
    (drawn,) = re.findall(r'<svg[^>]*aria-labelledby="strip-caption".*?</svg>', html, re.DOTALL)
    shown = texts(drawn)
    assert "1.31 (takes no side)" in shown
    assert "0.820 (takes no side)" in shown
    assert sum("(neutral" in text for text in shown) == 3
    assert "3 of 3 ratios lie on AdaGrad&#39;s side" in html


@given(st.lists(st.floats(-2, 3), min_size=1, max_size=12), st.floats(0.01, 0.3))
def test_labels_are_spread_inside_and_apart(heights: list[float], gap: float) -> None:
    at = spread_out(sorted(heights), gap)
    gap = min(gap, 1 / (len(at) - 1)) if len(at) > 1 else gap
    assert all(-1e-9 <= height <= 1 + 1e-9 for height in at)
    assert all(second - first >= gap - 1e-9 for first, second in itertools.pairwise(at))


def test_a_long_name_has_room_at_the_end_of_its_line() -> None:
    base = made.finished()
    runs = [{**row, "method": "adagrad-momentum"} if row["method"] == "adam" else row for row in base.runs]
    methods = {("adagrad-momentum" if n == "adam" else n): body for n, body in (base.training.methods or {}).items()}
    curves = best_curves(runs, methods)
    svg = hero.losses("h", curves, 2.3, None, None)
    assert "AdaGrad with momentum" in texts(svg)
