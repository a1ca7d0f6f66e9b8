"""Which output of a trained classifier a label stands for, in every form that labels come in.

The classifiers here are right on every sample by a known margin, so that their loss is written out: any other numbering
of the classes is off by that margin.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diagnose.errors import InputError
from diagnose.inputs import open_task
from diagnose.inputs.data.classes import Classes, class_numbers, whole_numbers
from diagnose.inputs.data.tables import Rows
from diagnose.inputs.models import modules
from diagnose.inputs.models.pretrained import open_config
from diagnose.inputs.opening import Opened
from diagnose.inputs.text.encoded import encode
from diagnose.inputs.text.tokenizers import Bytes
from diagnose.settings import Settings
from estimators import Problem
from tests.diagnose.inputs.text.cases import made
from tests.transformers_cases import vit

OUTPUTS = 12
MARGIN = 8.0
RIGHT = math.log(1 + (OUTPUTS - 1) * math.exp(-MARGIN))
"""The loss of a classifier that scores the right class by MARGIN above the others."""
FRUIT = ("fig", "apple", "plum", "date", "kiwi", "lime", "pear", "lemon", "mango", "peach", "quince", "melon")


class Wrapped(nn.Module):
    """An output as those of transformers, whose logits are no tensor by themselves."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Any:
        return SimpleNamespace(logits=self.inner(x))


def trained(outputs: int = OUTPUTS) -> nn.Linear:
    """Class k scores the k-th number of a row."""
    model = nn.Linear(outputs, outputs, bias=False)
    with torch.no_grad():
        model.weight.copy_(MARGIN * torch.eye(outputs))
    return model


def opened(folder: Path, labels: Any, model: nn.Module | None = None, outputs: Any = None) -> Opened:
    """Rows of which each has a one where its true output is, labelled as the file has it."""
    true = np.arange(len(labels)) if outputs is None else np.asarray(outputs)
    inner = trained() if model is None else model
    np.savez(folder / "rows.npz", x=np.eye(OUTPUTS)[true], y=np.asarray(labels))
    return open_task(inner, str(folder / "rows.npz"), Settings())[0]


def loss(task: Opened) -> float:
    return Problem(task.model, task.samples, task.loss).loss()


def named(id2label: Any, label2id: Any) -> Any:
    model: Any = vit()
    model.config.id2label, model.config.label2id = id2label, label2id
    return model


@pytest.mark.parametrize(
    "labels",
    [
        np.arange(OUTPUTS),
        np.arange(OUTPUTS).astype(np.float32),
        np.arange(OUTPUTS).astype(np.uint8),
        [str(number) for number in range(OUTPUTS)],
        [f"{number}.0" for number in range(OUTPUTS)],
        [f"{number:02d}" for number in range(OUTPUTS)],
        [f" {number} " for number in range(OUTPUTS)],
        np.arange(1, OUTPUTS + 1),
        [str(number) for number in range(1, OUTPUTS + 1)],
    ],
    ids=["int", "float", "uint8", "text", "text-1.0", "text-01", "text-spaces", "from-1", "text-from-1"],
)
def test_a_model_that_is_right_stays_right(tmp_path: Path, labels: Any) -> None:
    assert loss(opened(tmp_path, labels)) == pytest.approx(RIGHT, rel=1e-4)


def test_text_of_a_few_digits_stays_where_it_is(tmp_path: Path) -> None:
    """Sorted as text 10 comes before 2."""
    task = opened(tmp_path, ["10", "2", "10", "2"], outputs=[10, 2, 10, 2])
    assert loss(task) == pytest.approx(RIGHT, rel=1e-4)
    assert "2 classes, numbered as in the file" in task.understood[1]


def test_logits_that_come_in_an_output_are_counted(tmp_path: Path) -> None:
    task = opened(tmp_path, [10, 2], Wrapped(trained()), outputs=[10, 2])
    assert loss(task) == pytest.approx(RIGHT, rel=1e-4)
    with pytest.raises(InputError, match=r"3 classes, Wrapped has 2"):
        opened(tmp_path, [0, 1, 2], Wrapped(nn.Linear(OUTPUTS, 2)))


def test_truth_values_are_the_outputs_0_and_1(tmp_path: Path) -> None:
    task = opened(tmp_path, np.array([True, False, True]), outputs=[1, 0, 1])
    assert loss(task) == pytest.approx(RIGHT, rel=1e-4)


@pytest.mark.parametrize(
    ("labels", "what"),
    [
        (["fig", "apple"], "labels apple, fig, Linear has no names for its outputs 0 to 11"),
        (["True", "False"], "labels False, True, Linear has no names for its outputs 0 to 11"),
        (["1", "01"], "labels 01, 1, Linear has no names for its outputs 0 to 11"),
        ([-1, 0, 1], "labels -1, 0, 1, Linear has the outputs 0 to 11"),
        ([5, 12], "labels 5, 12, Linear has the outputs 0 to 11"),
        (["12", "5"], "labels 5, 12, Linear has the outputs 0 to 11"),
        (list(FRUIT), "labels apple, date, fig, kiwi, …, Linear has no names for its outputs 0 to 11"),
    ],
)
def test_what_cannot_be_placed_is_refused(tmp_path: Path, labels: list[Any], what: str) -> None:
    with pytest.raises(InputError) as refused:
        opened(tmp_path, labels)
    assert refused.value.what == what
    assert "number the classes" in refused.value.hint


def test_labels_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="NaN or infinity among the targets"):
        opened(tmp_path, [0.0, float("nan")])


# -- what a config says of names -------------------------------------------------------------------


GENERIC = {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}


@pytest.mark.parametrize(
    ("id2label", "label2id"),
    [
        ({0: "owl", 1: "cat", 2: "dog"}, None),
        ({"0": "owl", "1": "cat", "2": "dog"}, None),
        ({0: "owl", 1: "cat", 2: "dog"}, GENERIC),
        ({number: name for name, number in GENERIC.items()}, {"owl": 0, "cat": 1, "dog": 2}),
        ({0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}, {"owl": "0", "cat": "1", "dog": "2"}),
        ({0: "owl", 1: "cat", 2: "dog"}, {"owl": 0, "cat": 1, "dog": 2}),
    ],
)
def test_names_of_either_table_count(id2label: Any, label2id: Any) -> None:
    known = modules.classes(named(id2label, label2id))
    numbers, how = class_numbers(np.array(["cat", "dog", "owl", "cat"]), known, "m", "rows")
    assert numbers.tolist() == [1, 2, 0, 1]
    assert how == "3 classes, numbered by the model's names"


@pytest.mark.parametrize(
    ("id2label", "label2id", "labels", "what"),
    [
        ({0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}, GENERIC, ["bad", "good"], "LABEL_0, LABEL_1, LABEL_2"),
        ({0: "owl", 1: "cat", 2: "dog"}, None, ["cat", "wolf"], "labels cat, wolf, m knows owl, cat, dog"),
        ({0: "owl", 1: "cat", 2: "cat"}, None, ["cat", "owl"], "m gives the name cat to several outputs"),
        ({0: "owl", 1: "cat"}, {"owl": 1, "cat": 0}, ["cat", "owl"], "m gives the name cat, owl to several outputs"),
        ({0: "1", 1: "2", 2: "3"}, None, [0, 1, 2], "labels 0, 1, 2, m knows 1, 2, 3"),
    ],
)
def test_names_that_do_not_tell_are_refused(id2label: Any, label2id: Any, labels: list[Any], what: str) -> None:
    with pytest.raises(InputError) as refused:
        class_numbers(np.asarray(labels), modules.classes(named(id2label, label2id)), "m", "rows")
    assert what in refused.value.what


@pytest.mark.parametrize(
    ("labels", "expected"),
    [([1, 2, 3], [0, 1, 2]), (["3", "1", "2"], [2, 0, 1]), (["LABEL_2", "LABEL_0"], [2, 0])],
)
def test_numbers_may_be_names(labels: list[Any], expected: list[int]) -> None:
    names = {0: "1", 1: "2", 2: "3"} if labels[0] != "LABEL_2" else {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    numbers, _ = class_numbers(np.asarray(labels), modules.classes(named(names, None)), "m", "rows")
    assert numbers.tolist() == expected


def test_a_folder_whose_config_has_id2label_alone(tmp_path: Path) -> None:
    """As many on the hub: keys are text there."""
    model: Any = vit()
    model.save_pretrained(tmp_path / "birds")
    path = tmp_path / "birds" / "config.json"
    body = json.loads(path.read_text())
    body["id2label"] = {"0": "wren", "1": "tern", "2": "kite"}
    body.pop("label2id", None)
    path.write_text(json.dumps(body))
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 6, 6), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", x=pixels, y=np.array(["kite", "tern", "wren", "kite"]))
    task, _ = open_task(str(tmp_path / "birds"), str(tmp_path / "x.npz"), Settings())
    assert isinstance(task.samples, dict)
    assert task.samples["labels"].tolist() == [2, 1, 0, 2]
    assert "numbered by the model's names" in task.understood[1]


def test_rows_of_text_are_numbered_alike() -> None:
    """Twelve classes as text: sorted as text the third would be "10"."""
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = made("Bert", "ForSequenceClassification", vocab_size=257, num_labels=OUTPUTS, pad_token_id=256, **size)
    labels = tuple(str(number) for number in range(OUTPUTS))
    source = Rows("t.jsonl", "labelled", ("a",) * OUTPUTS, labels=labels)
    found = encode(source, model, "m", Bytes(), Settings())
    assert found.tensors["labels"].tolist() == list(range(OUTPUTS))
    assert "12 classes, numbered as in the file" in found.line


# -- where any order is as good as another ---------------------------------------------------------


def test_random_weights_take_classes_in_any_order(tmp_path: Path) -> None:
    model: Any = vit()
    model.config.architectures = ["ViTForImageClassification"]
    model.config.save_pretrained(tmp_path)
    loaded = open_config(tmp_path / "config.json", Settings())
    known = modules.classes(loaded.module, random=loaded.random)
    for labels in (["cat", "dog", "owl"], [7, 9, 10], ["7", "9", "10"]):
        numbers, how = class_numbers(np.asarray(labels), known, "m", "rows")
        assert (numbers.tolist(), how) == ([0, 1, 2], "3 classes, numbered in sorted order")


def test_a_model_that_is_built_to_fit_takes_numbers_as_text_in_their_order(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=np.eye(3), y=np.array(["10", "9", "10"]))
    task, _ = open_task("softmax", tmp_path / "rows.npz", Settings())
    assert task.samples[1].tolist() == [1, 0, 1]  # type: ignore[index]
    task, _ = open_task("logreg", tmp_path / "rows.npz", Settings())
    assert task.samples[1].tolist() == [1, -1, 1]  # type: ignore[index]
    assert "(label 9 is -1, 10 is +1)" in task.understood[1]
    task, _ = open_task("mlp", tmp_path / "rows.npz", Settings(loss="squared"))
    assert task.samples[1].tolist() == [10, 9, 10]  # type: ignore[index]
    np.savez(tmp_path / "rows.npz", x=np.eye(3), y=np.array(["1.5", "-2", "1e1"]))
    task, _ = open_task("mlp", tmp_path / "rows.npz", Settings(loss="squared"))
    assert task.samples[1].tolist() == [1.5, -2, 10]  # type: ignore[index]


# -- one output ------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [nn.Linear(30, 1), nn.Sequential(nn.Linear(30, 1), nn.Flatten(0))])
def test_one_output_for_two_classes_names_the_loss_that_takes_it(model: nn.Module) -> None:
    with pytest.raises(InputError, match="has one output") as refused:
        open_task(model, "breast-cancer", Settings())
    assert refused.value.hint == "use `--loss logistic`"
    task, _ = open_task(model, "breast-cancer", Settings(loss="logistic"))
    assert Problem(model, task.samples, "logistic").loss() > 0


@pytest.mark.parametrize("labels", [[0, 1, 1], [0, 0, 0]])
def test_one_output_for_tensors_of_classes(labels: list[int]) -> None:
    """One class among one output would have loss 0 whatever the weights."""
    with pytest.raises(InputError, match="one output for each sample") as refused:
        Problem(nn.Linear(2, 1), (torch.ones(3, 2), torch.tensor(labels)))
    assert 'loss="logistic"' in refused.value.hint


def test_the_sign_of_two_words_is_no_guess_for_a_trained_model(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=np.eye(4), y=np.array(["spam", "ham", "spam", "ham"]))
    with pytest.raises(InputError, match="does not say which of them is"):
        open_task(nn.Linear(4, 1), str(tmp_path / "rows.npz"), Settings(loss="logistic"))
    task, _ = open_task("logreg", str(tmp_path / "rows.npz"), Settings())
    assert task.samples[1].tolist() == [1, -1, 1, -1]  # type: ignore[index]


def test_many_classes_of_a_few_rows_are_classes_for_a_model_that_has_them(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=np.ones((30, 3)), y=np.arange(30))
    task, _ = open_task(nn.Linear(3, 1000), str(tmp_path / "rows.npz"), Settings())
    assert task.samples[1].tolist() == list(range(30))  # type: ignore[index]


def test_outputs_that_nothing_tells_leave_numbers_as_they_are() -> None:
    numbers, _ = class_numbers(np.array([7, 3, 7]), Classes(None), "m", "rows")
    assert numbers.tolist() == [7, 3, 7]


@pytest.mark.parametrize(
    ("labels", "numbers"),
    [(["1", "2"], [1, 2]), (["-1", "+1"], [-1, 1]), (["1", "1.0"], None), (["1e3"], None), (["nan"], None)],
)
def test_text_that_is_a_number(labels: list[str], numbers: list[int] | None) -> None:
    found = whole_numbers(np.array(labels))
    assert (None if found is None else found.tolist()) == numbers
