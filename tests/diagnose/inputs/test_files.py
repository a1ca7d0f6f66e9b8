"""Files and names of data: archives, text, gzip, and where a name is looked for."""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diagnose.errors import InputError
from diagnose.inputs import open_task
from diagnose.inputs.data import catalogue, files
from diagnose.inputs.data.tables import Table, Text
from diagnose.settings import Settings

ROWS = b"1 1:1 2:2\n0 1:3\n"


def table(path: Path) -> Table:
    opened = catalogue.load(path)
    assert isinstance(opened, Table)
    return opened


def save(path: Path, **named: Any) -> Path:
    np.savez(path, **named)
    return path


def test_pixels_in_both_layouts_leave_as_the_same_images(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 6), dtype=np.uint8)
    labels = np.arange(5)
    first = table(save(tmp_path / "a.npz", x=pixels, y=labels))
    last = table(save(tmp_path / "b.npz", x=pixels.transpose(0, 2, 3, 1), y=labels))
    assert first.divisor == last.divisor == 255
    np.testing.assert_array_equal(first.inputs, pixels)
    np.testing.assert_array_equal(last.inputs, pixels)


def test_images_without_channels_get_one(tmp_path: Path) -> None:
    assert table(save(tmp_path / "a.npz", x=np.zeros((4, 7, 7)), y=np.arange(4))).inputs.shape == (4, 1, 7, 7)


def test_the_training_part_is_used_and_the_test_part_is_held_out(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "x_train": np.ones((3, 2)),
        "y_train": np.array([[0], [1], [1]]),
        "x_test": np.zeros((9, 2)),
        "y_test": np.arange(9) % 2,
    }
    path = save(tmp_path / "a.npz", **arrays)
    opened = table(path)
    assert (opened.rows, opened.tests) == (3, 9)
    assert opened.targets.tolist() == [0, 1, 1, *(i % 2 for i in range(9))]
    task, _ = open_task("logreg", path, Settings())
    held = task.held_out
    assert isinstance(held, tuple)
    assert held[0].tolist() == [[0.0, 0.0]] * 3  # as many as are trained on
    assert (task.samples[0] if isinstance(task.samples, tuple) else held[0]).tolist() == [[1.0, 1.0]] * 3
    assert task.understood[-1] == "held out for validation: 3 of the 9 rows of the test part"
    for key, wrong in (("x_test", np.zeros((9, 3))), ("y_test", np.zeros(8)), ("x_test", np.zeros((9, 2), np.uint8))):
        with pytest.raises(InputError, match="x_test"):
            table(save(tmp_path / "b.npz", **(arrays | {key: wrong})))


def test_rows_outside_the_sample_set_are_held_out() -> None:
    task, _ = open_task("logreg", "breast-cancer", Settings(samples=400))
    assert isinstance(task.held_out, tuple)
    assert isinstance(task.samples, tuple)
    trained = {tuple(row) for row in task.samples[0].tolist()}
    assert len(task.held_out[0]) == len(task.held_out[1]) == 169
    assert not trained & {tuple(row) for row in task.held_out[0].tolist()}
    assert open_task("logreg", "breast-cancer", Settings())[0].held_out is None
    words, _ = open_task("gpt2-mini", "pydoc-topics", Settings(samples=10, max_length=64))
    assert isinstance(words.held_out, dict)
    assert words.held_out["input_ids"].shape == (10, 64)


@pytest.mark.parametrize(
    ("named", "what"),
    [
        ({"a": np.zeros(3)}, "no arrays x and y"),
        ({"x": np.zeros((3, 2))}, "no arrays x and y"),
        ({"x": np.zeros((3, 2)), "y": np.zeros(4)}, "3 rows of inputs and 4 targets"),
        ({"x": np.array([{}, {}, {}]), "y": np.zeros(3)}, "Python objects"),
        ({"x": np.zeros((3, 2), dtype=complex), "y": np.zeros(3)}, "not real numbers"),
        ({"x": np.zeros((3, 2)), "y": np.zeros((3, 2))}, "array y has shape"),
        ({"x": np.zeros((0, 2)), "y": np.zeros(0)}, "no rows"),
        ({"x": np.zeros(3), "y": np.zeros(3)}, "inputs of shape"),
        ({"x": np.zeros((2, 1, 3, 3, 3)), "y": np.zeros(2)}, "5 dimensions"),
    ],
)
def test_an_archive_that_does_not_fit(tmp_path: Path, named: dict[str, Any], what: str) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, allow_pickle=True, **named)
    with pytest.raises(InputError, match=what):
        catalogue.load(path)


def test_nan_is_found_with_row_and_column(tmp_path: Path) -> None:
    x = np.ones((5, 3))
    x[3, 1] = np.nan
    with pytest.raises(InputError) as refused:
        catalogue.load(save(tmp_path / "a.npz", x=x, y=np.zeros(5)))
    assert refused.value.what == "NaN in the data"
    assert "row 4, column 2" in refused.value.where
    with pytest.raises(InputError, match="row 2"):
        catalogue.load(save(tmp_path / "b.npz", x=np.ones((2, 1)), y=np.array([1, np.inf])))


@pytest.mark.parametrize("cut", [10, 60, -5])
def test_a_truncated_archive_is_refused(tmp_path: Path, cut: int) -> None:
    path = save(tmp_path / "a.npz", x=np.ones((50, 3)), y=np.zeros(50))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match="archive"):
        catalogue.load(path)


def test_a_damaged_member_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", x=np.ones((50, 3)), y=np.zeros(50))
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(content)
    with pytest.raises(InputError):
        catalogue.load(path)


def test_text_is_read_as_bytes_unchanged(tmp_path: Path) -> None:
    content = "größe\r\n\x00 end".encode()
    (tmp_path / "t.txt").write_bytes(content)
    (tmp_path / "t.txt.gz").write_bytes(gzip.compress(content, mtime=0))
    for name in ("t.txt", "t.txt.gz"):
        opened = catalogue.load(tmp_path / name)
        assert isinstance(opened, Text)
        assert opened.tokens.tobytes() == content


def test_gzip_is_known_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "rows").write_bytes(gzip.compress(ROWS, mtime=0))
    assert table(tmp_path / "rows").rows == 2


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("rows.gz", gzip.compress(ROWS, mtime=0)[:-6], "broken gzip file"),
        ("rows.gz", gzip.compress(ROWS, mtime=0)[:12] + b"\xff" * 20, "broken gzip file"),
        ("rows.gz", ROWS, "not a gzip file"),
        ("rows", b"", "empty file"),
        ("rows", b" \n\n", "empty file"),
        ("rows.gz", gzip.compress(b"", mtime=0), "empty file"),
        ("rows", b"1 1:1\n\xff\xfe", "not a text file"),
        ("rows.npz", b"not an archive", "not a .npz archive"),
        ("rows.parquet", b"PAR1", "Parquet, not a kind of data"),
        ("rows.csv", b"a,b\n", "`.csv` data"),
        ("rows.jsonl", b"{}\n", "no row of a known kind"),
        ("rows.json.gz", gzip.compress(b"[]", mtime=0), "no rows"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, name: str, content: bytes, what: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=what):
        catalogue.load(path)


ROW = b"1 1:1\n"
ARROW = b"ARROW1\x00\x00"
FORMATS: list[tuple[str, bytes, str, str]] = [
    ("a.bz2", bz2.compress(ROW), "bzip2", "bunzip2"),
    ("a.txt", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "a PNG image", "numpy.savez"),
    ("a.txt", bz2.compress(ROW), "bzip2", "bunzip2"),
    ("a.svm.xz", lzma.compress(ROW), "xz", "unxz"),
    ("a.json.zst", b"\x28\xb5\x2f\xfd\x00", "Zstandard", "unzstd"),
    ("a.lz4", b"\x04\x22\x4d\x18\xff", "LZ4", "unlz4"),
    ("a.parquet", b"PAR1", "Parquet", "numpy.savez"),
    ("rows", b"PAR1\x15", "Parquet", "numpy.savez"),
    ("rows.arrow", ARROW, "Arrow", "numpy.savez"),
    ("rows.gz", gzip.compress(ARROW, mtime=0), "Arrow", "numpy.savez"),
    ("rows.json", ARROW, "Arrow", "numpy.savez"),
    ("a.npy", b"\x93NUMPY", "a NumPy array", "numpy.savez"),
    ("a", b"\x93NUMPY\x01", "a NumPy array", "numpy.savez"),
    ("a.h5", b"\x89HDF\r\n\x1a\n", "HDF5", "numpy.savez"),
    ("a.mat", b"MATLAB 5.0 MAT-file", "MATLAB", "numpy.savez"),
    ("a.png", b"\x89PNG\r\n\x1a\n", "a PNG image", "`.npz`"),
    ("a.jpg", b"\xff\xd8\xff\xe0", "a JPEG image", "`.npz`"),
    (
        "t10k-images-idx3-ubyte.gz",
        gzip.compress(b"\x00\x00\x08\x03\x00", mtime=0),
        "the IDX format of MNIST",
        "numpy.savez",
    ),
    ("a.pdf", b"%PDF-1.7", "PDF", "`.txt`"),
    ("a.db", b"SQLite format 3\x00", "an SQLite database", "`.jsonl`"),
    ("a.xls", b"\xd0\xcf\x11\xe0", "an old Excel", "`.jsonl`"),
    ("a.pt", b"", "a file of torch.save", "give it as MODEL"),
    ("a.safetensors", b"", "safetensors", "give it as MODEL"),
    ("a.bin", b"\x08\0\0\0\0\0\0\0{", "safetensors", "give it as MODEL"),
    ("a.gguf", b"GGUF\x03", "a GGUF model", "give it as MODEL"),
    ("a.data", b"\x80\x04\x95", "a Python pickle", "numpy.savez"),
    ("a.svm", "1 1:1".encode("utf-16"), "text in UTF-16", "UTF-8"),
    ("a.svm", b"version https://git-lfs.github.com/spec/v1", "a pointer to a large file", "git lfs pull"),
    ("a.json", b"<!DOCTYPE html><html>", "a web page", "fetch the file itself"),
    ("a.mtx", b"%%MatrixMarket matrix", "a Matrix Market file", "dump_svmlight_file"),
    ("a.zip", b"", "a zip archive", "unzip"),
    ("a.tar.gz", b"", "a tar archive", "tar -xf"),
]


@pytest.mark.parametrize(("name", "content", "what", "hint"), FORMATS)
def test_other_formats_are_named_with_a_way_out(
    tmp_path: Path, name: str, content: bytes, what: str, hint: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as refused:
        catalogue.load(tmp_path / name)
    assert what in refused.value.what
    assert "text file" not in refused.value.what
    assert hint in refused.value.hint


def test_what_a_zip_archive_is(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "table", "w") as archive:
        archive.writestr("[Content_Types].xml", "x" * 9000)
    np.savez(tmp_path / "arrays.npz", x=np.ones((2, 2)), y=np.ones(2))
    (tmp_path / "arrays.npz").rename(tmp_path / "arrays.dat")
    torch.save({"a": torch.ones(2)}, tmp_path / "model.dat")
    (tmp_path / "bundle").mkdir()
    with tarfile.open(tmp_path / "rows", "w") as bundle:
        bundle.add(tmp_path / "bundle", "bundle")
    for name, what in (
        ("table", "an Excel or Office file"),
        ("arrays.dat", "a `.npz` archive under another name"),
        ("model.dat", "a checkpoint of torch.save"),
        ("rows", "a tar archive"),
    ):
        with pytest.raises(InputError) as refused:
            catalogue.load(tmp_path / name)
        assert refused.value.what == f"{what}, not a kind of data that is read"


def test_text_that_only_starts_like_an_archive_is_text(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"BZh is what a bzip2 file starts with, and Rar! another one")
    assert isinstance(catalogue.load(tmp_path / "t.txt"), Text)


@pytest.mark.parametrize(
    ("word", "what", "hint"),
    [
        ("hf:imdb", "data `hf:imdb`", "to_json(FILE)"),
        ("stanfordnlp/imdb", "no such file", "to_json(FILE)"),
        ("tatsu-lab/alpaca", "no such file", "did you mean `alpaca`?"),
        ("hf:tatsu-lab/alpaca", "data `hf:tatsu-lab/alpaca`", "did you mean `alpaca`?"),
        ("folder/rows.svm", "no such file", "check the path"),
        ("/folder/rows", "no such file", "check the path"),
    ],
)
def test_data_sets_of_the_hub_have_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, what: str, hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as refused:
        catalogue.load(word)
    assert refused.value.what == what
    assert hint in refused.value.hint


def test_a_file_of_another_kind_in_the_data_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not "did you mean `rcv1`?" for `rcv1`."""
    monkeypatch.setenv("DIAGNOSE_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path.parent)
    (tmp_path / "rcv1.bz2").write_bytes(bz2.compress(ROW))
    with pytest.raises(InputError) as refused:
        catalogue.load("rcv1")
    assert refused.value.what == "bzip2, not a kind of data that is read"
    assert refused.value.where.endswith("rcv1.bz2")


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        catalogue.load(tmp_path / "nothing.svm")
    with pytest.raises(InputError, match="a folder"):
        catalogue.load(tmp_path)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    (tmp_path / "secret").write_bytes(ROWS)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(InputError, match="the file cannot be read"):
        catalogue.load(tmp_path / "secret")


def test_a_name_is_looked_for_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIAGNOSE_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path.parent)
    (tmp_path / "mine.svm.gz").write_bytes(gzip.compress(ROWS, mtime=0))
    save(tmp_path / "pictures_1k.npz", x=np.zeros((2, 3)), y=np.arange(2))
    opened = catalogue.load("mine")
    assert isinstance(opened, Table)
    assert catalogue.shown_name("mine", opened) == "mine (mine.svm.gz)"
    assert catalogue.find("pictures") == tmp_path / "pictures_1k.npz"
    with pytest.raises(InputError) as refused:
        catalogue.find("mime")
    assert refused.value.hint == "did you mean `mine`?"


def test_an_unknown_name_without_a_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DIAGNOSE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="unknown data: w8a") as refused:
        catalogue.load("w8a")
    assert "w8a.gz" in refused.value.hint
    with pytest.raises(InputError) as near:
        catalogue.load("brest-cancer")
    assert near.value.hint == "did you mean `breast-cancer`?"


def test_a_name_beats_a_folder_of_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert isinstance(catalogue.load("digits"), Table)


@pytest.mark.parametrize("name", ["iris", "rows.txt", "rows.json"])
def test_features_mean_something_for_libsvm_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "rows.txt").write_bytes(b"some text")
    (tmp_path / "rows.json").write_bytes(b'[{"text": "some text"}]')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="--features"):
        catalogue.load(name, features=4)


def test_takes_features_by_ending() -> None:
    assert files.takes_features(Path("a4a.gz"))
    assert not files.takes_features(Path("a.npz"))


def test_a_readme_is_no_suggestion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "README.md").write_text("what is here")
    monkeypatch.setenv("DIAGNOSE_DATA", str(tmp_path))
    with pytest.raises(InputError) as refused:
        catalogue.load("README.json", None)
    assert "did you mean" not in refused.value.hint
