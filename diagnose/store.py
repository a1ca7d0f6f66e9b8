"""DIR: result.json, vectors.safetensors, runs.csv and report.html, each written to a side file and renamed.

result.json names the stages that ended, and whatever it names is on disk: it is written last where something was
added, first where something was taken out. Finished runs of the race go to ``runs.jsonl`` at once and stay there, for
the command that asks for more of them. While a stage runs ``spent.json`` notes what it has cost so far, for the case
that the process is killed; it is removed when the diagnosis ends.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from diagnose.continuation import refused
from diagnose.errors import InputError
from diagnose.training.runs import Leg
from reports.record.diagnosis import RESULT, RUN_COLUMNS, Costs, Diagnosis, read_part, unreadable

VECTORS, RUNS, REPORT, LEGS = "vectors.safetensors", "runs.csv", "report.html", "runs.jsonl"
SPENT = "spent.json"
FILES = (RESULT, VECTORS, RUNS, REPORT, LEGS, SPENT)


class Store:
    """The folder of one diagnosis, held by one process at a time. A context manager.

    Raises:
        InputError: the folder cannot be made or written, or another run holds it.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        hint = "choose another folder with `--out`"
        self._made = not self.directory.exists()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            probe = self.directory / f".{os.getpid()}.partial"
            probe.write_bytes(b"")
            probe.unlink()
        except FileExistsError:
            raise InputError("not a folder", str(directory), hint) from None
        except OSError as error:
            raise InputError("the folder cannot be written", f"{directory}: {error.strerror}", hint) from None
        self._legs: dict[str, Leg] | None = None
        self._named: set[str] = set()
        self._rows = 0
        self._runs: Sequence[Mapping[str, Any]] | None = None
        self._lock = _locked(self.directory)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        if self._made and error[0] is not None:
            with contextlib.suppress(OSError):  # holds something
                self.directory.rmdir()
        if self._lock is not None:
            os.close(self._lock)

    def opened(self, settings: Mapping[str, Any], fresh: bool) -> Diagnosis | None:
        """What an earlier attempt left, None where there is nothing; ``settings`` are its own or ask for more.

        Raises:
            InputError: the folder holds a diagnosis of other settings, or files of another origin.
        """
        if fresh:
            for name in reversed(FILES):
                (self.directory / name).unlink(missing_ok=True)
            return None
        if not (self.directory / RESULT).exists():
            strangers = [name for name in FILES if (self.directory / name).exists()]
            if strangers:
                raise InputError(
                    f"{strangers[0]} is there without {RESULT}",
                    str(self.directory),
                    "choose another folder with `--out`, or overwrite it with `--fresh`",
                )
            return None
        stored = Diagnosis.load(self.directory)
        self._named, self._rows = set(stored.vectors), len(stored.runs)
        names = refused(stored, settings)
        if len(names) > 1:  # of data and weights: it tells nothing that the others do not
            names = [name for name in names if name != "fingerprint"]
        differing = [
            f"{name} ({_shown(stored.settings.get(name))} there, {_shown(settings[name])} here)" for name in names
        ]
        if differing:
            raise InputError(
                "the folder holds a diagnosis of other settings",
                f"{self.directory}: {', '.join(differing)}",
                "choose another folder with `--out`, or start again with `--fresh`",
            )
        return replace(stored, cost=self._cost_until_death(stored.cost))

    def spend(self, cost: Costs) -> None:
        """Note the cost so far of a stage that is still running."""
        self._replace(SPENT, json.dumps(asdict(cost), allow_nan=False).encode())

    def _cost_until_death(self, stored: Costs) -> Costs:
        """What an attempt that was killed had noted last, else the stored cost."""
        try:
            noted = read_part(Costs, json.loads((self.directory / SPENT).read_text(encoding="utf-8")))
        except (OSError, ValueError, AttributeError):
            return stored
        return noted if (noted.seconds or 0) > (stored.seconds or 0) else stored

    def save(self, diagnosis: Diagnosis) -> None:
        """Write vectors and runs, then the result that names them; the result first where it names less than before,
        or nothing yet: it claims the folder. A page of an earlier state goes.
        """
        from safetensors.numpy import save

        text = json.dumps(diagnosis.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
        rows = {} if diagnosis.runs is self._runs else {RUNS: _csv(diagnosis.runs).encode()}
        contents = {VECTORS: save(diagnosis.flat_vectors), **rows, RESULT: (text + "\n").encode()}
        less = not self._named <= set(diagnosis.vectors) or len(diagnosis.runs) < self._rows
        if diagnosis.status == "started":
            (self.directory / REPORT).unlink(missing_ok=True)
        for name in reversed(contents) if less or not diagnosis.stages else contents:
            self._replace(name, contents[name])
        self._named, self._rows, self._runs = set(diagnosis.vectors), len(diagnosis.runs), diagnosis.runs

    def report(self) -> None:
        """Write the page from what the folder holds."""
        from reports import render

        self._replace(REPORT, render(Diagnosis.load(self.directory)).encode())
        (self.directory / SPENT).unlink(missing_ok=True)

    @property
    def reported(self) -> bool:
        return (self.directory / REPORT).is_file()

    # -- legs of the race (diagnose.training.runs.LegStore) ------------------------------------------

    def get(self, key: str) -> Leg | None:
        if self._legs is None:
            self._legs = {leg.key: leg for leg in self._read_legs()}
        return self._legs.get(key)

    def put(self, leg: Leg) -> None:
        self.get(leg.key)
        assert self._legs is not None
        self._legs[leg.key] = leg
        with (self.directory / LEGS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(leg.to_json(), allow_nan=False) + "\n")

    def _read_legs(self) -> list[Leg]:
        path = self.directory / LEGS
        if not path.exists():
            return []
        *whole, torn = path.read_text(encoding="utf-8", errors="replace").split("\n")
        if torn:
            # The process died in the middle of a line: that leg is run again.
            self._replace(LEGS, "".join(line + "\n" for line in whole).encode())
        try:
            return [Leg.from_json(json.loads(line)) for line in whole]
        except (AttributeError, ValueError, TypeError) as error:
            raise unreadable(path, error) from None

    def _replace(self, name: str, content: bytes) -> None:
        side = self.directory / f".{name}.partial"
        side.write_bytes(content)
        side.replace(self.directory / name)


def _locked(directory: Path) -> int | None:
    """A lock on the folder that ends with the process; None where the system knows no such locks."""
    try:
        import fcntl
    except ImportError:
        return None
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise InputError(
            "another run is writing this folder", str(directory), "wait for it, or choose another folder with `--out`"
        ) from None
    except OSError:
        os.close(handle)
        return None
    return handle


def _csv(runs: Sequence[Mapping[str, Any]]) -> str:
    import io

    text = io.StringIO()
    writer = csv.DictWriter(text, RUN_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(runs)
    return text.getvalue()


def _shown(value: Any) -> str:
    return "default" if value is None else json.dumps(value)
