"""Where `alpaca` is looked for, and how it is fetched."""

from __future__ import annotations

import gzip
import io
import json
import threading
import urllib.error
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from diagnose.errors import InputError
from diagnose.inputs.data import catalogue, fetch
from diagnose.inputs.data.tables import Rows

ROW = {"instruction": "Greet", "input": "", "output": "Hello"}
CONTENT = json.dumps([ROW]).encode()
DOWNLOAD = fetch.download


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """An empty data folder and an empty cache; the network must not be asked."""

    def refuse(url: str, path: Path, accept: Callable[[bytes], object]) -> None:
        raise AssertionError(f"asked for {url}")

    data, cache = tmp_path / "data", tmp_path / "cache" / "diagnose"
    data.mkdir()
    cache.mkdir(parents=True)
    monkeypatch.setenv("DIAGNOSE_DATA", str(data))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fetch, "download", refuse)
    return data, cache


def opened(word: str = "alpaca") -> Rows:
    found = catalogue.load(word)
    assert isinstance(found, Rows)
    return found


@pytest.mark.parametrize("name", ["alpaca.json", "alpaca_data.json", "alpaca_1k.json"])
@pytest.mark.parametrize("place", [0, 1])
def test_alpaca_goes_by_three_names_in_two_places(places: tuple[Path, Path], name: str, place: int) -> None:
    (places[place] / name).write_bytes(CONTENT)
    found = opened()
    assert found.title == f"alpaca ({name})"
    assert found.whole == 52_002


def test_the_data_folder_comes_before_the_cache(places: tuple[Path, Path]) -> None:
    (places[0] / "alpaca_1k.json").write_bytes(CONTENT)
    (places[1] / "alpaca.json").write_bytes(CONTENT)
    assert opened().title == "alpaca (alpaca_1k.json)"


def test_a_file_named_by_its_path_is_part_of_nothing(places: tuple[Path, Path]) -> None:
    (places[0] / "alpaca.json").write_bytes(CONTENT)
    assert opened(str(places[0] / "alpaca.json")).whole is None


def test_the_whole_of_alpaca_is_part_of_nothing(places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    (places[0] / "alpaca.json").write_bytes(json.dumps([ROW] * 3).encode())
    whole = catalogue.Known(("alpaca.json",), "", "alpaca.json", rows=3)
    monkeypatch.setitem(catalogue.KNOWN, "alpaca", whole)
    assert opened().whole is None


@pytest.mark.parametrize(
    ("name", "content"),
    [("mine.json", CONTENT), ("mine.jsonl.gz", gzip.compress(json.dumps(ROW).encode(), mtime=0))],
)
def test_other_names_have_the_endings_of_rows(places: tuple[Path, Path], name: str, content: bytes) -> None:
    (places[1] / name).write_bytes(content)
    assert opened("mine").title == f"mine ({name})"
    assert opened("mine").whole is None


class Response(io.BytesIO):
    """What urlopen gives, without a network."""


def answer(content: bytes) -> Callable[..., Response]:
    return lambda url, timeout: Response(content)


def failing(error: BaseException) -> Callable[..., Response]:
    def fail(url: str, timeout: float) -> Response:
        raise error

    return fail


@pytest.fixture
def network(places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """Sets what answers in place of the network."""
    return lambda opener: monkeypatch.setattr(fetch, "download", partial(DOWNLOAD, opener=opener))


def test_what_is_fetched_is_kept(places: tuple[Path, Path], network: Callable[[Any], None]) -> None:
    network(answer(CONTENT))
    assert opened().answers == ("Hello",)
    assert [path.name for path in places[1].iterdir()] == ["alpaca_data.json"]
    network(failing(AssertionError("asked twice")))
    assert opened().title == "alpaca (alpaca_data.json)"


@pytest.mark.parametrize(
    ("opener", "reason"),
    [
        (failing(urllib.error.URLError(OSError(-2, "Name or service not known"))), "Name or service not known"),
        (failing(urllib.error.HTTPError("", 404, "Not Found", None, None)), "Not Found"),  # type: ignore[arg-type]
        (failing(TimeoutError("timed out")), "timed out"),
        (answer(CONTENT[:-5]), "cannot be used (broken JSON"),
        (answer(b"<html>"), "cannot be used (broken JSON"),
        (answer(b'[{"text": "x"}]'), "cannot be used (no instruction rows"),
        (answer(b""), "cannot be used"),
    ],
)
def test_a_download_that_fails(
    places: tuple[Path, Path], network: Callable[[Any], None], opener: Any, reason: str
) -> None:
    network(opener)
    with pytest.raises(InputError) as refused:
        catalogue.load("alpaca")
    assert reason in refused.value.what
    assert "\n" not in str(refused.value)
    assert "alpaca_1k.json into the folder that DIAGNOSE_DATA names" in refused.value.hint
    assert not list(places[1].iterdir())


def test_a_download_without_an_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Who waits for the answer ends with it, and with no error."""
    given_up = threading.Event()

    def opener(url: str, timeout: float) -> Response:
        given_up.wait(60)
        return Response(CONTENT)

    with monkeypatch.context() as brief:
        brief.setattr(fetch, "CONNECT_SECONDS", 0.05)
        with pytest.raises(fetch.Unreachable, match=r"no answer within 0\.05 seconds"):
            fetch.download("x", tmp_path / "a", len, opener)
    given_up.set()
    monkeypatch.setattr(fetch, "LARGEST", 10)
    with pytest.raises(fetch.Unreachable, match="larger than"):
        fetch.download("x", tmp_path / "a", len, answer(b"x" * 11))
    monkeypatch.setattr(fetch, "TOTAL_SECONDS", -1)
    with pytest.raises(fetch.Unreachable, match="not done within"):
        fetch.download("x", tmp_path / "a", len, answer(b"x" * 10))


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(fetch.Unreachable, match="cannot be kept in the cache"):
        fetch.download("x", tmp_path / "file" / "a", len, answer(b"x"))


def test_a_fault_of_ours_is_not_taken_for_the_network(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        fetch.download("x", tmp_path / "a", len, failing(KeyError("ours")))


def test_nothing_is_left_where_the_last_step_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("diagnose.inputs.data.fetch.os.replace", refuse)
    with pytest.raises(fetch.Unreachable, match="No space left"):
        fetch.download("x", tmp_path / "a", len, answer(b"x"))
    assert not list(tmp_path.iterdir())
