"""Whatever the numbers of a task are: what was measured opens again, and what is not finite is null with its reason."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import diagnose
from diagnose.errors import InputError
from diagnose.finite import finite, not_finite, storable
from estimators.results import Noise, Spectrum, absent
from reports import render
from reports.record.checks import impossible
from reports.record.diagnosis import Diagnosis, Training
from reports.record.schema import fault
from tests.markers import marked

N = 24


def rows(seed: int = 0) -> Tensor:
    return torch.randn(N, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def columns(**changed: Any) -> Tensor:
    """Three columns of ordinary numbers, the last replaced."""
    x = rows()
    x[:, 2] = changed["last"](torch.rand(N, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    return x


SIGNS = torch.where(rows()[:, 0] > 0, 1.0, -1.0).double()
TASKS: dict[str, tuple[Tensor, Tensor, str]] = {
    "milliseconds": (columns(last=lambda u: 1.7e12 + 1e9 * u), SIGNS, "logistic"),
    "hashes": (columns(last=lambda u: (u * 2**63).floor()), SIGNS, "logistic"),
    "1e20": (columns(last=lambda u: 1e20 * (u - 0.5)), SIGNS, "logistic"),
    "1e-30": (1e-30 * rows(), SIGNS, "logistic"),
    "1e-200": (1e-200 * rows(), SIGNS, "logistic"),
    "constant columns": (torch.ones(N, 3, dtype=torch.float64), SIGNS, "logistic"),
    "zeros": (torch.zeros(N, 3, dtype=torch.float64), torch.zeros(N, 1, dtype=torch.float64), "squared"),
    "equal labels": (rows(), torch.full((N, 1), 3.5, dtype=torch.float64), "squared"),
    "labels of 0": (rows(), torch.zeros(N, 1, dtype=torch.float64), "squared"),
    "labels of 1e18": (rows(), 1e18 * rows(2)[:, :1], "squared"),
    "labels of 1e152": (rows(), 1e152 * rows(2)[:, :1], "squared"),
    "one sample": (rows()[:1], torch.ones(1, 1, dtype=torch.float64), "squared"),
    "one feature": (rows()[:, :1], SIGNS, "logistic"),
}


def linear(width: int, dtype: torch.dtype, hidden: bool) -> nn.Module:
    torch.manual_seed(0)
    inner: list[nn.Module] = [nn.Linear(width, 4), nn.Tanh(), nn.Linear(4, 1)] if hidden else [nn.Linear(width, 1)]
    return nn.Sequential(*inner).to(dtype)


def nulls(value: Any, why: Any = None, key: str = "", path: str = "") -> Iterator[str]:
    """Paths of nulls without a reason, and of numbers that are not finite."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name != "why":
                yield from nulls(inner, value.get("why") or {}, name, f"{path}.{name}")
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            if inner is not None:
                yield from nulls(inner, why, key, f"{path}[{place}]")
    elif value is None and not (isinstance(why, dict) and why.get(key)):
        yield f"{path} has no reason"
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{path} is {value}"


CASES = [
    *((name, torch.float32, False) for name in TASKS if name != "labels of 1e152"),
    *((name, torch.float64, False) for name in ("hashes", "1e20", "1e-200", "labels of 1e152")),
    *((name, torch.float32, True) for name in ("milliseconds", "1e20", "zeros", "labels of 1e18")),
]


FAST = [
    ("milliseconds", torch.float32, False),
    ("zeros", torch.float32, True),
    ("labels of 1e152", torch.float64, False),
]


@pytest.mark.parametrize(("name", "dtype", "hidden"), marked("sweep", CASES, FAST))
def test_whatever_the_numbers_the_result_opens_again(
    name: str, dtype: torch.dtype, hidden: bool, tmp_path: Path
) -> None:
    x, y, loss = TASKS[name]
    folder = tmp_path / "d"

    def run() -> Diagnosis:
        how: dict[str, Any] = {"steps": 8, "batch_size": 8, "optimizers": ["sgd", "adagrad"], "probes": 4}
        samples = x.to(dtype), y.to(dtype)
        return diagnose.run(linear(x.shape[1], dtype, hidden), samples, loss=loss, out=str(folder), **how)

    refused = None
    try:
        found = run()
    except InputError as error:
        refused = error
    if refused is None:
        assert found.status == "finished"
        assert (folder / "report.html").read_text(encoding="utf-8") == render(Diagnosis.load(folder))
        assert json.dumps(run().to_json()) == json.dumps(found.to_json())
    else:
        # What float32 cannot hold is refused in words, before or between stages; what was stored is readable.
        assert dtype == torch.float32
        assert "float64" in refused.hint
        if not (folder / "result.json").exists():
            return
        found = Diagnosis.load(folder)
        assert render(found)
    body = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    for part in ("noise", "smoothness", "spectrum", "hessian_diagonal", "bounds", "training", "generalized_smoothness"):
        assert not list(nulls(body[part], path=part))
    assert all(np.isfinite(array).all() for part in found.vectors.values() for array in part.values())


@pytest.mark.parametrize("optimizers", [["sgd"], ["sgd", "adagrad"], ["adagrad", "sgd", "adam"]])
def test_a_race_in_which_every_rate_diverges_is_told(optimizers: list[str], tmp_path: Path) -> None:
    """Before: TypeError after all the work, no page, and a folder that stayed broken."""
    x, out = rows(), str(tmp_path / "d")
    model, how = linear(3, torch.float64, True), {"steps": 20, "optimizers": optimizers, "learning_rates": [1e3]}
    # Steps of 1000 in each of which the cube of the output grows.
    found = diagnose.run(model, (x, rows(1)[:, :1]), loss=cubed, out=out, **how)
    assert {w.code for w in found.warnings} >= {"all-runs-diverged"}
    assert found.verdict.answer == "undecided"
    assert json.dumps(Diagnosis.load(out).to_json()) == json.dumps(found.to_json())
    assert (tmp_path / "d" / "report.html").read_text(encoding="utf-8") == render(Diagnosis.load(out))
    for row in (found.training.methods or {}).values():
        assert row["final_loss"] is None
        assert "diverged" in row["why"]["final_loss"]


def cubed(output: Tensor, targets: Tensor) -> Tensor:
    return (output - targets).abs().pow(3).sum(1)


def test_the_command_of_the_report_is_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diagnose.command import cli

    monkeypatch.chdir(tmp_path)
    task = ["mlp", "--data", "diabetes", "--loss", "squared", "--samples", "64"]
    words = [*task, "--learning-rates", "10", "--steps", "20", "--out", "d"]
    assert cli.main(words) == 0
    assert cli.main(words) == 0
    assert cli.main(["report", "d"]) == 0


NOISE = replace(absent(Noise, "unknown"), l1=1.0, l2=2.0, l1_interval=(0.5, 1.5), why={"density": "unknown"})


def test_a_part_without_such_numbers_is_left_alone() -> None:
    assert storable(NOISE, "noise", "float32") == (NOISE, [])


@pytest.mark.parametrize(
    ("change", "places", "said"),
    [
        ({"l1": math.inf}, ["noise.l1"], "infinite"),
        ({"l1": math.nan}, ["noise.l1"], "not a number"),
        ({"l2": -1e300}, ["noise.l2"], "1e+300 or more"),
        ({"l1_interval": (0.5, math.inf)}, ["noise.l1_interval"], "infinite"),
        ({"l1": math.inf, "l2": math.inf}, ["noise.l1", "noise.l2"], "range of float32"),
    ],
)
def test_a_number_that_is_not_finite_is_null_with_its_reason(
    change: dict[str, Any], places: list[str], said: str
) -> None:
    part, found = storable(replace(NOISE, **change), "noise", "float32")
    assert found == places
    for place in places:
        key = place.removeprefix("noise.")
        assert getattr(part, key) is None
        assert said in part.why[key]
    assert part.why["density"] == "unknown"


def test_inside_objects_and_rows_the_reason_stands_beside_the_key() -> None:
    batches = [{"batch_size": 1, "l1": 2.0, "l2": 1.0}, {"batch_size": 4, "l1": math.inf, "l2": 0.5}]
    tails = {"median": math.nan, "lower": 1.0, "upper": 2.0}
    part, found = storable(replace(NOISE, batch_scaling=batches, tail_index=tails), "noise", "float32")
    assert found == ["noise.tail_index.median", "noise.batch_scaling[1].l1"]
    first, second = part.batch_scaling or ({}, {})
    assert first == batches[0]
    said: Any = second
    assert said["l1"] is None
    assert "infinite" in said["why"]["l1"]
    reasons: Any = (part.tail_index or {})["why"]
    assert "not a number" in reasons["median"]


def test_a_list_of_numbers_is_one_value() -> None:
    values = replace(absent(Spectrum, "unknown"), eigenvalues=[1.0, math.inf], why={})
    part, found = storable(values, "spectrum", "float64")
    assert part.eigenvalues is None
    assert found == ["spectrum.eigenvalues"]


def test_vectors_with_such_numbers_are_absent() -> None:
    good, bad = np.ones(3), np.array([1.0, np.nan])
    assert finite({"noise": {"w": good}, "smoothness": {"w": good, "b": bad}}) == (
        {"noise": {"w": good}},
        ["smoothness"],
    )


def test_not_finite_names_what_is_missing() -> None:
    assert not_finite("noise", [], "float32") == ()
    (finding,) = not_finite("noise", ["noise.l1", "noise.l2"], "float32")
    assert finding.code == "not-finite"
    assert "2 values are not finite: `noise.l1`, `noise.l2`" in finding.found
    assert "`--dtype float64`" in finding.action
    (finding,) = not_finite("noise", [f"noise.{k}" for k in range(9)], "float64")
    assert "and 3 more" in finding.found
    assert "--dtype" not in finding.action


def test_reasons_are_no_values() -> None:
    """A reason stands under the name of its value; it was read as one."""
    row = {"final_loss": None, "final_loss_interval": None, "why": {"final_loss": "a", "final_loss_interval": "b"}}
    assert impossible(row) is None
    part = absent(Training, "training was off")
    body = {"training": {"methods": {"sgd": row}, "why": dict(part.why)}}
    assert fault(json.dumps(body), Diagnosis) is None
