"""The run as a whole: contracts of the folder, resuming, the Python API, verdicts with a known answer."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import diagnose
from diagnose import pipeline
from diagnose.errors import InputError
from diagnose.inputs import open_task
from diagnose.planning import plan
from diagnose.settings import SKIPPABLE, Settings
from diagnose.stages.bench import Bench, Update
from diagnose.stages.order import STAGES
from diagnose.stages.smoothness import whole_data
from diagnose.store import Store
from diagnose.training.runs import Leg, MemoryStore
from estimators import Problem, smoothness
from estimators.curvature.lanczos import MAX_STEPS
from estimators.results import NONE_MISSED
from estimators.task import memory_limit
from reports.record.diagnosis import PARTS, Diagnosis
from tests.estimators.task.test_memory_limit import Held, language_model
from tests.markers import marked

QUICK: dict[str, Any] = {"steps": 20, "seeds": 3, "samples": 120}
PAIR: dict[str, Any] = {"optimizers": ("sgd", "adagrad"), "skip": ("generalized-smoothness",)}
"""What a verdict takes, and no more."""


class Quadratic(nn.Module):
    """l_i(w) = 1/2 sum_j h_j (w_j - w*_j - e_ij)^2, from w = 0; the loss is the output."""

    def __init__(self, curvature: Tensor, solution: Tensor) -> None:
        super().__init__()
        self.h: Tensor
        self.solution: Tensor
        self.w = nn.Parameter(torch.zeros_like(curvature))
        self.register_buffer("h", curvature)
        self.register_buffer("solution", solution)

    def forward(self, noise: Tensor) -> Tensor:
        return 0.5 * (self.h * (self.w - self.solution - noise).square()).sum(-1)


def identity(output: Tensor, _: Tensor) -> Tensor:
    return output


def quadratic(curvature: Tensor, noise: float, samples: int = 200) -> tuple[Quadratic, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    d = curvature.numel()
    solution = torch.randn(d, generator=generator)
    e = noise * torch.randn(samples, d, generator=generator)
    return Quadratic(curvature, solution), (e - e.mean(0), torch.zeros(samples))


def result(folder: Path) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((folder / "result.json").read_text())
    del body["cost"]
    return body


def settings(out: Path, **changes: Any) -> Settings:
    return replace(Settings(out=str(out), **QUICK), **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "finished"
    pipeline.execute(settings(folder), "logreg", "breast-cancer")
    return folder


def test_a_finished_folder_holds_every_file_and_key(finished: Path) -> None:
    assert sorted(p.name for p in finished.iterdir()) == [
        "report.html",
        "result.json",
        "runs.csv",
        "runs.jsonl",
        "vectors.safetensors",
    ]
    body = json.loads((finished / "result.json").read_text())
    assert body["status"] == "finished"
    assert body["stages"] == list(STAGES)
    for name, kind in PARTS.items():
        for item in fields(kind):
            if item.metadata.get("stored", True) and item.name != "why":
                assert item.name in body[name], f"{name}.{item.name}"
                assert body[name][item.name] is not None or item.name in body[name]["why"], f"{name}.{item.name}"


def test_the_data_set_the_density_and_the_metric_are_measured(finished: Path) -> None:
    """120 of 569 rows: the interval for all rows is not the draw's bracket, and takes half of its products at most."""
    found = Diagnosis.load(finished)
    whole = found.smoothness.whole_data or {}
    assert (whole["samples"], whole["rows"]) == (120, 569)
    assert found.smoothness.l1_upper is not None
    low, high = whole["interval"]
    assert low < whole["mean"] < found.smoothness.l1_upper < high
    assert whole["rare_rows"] == found.noise.rare_rows == pytest.approx(3.7 / (-569 * math.log1p(-120 / 569)))
    assert whole["products"] <= max((found.smoothness.products or 0) / 2, 32)
    density = found.spectrum.eigenvalue_density or {}
    curves = ("grid", "density", "spread", "lower", "upper")
    assert len({len(density[key]) for key in curves}) == 1
    assert len(density["grid"]) <= 201
    assert (density["resolution"], density["outliers"]) == (0, None)
    assert density["why"]["outliers"]
    assert np.trapezoid(density["density"], density["grid"]) == pytest.approx(1, abs=1e-3)
    assert density["mean"] * (found.task.parameters or 0) == pytest.approx(found.hessian_diagonal.trace)
    for point in found.smoothness.points or ():
        assert (point["preconditioned"] is not None) == (point["method"] == "adagrad")
        assert point["preconditioned"] is not None or point["why"]["preconditioned"]


def test_on_all_rows_the_interval_is_the_bracket() -> None:
    found = diagnose.run("logreg", "breast-cancer", training=False)
    whole = found.smoothness.whole_data or {}
    assert whole["interval"] == [found.smoothness.l1_lower, found.smoothness.l1_upper]
    assert (whole["samples"], whole["rows"], whole["products"]) == (569, 569, 0)
    assert found.noise.rare_rows is whole["rare_rows"] is None
    assert found.noise.why["rare_rows"] == whole["why"]["rare_rows"] == NONE_MISSED


def test_a_huge_network_and_a_tiny_draw_say_why_there_is_no_interval() -> None:
    problem = Problem(nn.Linear(2, 1), (torch.randn(3, 2), torch.randn(3, 1)), "squared")
    bracket = smoothness(problem)
    found = whole_data(problem, bracket, 10, products=32, affordable=True, seed=0, progress=lambda *_: None)
    assert found["interval"] is None
    assert "samples are too few" in found["why"]["interval"]
    more = Problem(nn.Linear(2, 1), (torch.randn(8, 2), torch.randn(8, 1)), "squared")
    found = whole_data(more, smoothness(more), 10, products=32, affordable=False, seed=0, progress=lambda *_: None)
    assert "so large a model" in found["why"]["interval"]
    assert found["products"] == 0


def test_loading_gives_back_what_was_stored(finished: Path) -> None:
    loaded = Diagnosis.load(finished)
    assert json.loads(json.dumps(loaded.to_json())) == json.loads((finished / "result.json").read_text())
    assert {"noise", "smoothness", "hessian_diagonal"} <= set(loaded.vectors)
    low, high = loaded.noise.l1_interval or (0.0, 0.0)
    assert low <= float(np.abs(loaded.vectors["noise"]["weight"]).sum()) <= high  # of the draw; l1 is that of all rows


@pytest.mark.usefixtures("no_figures")
def test_the_same_seed_gives_the_same_result(finished: Path, tmp_path: Path) -> None:
    pipeline.execute(settings(tmp_path / "again"), "logreg", "breast-cancer")
    assert result(tmp_path / "again") == result(finished)
    pipeline.execute(settings(tmp_path / "other", seed=1), "logreg", "breast-cancer")
    assert result(tmp_path / "other")["training"] != result(finished)["training"]


def test_a_finished_folder_is_returned_without_work(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (finished / "result.json").read_bytes()

    def never(*_: Any) -> Any:
        raise AssertionError("a stage ran")

    monkeypatch.setattr(pipeline, "STAGES", dict.fromkeys(STAGES, never))
    again = pipeline.execute(settings(finished), "logreg", "breast-cancer")
    assert again.status == "finished"
    assert (finished / "result.json").read_bytes() == before


def test_other_settings_are_refused_by_name(finished: Path) -> None:
    with pytest.raises(InputError, match=r"other settings.*steps \(20 there, 21 here\)"):
        pipeline.execute(settings(finished, steps=21), "logreg", "breast-cancer")
    with pytest.raises(InputError, match=r"other settings.*model \("):
        pipeline.execute(settings(finished), "softmax", "breast-cancer")


def interrupted(at: str, after: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt the run before or after the work of one stage."""
    real: Callable[..., Any] = STAGES[at]

    def stage(*arguments: Any) -> Any:
        if after:
            real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "STAGES", {**STAGES, at: stage})


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("at", list(STAGES))
def test_interrupted_twice_ends_in_the_same_result(
    at: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    for after in (False, True):
        interrupted(at, after, monkeypatch)
        with pytest.raises(KeyboardInterrupt):
            pipeline.execute(settings(folder), "logreg", "breast-cancer")
        assert result(folder)["status"] == "interrupted"
    monkeypatch.setattr(pipeline, "STAGES", STAGES)
    ended = pipeline.execute(settings(folder), "logreg", "breast-cancer")
    assert result(folder) == result(finished)
    assert ended.cost.attempts == 3
    assert (folder / "runs.csv").read_bytes() == (finished / "runs.csv").read_bytes()
    assert (folder / "vectors.safetensors").read_bytes() == (finished / "vectors.safetensors").read_bytes()


@pytest.mark.usefixtures("no_figures")
def test_a_race_interrupted_between_its_runs_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with a torn last line, as a killed process leaves it."""
    asked: dict[str, Any] = {"steps": 10, "seeds": 3, "samples": 100}
    asked["skip"] = ("smoothness", "spectrum", "hessian-diagonal", "generalized-smoothness")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    pipeline.execute(Settings(out=str(whole), **asked), "mlp", "digits")
    real = Store.put
    count = 0

    def stop(self: Store, leg: Leg) -> None:
        nonlocal count
        count += 1
        real(self, leg)
        if count == 8:
            raise KeyboardInterrupt

    monkeypatch.setattr(Store, "put", stop)
    with pytest.raises(KeyboardInterrupt):
        pipeline.execute(Settings(out=str(broken), **asked), "mlp", "digits")
    monkeypatch.setattr(Store, "put", real)
    legs = broken / "runs.jsonl"
    legs.write_text(legs.read_text()[:-25])
    pipeline.execute(Settings(out=str(broken), **asked), "mlp", "digits")
    assert result(broken) == result(whole)
    assert (broken / "runs.csv").read_bytes() == (whole / "runs.csv").read_bytes()


def test_without_training_the_rest_is_measured(tmp_path: Path) -> None:
    found = pipeline.execute(settings(tmp_path / "run", training=False), "logreg", "breast-cancer")
    assert found.noise.l1 is not None
    assert found.verdict.answer == "undecided"
    assert found.training.speedup is None
    assert "--no-training" in found.training.why["speedup"]
    assert found.bounds.smoothness_ratio is None
    assert found.bounds.smoothness_ratio_box is not None
    assert [row["step"] for row in found.smoothness.points or ()] == [0]
    assert (tmp_path / "run" / "runs.csv").read_text().count("\n") == 1


def test_report_writes_the_same_bytes(finished: Path) -> None:
    from reports import render

    assert render(Diagnosis.load(finished)).encode() == (finished / "report.html").read_bytes()


def test_unwritable_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="not a folder"):
        pipeline.execute(settings(tmp_path / "file"), "logreg", "breast-cancer")
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "report.html").write_text("mine")
    with pytest.raises(InputError, match=r"report\.html is there without result\.json"):
        pipeline.execute(settings(tmp_path / "strange"), "logreg", "breast-cancer")
    assert (tmp_path / "strange" / "report.html").read_text() == "mine"


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("name", ["result.json", "vectors.safetensors", "runs.csv"])
@pytest.mark.parametrize("content", ["", "[]", '{"noise": 3, "warnings": 1}', "method,loss\nsgd,x\n"])
def test_a_damaged_file_is_named(name: str, content: str, finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(finished, folder)
    (folder / name).write_text(content)
    with pytest.raises(InputError, match=f"{name} is damaged") as raised:
        Diagnosis.load(folder)
    assert "--fresh" in raised.value.hint
    again = pipeline.execute(settings(folder, fresh=True, skip=SKIPPABLE), "logreg", "breast-cancer")
    assert again.status == "finished"


@pytest.mark.parametrize("name", ["vectors.safetensors", "runs.csv"])
def test_a_missing_file_is_named(name: str, finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "incomplete"
    shutil.copytree(finished, folder)
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"{name} is damaged"):
        Diagnosis.load(folder)


@pytest.mark.usefixtures("no_figures")
def test_a_run_that_dies_at_its_first_file_can_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Store._replace
    written: list[str] = []

    def full(self: Store, name: str, content: bytes) -> None:
        if written:
            raise OSError(28, "No space left on device")
        written.append(name)
        real(self, name, content)

    monkeypatch.setattr(Store, "_replace", full)
    with pytest.raises(OSError, match="No space"):
        pipeline.execute(settings(tmp_path / "run", training=False), "logreg", "breast-cancer")
    monkeypatch.setattr(Store, "_replace", real)
    assert pipeline.execute(settings(tmp_path / "run", training=False), "logreg", "breast-cancer").status == "finished"


def test_both_methods_are_fitted_and_held_out(finished: Path) -> None:
    loaded = Diagnosis.load(finished)
    halves: dict[bool, set[str]] = {True: set(), False: set()}
    for row in (loaded.generalized_smoothness.points or ())[1:]:
        halves[row["fitted"]].add(row["group"])
    assert halves[True] == halves[False]
    assert len(halves[True]) == 7  # three runs of each method, and a sphere
    assert {group.split()[0] for group in halves[True]} == {"adagrad", "sgd", "sphere"}
    along = {(row["method"], row["step"]) for row in loaded.smoothness.points or ()}
    assert {method for method, _ in along} == {"start", "adagrad", "sgd"}
    assert 1 + 2 * 5 < len(along) <= 1 + 2 * 8


@pytest.mark.parametrize("seed", marked("sweep", [2, 4, 5], [2]))
def test_separable_data_end_in_a_finished_folder(seed: int, tmp_path: Path) -> None:
    """The loss saturates along the run: gradients vanish and curvature falls below 1e-30."""
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(seed))
    model = nn.Linear(5, 2, bias=False)
    nn.init.zeros_(model.weight)
    found = diagnose.run(model, (x, (x[:, 0] > 0).long()), steps=200, out=str(tmp_path / "run"))
    assert found.status == "finished"


def test_buffers_of_the_model_stay_as_they_were() -> None:
    class Counting(nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 2)
            self.calls: Tensor
            self.register_buffer("calls", torch.tensor(0))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x)

    model = Counting()
    buffer = model.calls
    diagnose.run(model, (torch.randn(40, 3), torch.arange(40) % 2), steps=3, training=False)
    assert model.calls is buffer
    assert int(buffer) == 0


@pytest.mark.usefixtures("no_figures")
def test_a_folder_takes_one_run_at_a_time(tmp_path: Path) -> None:
    with Store(tmp_path / "run"), pytest.raises(InputError, match="another run is writing this folder"):
        pipeline.execute(settings(tmp_path / "run"), "logreg", "breast-cancer")
    pipeline.execute(settings(tmp_path / "run", training=False), "logreg", "breast-cancer")


def test_the_python_api_writes_only_with_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model, samples = quadratic(torch.ones(4), 0.1)
    before = {name: p.clone() for name, p in model.named_parameters()}
    found = diagnose.run(model, samples, loss=identity, steps=5, training=False)
    assert found.smoothness.l1_upper == pytest.approx(4, rel=0.01)
    assert list(tmp_path.iterdir()) == []
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert model.training
    with pytest.raises(InputError, match="unknown setting `step`"):
        diagnose.run(model, samples, loss=identity, step=5)


@pytest.mark.parametrize("how", marked("sweep", [PAIR, {}], [PAIR]))
def test_an_ill_conditioned_axis_aligned_quadratic_is_called_for_adagrad(how: dict[str, Any]) -> None:
    model, samples = quadratic(torch.logspace(-3, 0, 40), 0.05)
    found = diagnose.run(model, samples, loss=identity, steps=200, batch_size=16, **how)
    assert found.verdict.answer == "adagrad"
    assert found.smoothness.density is not None
    assert found.smoothness.density < 0.3


@pytest.mark.parametrize("how", marked("sweep", [PAIR, {}], [PAIR]))
def test_an_isotropic_quadratic_is_not(how: dict[str, Any]) -> None:
    model, samples = quadratic(torch.ones(40), 0.5)
    found = diagnose.run(model, samples, loss=identity, steps=200, batch_size=16, **how)
    assert found.verdict.answer != "adagrad"
    assert found.smoothness.density == pytest.approx(1, abs=0.02)


def test_the_plan_names_every_stage_that_measures() -> None:
    found = plan.plan(Settings(**QUICK), "logreg", "breast-cancer")
    assert [row.stage for row in found.rows] == ["opening", *STAGES]
    assert all(row.passes >= 0 and row.memory_bytes > 0 for row in found.rows[1:-1])
    assert any("569 rows" in line for line in found.understood)


def test_the_plan_counts_the_passes_of_the_race(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the rates given no grid grows, and the plan is what the race takes."""
    counted: dict[str, float] = {}

    def training(bench: Bench, known: Diagnosis) -> Update:
        def passes() -> float:
            return bench.problem.passes.total + bench.trained.passes.total * bench.trained.n / bench.problem.n

        before = passes()
        update = STAGES["training"](bench, known)
        counted["race"] = passes() - before
        return update

    how = {**QUICK, "learning_rates": (0.1, 0.3), "optimizers": ("sgd", "adagrad")}
    extras: tuple[dict[str, Any], ...] = ({}, {"batch_sizes": (16, 64)}, {"batch_sizes": (16, 32)})
    for extra in extras:
        asked = Settings(**how, **extra)
        (planned,) = (row.passes for row in plan.plan(asked, "logreg", "breast-cancer").rows if row.stage == "training")
        monkeypatch.setattr(pipeline, "STAGES", {**STAGES, "training": training})
        diagnose.run("logreg", "breast-cancer", **how, **extra)
        assert counted["race"] == pytest.approx(planned, rel=0.02)


@pytest.mark.limit
def test_a_memory_limit_holds_from_stage_to_stage() -> None:
    """Room for the basis of a Lanczos run, and too little to hold it beside what the next stages do."""
    task, limit = language_model(None), 97 << 20
    assert isinstance(task.samples, dict)
    few = {name: tensor[:3] for name, tensor in task.samples.items()}
    opened, resolved = open_task(task.model, few, Settings(training=False, memory=limit, gap=0.5, probes=24))
    bench = Bench.build(opened, resolved, MemoryStore(), lambda *_: None, {})
    assert memory_limit.holds_basis(bench.curvature, MAX_STEPS)
    assert memory_limit.vectors(bench.curvature) < 95
    known = pipeline.started(opened, resolved, {"loss": "cross-entropy"}, "")
    with Held(bench.problem) as held:
        for stage in ("noise", "smoothness", "spectrum", "hessian_diagonal"):
            update = STAGES[stage](bench, known)
            vectors = {kind: pipeline._arrays(part) for kind, part in update.vectors.items()}
            known = replace(known, **update.parts, vectors={**known.vectors, **vectors})
    assert held.peak <= limit
    assert known.hessian_diagonal.probes
