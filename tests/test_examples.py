"""The examples answer what their README says."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

import diagnose

EXAMPLES = Path(__file__).parent.parent / "examples"


def script(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / name))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "answer"), [("one", "sgd"), ("equal", "no-difference")])
def test_regression(kind: str, answer: str) -> None:
    found = script("regression.py")["diagnosis"](kind)
    assert found.verdict.answer == answer


@pytest.mark.slow
def test_adagrad_wins_clearly_on_wine() -> None:
    found = diagnose.run("mlp", "wine", seeds=8)
    assert found.verdict.answer == "adagrad"
    assert found.training.speedup_interval is not None
    assert found.training.speedup_interval[0] > 10


@pytest.mark.slow
def test_the_theory_is_undecided_and_adagrad_wins_on_digits() -> None:
    found = diagnose.run("softmax", "digits", seeds=8)
    assert found.verdict.answer == "adagrad"
    assert "readings-disagree" in {finding.code for finding in found.warnings}


@pytest.mark.slow
def test_the_races_on_a4a_are_within_three_standard_errors(data_folder: Path) -> None:
    assert data_folder.is_dir()
    assert script("a4a_races.py")["main"]() == 0
