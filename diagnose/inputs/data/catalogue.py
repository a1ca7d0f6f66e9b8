"""Data by name or path: which file or embedded set a word on the command line means."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from diagnose.errors import InputError
from diagnose.inputs.data import embedded, fetch, files, rows
from diagnose.inputs.data.tables import Rows, Table, Text, checked
from diagnose.settings import printable, task_name
from reports.record.diagnosis import NOT_YET

FOLDER = "DIAGNOSE_DATA"
GZIPPED = ("", ".svm", ".libsvm", ".txt", ".json", ".jsonl")
ENDINGS = (*(ending + gz for ending in GZIPPED for gz in ("", ".gz")), ".npz")
HUB = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
"""OWNER/NAME, as data sets of the Hugging Face hub are called."""
FROM_HUB = (
    "this version takes nothing from the hub: save its rows of `text` and `label` or `instruction` and `output` with "
    "`datasets.load_dataset(NAME, split=SPLIT).to_json(FILE)`, and give that `.jsonl` file"
)


@dataclass(frozen=True)
class Known:
    """A public set of instruction rows: the names its files go by, where it can be fetched, and its size."""

    files: tuple[str, ...]
    url: str
    kept_as: str
    rows: int


KNOWN = {
    "alpaca": Known(
        files=("alpaca.json", "alpaca_data.json", "alpaca_1k.json"),
        url="https://raw.githubusercontent.com/tatsu-lab/stanford_alpaca/main/alpaca_data.json",
        kept_as="alpaca_data.json",
        rows=52_002,
    )
}


def load(data: str | Path, features: int | None = None) -> Table | Text | Rows:
    """Open data by an embedded name, a path, or the name of a file in the data folder or the cache.

    Raises:
        InputError: nothing of that name, or a file that cannot be used.
    """
    word = str(data)
    if word.startswith("hf:"):
        raise InputError(f"data `{printable(word)}`", NOT_YET, _hub_hint(word.removeprefix("hf:")))
    if word in embedded.NAMES:
        _refuse_features(features, word)
        return embedded.load(word)
    path = find(word)
    if not files.takes_features(path):
        _refuse_features(features, printable(word))
    opened = files.load(path, features)
    if isinstance(opened, Table):
        return checked(opened)
    opened = replace(opened, title=shown_name(data, opened))
    known = KNOWN.get(word)
    if known and isinstance(opened, Rows) and len(opened.texts) < known.rows:
        return replace(opened, whole=known.rows)
    return opened


def cache() -> Path:
    """The folder that keeps what was fetched: diagnose in $XDG_CACHE_HOME, else in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base or os.path.expanduser("~/.cache")) / "diagnose"


def find(word: str) -> Path:
    """The file that a word means: the path itself, else a file of that name in the data folder or the cache.

    A known set that is in neither is fetched into the cache.
    """
    if not word or "\0" in word:
        raise InputError("no data named", "--data", f"use one of {', '.join(embedded.NAMES)}, or a file")
    path = Path(word)
    if os.path.isfile(path):
        return path
    folder = os.environ.get(FOLDER)
    if path.name == word:
        places = [*([Path(folder)] if folder else []), cache()]
        for candidate in (candidate for place in places for candidate in _candidates(place, word)):
            if os.path.isfile(candidate):
                return candidate
    if word in KNOWN:
        return _fetched(word, KNOWN[word], folder)
    if os.path.lexists(path):  # a folder, a pipe, a broken link: opening it says what is wrong
        return path
    if path.name != word:
        named = path.suffix.lower() in (*filter(None, ENDINGS), ".csv")  # owner/name may hold a dot as well
        hub = HUB.fullmatch(word) and not named and not path.parent.exists()
        raise InputError("no such file", printable(word), _hub_hint(word) if hub else "check the path")
    raise _unknown(word, folder)


def _fetched(word: str, known: Known, folder: str | None) -> Path:
    """The file of a known set, newly in the cache."""
    path = cache() / known.kept_as

    def accept(content: bytes) -> None:
        if rows.parse(content, known.kept_as, one_a_line=False).kind != "instruction":
            raise InputError("no instruction rows", known.kept_as)

    try:
        fetch.download(known.url, path, accept)
    except fetch.Unreachable as error:
        place = f"the folder that {FOLDER} names" if folder else f"a folder and set {FOLDER} to it"
        raise InputError(
            f"{word} is not on this machine, and the download failed ({error})",
            known.url,
            f"put {' or '.join(known.files)} into {place}",
        ) from error
    return path


def _candidates(folder: Path, word: str) -> list[Path]:
    """Usual names first; last a part of a larger set, such as ``cifar10_7k.npz`` for ``cifar10``."""
    if word in KNOWN:
        return [folder / name for name in KNOWN[word].files]
    exact = [folder / (word + ending) for ending in ENDINGS]
    try:
        parts = sorted(path for path in folder.glob("*.npz") if path.name.startswith((word + "_", word + "-")))
    except OSError:
        parts = []
    try:
        others = sorted(path for path in folder.iterdir() if path.name.startswith(word + "."))
    except OSError:
        others = []
    return [*exact, *parts, *others]  # one of another kind last: opening it says which


def _hub_hint(word: str) -> str:
    """What to do about a data set of the hub."""
    name = word.rpartition("/")[2]
    return f"did you mean `{name}`?" if name in (*KNOWN, *embedded.NAMES) else FROM_HUB


def _unknown(word: str, folder: str | None) -> InputError:
    """What to say of a name that is nothing: the nearest one, else where it is looked for."""
    known = [*embedded.NAMES, *KNOWN]
    if folder and Path(folder).is_dir():
        held = [path.name for path in Path(folder).iterdir() if path.is_file()]
        known += sorted({name.partition(".")[0] for name in held if not name.lower().startswith("readme")})
    shown = printable(word)
    what = "no such file" if Path(word).suffix else "unknown data"
    near = difflib.get_close_matches(word, known, n=1)
    if near:
        return InputError(what, shown, f"did you mean `{printable(near[0])}`?")
    if folder and not Path(folder).is_dir():
        return InputError(what, shown, f"{FOLDER} names no folder: {printable(folder)}")
    place = f"the folder that {FOLDER} names" if folder else f"a folder and set {FOLDER} to it"
    if Path(word).suffix:
        return InputError(what, shown, f"check the path, or put the file into {place}")
    return InputError(
        what,
        shown,
        f"use {', '.join(embedded.NAMES)}, a path, or put {shown} or {shown}.gz into {place}; "
        "of the Hugging Face hub nothing is fetched",
    )


def _refuse_features(features: int | None, name: str) -> None:
    if features is not None:
        raise InputError("only LIBSVM text takes a number of features", "--features", f"leave it out for {name}")


def shown_name(data: str | Path, table: Table | Text | Rows) -> str:
    """The last part of the name that was given, and the file's where that says more."""
    given, found = task_name(data), Path(table.name).name
    return given if found == given or table.name in embedded.NAMES else f"{given} ({found})"
