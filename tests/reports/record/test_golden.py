"""Results of real runs: every key is typed, golden files hold all that a run writes, and what is read back is equal."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diagnose
from diagnose.command.cli import main
from diagnose.limits import Limits
from diagnose.settings import Resolved
from estimators.errors import InputError
from reports.record.diagnosis import Diagnosis
from reports.record.rows import Cuts, Inputs, Settings
from reports.record.schema import fault
from tests.golden.make import GOLDEN, TASKS

Place = tuple[str | int, ...]
NAMED = ("methods", "noise_terms", "directional", "versions", "stages", "step_seconds", "inputs", "why")
"""Objects whose keys are names of methods, stages or values."""


def read(name: str) -> Any:
    return json.loads((GOLDEN / name / "result.json").read_text(encoding="utf-8"))


def short(value: Any) -> Any:
    """With two rows of each list: what stands for all."""
    if isinstance(value, dict):
        return {key: short(inner) for key, inner in value.items()}
    return [short(inner) for inner in value[:2]] if isinstance(value, list) else value


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """Of every value within this one; of lists the first item stands for all."""
    if place:
        yield place
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*place, key))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*place, 0))


def kinds(body: Any) -> dict[Place, Place]:
    """One place for each key, wherever names or numbers of rows stand above it; non-null where there is one."""
    found: dict[Place, Place] = {}
    for place in places(body):
        kind = tuple(
            "*" if isinstance(piece, int) or (place[i - 1] in NAMED and i) else piece for i, piece in enumerate(place)
        )
        if kind not in found or value_at(body, found[kind]) is None:
            found[kind] = place
    return found


def value_at(body: Any, place: Place) -> Any:
    for piece in place:
        body = body[piece]
    return body


def spoiled(body: Any, place: Place, value: Any) -> str:
    whole = {place[0]: copy.deepcopy(body[place[0]])}
    value_at(whole, place[:-1])[place[-1]] = value
    return json.dumps(whole)


def written(place: Place) -> str:
    text = "".join(f"[{piece}]" if isinstance(piece, int) else f".{piece}" for piece in place)
    return text.removeprefix(".")


def wrong(value: Any) -> list[Any]:
    """Values that cannot stand in place of this one, whatever the key is."""
    others: list[Any] = [{"key": {"key": []}}, [[{"key": []}]]]
    if isinstance(value, bool):
        return [*others, "yes", 0.5]
    if isinstance(value, int | float):
        return [*others, "0.5", True, float("nan"), float("inf")]
    if isinstance(value, str):
        return [*others, 0.5, True]
    if isinstance(value, list):
        return [others[0], "word", 0.5, [*value, [[]]]]
    if isinstance(value, dict):
        return [others[1], "word", 0.5]
    return others[1:]  # null stands for an object too, and those may hold keys of newer versions


@pytest.mark.parametrize("name", TASKS)
def test_a_golden_file_is_what_it_should_be(name: str) -> None:
    text = (GOLDEN / name / "result.json").read_text(encoding="utf-8")
    assert fault(text, Diagnosis) is None
    stored = Diagnosis.from_json(json.loads(text))
    written_again = stored.to_json() | {"files": json.loads(text)["files"]}
    assert json.dumps(written_again, indent=1, ensure_ascii=False) + "\n" == text


@pytest.mark.parametrize("name", TASKS)
def test_a_wrong_value_is_refused_by_the_name_of_its_key(name: str) -> None:
    body = short(read(name))
    accepted, unnamed = [], []
    for place in kinds(body).values():
        for value in wrong(value_at(body, place)):
            said = fault(spoiled(body, place, value), Diagnosis)
            if said is None:
                accepted.append((written(place), value))
            elif not said.startswith(f"`{written(place)}"):
                unnamed.append((written(place), value, said))
    assert not accepted
    assert not unnamed


def test_a_damaged_file_ends_the_command_with_its_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command itself, once for each part and each key of the whole."""
    body = read("linear")
    for key, value in body.items():
        place: Place = (key, next(iter(value))) if isinstance(value, dict) else (key,)
        (tmp_path / "result.json").write_text(spoiled(body, place, [[{"key": []}]]))
        assert main(["report", str(tmp_path)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: result.json is damaged")
        assert f"`{written(place)}" in error
        assert "Traceback" not in error
        with pytest.raises(InputError, match=re.escape(key)):
            Diagnosis.load(tmp_path)


def test_settings_and_cuts_have_the_types_of_the_run() -> None:
    """The program that decides stands above the record that types: each of its numbers has a key there."""
    numbers = {item.name for item in fields(Resolved)}
    more = {"model", "data", "own_optimizers", "fingerprint", "tool_version", "cuts", "uncut_seconds"}
    assert set(Settings.__annotations__) | {"seeds", "skip", "optimizers", "budget", "own_optimizers"} == numbers | more
    assert {item.name for item in fields(Limits)} - {"fewer_orders"} <= set(
        Cuts.__annotations__
    )  # it follows from cuts
    assert set(Cuts.__annotations__) <= {item.name for item in fields(Limits)} | numbers
    assert "skipped" in Inputs.__annotations__


SMALL: list[tuple[str, str, dict[str, Any]]] = [
    ("logreg", "breast-cancer", {"steps": 6, "seeds": 4, "batch_sizes": (8, 32)}),
    ("mlp", "iris", {"samples": 40, "steps": 4, "seeds": 1, "optimizers": ("sgd", "adagrad")}),
    ("softmax", "iris", {"training": False}),
]


@pytest.mark.parametrize(("model", "data", "settings"), SMALL)
def test_a_fresh_run_is_what_is_read_back_and_has_no_key_of_its_own(
    model: str, data: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    found = diagnose.run(model, data, out=tmp_path, **settings)
    stored = Diagnosis.load(tmp_path)
    assert found == stored
    assert stored != replace(stored, command="another")
    other = {**stored.vectors, "noise": {key: np.asarray(array) + 1 for key, array in stored.vectors["noise"].items()}}
    assert stored != replace(stored, vectors=other)
    golden = {kind for name in TASKS for kind in kinds(read(name))}
    fresh = kinds(json.loads((tmp_path / "result.json").read_text(encoding="utf-8")))
    assert not sorted(map(str, set(fresh) - golden))
