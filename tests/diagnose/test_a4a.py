"""The command on a4a: the values of the logistic regression at w = 0, its races, and the README's answer."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from diagnose import pipeline
from diagnose.command.console import closing
from diagnose.settings import Settings
from reports.record.diagnosis import Diagnosis

LOWEST = 0.319270
"""The smallest value of f on a4a, computed to convergence."""
README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.fixture(scope="module")
def found(data_folder: Path) -> Diagnosis:
    return pipeline.execute(Settings(), "logreg", str(data_folder / "a4a.gz"))


def test_the_start_has_its_known_values(found: Diagnosis) -> None:
    assert found.noise.l1 == pytest.approx(14.188, rel=5e-5)
    assert found.noise.l2 == pytest.approx(1.7434, rel=5e-5)
    assert found.smoothness.sharpness == pytest.approx(1.5682, rel=5e-5)
    assert found.hessian_diagonal.trace == pytest.approx(3.4663, rel=5e-5)
    assert found.smoothness.l1_lower is not None
    assert found.smoothness.l1_upper is not None
    assert found.smoothness.l1_lower <= 48.1207 * (1 + 2e-6)
    assert found.smoothness.l1_upper >= 48.1207 * (1 - 2e-6)
    assert found.smoothness.l1_upper <= 1.01 * found.smoothness.l1_lower
    assert found.smoothness.global_l1 == pytest.approx(48.1207, rel=5e-6)


def test_it_names_adagrad_in_the_words_of_the_readme(found: Diagnosis) -> None:
    assert found.verdict.answer == "adagrad"
    shown = README.read_text("utf-8").split(" seconds and answers\n\n")[1].split("\n\n")[0]
    block = [line.strip() for line in closing(found, "report.html").splitlines()]
    for line in shown.splitlines():
        # Long lines are cut there, and how long the race took is another matter on every machine.
        begun = line.strip().partition(" …")[0].partition(" · decided after ")[0]
        assert any(one.startswith(begun) for one in block), begun


@pytest.mark.coverage
def test_batches_of_256_meet_the_reference_race(data_folder: Path) -> None:
    """Means over 40 seeds with their standard errors; those of eight seeds are sqrt(5) times larger."""
    raced = pipeline.execute(Settings(batch_size=256, steps=187, seeds=8), "logreg", str(data_folder / "a4a.gz"))
    methods = raced.training.methods
    assert methods is not None
    for name, mean, error in (
        ("sgd", 0.01378, 0.00076),
        ("adagrad", 0.00366, 0.00027),
        ("adagrad-norm", 0.01248, 0.00050),
    ):
        assert abs(methods[name]["lowest_loss"] - LOWEST - mean) <= 3 * math.sqrt(5) * error, name
    assert raced.training.speedup is not None
    assert abs(math.log(raced.training.speedup / 6.4)) <= 3 * 0.25 / math.sqrt(8)


@pytest.mark.coverage
def test_full_batches_meet_the_reference_race(data_folder: Path) -> None:
    raced = pipeline.execute(Settings(batch_size=4781, steps=200, seeds=1), "logreg", str(data_folder / "a4a.gz"))
    methods = raced.training.methods
    assert methods is not None
    for name, excess in (("sgd", 0.00973), ("adagrad", 0.00052), ("adagrad-norm", 0.00807)):
        assert methods[name]["lowest_loss"] - LOWEST == pytest.approx(excess, abs=2e-5), name
    assert raced.training.speedup == pytest.approx(15.6, abs=0.5)
    assert raced.training.speedup_interval is None
    assert raced.verdict.answer == "adagrad"
