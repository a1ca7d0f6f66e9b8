"""Parts that are left out: each is null with its reason, the rest is as it was, and the page shows all of it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

import diagnose
from diagnose import pipeline
from diagnose.errors import InputError
from diagnose.settings import SKIPPABLE, Settings
from estimators.results import stored, stored_keys
from reports.record.diagnosis import PARTS, Diagnosis

QUICK: dict[str, Any] = {
    "steps": 6,
    "seeds": 4,
    "samples": 40,
    "optimizers": ("sgd", "adagrad"),
    "learning_rates": (0.1,),
}
KINDS = {
    "smoothness": {"smoothness"},
    "hessian-diagonal": {"hessian_diagonal", "hessian_diagonal_lower", "hessian_diagonal_upper"},
    "generalized-smoothness": {"l0", "l1"},
}
EVERY = [parts for count in range(len(SKIPPABLE) + 1) for parts in itertools.combinations(SKIPPABLE, count)]


@pytest.fixture(scope="module")
def whole() -> Diagnosis:
    return diagnose.run("softmax", "iris", **QUICK)


@pytest.mark.parametrize(
    "parts", [pytest.param(parts, marks=[pytest.mark.sweep] * (len(parts) > 1)) for parts in EVERY], ids="+".join
)
def test_every_choice_of_parts_ends_in_a_folder_and_a_page(
    parts: tuple[str, ...], whole: Diagnosis, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    pipeline.execute(Settings(out=str(folder), skip=parts, **QUICK), "softmax", "iris")
    found = Diagnosis.load(folder)
    body = json.loads((folder / "result.json").read_text())
    assert found.status == "finished"
    for name in PARTS.keys() - {"cost"}:
        for key in stored_keys(PARTS[name]):
            assert body[name][key] is not None or body[name]["why"][key], f"{name}.{key}"
    for part in parts:
        absent = body[part.replace("-", "_")]
        assert all(value is None for key, value in absent.items() if key != "why")
        assert all(f"skipped (--skip {part}" in reason for reason in absent["why"].values())
    assert body["noise"] == json.loads(json.dumps(stored(whole.noise)))
    for part in ("smoothness", "spectrum", "hessian_diagonal"):
        if part.replace("_", "-") not in parts:
            assert getattr(found, part) is not None
            assert set(found.vectors) >= KINDS.get(part.replace("_", "-"), set())
    kinds = {kind for part in parts for kind in KINDS.get(part, ())}
    assert not kinds & set(found.vectors)
    page = (folder / "report.html").read_text()
    assert page.count("<h1") == 1
    assert ("skipped (--skip" in page) == bool(parts)


def test_what_depends_on_a_part_does_without(whole: Diagnosis) -> None:
    found = diagnose.run("softmax", "iris", skip=["smoothness"], **QUICK)
    assert found.bounds.smoothness_ratio is found.bounds.smoothness_ratio_box is None
    assert "--skip smoothness" in found.bounds.why["smoothness_ratio"]
    assert found.bounds.noise_ratio is not None
    assert found.hessian_diagonal.abs_sum is not None
    assert found.generalized_smoothness.points
    assert stored(found.generalized_smoothness) == stored(whole.generalized_smoothness)
    assert found.smoothness.points is None
    assert found.training.speedup is not None
    found = diagnose.run("softmax", "iris", skip=["generalized-smoothness"], **QUICK)
    assert [row["method"] for row in found.smoothness.points or ()] == ["start"]
    assert found.bounds.smoothness_ratio is not None


def test_the_sum_of_the_diagonal_says_that_it_was_skipped(whole: Diagnosis) -> None:
    """Above 2,000 parameters no matrix is formed that could give it."""
    found = diagnose.run(
        "mlp", "digits", samples=16, probes=4, gap=3.0, skip=["hessian-diagonal", "spectrum", "training"]
    )
    assert found.smoothness.l1_upper is not None
    assert found.smoothness.diagonal_sum is None
    assert found.smoothness.why["diagonal_sum"] == "skipped (--skip hessian-diagonal)"
    assert whole.smoothness.diagonal_sum is not None


def test_no_training_is_the_same_as_skipping_it() -> None:
    one = diagnose.run("softmax", "iris", training=False, samples=40)
    other = diagnose.run("softmax", "iris", skip="training", samples=40)
    assert one.settings == other.settings
    assert one.training == other.training
    assert one.task.seeds is other.task.seeds is None
    assert one.task.why["seeds"] == "nothing was trained"
    assert "--no-training" in one.training.why["speedup"]
    assert "training was skipped" in one.generalized_smoothness.why["l0_l1"]


@pytest.mark.parametrize("name", ["noise", "hessian_diagonal", "smothness", ""])
def test_an_unknown_part_is_refused_with_those_that_there_are(name: str) -> None:
    with pytest.raises(InputError) as refused:
        diagnose.run("softmax", "iris", skip=[name])
    assert refused.value.where == "--skip"
    assert ", ".join(SKIPPABLE) in refused.value.hint
