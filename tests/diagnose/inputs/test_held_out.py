"""Held-out samples are checked as those of the sample set are, and what scoring them costs is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diagnose.errors import InputError
from diagnose.inputs import open_task
from diagnose.inputs.data import catalogue
from diagnose.inputs.data.tables import Table
from diagnose.inputs.sampling import draw
from diagnose.settings import Settings
from diagnose.stages.bench import Bench
from diagnose.training import race
from diagnose.training.runs import MemoryStore
from diagnose.training.validation import score
from tests.diagnose.training.tasks import settings

ROWS, DRAWN = 24, 16
OUT = sorted(set(range(ROWS)) - set(draw(ROWS, DRAWN, 0).tolist()))
"""The rows outside the sample set."""


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(5, 3), nn.Linear(3, 5)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.out(self.table(ids))
        return out


def rows(row: int | None = None, label: int = 0) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(0))
    labels = (inputs[:, 0] > 0).long()
    if row is not None:
        labels[row] = label
    return inputs, labels


def sequences() -> dict[str, Tensor]:
    ids = torch.randint(0, 5, (ROWS, 4), generator=torch.Generator().manual_seed(0))
    return {"ids": ids, "labels": ids.flip(1).clone()}


def bench(model: nn.Module, data: Any, **changes: Any) -> Bench:
    opened, resolved = open_task(model, data, Settings(samples=DRAWN, **changes))
    return Bench.build(opened, resolved, MemoryStore(), lambda *_: None, {})


@pytest.mark.parametrize("label", [7, -1])
def test_a_held_out_label_beyond_the_outputs_is_refused_before_anything_is_measured(label: int) -> None:
    with pytest.raises(InputError, match=f"label {label}, but the model has 2 outputs: held-out samples, sample 3"):
        bench(nn.Linear(3, 2), rows(OUT[3], label))


def test_without_training_nothing_is_scored_and_nothing_refused() -> None:
    assert bench(nn.Linear(3, 2), rows(OUT[3], 7), training=False).held_out is None


@pytest.mark.parametrize("as_mapping", [True, False])
def test_a_held_out_token_out_of_the_vocabulary_is_refused(as_mapping: bool) -> None:
    data = sequences()
    data["ids"][OUT[5], 1] = 50
    with pytest.raises(InputError, match="number 50, but an embedding of Tokens has rows 0 to 4: held-out samples"):
        bench(Tokens(), data if as_mapping else (data["ids"], data["labels"]))


def test_a_held_out_token_that_a_language_model_does_not_know_is_refused_while_opening() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=1)
    ids = torch.randint(0, 11, (ROWS, 5), generator=torch.Generator().manual_seed(0))
    ids[OUT[0], 2] = 40
    data = {"input_ids": ids, "labels": ids.clamp(max=10)}
    with pytest.raises(InputError, match="token 40, but GPT2LMHeadModel has 11 tokens: held-out samples, input_ids"):
        open_task(transformers.GPT2LMHeadModel(config), data, Settings(samples=DRAWN))


def test_held_out_samples_without_a_label_are_dropped_and_not_counted() -> None:
    data = sequences()
    data["labels"][OUT[2]] = -100
    opened, _ = open_task(Tokens(), data, Settings(samples=DRAWN))
    assert isinstance(opened.held_out, dict)
    rest = [row for row in OUT if row != OUT[2]]
    assert opened.held_out["ids"].tolist() == data["ids"][rest].tolist()
    assert opened.understood[-1] == "held out for validation: 7 of the 8 sequences outside the sample set"
    made = bench(Tokens(), data)
    assert made.held_out is not None
    found = score(made.held_out, made.held_out.parameters)
    with torch.no_grad():
        logits = made.problem.model(data["ids"][rest])
    labels = data["labels"][rest]
    assert found.loss == pytest.approx(nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).item())
    assert found.accuracy == pytest.approx((logits.argmax(-1) == labels).double().mean().item())
    classes, _ = open_task(nn.Linear(3, 2), rows(OUT[1], -100), Settings(samples=DRAWN))
    assert isinstance(classes.held_out, tuple)
    assert classes.held_out[1].min() >= 0
    assert len(classes.held_out[1]) == 7


def test_a_causal_sequence_whose_only_label_predicts_nothing_is_dropped() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=1)
    ids = torch.randint(0, 11, (ROWS, 5), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[OUT[4], 1:] = -100
    model = transformers.GPT2LMHeadModel(config)
    opened, _ = open_task(model, {"input_ids": ids, "labels": labels}, Settings(samples=DRAWN))
    assert isinstance(opened.held_out, dict)
    assert len(opened.held_out["labels"]) == 7


def test_held_out_passes_count_by_their_share_of_the_sample_set() -> None:
    made = bench(nn.Linear(3, 2), rows())
    assert made.held_out is not None
    share = made.held_out.n / made.problem.n
    assert share == 0.5
    opening = made.problem.passes.total
    assert made.passes == pytest.approx(opening + share / 3)  # forward takes them all once, while opening
    how = settings(learning_rates=(0.1,), optimizers=("sgd",), steps=4, stacked=False, seeds=2)
    race(made.problem, how, made.legs, held_out=made.held_out)
    alone = made.problem.passes.total
    assert alone > opening
    assert made.passes == pytest.approx(alone + share / 3 * (1 + 2))


def archive(tmp_path: Path, **changes: Any) -> Path:
    inputs = np.random.default_rng(0).normal(size=(30, 3))
    labels = np.arange(30) % 2 + 1
    named = {"x_train": inputs[:20], "y_train": labels[:20], "x_test": inputs[20:], "y_test": labels[20:]} | changes
    np.savez(tmp_path / "a.npz", **{key: value for key, value in named.items() if value is not None})
    return tmp_path / "a.npz"


@pytest.mark.parametrize("model", ["softmax", "logreg", nn.Linear(3, 2), nn.Linear(3, 9)])
def test_a_label_that_only_the_test_part_has_is_refused_with_its_row(tmp_path: Path, model: Any) -> None:
    path = archive(tmp_path, y_test=np.array([1, 2, 1, 1, 0, 2, 2, 1, 1, 1]))
    with pytest.raises(InputError, match=r"label 0, which no row of the training part has: .*y_test, row 5 "):
        open_task(model, path, Settings())


def test_a_single_class_in_the_training_part_is_refused_whatever_the_test_part_has(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a single class, label 1"):
        open_task("softmax", archive(tmp_path, y_train=np.ones(20, int)), Settings())


def test_the_model_is_that_of_the_training_part(tmp_path: Path) -> None:
    with_tests, _ = open_task("softmax", archive(tmp_path, y_test=np.ones(10, int)), Settings())
    without, _ = open_task("softmax", archive(tmp_path, x_test=None, y_test=None), Settings())
    assert isinstance(with_tests.samples, tuple)
    assert isinstance(without.samples, tuple)
    assert isinstance(with_tests.held_out, tuple)
    assert with_tests.samples[1].tolist() == without.samples[1].tolist()
    assert with_tests.held_out[1].tolist() == [0] * 10
    assert [p.shape for p in with_tests.model.parameters()] == [p.shape for p in without.model.parameters()]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"y_test": np.array(["a"] * 10)}, "y_test holds words, the training part whole numbers"),
        ({"y_test": np.ones(10)}, "y_test holds floating-point numbers, the training part whole numbers"),
        ({"x_test": np.array(2.0), "y_test": np.ones(1, int)}, "array x_test has 0 dimensions"),
        ({"x_train": np.array(2.0), "y_train": np.ones(1, int)}, "array x_train has 0 dimensions"),
        ({"y_train": np.ones(19, int), "y_test": np.ones(11, int)}, "20 rows of inputs and 19 targets"),
        ({"x_test": np.full((10, 3), np.nan)}, "NaN in the data: .*x_test, row 1, column 1"),
    ],
)
def test_a_test_part_that_does_not_fit(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=what):
        catalogue.load(archive(tmp_path, **changes))


@pytest.mark.parametrize(("left_out", "alone"), [("x_test", "y_test"), ("y_test", "x_test")])
def test_half_a_test_part_is_left_out_and_said(tmp_path: Path, left_out: str, alone: str) -> None:
    opened = catalogue.load(archive(tmp_path, **{left_out: None}))
    assert isinstance(opened, Table)
    assert (opened.rows, opened.tests) == (20, 0)
    assert f"{alone} alone is no test part and is left out" in opened.notes
