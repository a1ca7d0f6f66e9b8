"""A run that is killed or interrupted in every stage in turn ends like one that was left alone."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from diagnose import pipeline
from diagnose.command import cli
from diagnose.settings import Settings
from diagnose.stages.order import STAGES
from tests.markers import marked

# Above 2,000 parameters nothing is formed densely, so the curvature stages report progress.
MODEL, DATA = "mlp", "digits"
ASKED: dict[str, Any] = {
    "samples": 24,
    "batch_size": 8,
    "steps": 4,
    "seeds": 1,
    "probes": 4,
    "gap": 2.0,
    "optimizers": ("sgd", "adagrad"),
    "learning_rates": (0.003, 0.03),
}
PATIENCE = 600
"""Seconds for an attempt that takes five on an idle machine."""
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([__name__])
"""Attempts are processes of their own, forked from one that has read torch already."""


def driver(stage: str, name: str, words: list[str], errors: Path) -> None:
    """The command, which sends itself a signal at the first progress of a stage."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell inherits one that ignores it
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    real, count = pipeline._Attempt._progress, 0

    def die() -> None:
        os.kill(os.getpid(), getattr(signal, name))

    def progress(self: Any, running: str, done: float, total: float) -> None:
        nonlocal count
        real(self, running, done, total)
        count += self.stage == stage
        if count == 1:
            die()

    def verdict(*arguments: Any) -> Any:
        die()
        return STAGES["verdict"](*arguments)

    changed: Any = pipeline
    changed.NOTE_EVERY = 0.0
    if stage == "verdict":
        changed.STAGES = {**STAGES, "verdict": verdict}
    elif stage:
        changed._Attempt._progress = progress
    sys.exit(cli.main(words))


class Ended(NamedTuple):
    returncode: int
    stderr: str


def words(folder: Path, **changes: Any) -> list[str]:
    options = [MODEL, "--data", DATA, "--out", str(folder)]
    for name, value in {**ASKED, **changes}.items():
        listed = value if isinstance(value, tuple) else (value,)
        options += ["--" + name.replace("_", "-"), ",".join(map(str, listed))]
    return options


def attempt(folder: Path, stage: str, signal_name: str, **changes: Any) -> Ended:
    errors = folder.with_name("stderr")
    process = FORKS.Process(target=driver, args=(stage, signal_name, words(folder, **changes), errors))
    process.start()
    process.join(PATIENCE)
    assert process.exitcode is not None
    return Ended(process.exitcode, errors.read_text())


def stored(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    body: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return body, body.pop("cost")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    pipeline.execute(Settings(out=str(folder), **ASKED), MODEL, DATA)
    return folder


TWICE = ("smoothness", "training")
STOPPED = [("SIGKILL", -9, tuple(STAGES)), ("SIGINT", 130, tuple(STAGES)), ("SIGINT", 130, TWICE)]


@pytest.mark.parametrize(("signal_name", "code", "stages"), marked("sweep", STOPPED, STOPPED[-1:]))
def test_a_run_stopped_in_its_stages_ends_like_one_left_alone(
    signal_name: str, code: int, stages: tuple[str, ...], unbroken: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    seconds, passes = 0.0, 0.0
    for number, stage in enumerate(stages, 1):
        ended = attempt(folder, stage, signal_name)
        assert ended.returncode == code, ended.stderr
        if signal_name == "SIGINT":
            body, cost = stored(folder)
            assert body["status"] == "interrupted"
            assert f"interrupted: stage {stage}" in ended.stderr or stage == "verdict"
            assert cost["attempts"] == number
            assert cost["seconds"] > seconds
            assert cost["forward_backward_passes"] >= passes
            seconds, passes = cost["seconds"], cost["forward_backward_passes"]
    ended = attempt(folder, "", signal_name)
    assert ended.returncode == 0, ended.stderr
    (ours, cost), (theirs, plain) = stored(folder), stored(unbroken)
    assert ours == theirs
    assert cost["attempts"] == len(stages) + 1
    assert cost["forward_backward_passes"] > plain["forward_backward_passes"]
    assert set(cost["stages"]) == set(STAGES)
    for name in ("runs.csv", "vectors.safetensors"):
        assert (folder / name).read_bytes() == (unbroken / name).read_bytes()
    assert not (folder / "spent.json").exists()


KILLED = [("hessian_diagonal", "training", "generalized_smoothness", "verdict"), ("training",)]


@pytest.mark.parametrize("stages", [pytest.param(KILLED[0], marks=pytest.mark.sweep), KILLED[1]])
def test_a_run_killed_while_it_goes_on_ends_like_one_left_alone(
    stages: tuple[str, ...], unbroken: Path, tmp_path: Path
) -> None:
    """From one method and without the diagonal to all of it: what is made again is taken out before."""
    folder = tmp_path / "run"
    less: dict[str, Any] = {**ASKED, "optimizers": ("adagrad",), "skip": ("hessian-diagonal",)}
    pipeline.execute(Settings(out=str(folder), **less), MODEL, DATA)
    for stage in stages:
        ended = attempt(folder, stage, "SIGKILL")
        assert ended.returncode == -9, ended.stderr
    ended = attempt(folder, "", "SIGKILL")
    assert ended.returncode == 0, ended.stderr
    (ours, cost), (theirs, plain) = stored(folder), stored(unbroken)
    assert ours == theirs
    assert cost["attempts"] == len(stages) + 2
    assert cost["forward_backward_passes"] > plain["forward_backward_passes"]
    for name in ("runs.csv", "vectors.safetensors"):
        assert (folder / name).read_bytes() == (unbroken / name).read_bytes()
