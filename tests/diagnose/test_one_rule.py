"""Headline, figure, table, advice and result.json say the numbers of one rule, worked out anew from runs.csv."""

from __future__ import annotations

import csv
import html
import json
import math
import re
from typing import Any, NamedTuple

import pytest

import diagnose
from reports.words.numbers import rate, ratio
from tests.markers import marked
from tests.race_rule import Rule, rule, standard_error

SKIPPED = ("smoothness", "spectrum", "hessian-diagonal", "generalized-smoothness")
CASES: dict[str, dict[str, Any]] = {
    "linear": {"model": "logreg", "data": "breast-cancer", "steps": 200},
    "network": {"model": "mlp", "data": "wine", "steps": 60, "seeds": 4},
    "pair": {"model": "softmax", "data": "iris", "steps": 150, "optimizers": ("sgd", "adagrad"), "seeds": 6},
    "full batch": {"model": "softmax", "data": "wine", "steps": 60, "batch_size": 178},
}


class Ran(NamedTuple):
    """A finished folder: its result, the rows of runs.csv, its page as text, and the rule on those rows."""

    result: dict[str, Any]
    rows: list[dict[str, Any]]
    page: str
    expected: Rule


@pytest.fixture(scope="module", params=marked("sweep", CASES, ["linear", "pair"]))
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    case = CASES[request.param]
    folder = tmp_path_factory.mktemp("ran")
    diagnose.run(case["model"], case["data"], out=str(folder), skip=SKIPPED, **dict(list(case.items())[2:]))
    with (folder / "runs.csv").open(newline="", encoding="utf-8") as file:
        rows: list[dict[str, Any]] = [
            {
                "method": row["method"],
                "learning_rate": float(row["learning_rate"]),
                "seed": int(row["seed"]),
                "step": int(row["step"]),
                "loss": float(row["loss"]) if row["loss"] else None,
                "diverged": row["diverged"] == "True",
            }
            for row in csv.DictReader(file)
        ]
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    pair = [result["training"]["methods"][name] for name in ("sgd", "adagrad")]
    told = max(entry["loss_resolution"] for entry in pair)
    text = re.sub(r"<(style|svg|math).*?</\1>", " ", (folder / "report.html").read_text(encoding="utf-8"), flags=re.S)
    page = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())
    noisy = result["task"]["batch_size"] < result["task"]["training_rows"]
    return Ran(result, rows, page, rule(rows, resolution=told, smooth=noisy))


def test_result_json_holds_the_rule(ran: Ran) -> None:
    training, expected = ran.result["training"], ran.expected
    assert training["target_loss"] == pytest.approx(expected.target, rel=1e-5)
    assert training["speedup"] == pytest.approx(math.exp(expected.log_speedup), rel=1e-3)
    sgd, adagrad = (training["methods"][name] for name in ("sgd", "adagrad"))
    assert (sgd["learning_rate"], adagrad["learning_rate"]) == pytest.approx(expected.rates)
    assert (sgd["steps_to_target"], adagrad["steps_to_target"]) == pytest.approx(expected.steps, rel=1e-3)
    assert sgd["steps_to_target"] / adagrad["steps_to_target"] == pytest.approx(training["speedup"], rel=1e-9)
    assert sgd["adagrad_speedup"] == training["speedup"]
    last = training["speedup_by_target"][-1]
    assert (last["loss"], last["speedup"]) == pytest.approx((training["target_loss"], training["speedup"]))


def test_every_pair_is_by_the_rule(ran: Ran) -> None:
    for name, entry in ran.result["training"]["methods"].items():
        if name == "adagrad":
            continue
        adagrad = ran.result["training"]["methods"]["adagrad"]
        told = max(entry["loss_resolution"], adagrad["loss_resolution"])
        # A pair is compared on the orders that both have.
        orders = range(min(entry["orders"], adagrad["orders"]))
        noisy = ran.result["task"]["batch_size"] < ran.result["task"]["training_rows"]
        expected = rule(ran.rows, name, orders, told, noisy)
        assert entry["adagrad_target"] == pytest.approx(expected.target, rel=1e-4)
        assert entry["adagrad_speedup"] == pytest.approx(math.exp(expected.log_speedup), rel=1e-2)
        assert entry["adagrad_steps"][0] / entry["adagrad_steps"][1] == pytest.approx(entry["adagrad_speedup"])


def test_the_last_look_is_the_answer(ran: Ran) -> None:
    training = ran.result["training"]
    last = training["looks"][-1]
    assert last["orders"] == ran.result["task"]["seeds"]
    assert (last["speedup"], last["interval"]) == (training["speedup"], training["speedup_interval"])
    assert last["answer"] == ran.result["verdict"]["answer"]


def test_the_interval_is_that_of_the_halves(ran: Ran) -> None:
    training, orders = ran.result["training"], ran.result["task"]["seeds"]
    if orders == 1:
        assert training["speedup_interval"] is None
        assert "every order" in training["why"]["speedup_interval"]
    elif math.comb(orders, orders // 2) <= 200:
        error = standard_error(ran.rows, orders)
        assert training["speedup_se"] == pytest.approx(error, rel=0.02, abs=1e-6)


def test_the_page_says_the_same_numbers(ran: Ran) -> None:
    training, answer = ran.result["training"], ran.result["verdict"]["answer"]
    shown = 1 / training["speedup"] if answer == "sgd" else training["speedup"]
    headline = ran.page[ran.page.index(" on ") : ran.page.index("Why")]
    assert ratio(shown) in headline
    sgd, adagrad = (training["methods"][name] for name in ("sgd", "adagrad"))
    table = headline[headline.index("method best rate steps to target") :]
    cells = re.search(r"AdaGrad (\S+) ([0-9.,]+) .*? SGD (\S+) ([0-9.,]+) ", table)
    assert cells is not None
    assert (cells[1], cells[3]) == (rate(adagrad["learning_rate"]), rate(sgd["learning_rate"]))
    # Rows divide, and the bracket of the figure says the same steps.
    steps = [float(cell.replace(",", "")) for cell in (cells[4], cells[2])]
    assert ratio(steps[0] / steps[1]) == ratio(training["speedup"])
    low, high = sorted((cells[2], cells[4]), key=lambda cell: float(cell.replace(",", "")))
    if low != high:
        assert f"the same loss after {low} steps instead of {high}" in headline


def test_the_advice_names_the_rates_that_are_printed(ran: Ran) -> None:
    answer, advice = ran.result["verdict"]["answer"], ran.result["verdict"]["advice"]
    methods = ran.result["training"]["methods"]
    if answer in ("sgd", "adagrad"):
        # The steps that the bracket of the figure and the table say.
        assert (found := re.search(r"after (\S+) steps instead of ([0-9.,]+)", advice)) is not None
        assert f"the same loss after {found[1]} steps instead of {found[2].rstrip('.')}" in ran.page
        assert f"a learning rate near {rate(methods[answer]['learning_rate'])}" in advice
    for name in ("sgd", "adagrad"):
        if answer == "no-difference":
            assert rate(methods[name]["learning_rate"]) in advice
