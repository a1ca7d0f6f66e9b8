"""A folder goes on where more is asked for, and ends as the same command does in a fresh one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import reports
from diagnose import pipeline
from diagnose.continuation import ADDS, going_on, inputs, refused, without
from diagnose.errors import InputError
from diagnose.settings import SKIPPABLE, Settings
from diagnose.stages.bench import Bench, Update
from diagnose.stages.order import STAGES
from diagnose.store import Store
from estimators.results import Finding, stored_keys
from reports.page.page import render
from reports.record.diagnosis import ADDING, PARTS, Diagnosis
from reports.words.sentences import following
from tests.diagnose.test_pipeline import identity, interrupted, quadratic, result
from tests.reports import made

QUICK: dict[str, Any] = {
    "steps": 6,
    "samples": 40,
    "seeds": 4,
    "optimizers": ("sgd", "adagrad"),
    "learning_rates": (0.1, 0.3),
}
MORE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "orders": ({}, {"seeds": 8}),
    "orders on grids": ({"learning_rates": None}, {"learning_rates": None, "seeds": 8}),
    "methods": ({}, {"optimizers": ("adam", "sgd", "adagrad", "adagrad-norm")}),
    "methods in another order": ({}, {"optimizers": ("adagrad", "sgd")}),
    "all parts": ({"skip": SKIPPABLE}, {}),
    "the smoothness": ({"skip": ("smoothness",)}, {}),
    "the diagonal and points along runs": ({"skip": ("hessian-diagonal", "generalized-smoothness")}, {}),
    "training": ({"training": False}, {}),
    "everything": ({"skip": ("training", "spectrum"), "optimizers": "sgd"}, {"seeds": 5}),
}


def execute(folder: Path, **changes: Any) -> Diagnosis:
    return pipeline.execute(Settings(out=str(folder), **{**QUICK, **changes}), "softmax", "iris")


@pytest.fixture(autouse=True, scope="module")
def no_figures() -> Iterator[None]:
    """A page takes longer than all the rest: here it holds the command alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reports, "render", lambda diagnosis: diagnosis.command)
        yield


def same(one: Path, other: Path) -> None:
    """But for cost."""
    assert result(one) == result(other)
    for name in ("runs.csv", "vectors.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A finished folder of the quick settings with these changes, made once and only read."""

    @cache
    def make(**changes: Any) -> Path:
        folder = tmp_path_factory.mktemp("finished") / "run"
        execute(folder, **changes)
        return folder

    return make


@pytest.fixture(scope="module")
def four(finished: Callable[..., Path]) -> Path:
    """A finished folder of four orders."""
    return finished()


@pytest.fixture(scope="module")
def eight(finished: Callable[..., Path]) -> Path:
    """The same with eight."""
    return finished(seeds=8)


@pytest.fixture
def started(four: Path, tmp_path: Path) -> Path:
    """A copy of the finished folder that may be changed."""
    return Path(shutil.copytree(four, tmp_path / "run"))


@pytest.fixture
def started_with_one(finished: Callable[..., Path], tmp_path: Path) -> Path:
    """The same of a finished folder of one method."""
    return Path(shutil.copytree(finished(optimizers="adagrad"), tmp_path / "run"))


def watched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages that run from now on."""
    ran: list[str] = []

    def watch(name: str, measure: Callable[..., Update]) -> Callable[..., Update]:
        def stage(bench: Bench, known: Diagnosis) -> Update:
            ran.append(name)
            return measure(bench, known)

        return stage

    monkeypatch.setattr(pipeline, "STAGES", {name: watch(name, measure) for name, measure in STAGES.items()})
    return ran


@pytest.mark.parametrize("what", MORE)
def test_going_on_ends_as_the_same_command_in_a_fresh_folder(
    what: str, finished: Callable[..., Path], tmp_path: Path
) -> None:
    less, more = MORE[what]
    shutil.copytree(finished(**less), tmp_path / "on")
    before = json.loads((tmp_path / "on" / "result.json").read_text())["cost"]
    ended = execute(tmp_path / "on", **more)
    fresh = finished(**more)
    assert ended.status == "finished"
    assert ended.command == Diagnosis.load(fresh).command
    same(tmp_path / "on", fresh)
    assert ended.cost.attempts == 2
    assert (ended.cost.seconds or 0) > before["seconds"]
    assert (ended.cost.forward_backward_passes or 0) > before["forward_backward_passes"]
    assert (tmp_path / "on" / "report.html").read_text() == ended.command
    assert execute(tmp_path / "on", **more).cost.attempts == 2


def test_only_what_is_missing_or_affected_runs(started: Path, eight: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = watched(monkeypatch)
    execute(started, seeds=8)
    rates = [
        {name: row["learning_rate"] for name, row in result(folder)["training"]["methods"].items()}
        for folder in (started, eight)
    ]
    assert rates[0] == rates[1]
    assert ran[0] == "training"
    assert ran[-1] == "verdict"
    assert set(ran) <= {"training", "generalized_smoothness", "verdict"}
    same(started, eight)


def test_points_along_runs_stay_where_the_rates_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed: dict[str, Any] = {"learning_rates": (0.1,)}
    execute(tmp_path / "run", **fixed)
    ran = watched(monkeypatch)
    execute(tmp_path / "run", seeds=5, **fixed)
    assert ran == ["training", "verdict"]
    ran.clear()
    execute(tmp_path / "run", seeds=5, optimizers=(*QUICK["optimizers"], "adam"), **fixed)
    assert ran == ["training", "verdict"]


def test_points_along_runs_are_made_again_where_a_rate_moved(
    started_with_one: Path, four: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = watched(monkeypatch)
    execute(started_with_one)
    assert ran == ["training", "generalized_smoothness", "verdict"]
    same(started_with_one, four)


def test_stored_runs_are_not_trained_again(tmp_path: Path) -> None:
    """Runs of this model are trained one by one."""
    model, samples = quadratic(torch.ones(5), 0.3, 60)
    how: dict[str, Any] = {**QUICK, "loss": identity, "skip": ("generalized-smoothness",)}

    def run(seeds: int) -> list[str]:
        pipeline.execute(Settings(**{**how, "out": str(tmp_path / "run"), "seeds": seeds}), model, samples)
        return (tmp_path / "run" / "runs.jsonl").read_text().splitlines()

    four = run(4)
    assert len(four) == 2 * 2 * 4
    eight = run(8)
    assert eight[: len(four)] == four
    further = [json.loads(line) for line in eight[len(four) :]]
    assert {leg["seed"] for leg in further} == {4, 5, 6, 7}
    rates = {(leg["method"], leg["learning_rate"]) for leg in further}
    assert {method for method, _ in rates} == {"sgd", "adagrad"}
    assert len(further) == 4 * len(rates), "every rate that may still be best, once with each further order"


@pytest.mark.parametrize("stage", ["training", "generalized_smoothness", "verdict"])
@pytest.mark.parametrize("after", [False, True])
def test_interrupted_while_going_on(
    stage: str, after: bool, started_with_one: Path, four: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From one method, so that the points along its run are made again."""
    interrupted(stage, after, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        execute(started_with_one)
    assert result(started_with_one)["status"] == "interrupted"
    assert result(started_with_one)["verdict"]["answer"] is None
    assert not (started_with_one / "report.html").exists()
    monkeypatch.setattr(pipeline, "STAGES", STAGES)
    execute(started_with_one)
    same(started_with_one, four)


@pytest.mark.parametrize("writes", range(1, 8))
def test_a_run_that_dies_between_its_files_goes_on(
    writes: int, started_with_one: Path, four: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the result names is on disk at every moment, also where vectors and runs are taken out."""
    real, left = Store._replace, writes

    def dies(self: Store, name: str, content: bytes) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise MemoryError
        real(self, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "_replace", dies)
        with pytest.raises(MemoryError):
            execute(started_with_one)
    Diagnosis.load(started_with_one)
    execute(started_with_one)
    same(started_with_one, four)


def test_a_page_of_what_there_is_while_it_goes_on(four: Path) -> None:
    known = Diagnosis.load(four)
    page = render(going_on(known, replace(known, command="diagnose again", settings={**known.settings, "seeds": 8})))
    assert "the run is not finished" in page
    assert "diagnose again" in page


def test_less_is_refused_by_name(started: Path) -> None:
    for changes, named in (
        ({"seeds": 3}, r"seeds \(4 there, 3 here\)"),
        ({"optimizers": ("sgd",)}, r"optimizers \("),
        ({"optimizers": ("sgd", "adam")}, r"optimizers \("),
        ({"skip": ("spectrum",)}, r"skip \(\[\] there"),
        ({"training": False}, r"skip \(\[\] there"),
        ({"seeds": 8, "steps": 13}, r": steps \(6 there, 13 here\)$"),
    ):
        before = (started / "result.json").read_bytes()
        with pytest.raises(InputError, match=named) as raised:
            execute(started, **changes)
        assert "--fresh" in raised.value.hint
        assert (started / "result.json").read_bytes() == before


@pytest.mark.parametrize(
    ("stored", "new", "used", "adds"),
    [
        (4, 8, 4, True),
        (8, 4, 8, False),
        (4, "auto", 4, True),
        (64, "auto", 64, True),
        ("auto", 20, 8, True),
        ("auto", 8, 8, False),
        ("auto", 4, 8, False),
        ("auto", 4, None, True),
    ],
)
def test_which_orders_are_more(stored: Any, new: Any, used: int | None, adds: bool) -> None:
    known = made.finished()
    known = replace(known, task=replace(known.task, seeds=used), settings={"seeds": stored})
    assert refused(known, {"seeds": new}) == ([] if adds else ["seeds"])


def test_which_optimizers_are_more() -> None:
    known = replace(made.finished(), settings={"optimizers": ["sgd", "Mine"], "own_optimizers": {"Mine": "a"}})
    both = {"Mine": "a", "Other": "b"}
    assert not refused(known, {"optimizers": ["Other", "Mine", "sgd"], "own_optimizers": both})
    assert refused(known, {"optimizers": ["sgd", "Mine"], "own_optimizers": {"Mine": "b"}}) == ["own_optimizers"]
    bare = replace(known, settings={"optimizers": ["sgd"]})
    assert not refused(bare, {"optimizers": ["sgd", "Mine"], "own_optimizers": {"Mine": "a"}})


def test_auto_goes_on_from_a_number_and_a_number_from_auto(tmp_path: Path) -> None:
    execute(tmp_path / "run", seeds="auto")
    used = result(tmp_path / "run")["task"]["seeds"]
    execute(tmp_path / "run", seeds=used + 3)
    execute(tmp_path / "number", seeds=used + 3)
    same(tmp_path / "run", tmp_path / "number")
    execute(tmp_path / "run", seeds="auto")
    execute(tmp_path / "auto", seeds="auto")
    same(tmp_path / "run", tmp_path / "auto")


def test_what_is_advised_works_as_typed(started: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from diagnose.command import cli

    words = (
        "softmax --data iris --steps 6 --samples 40 --optimizers sgd,adagrad --learning-rates 0.1,0.3 --seeds 20 --out"
    )
    assert cli.main([*words.split(), str(started)]) == 0
    assert "from an earlier attempt: noise, smoothness, spectrum, hessian diagonal" in capsys.readouterr().err
    assert result(started)["task"]["seeds"] == 20


def test_every_stage_has_its_own_findings(four: Path) -> None:
    """Those of a stage that is redone are replaced, the others stay."""
    stages = [finding["stage"] for finding in result(four)["warnings"]]
    order = ["opening", *STAGES]
    assert stages == sorted(stages, key=order.index)
    known = Diagnosis.load(four)
    finding = Finding("code", "note", "training", "found", "meaning", "action")
    known = replace(known, warnings=(finding, *(replace(finding, stage=stage) for stage in ("opening", "verdict"))))
    assert [left.stage for left in without("training", known).warnings] == ["opening", "verdict"]


def test_kinks_are_found_in_the_stage_that_looked(tmp_path: Path) -> None:
    """An estimator that a stage borrows calls itself otherwise."""

    def stage(bench: Bench, known: Diagnosis) -> Update:
        finding = Finding("kinks", "warning", "kinks", "found", "meaning", "action")
        return replace(STAGES["spectrum"](bench, known), findings=(finding,))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "STAGES", {**STAGES, "spectrum": stage})
        found = execute(tmp_path / "run", training=False)
    assert [finding.stage for finding in found.warnings if finding.code == "kinks"] == ["spectrum"]


def test_without_a_stage_is_as_if_it_had_not_run(four: Path) -> None:
    known = Diagnosis.load(four)
    for stage in reversed(tuple(STAGES)):
        known = without(stage, known)
    assert known.stages == ()
    assert known.vectors == known.inputs == {}
    assert known.runs == ()
    for name, kind in PARTS.items():
        if name not in ("task", "cost"):
            assert all(getattr(getattr(known, name), key) is None for key in stored_keys(kind)), name
    assert known.task.seeds is None


def test_what_a_stage_has_read_is_stored(four: Path) -> None:
    known = Diagnosis.load(four)
    assert list(known.inputs) == list(STAGES)
    assert all(known.inputs[stage] == inputs(stage, known) for stage in STAGES)


def test_only_options_of_another_run_need_a_fresh_folder() -> None:
    known = replace(made.finished(), warnings=())
    options = {"--" + name for name in ADDS if name != "own_optimizers"}
    assert set(ADDING) == options | {"--no-training"}
    for option in ADDING:
        advised = replace(known, verdict=replace(known.verdict, advice=f"Run it with `{option} 20`."))
        assert following(advised) is None
    both = replace(known, verdict=replace(known.verdict, advice="Try `--samples 40`, then `--seeds 20`."))
    said = following(both)
    assert said is not None
    assert "`--samples`" in said
    assert "--seeds" not in said
    assert "--fresh" in said
