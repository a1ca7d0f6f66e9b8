"""Limits of the options, defaults by family, and the names that a run goes by."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from diagnose.errors import InputError
from diagnose.settings import (
    Settings,
    check,
    command_line,
    default_directory,
    in_seconds,
    printable,
    resolve,
    task_name,
)

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"samples": 0}, "--samples"),
    ({"samples": 2.5}, "--samples"),
    ({"samples": True}, "--samples"),
    ({"batch_size": "32"}, "--batch-size"),
    ({"probes": 1}, "--probes"),
    ({"seeds": 0}, "--seeds"),
    ({"seeds": None}, "--seeds"),
    ({"seeds": "all"}, "--seeds"),
    ({"seeds": True}, "--seeds"),
    ({"seeds": ("auto",)}, "--seeds"),
    ({"steps": "auto"}, "--steps"),
    ({"skip": "noise"}, "--skip"),
    ({"skip": ("spectrum", "spectrum")}, "--skip"),
    ({"seed": -1}, "--seed"),
    ({"seed": 2**32}, "--seed"),
    ({"optimizers": ()}, "--optimizers"),
    ({"optimizers": ("sgd", "sgd")}, "--optimizers"),
    ({"optimizers": "adagard"}, "--optimizers"),
    ({"learning_rates": ()}, "--learning-rates"),
    ({"learning_rates": (0.1, 0.0)}, "--learning-rates"),
    ({"learning_rates": (float("inf"),)}, "--learning-rates"),
    ({"learning_rates": ("0.1",)}, "--learning-rates"),
    ({"learning_rates": (True,)}, "--learning-rates"),
    ({"gap": float("nan")}, "--gap"),
    ({"gap": True}, "--gap"),
    ({"box": True}, "--box"),
    ({"box": [0.5]}, "--box"),
    ({"schedule": ["inverse-sqrt"]}, "--schedule"),
    ({"steps": (5,)}, "--steps"),
    ({"dtype": ["float64"]}, "--dtype"),
    ({"loss": [max]}, "--loss"),
    *(({"memory": size}, "--memory") for size in ("", "8Q", "8GB", "G", "-1G", "1e9", "0", 0, -5, 2.5e9, True, "٣G")),
    *(
        ({"budget": text}, "--budget")
        for text in ("", "m", "10 m", "1h30", "10x", "-3", "0s", "nan", 0, -5, True, "٣m")
    ),
    ({"dtype": "float16"}, "--dtype"),
    ({"loss": "hinge"}, "--loss"),
    ({"max_length": 1}, "--max-length"),
    ({"out": " "}, "--out"),
    ({"out": "a\0b"}, "--out"),
    ({"training": "no"}, "training"),
]


@pytest.mark.parametrize(("values", "where"), REFUSED)
def test_a_value_outside_its_limits_is_refused_by_its_option(values: dict[str, Any], where: str) -> None:
    with pytest.raises(InputError) as refused:
        check(Settings(**values))
    assert refused.value.where == where


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"samples": 1},
        {"optimizers": "sgd"},
        {"learning_rates": 0.1},
        {"batch_sizes": [8, 16]},
        {"seeds": "auto"},
        {"seeds": 1},
        {"skip": ()},
        {"skip": []},
        {"skip": ["training", "spectrum"]},
        {"skip": "hessian-diagonal"},
        {"seed": 2**32 - 1},
        {"loss": max},
    ],
)
def test_values_inside_their_limits_pass(values: dict[str, Any]) -> None:
    check(Settings(**values))


def test_a_misspelt_value_gets_the_nearest_name() -> None:
    with pytest.raises(InputError) as refused:
        check(Settings(optimizers=("adagard",)))
    assert "did you mean `adagrad`?" in refused.value.hint


def test_one_optimizer_and_one_rate_resolve_to_tuples() -> None:
    resolved = resolve(Settings(optimizers="adagrad", learning_rates=0.5), "network", 100, 50)  # type: ignore[arg-type]
    assert resolved.optimizers == ("adagrad",)
    assert resolved.learning_rates == (0.5,)


def test_parts_are_skipped_in_one_order_however_they_are_named() -> None:
    both = resolve(Settings(skip=("training", "smoothness")), "network", 100, 50)
    assert both.skip == ("smoothness", "training")
    assert both == resolve(Settings(skip="smoothness", training=False), "network", 100, 50)
    assert not both.training
    assert resolve(Settings(), "network", 100, 50).training


def test_defaults_follow_the_family_and_never_exceed_the_rows() -> None:
    linear = resolve(Settings(), "linear", 123, 4781)
    assert (linear.samples, linear.batch_size, linear.steps, linear.curvature_samples) == (4781, 32, 2000, 4781)
    small = resolve(Settings(), "network", 9_000, 300)
    assert (small.samples, small.steps, small.curvature_samples) == (300, 500, 300)
    large = resolve(Settings(), "network", 200_000, 10_000)
    assert (large.samples, large.batch_size, large.steps, large.curvature_samples) == (256, 16, 140, 64)
    language = resolve(Settings(), "language", 900_000, 3_000)
    assert (language.samples, language.batch_size, language.steps, language.curvature_samples) == (32, 8, 120, 16)
    costly = resolve(Settings(), "language", 900_000, 3_000, costly=True)
    assert (costly.samples, costly.batch_size, costly.steps, costly.curvature_samples) == (32, 2, 80, 8)
    assert [one.evaluations for one in (linear, small, large, language, costly)] == [40, 40, 20, 20, 12]


@pytest.mark.parametrize(
    ("model", "data", "name"),
    [
        ("logreg", "a4a", "diagnosis-logreg-a4a"),
        ("logreg", "/data/sets/a4a.gz", "diagnosis-logreg-a4a"),
        ("runs/model.pt", "my data.jsonl", "diagnosis-model-my-data"),
        ("logreg", "é\x1b[31m", "diagnosis-logreg----31m"),
    ],
)
def test_the_folder_is_named_after_the_stems(model: str, data: str, name: str) -> None:
    assert default_directory(model, data) == name


def test_the_folder_name_is_short_and_plain_for_any_name() -> None:
    name = default_directory("m" * 50 + "/../x", "d" * 300 + ' "$(rm)"')
    assert len(name) <= 60
    assert re.fullmatch(r"[A-Za-z0-9._-]+", name)


def test_the_command_leaves_out_defaults_and_what_changes_no_result() -> None:
    settings = Settings(out="somewhere", quiet=True, fresh=True, plan=True, seeds="auto", steps=187, batch_size=256)
    assert (
        command_line(settings, "logreg", "/data/a4a.gz") == "diagnose logreg --data a4a.gz --batch-size 256 --steps 187"
    )


def test_the_command_gives_the_same_settings_back() -> None:
    settings = Settings(
        learning_rates=(0.1, 1e-05), optimizers=("sgd", "adam"), skip=("spectrum",), training=False, gap=0.02, seeds=8
    )
    words = shlex.split(command_line(settings, "mlp", "a name; rm"))
    assert words == [
        *("diagnose", "mlp", "--data", "a name; rm", "--seeds", "8", "--skip", "spectrum", "--optimizers", "sgd,adam"),
        *("--learning-rates", "0.1,1e-05", "--gap", "0.02", "--no-training"),
    ]


def test_objects_give_the_python_call() -> None:
    written = command_line(Settings(loss="squared", steps=5), object(), ([], []))
    assert written == "diagnose.run(object, tensors, loss='squared', steps=5)"


def test_a_name_cannot_drive_the_terminal() -> None:
    shown = printable("a\x1b[31mb\nc\u202ed\x9b")
    assert shown.isprintable()
    assert "\\x1b[31m" in shown
    assert printable("größe ×2") == "größe ×2"


def test_names_are_the_last_part_of_a_path() -> None:
    assert task_name("/home/someone/data/a4a.gz") == "a4a.gz"
    assert task_name(Path("x") / "y.npz") == "y.npz"
    assert task_name({"labels": 1}) == "mapping"


def test_a_sweep_needs_one_of_its_two_methods() -> None:
    check(Settings(batch_sizes=(8, 16), optimizers=("adagrad", "adam")))
    with pytest.raises(InputError, match="neither sgd nor adagrad"):
        check(Settings(batch_sizes=(8, 16), optimizers=("adam",)))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("10m", 600),
        ("1h", 3600),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("1h2m3.5s", 3723.5),
        (5, 5),
    ],
)
def test_a_budget_is_read_in_hours_minutes_and_seconds(text: str | int, seconds: float) -> None:
    assert in_seconds(text) == seconds
    assert resolve(Settings(budget=text), "linear", 10, 100).budget == seconds
