"""A result.json whose values have other types than were written, or cannot be: one error that names the key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diagnose.command.cli import main
from estimators.errors import InputError
from reports.record.diagnosis import PARTS, Diagnosis
from reports.record.schema import fault
from tests.reports import made

Path_ = tuple[str | int, ...]


def body() -> dict[str, Any]:
    written: dict[str, Any] = json.loads(json.dumps(made.finished().to_json()))
    return written


def spoiled(path: Path_, value: Any) -> str:
    """The file with another value at the path."""
    whole = body()
    place: Any = whole
    for piece in path[:-1]:
        place = place[piece]
    place[path[-1]] = value
    return json.dumps(whole)


def leaves(value: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    """Every value of the parts with its path; of a list the first row stands for all."""
    yield path, value
    if isinstance(value, dict):
        for key, inner in value.items():
            if key != "why":
                yield from leaves(inner, (*path, key))
    elif isinstance(value, list) and value:
        yield from leaves(value[0], (*path, 0))


@pytest.mark.parametrize("name", ["finished", "untrained", "language", "empty"])
def test_what_was_written_has_its_types(name: str) -> None:
    assert fault(json.dumps(getattr(made, name)().to_json()), Diagnosis) is None


def test_older_and_newer_files_have_them_too() -> None:
    whole = body()
    del whole["smoothness"]["whole_data"], whole["smoothness"]["points"][1]["preconditioned"]
    whole["noise"]["of_the_future"] = {"x": [1]}
    whole["noise"]["tensors"][0]["of_the_future"] = "y"
    assert fault(json.dumps(whole), Diagnosis) is None
    assert fault("{}", Diagnosis) is None


@pytest.mark.parametrize("part", PARTS)
def test_a_value_of_another_type_is_found_wherever_it_stands(part: str) -> None:
    """Each value of a part in turn is replaced by one that cannot be it."""
    count = 0
    for path, value in leaves(body()[part], (part,)):
        for other in ("word", 0.5, [0.5], {"key": 0.5}):
            if isinstance(value, int | float) and not isinstance(value, bool) and other == 0.5:
                continue
            if type(value) is type(other) or value is None:
                continue
            found = fault(spoiled(path, other), Diagnosis)
            assert found is not None, (path, other)
            named = found.partition("`:")[0].removeprefix("`")
            assert named.startswith(part), (path, other, found)
            count += 1
    assert count > 2


@pytest.mark.parametrize(
    ("path", "value", "key"),
    [
        (("noise", "tensors", 1, "l1"), "x", "noise.tensors[1].l1"),
        (("smoothness", "points"), {}, "smoothness.points"),
        (("smoothness", "points", 2), {"method": "sgd"}, "smoothness.points[2].step"),
        (("training", "methods", "sgd"), [], "training.methods.sgd"),
        (("training", "methods", "adagrad", "learning_rate"), "0.1", "training.methods.adagrad.learning_rate"),
        (("spectrum", "eigenvalue_density", "grid", 7), None, "spectrum.eigenvalue_density.grid[7]"),
        (("training", "best_other"), 1, "training.best_other"),
        (("noise", "l1"), float("nan"), "noise.l1"),
        (("noise", "batch_scaling"), 3, "noise.batch_scaling"),
        (("warnings", 0, "found"), 1, "warnings[0].found"),
        (("hessian_diagonal", "trace_interval"), [1.0], "hessian_diagonal.trace_interval[1]"),
    ],
)
def test_the_key_is_named_in_one_line(
    path: Path_, value: Any, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "result.json").write_text(spoiled(path, value))
    with pytest.raises(InputError, match=r"result\.json is damaged"):
        Diagnosis.load(tmp_path)
    assert main(["report", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("error: result.json is damaged")
    assert f"`{key}`" in lines[0]
    assert lines[1].startswith("hint: ")


@pytest.mark.parametrize(
    ("path", "value", "key"),
    [
        (("training", "batch_sizes", 1, "methods"), {"sgd": {"final_loss": 0.5}}, "training.batch_sizes"),
        (("training", "batch_sizes", 0, "batch_size"), 0, "training.batch_sizes[0].batch_size"),
        (("training", "batch_sizes", 0, "speedup_interval"), [0.0, 2.0], "training.batch_sizes[0].speedup_interval"),
        (("spectrum", "eigenvalue_density", "grid"), [0.0, 1.0], "spectrum.eigenvalue_density"),
        (("spectrum", "eigenvalue_density", "spread"), [], "spectrum.eigenvalue_density"),
        (("training", "speedup_interval"), [0.0, 2.0], "training.speedup_interval"),
        (("training", "speedup_interval"), [2.0, 1.0], "training.speedup_interval"),
        (("training", "speedup"), -1.0, "training.speedup"),
        (("training", "best_other_speedup"), 0.0, "training.best_other_speedup"),
        (("training", "best_other_interval"), [0.0, 2.0], "training.best_other_interval"),
        (("training", "methods", "sgd", "final_loss_interval"), [5.0, 6.0], "training.methods.sgd"),
        (("training", "methods", "sgd", "learning_rate"), 0.0, "training.methods.sgd.learning_rate"),
        (("noise", "density_interval"), [0.4, 0.3], "noise.density_interval"),
        (("noise", "l1"), 1e308, "noise.l1"),
        (("smoothness", "sharpness_interval"), [-1e308, 1.0], "smoothness.sharpness_interval[0]"),
        (("task", "parameters"), 10**400, "task.parameters"),
    ],
)
def test_an_impossible_value_is_named_in_one_line(
    path: Path_, value: Any, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "result.json").write_text(spoiled(path, value))
    assert main(["report", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("error: result.json is damaged")
    assert f"`{key}`: should be" in lines[0]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("training", "methods", "sgd", "final_loss_interval"), None),
        (("training", "methods", "sgd", "final_loss"), None),
        (("training", "speedup"), None),
        (("spectrum", "eigenvalue_density", "spread"), None),
        (("hessian_diagonal", "trace_interval"), [-3.0, -3.0]),
        (("training", "batch_sizes"), []),
    ],
)
def test_what_a_run_may_write_is_not_impossible(path: Path_, value: Any) -> None:
    """Nulls, an interval of one point and values below 0; a mean that rounding puts beside both ends."""
    whole = json.loads(spoiled(path, value))
    if path[-1] == "spread":
        del whole["spectrum"]["eigenvalue_density"]["spread"]
    whole["training"]["methods"]["adagrad"] |= {"final_loss": 0.3, "final_loss_interval": [0.1 + 0.2, 0.1 + 0.2]}
    assert fault(json.dumps(whole), Diagnosis) is None
