"""Opening a task: how data is read for a model, the sample set, and data that a model cannot take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diagnose.errors import InputError
from diagnose.inputs import open_task
from diagnose.inputs.data.embedded import standardised
from diagnose.inputs.sampling import draw
from diagnose.settings import Settings


def pair(samples: Any) -> tuple[Tensor, Tensor]:
    assert isinstance(samples, tuple)
    return samples


def test_embedded_features_are_standardised_without_constant_columns_and_say_so() -> None:
    opened, _ = open_task("softmax", "digits", Settings(dtype="float64"))
    x, y = pair(opened.samples)
    assert x.shape == (1797, 61)
    torch.testing.assert_close(x.mean(0), torch.zeros(61, dtype=torch.float64))
    torch.testing.assert_close(x.var(0, correction=0), torch.ones(61, dtype=torch.float64))
    assert y.dtype == torch.int64
    assert any("standardised without 3 constant columns" in line for line in opened.understood)
    other, _ = open_task("logreg", "breast-cancer", Settings())
    assert any("(no constant columns)" in line for line in other.understood)


def test_standardising_keeps_the_numbers_of_the_columns() -> None:
    raw = np.array([[1.0, 5.0, 0.0], [3.0, 5.0, 2.0]])
    inputs, kept = standardised(raw)
    assert kept.tolist() == [0, 2]
    assert inputs.tolist() == [[-1, -1], [1, 1]]


def test_digits_are_pixels_for_images_and_numbers_by_request() -> None:
    images, _ = pair(open_task("cnn", "digits", Settings(samples=9))[0].samples)
    assert images.shape == (9, 1, 8, 8)
    assert float(images.min()) == 0
    assert float(images.max()) <= 1
    _, values = pair(open_task("mlp", "digits", Settings(loss="squared"))[0].samples)
    assert values.dtype == torch.float32


def test_logistic_labels_are_minus_and_plus_one_in_the_order_of_the_labels(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_text("7 1:1\n3 1:2\n7 1:3\n")
    opened, resolved = open_task("logreg", path, Settings())
    x, y = pair(opened.samples)
    assert y.tolist() == [1, -1, 1]
    assert x.tolist() == [[1], [2], [3]]
    assert (resolved.loss, opened.family, opened.rows) == ("logistic", "linear", 3)
    classes, _ = open_task("softmax", path, Settings())
    assert pair(classes.samples)[1].tolist() == [1, 0, 1]


def test_pixels_are_scaled_in_the_number_format_of_the_run(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x=pixels, y=np.array([0, 1, 2, 0, 1, 2]))
    for model, shape in (("cnn", (6, 3, 4, 4)), ("mlp", (6, 48))):
        x, _ = pair(open_task(model, tmp_path / "a.npz", Settings(dtype="float64"))[0].samples)
        assert x.shape == shape
        np.testing.assert_array_equal(x.numpy(), (pixels.transpose(0, 3, 1, 2) / 255.0).reshape(shape))


def test_the_sample_set_is_a_seeded_draw_in_file_order() -> None:
    index = draw(1000, 50, 3)
    assert len(set(index.tolist())) == 50
    assert sorted(index.tolist()) == index.tolist()
    assert (draw(1000, 50, 3) == index).all()
    assert (draw(1000, 50, 4) != index).any()
    assert draw(5, 9, 0).tolist() == [0, 1, 2, 3, 4]


def test_every_row_is_equally_likely_to_be_drawn() -> None:
    counts = np.bincount(np.concatenate([draw(10, 3, seed) for seed in range(2000)]), minlength=10)
    assert np.abs(counts - 600).max() < 5 * (2000 * 0.3 * 0.7) ** 0.5


def test_text_blocks_do_not_overlap_and_the_last_short_one_is_dropped(tmp_path: Path) -> None:
    content = bytes(range(256)) * 2 + b"rest"
    path = tmp_path / "t.txt"
    path.write_bytes(content)
    opened, resolved = open_task("gpt2-mini", path, Settings(max_length=100))
    assert isinstance(opened.samples, dict)
    tokens = opened.samples["input_ids"]
    assert tokens.shape == (5, 100)
    assert bytes(tokens.flatten().tolist()) == content[:500]
    assert torch.equal(opened.samples["labels"], tokens)
    assert (resolved.max_length, opened.rows, opened.family) == (100, 5, "language")
    assert any("the last 16 bytes dropped" in line for line in opened.understood)


def test_the_embedded_text_needs_no_file() -> None:
    opened, resolved = open_task("gpt2-mini", "pydoc-topics", Settings(samples=8))
    assert isinstance(opened.samples, dict)
    assert opened.samples["input_ids"].shape == (8, 128)
    assert resolved.max_length == 128
    assert opened.rows > 1000


def test_the_fingerprint_follows_weights_and_samples() -> None:
    def of(**settings: Any) -> str:
        return open_task("mlp", "iris", Settings(**settings))[0].fingerprint

    assert of() == of()
    assert len({of(), of(seed=1), of(samples=100), of(dtype="float64")}) == 4


def test_names_are_cut_to_the_last_part(tmp_path: Path) -> None:
    path = tmp_path / "evil\x1b[31m.svm"
    path.write_text("1 1:1\n0 1:2\n")
    opened, _ = open_task("logreg", path, Settings())
    assert opened.data_name == "evil\\x1b[31m.svm"
    assert str(tmp_path) not in " ".join(opened.understood)
    assert all(line.isprintable() for line in opened.understood)


REFUSED: list[tuple[str, str, dict[str, Any], str, str]] = [
    ("logreg", "digits", {}, "10 classes, but logreg with the logistic loss takes 2", "use `softmax`"),
    ("mlp", "digits", {"loss": "logistic"}, "10 classes", "use `--loss cross-entropy`"),
    ("softmax", "diabetes", {}, "numbers to predict", "use `mlp` with `--loss squared`"),
    ("mlp", "diabetes", {}, "numbers to predict", "use `--loss squared`"),
    ("logreg", "real.svm", {}, "target 0.5 is not a class label", "use `mlp` with `--loss squared`"),
    ("softmax", "many.svm", {}, "30 different labels in 30 rows", "use `mlp` with `--loss squared`"),
    ("logreg", "one.svm", {}, "a single class, label 1", "two classes"),
    ("mlp", "words.npz", {"loss": "squared"}, "labels are words", "leave"),
    ("logreg", "iris", {"loss": "squared"}, "logreg has the loss logistic, not squared", "`mlp`"),
    ("cnn", "wine", {}, "cnn takes images", "`mlp`"),
    ("mlp", "pydoc-topics", {}, "mlp takes rows of numbers, not text", "gpt2-mini"),
    ("gpt2-mini", "iris", {}, "takes text, not rows of numbers", "pydoc-topics"),
    ("gpt2-mini", "pydoc-topics", {"max_length": 513}, "more than the 512 positions", "use at most 512"),
    ("gpt2-mini", "short.txt", {}, "4 bytes are shorter than one block of 128", "`--max-length 4`"),
    ("gpt2-mini", "byte.txt", {}, "1 bytes are shorter", "longer text"),
    ("softmax", "iris", {"max_length": 9}, "only text is cut", "leave it out"),
    ("softmax", "iris", {"features": 9}, "only LIBSVM text", "leave it out"),
    ("softmax", "iris", {"device": "gpu"}, "unknown device", "use cpu"),
    ("softmax", "iris", {"device": "meta"}, "no such device", "use `cpu`"),
    ("logreg", "huge.svm", {}, "too large for float32", "float64"),
]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real.svm").write_text("0.5 1:1\n1 1:2\n")
    (tmp_path / "many.svm").write_text("".join(f"{i} 1:{i}\n" for i in range(30)))
    (tmp_path / "one.svm").write_text("1 1:1\n1 1:2\n")
    (tmp_path / "huge.svm").write_text("1 1:1e300\n0 1:2\n")
    (tmp_path / "short.txt").write_text("text")
    (tmp_path / "byte.txt").write_text("t")
    np.savez(tmp_path / "words.npz", x=np.ones((2, 3)), y=np.array(["cat", "dog"]))
    return tmp_path


@pytest.mark.parametrize(("model", "data", "settings", "what", "hint"), REFUSED)
def test_data_that_the_model_cannot_take(
    files: Path, model: str, data: str, settings: dict[str, Any], what: str, hint: str
) -> None:
    with pytest.raises(InputError) as refused:
        open_task(model, data, Settings(**settings))
    assert what in refused.value.what
    assert hint in refused.value.hint


def test_words_are_classes_in_alphabetical_order(files: Path) -> None:
    opened, _ = open_task("softmax", "words.npz", Settings())
    assert pair(opened.samples)[1].tolist() == [0, 1]


def test_a_missing_gpu_is_said() -> None:
    with pytest.raises(InputError, match="no such device on this machine"):
        open_task("softmax", "iris", Settings(device="cuda:99"))


def test_the_adult_set_by_name(data_folder: Path) -> None:
    opened, resolved = open_task("logreg", "a4a", Settings())
    x, y = pair(opened.samples)
    assert x.shape == (4781, 123)
    assert set(x.flatten().tolist()) == {0.0, 1.0}
    assert set(y.tolist()) == {-1.0, 1.0}
    assert resolved.samples == resolved.curvature_samples == 4781


@pytest.mark.parametrize(("name", "rows", "shape"), [("cifar10", 5000, (3, 32, 32)), ("mnist", 10_000, (1, 28, 28))])
def test_pictures_by_name(data_folder: Path, name: str, rows: int, shape: tuple[int, ...]) -> None:
    opened, _ = open_task("cnn", name, Settings(samples=16))
    x, y = pair(opened.samples)
    assert (opened.rows, tuple(x.shape)) == (rows, (16, *shape))
    assert 0 <= float(x.min()) < float(x.max()) <= 1
    assert int(y.max()) <= 9
