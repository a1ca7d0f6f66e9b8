"""Data for models that exist already: classes as the model numbers them, text with labels that predict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diagnose import save
from diagnose.errors import InputError
from diagnose.inputs import open_task
from diagnose.inputs.data.tables import Rows, Text
from diagnose.inputs.models.catalogue import NETWORKS
from diagnose.inputs.models.networks import build
from diagnose.inputs.opening import Opened
from diagnose.inputs.text.encoded import encode
from diagnose.inputs.text.tokenizers import Bytes
from diagnose.settings import Settings
from estimators import Problem
from tests.transformers_cases import vit

NAMED = {"cat": 0, "dog": 1, "owl": 2}


def table(folder: Path, labels: Any, inputs: Any = None) -> Path:
    path = folder / "rows.npz"
    values = np.asarray(labels)
    generator = np.random.default_rng(0)
    np.savez(path, x=generator.normal(size=(len(values), 4)) if inputs is None else inputs, y=values)
    return path


def targets(opened: Opened) -> list[float]:
    values = opened.samples["labels"] if isinstance(opened.samples, dict) else opened.samples[1]
    return values.tolist()


# -- classes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "outputs", "expected", "how"),
    [
        ([3, 7, 3], 10, [3, 7, 3], "2 classes, numbered as in the file"),
        ([3.0, 7.0, 3.0], 10, [3, 7, 3], "2 classes, numbered as in the file"),
        ([1, 3, 2], 3, [0, 2, 1], "3 classes, numbered from 1 in the file"),
        ([-1, 1, 1], 2, [0, 1, 1], "2 classes, -1 and 1 in the file"),
    ],
)
def test_whole_numbers_are_outputs_of_the_model(
    tmp_path: Path, labels: list[Any], outputs: int, expected: list[int], how: str
) -> None:
    opened, _ = open_task(nn.Linear(4, outputs), str(table(tmp_path, labels)), Settings())
    assert targets(opened) == expected
    assert how in opened.understood[1]


@pytest.mark.parametrize(
    ("labels", "outputs", "what"),
    [
        ([0, 1, 2], 2, "3 classes, Linear has 2"),
        ([5, 12, 5], 10, "labels 5, 12, Linear has the outputs 0 to 9"),
        ([0, 1, 1], 1, "Linear has one output"),
    ],
)
def test_labels_that_the_model_cannot_place(tmp_path: Path, labels: list[Any], outputs: int, what: str) -> None:
    with pytest.raises(InputError) as refused:
        open_task(nn.Linear(4, outputs), str(table(tmp_path, labels)), Settings())
    assert refused.value.what == what


def test_looking_at_the_outputs_changes_nothing(tmp_path: Path) -> None:
    class Counting(nn.Module):
        calls: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 9)
            self.register_buffer("calls", torch.zeros(()))
            self.held: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            x.mul_(2)
            self.held = self.layer.weight
            assert not self.training
            return self.layer(x) + 0 * torch.rand(1)  # type: ignore[no-any-return]

    model = Counting().train()
    random = torch.random.get_rng_state()
    opened, _ = open_task(model, str(table(tmp_path, [3, 7, 3])), Settings())
    assert targets(opened) == [3, 7, 3]
    assert torch.equal(random, torch.random.get_rng_state())
    assert model.training
    assert not model.calls
    assert model.held is None
    assert isinstance(opened.samples, tuple)
    plain, _ = open_task(nn.Linear(4, 9), str(tmp_path / "rows.npz"), Settings())
    assert torch.equal(opened.samples[0], plain.samples[0])  # type: ignore[index]


@pytest.mark.parametrize("settings", [{}, {"dtype": "float64"}])
@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="aot_eager")], ids=["parallel", "compiled"]
)
def test_wrapped_modules_are_opened_as_the_module_inside(tmp_path: Path, wrap: Any, settings: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 9))
    path = str(table(tmp_path, [3, 7, 3]))
    opened, plain = (open_task(each, path, Settings(**settings))[0] for each in (wrap(model), model))
    names = [name for name, _ in opened.model.named_parameters()]
    assert names == ["0.weight", "0.bias"]
    assert (opened.fingerprint, targets(opened)) == (plain.fingerprint, targets(plain))
    assert opened.understood == plain.understood
    assert Problem(opened.model, opened.samples).names == tuple(names)


def images(folder: Path, labels: Any) -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 3, 6, 6), dtype=np.uint8)
    return str(table(folder, labels, pixels))


def classifier() -> Any:
    model: Any = vit()
    model.config.label2id = NAMED
    return model


@pytest.mark.parametrize(
    ("labels", "expected", "how"),
    [
        (["owl", "cat", "owl"], [2, 0, 2], "2 classes, numbered by the model's names"),
        ([2, 1, 2], [2, 1, 2], "2 classes, numbered as in the file"),
    ],
)
def test_an_image_classifier_has_names(tmp_path: Path, labels: list[Any], expected: list[int], how: str) -> None:
    opened, _ = open_task(classifier(), images(tmp_path, labels), Settings())
    assert targets(opened) == expected
    assert how in opened.understood[1]


def test_names_that_a_classifier_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        open_task(classifier(), images(tmp_path, ["cat", "wolf"]), Settings())
    assert refused.value.what == "labels cat, wolf, ViTForImageClassification knows cat, dog, owl"


def test_some_classes_of_a_trained_model_keep_its_loss(models_folder: Path, data_folder: Path, tmp_path: Path) -> None:
    """Classes 3 and 7 of CIFAR-10 alone, on which a trained ResNet-20 is right more often than not."""
    data = np.load(data_folder / "cifar10_7k.npz")
    labels = data["y_test"].ravel()
    chosen = np.isin(labels, (3, 7))
    path = table(tmp_path, labels[chosen][:64], data["x_test"][chosen][:64])
    weights = models_folder / "resnet20-cifar10" / "resnet20.safetensors"
    opened, _ = open_task(str(weights), str(path), Settings(architecture="resnet20"))
    assert Problem(opened.model, opened.samples).loss() < 1


# -- a built-in model from its file is the built-in model ------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "loss"),
    [
        ("logreg", "breast-cancer", "logistic"),
        ("softmax", "digits", "cross-entropy"),
        ("mlp", "digits", "cross-entropy"),
        ("cnn", "digits", "cross-entropy"),
    ],
)
def test_a_checkpoint_opens_as_the_name_does(tmp_path: Path, name: str, data: str, loss: str) -> None:
    named, _ = open_task(name, data, Settings(samples=30))
    save(named.model, tmp_path / "m.pt")
    found, resolved = open_task(str(tmp_path / "m.pt"), data, Settings(samples=30))
    assert resolved.loss == loss
    assert isinstance(named.samples, tuple)
    assert isinstance(found.samples, tuple)
    torch.testing.assert_close(found.samples[0], named.samples[0], rtol=0, atol=0)
    assert torch.equal(found.samples[1], named.samples[1])
    notes = ("features standardised", "scaled to [0, 1]")
    assert any(note in found.understood[1] for note in notes)
    classes = ", numbered as in the file"
    assert found.understood[1:] == tuple(
        line.replace("10 classes", f"10 classes{classes}") for line in named.understood[1:]
    )


def test_images_are_flattened_for_a_checkpoint_of_rows(tmp_path: Path) -> None:
    model = build(NETWORKS["mlp"], (108,), 3, 0)
    save(model, tmp_path / "m.pt")
    opened, _ = open_task(str(tmp_path / "m.pt"), images(tmp_path, [0, 1, 2, 1]), Settings())
    assert isinstance(opened.samples, tuple)
    assert opened.samples[0].shape == (4, 108)


def test_a_checkpoint_refuses_what_the_name_refuses(tmp_path: Path) -> None:
    save(build(NETWORKS["logreg"], (4,), 1, 0), tmp_path / "m.pt")
    with pytest.raises(InputError, match="logreg has the loss logistic"):
        open_task(str(tmp_path / "m.pt"), "iris", Settings(loss="squared"))
    with pytest.raises(InputError, match="logreg takes rows of numbers, not text"):
        open_task(str(tmp_path / "m.pt"), "pydoc-topics", Settings())


def test_grey_images_are_none_for_a_resnet20(tmp_path: Path) -> None:
    """One channel would be broadcast against the mean of three."""
    save(build(NETWORKS["resnet20"], (3, 8, 8), 10, 0), tmp_path / "m.pt")
    with pytest.raises(InputError, match="takes images of 3 channels, these have 1"):
        open_task(str(tmp_path / "m.pt"), "digits", Settings())


def test_the_line_says_how_rows_were_read(tmp_path: Path) -> None:
    opened, _ = open_task(nn.Linear(30, 2), "breast-cancer", Settings())
    line = (
        "breast-cancer: 569 rows, 30 features, 2 classes, numbered as in the file, features standardised (no constant"
    )
    assert opened.understood[1].startswith(line)
    convolution = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 10))
    opened, _ = open_task(convolution, "digits", Settings(samples=4))
    assert opened.understood[1].endswith(
        "images of 1×8×8, 10 classes, numbered as in the file, pixels scaled to [0, 1]"
    )


def test_columns_left_out_are_named_before_the_shapes_clash(tmp_path: Path) -> None:
    opened, _ = open_task(nn.Linear(61, 10), "digits", Settings())
    assert "features standardised without 3 constant columns (1, 33, 40 of 64)" in opened.understood[1]
    save(build(NETWORKS["mlp"], (64,), 10, 0), tmp_path / "m.pt")
    for model, loss in ((nn.Linear(64, 10), None), (nn.Linear(64, 1), "squared"), (str(tmp_path / "m.pt"), None)):
        with pytest.raises(InputError) as refused:
            open_task(model, "digits", Settings(loss=loss))
        what = "the constant columns 1, 33, 40 are left out, which leaves 61 features, but "
        assert refused.value.what.startswith(what)
        assert "takes 64" in refused.value.what
        assert "use a model that takes 61" in refused.value.hint


def test_columns_that_no_row_has_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "rows.svm").write_text("1 1:1 3:1\n0 2:1\n")
    with pytest.raises(InputError, match="3 features, but Linear takes 5") as refused:
        open_task(nn.Linear(5, 2), str(tmp_path / "rows.svm"), Settings())
    assert "`--features 5`" in refused.value.hint
    task, _ = open_task(nn.Linear(5, 2), str(tmp_path / "rows.svm"), Settings(features=5))
    assert Problem(task.model, task.samples).loss() > 0


def test_a_loss_of_ones_own_gets_the_numbers_of_the_file(tmp_path: Path) -> None:
    def loss(output: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(output, labels, reduction="none")

    opened, _ = open_task(nn.Linear(4, 9), str(table(tmp_path, [3, 7, 3])), Settings(loss=loss))
    assert targets(opened) == [3, 7, 3]
    assert np.isfinite(Problem(opened.model, opened.samples, loss).loss())
    with pytest.raises(InputError, match="labels are words"):
        open_task(nn.Linear(4, 9), str(table(tmp_path, ["a", "b"])), Settings(loss=loss))


@pytest.mark.parametrize("model", [lambda: nn.LazyLinear(3), lambda: nn.Linear(4, 3, device="meta")])
def test_a_model_without_numbers(tmp_path: Path, model: Any) -> None:
    with pytest.raises(InputError, match="without numbers"):
        open_task(model(), str(table(tmp_path, [0, 1])), Settings())


# -- text for a module without a head that transformers knows --------------------------------------


class Bigrams(nn.Module):
    """The next byte by the one before it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(256, 256)
        self.name = name


class Positional(Bigrams):
    def forward(self, x: Tensor) -> Tensor:
        return self.table(x)  # type: ignore[no-any-return]


class Named(Bigrams):
    def forward(self, input_ids: Tensor) -> Tensor:
        return self.table(input_ids)  # type: ignore[no-any-return]


@pytest.mark.parametrize("module", [Positional, Named])
def test_text_is_predicted_not_copied(tmp_path: Path, module: type[Bigrams]) -> None:
    path = tmp_path / "text.txt"
    content = "the cat sat on the mat and the dog sat on the log. " * 4
    path.write_text(content)
    model = module("x")
    opened, _ = open_task(model, str(path), Settings(max_length=20))
    assert opened.family == "language"
    assert "loss cross-entropy of the next token" in opened.understood
    blocks = torch.tensor(list(content.encode())[: len(content) // 20 * 20]).reshape(-1, 20)
    logits = model.table(blocks[:, :-1])
    by_hand = F.cross_entropy(logits.flatten(0, 1), blocks[:, 1:].flatten())
    assert Problem(model, opened.samples).loss() == pytest.approx(by_hand.item(), rel=1e-5)


def test_rows_of_an_answer_are_predicted_from_the_prompt() -> None:
    """Labels stand beside the token before them: the first byte of the answer beside the last of the prompt."""
    model = Named("x")
    source = Rows("t.json", "instruction", ("ab", "c"), ("de", "f"))
    found = encode(source, model, "m", Bytes(), Settings()).tensors
    assert found["input_ids"].tolist() == [[97, 98, 100, 101], [99, 102, 0, 0]]
    assert found["labels"].tolist() == [[-100, 100, 101, -100], [102, -100, -100, -100]]
    rows = [
        F.cross_entropy(model.table(torch.tensor(x)), torch.tensor(y)).item()
        for x, y in (([98, 100], [100, 101]), ([99], [102]))
    ]
    assert Problem(model, found).loss() == pytest.approx(float(np.mean(rows)), rel=1e-5)


def test_a_causal_model_still_gets_its_labels_unshifted() -> None:
    text = Text("t.txt", np.frombuffer(b"abcd", dtype=np.uint8))
    found = encode(text, build(NETWORKS["gpt2-mini"], (), 0, 0), "m", Bytes(), Settings(max_length=2)).tensors
    assert torch.equal(found["labels"], found["input_ids"])
