"""LIBSVM text: what counts as a feature, what is skipped, and which line is wrong."""

from __future__ import annotations

import gzip
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from diagnose.errors import InputError
from diagnose.inputs.data import files, memory
from diagnose.inputs.data.libsvm import parse
from diagnose.inputs.data.tables import Table


def test_values_land_in_their_columns() -> None:
    table = parse("1 1:2 3:-4.5e1\n-1 2:1\n", "rows")
    assert table.inputs.tolist() == [[2, 0, -45], [0, 1, 0]]
    assert table.targets.tolist() == [1, -1]


def test_an_explicit_zero_counts_for_the_number_of_features() -> None:
    assert parse("0 1:1 7:0\n1 2:1\n", "rows").inputs.shape == (2, 7)


def test_comments_and_blank_lines_are_skipped_and_a_row_may_be_empty() -> None:
    table = parse("# head\n\n+1 2:1 # tail\r\n0\n   \n", "rows")
    assert table.inputs.tolist() == [[0, 1], [0, 0]]


def test_more_features_than_the_largest_index() -> None:
    assert parse("1 1:1\n0 2:1", "rows", features=5).inputs.shape == (2, 5)


@pytest.mark.parametrize(
    ("text", "what", "line"),
    [
        ("1 1:1\nx 1:1", "`x` is not a number", 2),
        ("# c\n\n1 1:1\n1 2:y", "`y` is not a number", 4),
        ("1 1:1\n0 abc", "`abc` is not index:value", 2),
        ("1 1:1\n0 1:", "`` is not a number", 2),
        ("1 -1:2", "`-1:2` is not index:value", 1),
        ("1 1.5:2", "`1.5:2` is not index:value", 1),
        ("1 0:2", "index 0", 1),
        ("1 2:1 2:3", "index 2 is given twice", 1),
        ("1 1:1_0", "`1_0` is not a number", 1),
        ("1 1:1\n1 2:nan", "NaN or infinity", 2),
        ("inf 1:1", "NaN or infinity", 1),
        ("1,2,3", "`1,2,3` is not a number", 1),
    ],
)
def test_a_malformed_line_is_named(text: str, what: str, line: int) -> None:
    with pytest.raises(InputError) as refused:
        parse(text, "rows.svm")
    assert what in refused.value.what
    assert refused.value.where == f"rows.svm, line {line}"
    assert refused.value.hint


@pytest.mark.parametrize("text", ["# only a comment\n", "1\n0\n"])
def test_no_rows_or_no_features(text: str) -> None:
    with pytest.raises(InputError, match=r"no (rows|features)"):
        parse(text, "rows.svm")


def test_too_few_features_asked_for() -> None:
    with pytest.raises(InputError, match="below the largest index, 7"):
        parse("1 7:1", "rows.svm", features=6)


def test_a_table_beyond_the_memory_is_refused_before_it_is_made() -> None:
    with pytest.raises(InputError, match="GB as a dense table"):
        parse("1 999999999999:1\n0 1:1", "rows.svm")
    with pytest.raises(InputError, match="more than 18 digits"):
        parse("1 99999999999999999999:1\n0 1:1", "rows.svm")


def test_the_peak_decides_not_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that fits, beside samples that don't: 8 kB, of which opening takes 2.1 times as much."""
    row = "1 1000:1\n"
    monkeypatch.setattr(memory, "available", lambda: 16_000)
    with pytest.raises(InputError, match="1 rows of 1,000 features"):
        parse(row, "rows.svm")
    monkeypatch.setattr(memory, "available", lambda: 17_000)
    assert parse(row, "rows.svm").inputs.shape == (1, 1000)


def test_a_container_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 8 kB\nMemAvailable: 4 kB\n")
    (tmp_path / "max").write_text("max\n")
    (tmp_path / "limit").write_text("3000\n")
    monkeypatch.setattr(memory, "SYSTEM", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "LIMITS", (tmp_path / "max", tmp_path / "none"))
    assert memory.available() == 4096
    monkeypatch.setattr(memory, "LIMITS", (tmp_path / "limit",))
    assert memory.available() == 3000
    monkeypatch.setattr(memory, "SYSTEM", tmp_path / "none")
    assert memory.available() == 3000


PEAK = """
import re, sys
from pathlib import Path
import torch
from diagnose.inputs import open_task
from diagnose.settings import Settings
path, kind = sys.argv[1], sys.argv[2]


def largest():  # of this process alone: what getrusage says starts at the size of the one that started it
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])


open_task("logreg", "breast-cancer", Settings(dtype=kind))
named = sys.argv[3] == "named"
model = "logreg" if named else torch.nn.Linear(12_500, 2, dtype=getattr(torch, kind))
before = largest()
open_task(model, path, Settings(dtype=kind) if named else Settings())
print(largest() - before)
"""


@pytest.mark.limit
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is told by /proc")
@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("model", ["named", "own"])
def test_the_peak_of_opening_a_wide_table(tmp_path: Path, kind: str, model: str) -> None:
    """200 MB as a table; in a process of its own, whose largest size is that of opening it."""
    path = tmp_path / "wide.svm"
    values = " ".join(f"{column}:0.5" for column in range(500, 12_501, 500))  # no page of memory stays unused
    path.write_text("".join(f"{row % 2} {values}\n" for row in range(2000)))
    result = subprocess.run(
        [sys.executable, "-c", PEAK, str(path), kind, model], capture_output=True, text=True, check=True
    )
    tables = int(result.stdout) / (8 * 2000 * 12_500)
    assert 1.2 < tables < memory.PEAK


def test_a_file_of_fifty_thousand_rows_opens_in_seconds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = [
        f"{i % 2} " + " ".join(f"{j}:1" for j in sorted(rng.choice(300, 12, replace=False) + 1)) for i in range(500)
    ]
    path = tmp_path / "many.gz"
    path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode() * 100))
    began = time.process_time()  # of this process alone: others may be busy
    table = files.load(path)
    assert isinstance(table, Table)
    assert table.inputs.shape == (50_000, 300)
    assert table.inputs.sum() == 50_000 * 12
    assert time.process_time() - began < 30


def test_the_adult_set_has_its_known_size(data_folder: Path) -> None:
    table = files.load(data_folder / "a4a.gz")
    assert isinstance(table, Table)
    assert table.inputs.shape == (4781, 123)
    assert set(np.unique(table.targets)) == {0.0, 1.0}
