"""Runs train on all rows that are not held out, and are measured on the sample set."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import diagnose
from diagnose.errors import InputError
from diagnose.inputs import open_task
from diagnose.inputs.data.objects import Samples
from diagnose.settings import Settings
from diagnose.stages.bench import Bench
from diagnose.training import race
from diagnose.training.running import Course, look, run_alone
from diagnose.training.runs import Contender, MemoryStore
from diagnose.training.stacking import run_stack
from tests.diagnose.training.tasks import settings

ROWS, DRAWN, FEATURES = 64, 16, 4
"""So 16 rows are held out, and runs train on 48."""


def rows(changed: int | None = None) -> tuple[Tensor, Tensor]:
    """Two classes; the first feature of a row is its number over ROWS."""
    inputs = torch.randn(ROWS, FEATURES, generator=torch.Generator().manual_seed(1))
    inputs[:, 0] = torch.arange(ROWS) / ROWS
    labels = torch.where(inputs.sum(1) > 0.3, 1.0, -1.0)
    if changed is not None:
        labels[changed] *= -1
    return inputs, labels


def linear() -> nn.Linear:
    model = nn.Linear(FEATURES, 1, bias=False)
    nn.init.zeros_(model.weight)
    return model


def numbers(samples: Samples | None) -> list[int]:
    """The numbers of the rows, from their first feature."""
    assert isinstance(samples, tuple)
    return [round(float(value) * ROWS) for value in samples[0][:, 0]]


def bench(model: Any, data: Any, **changes: Any) -> Bench:
    opened, resolved = open_task(model, data, Settings(**{"samples": DRAWN, "loss": None, **changes}))
    return Bench.build(opened, resolved, MemoryStore(), lambda *_: None, {})


class Tokens(nn.Module):
    """Scores of the tokens, each from its own column's table."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList([nn.Embedding(size, 3) for size in sizes])
        self.out = nn.Linear(3, 2)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.out(sum(table(ids[:, k]) for k, table in enumerate(self.tables)))
        return out


# -- which rows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["logreg", linear()])
def test_all_rows_but_those_held_out(model: Any) -> None:
    opened, resolved = open_task(model, rows(), Settings(samples=DRAWN, loss="logistic"))
    drawn, trained, out = map(numbers, (opened.samples, opened.training, opened.held_out))
    assert (len(drawn), len(trained), len(out)) == (16, 48, 16)
    assert drawn == sorted(drawn)
    assert trained[:16] == drawn
    assert trained[16:] == sorted(trained[16:])
    assert sorted([*trained, *out]) == list(range(ROWS))
    assert opened.training_rows == 48
    assert opened.understood[-3:] == (
        "sample set: 16 of 64 rows, drawn with seed 0",
        "runs train on all 48 rows that are not held out",
        "held out for validation: 16 of the 48 rows outside the sample set",
    )
    assert isinstance(opened.samples, tuple)
    assert isinstance(opened.training, tuple)
    assert opened.samples[0].data_ptr() == opened.training[0].data_ptr()  # no copy of its own
    assert resolved.batch_size == 32


@pytest.mark.parametrize("model", ["logreg", linear()])
def test_a_sample_set_of_all_rows_is_what_runs_train_on(model: Any) -> None:
    for count in (ROWS, 33):  # with 33 the other 31 are held out
        opened, _ = open_task(model, rows(), Settings(samples=count, loss="logistic"))
        assert opened.training is opened.samples
        assert not any("runs train on" in line for line in opened.understood)
        made = bench(model, rows(), samples=count, loss="logistic")
        assert made.trained is made.problem
        assert opened.training_rows == count


def test_with_a_test_part_runs_train_on_all_others(tmp_path: Path) -> None:
    inputs, labels = (part.numpy() for part in rows())
    named: dict[str, Any] = {
        "x_train": inputs[:50],
        "y_train": labels[:50],
        "x_test": inputs[50:],
        "y_test": labels[50:],
    }
    np.savez(tmp_path / "a.npz", **named)
    opened, _ = open_task("logreg", tmp_path / "a.npz", Settings(samples=DRAWN))
    assert sorted(numbers(opened.training)) == list(range(50))
    assert set(numbers(opened.held_out)) <= set(range(50, ROWS))
    assert opened.understood[-2] == "runs train on all 50 rows outside the test part"


def test_rows_without_a_label_are_left_out() -> None:
    inputs, _ = rows()
    labels = (inputs[:, 1] > 0).long()
    trained = numbers(open_task(nn.Linear(FEATURES, 2), (inputs, labels), Settings(samples=DRAWN))[0].training)
    labels[trained[-1]] = -100
    opened, _ = open_task(nn.Linear(FEATURES, 2), (inputs, labels), Settings(samples=DRAWN))
    assert trained[-1] not in [*numbers(opened.training), *numbers(opened.held_out)]
    assert opened.training_rows == 47
    assert opened.understood[-2] == "runs train on 47 of the 48 rows that are not held out, those with a label"


def test_without_training_there_are_none() -> None:
    found = diagnose.run(linear(), rows(), "logistic", samples=DRAWN, training=False)
    assert found.task.training_rows is None
    assert found.task.why["training_rows"] == "training was off (--no-training)"
    assert not any("train on" in line for line in found.task.understood or ())


def test_the_fingerprint_covers_every_row_that_runs_train_on() -> None:
    base, _ = open_task(linear(), rows(), Settings(samples=DRAWN, loss="logistic"))
    for changed in (numbers(base.training)[-1], numbers(base.training)[0], numbers(base.held_out)[0]):
        other, _ = open_task(linear(), rows(changed), Settings(samples=DRAWN, loss="logistic"))
        assert other.fingerprint != base.fingerprint
    assert open_task(linear(), rows(), Settings(samples=DRAWN, loss="logistic"))[0].fingerprint == base.fingerprint


# -- bad rows --------------------------------------------------------------------------------------------------------


@pytest.fixture
def last() -> int:
    """The number of a row outside the sample set that runs train on: the last one."""
    return numbers(open_task(linear(), rows(), Settings(samples=DRAWN, loss="logistic"))[0].training)[-1]


def test_a_label_beyond_the_outputs_is_refused_before_anything_is_measured(last: int) -> None:
    inputs, _ = rows()
    labels = (inputs[:, 1] > 0).long()
    labels[last] = 7
    with pytest.raises(InputError, match="label 7, but the model has 2 outputs: rows that runs train on, sample 47"):
        bench(nn.Linear(FEATURES, 2), (inputs, labels))
    assert bench(nn.Linear(FEATURES, 2), (inputs, labels), training=False).trained.n == DRAWN


def test_a_value_too_large_for_the_format_is_refused_while_opening(last: int) -> None:
    inputs, labels = rows()
    inputs = inputs.double()
    inputs[last, 2] = 1e39
    for model in ("logreg", linear()):
        with pytest.raises(InputError, match="a value too large for float32"):
            open_task(model, (inputs, labels), Settings(samples=DRAWN, loss="logistic"))
        open_task(model, (inputs, labels), Settings(samples=DRAWN, loss="logistic", dtype="float64"))


@pytest.mark.parametrize("column", [0, 1])
@pytest.mark.parametrize("value", [50, -1])
def test_a_number_that_a_column_s_table_lacks_is_refused(column: int, value: int, last: int) -> None:
    """Whatever the other column holds: its table is larger."""
    ids = torch.stack([torch.arange(ROWS) % 50, torch.arange(ROWS) % 50], 1)
    labels = torch.arange(ROWS) % 2
    model = Tokens(50, 90) if column == 0 else Tokens(90, 50)
    ids[:, 1 - column] += torch.arange(ROWS) % 40
    bench(model, (ids, labels))
    ids[last, column] = value
    with pytest.raises(
        InputError, match=f"number {value}, but an embedding of Tokens has rows 0 to 49: rows that runs"
    ):
        bench(model, (ids, labels))


def test_a_token_that_a_language_model_does_not_know_is_refused_while_opening(last: int) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=1)
    ids = torch.randint(0, 11, (ROWS, 5), generator=torch.Generator().manual_seed(0))
    ids[last, 2] = 40
    with pytest.raises(InputError, match="token 40, but GPT2LMHeadModel has 11 tokens: rows that runs train on, input"):
        open_task(
            transformers.GPT2LMHeadModel(config),
            {"input_ids": ids, "labels": ids.clamp(max=10)},
            Settings(samples=DRAWN),
        )


# -- what a run is ---------------------------------------------------------------------------------------------------


def stream(count: int, size: int, steps: int, order: int) -> list[list[int]]:
    """The batches by hand: fresh permutations laid end to end and cut."""
    digest = hashlib.sha256(f"batches 0 {order}".encode()).digest()
    random = torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))
    flat: list[int] = []
    while len(flat) < size * steps:
        flat += torch.randperm(count, generator=random).tolist()
    return [flat[size * step : size * (step + 1)] for step in range(steps)]


def by_hand(method: str, rate: float, size: int, steps: int, order: int, made: Bench) -> list[float]:
    """Losses of the sample set at w_0, w_1, ...: logistic regression in numpy, with its gradient written out."""
    inputs, labels = (np.asarray(part, dtype=np.float64) for part in rows())
    trained, drawn = numbers(made.opened.training), numbers(made.opened.samples)

    def loss(w: NDArray[np.float64]) -> float:
        return float(np.log1p(np.exp(-labels[drawn] * (inputs[drawn] @ w))).mean())

    w, v = np.zeros(FEATURES), np.full(FEATURES, 1e-10)
    pieces = stream(48, size, steps, order) if size < 48 else [list(range(48))] * steps
    losses = [loss(w)]
    for piece in pieces:
        x, y = inputs[[trained[k] for k in piece]], labels[[trained[k] for k in piece]]
        g = -(x * (y / (1 + np.exp(y * (x @ w))))[:, None]).mean(0)
        v = v + g**2
        w = w - rate * (g if method == "sgd" else g / np.sqrt(v))
        losses.append(loss(w))
    return losses


@pytest.mark.parametrize("method", ["sgd", "adagrad"])
@pytest.mark.parametrize("size", [5, 20, 48, 1000])
def test_a_run_by_hand(method: str, size: int) -> None:
    """Of a stack and alone; batches of 20 straddle permutations, from 48 on a batch holds all rows."""
    made = bench(linear(), rows(), loss="logistic", dtype="float64")
    how = settings(batch_size=size, steps=30, evaluations=12)
    course = Course(made.problem, how, look(made.problem, made.problem.parameters), made.held_out, made.trained)
    runs = [Contender(method, rate, order) for rate in (0.1, 1.0) for order in (0, 2)]
    for run, one in zip(runs, run_stack(course, runs, lambda _: None), strict=True):
        losses = by_hand(method, run.learning_rate, size, 30, run.seed, made)
        expected = [losses[step] for step in one.steps]
        assert one.losses == pytest.approx(expected, rel=1e-9)
        assert run_alone(course, run, lambda _: None).losses == pytest.approx(expected, rel=1e-9)


QUICK: dict[str, Any] = {"samples": DRAWN, "steps": 20, "batch_size": 6, "seeds": 2, "learning_rates": (0.1, 1.0)}


def test_what_is_held_out_moves_no_run_and_every_other_row_does() -> None:
    base = diagnose.run(linear(), rows(), "logistic", **QUICK)
    opened, _ = open_task(linear(), rows(), Settings(samples=DRAWN, loss="logistic"))
    assert base.task.training_rows == 48
    finals = [row["loss"] for row in base.runs or ()]
    held_out = diagnose.run(linear(), rows(numbers(opened.held_out)[3]), "logistic", **QUICK)
    assert [row["loss"] for row in held_out.runs or ()] == finals
    validated = [(found.training.methods or {})["sgd"]["validation_loss"] for found in (base, held_out)]
    assert validated[0] != validated[1]
    trained = diagnose.run(linear(), rows(numbers(opened.training)[-1]), "logistic", **QUICK)
    starts = [row["loss"] for row in trained.runs or () if row["step"] == 0]
    assert set(starts) == {row["loss"] for row in base.runs or () if row["step"] == 0}  # the sample set is as it was
    assert (trained.noise.l1, trained.noise.l2) == (base.noise.l1, base.noise.l2)
    ends = [row["loss"] for row in trained.runs or () if row["step"] == 20]
    assert all(a != b for a, b in zip(ends, (r["loss"] for r in base.runs or () if r["step"] == 20), strict=True))


def test_a_batch_has_no_more_than_all_rows_that_runs_train_on() -> None:
    opened, resolved = open_task(linear(), rows(), Settings(samples=DRAWN, batch_size=500, loss="logistic"))
    assert (opened.training_rows, resolved.batch_size) == (48, 48)
    found = diagnose.run(linear(), rows(), "logistic", **{**QUICK, "batch_size": 20})
    assert found.task.batch_size == 20  # more than the sample set
    ends = {row["loss"] for row in found.runs or () if row["step"] == 20 and row["method"] == "sgd"}
    assert len(ends) == 4  # two rates, two orders
    whole = diagnose.run(linear(), rows(), "logistic", **{**QUICK, "batch_size": 48})
    ends = {row["loss"] for row in whole.runs or () if row["step"] == 20 and row["method"] == "sgd"}
    assert len(ends) == 2  # two rates


@pytest.mark.parametrize("stacked", [True, False])
def test_passes_are_in_units_of_the_sample_set(stacked: bool) -> None:
    """4 runs of 10 steps of 6 of 48 rows, with 3 evaluations and two thirds for rounding, on 16 samples."""
    made = bench(linear(), rows(), loss="logistic")
    before = made.passes
    how = settings(batch_size=6, steps=10, evaluations=3, seeds=4, learning_rates=(0.1,), optimizers=("sgd",))
    seen: list[tuple[float, float]] = []
    how = replace(how, stacked=stacked)
    race(made.problem, how, made.legs, lambda _, done, total: seen.append((done, total)), None, made.trained)
    cost = 4 * (10 * 6 / 16 + 3 + 2 / 3)
    assert made.passes - before == pytest.approx(1 + cost)  # the start is looked at once
    assert seen[-1] == pytest.approx((cost, cost))


def test_rotated_runs_train_on_the_same_rows() -> None:
    """SGD does not see a rotation."""
    made, turned = (bench(linear(), rows(), loss="logistic", dtype="float64", rotate=turn) for turn in (False, True))
    how = settings(batch_size=6, steps=12, seeds=1, learning_rates=(0.5,), optimizers=("sgd",))
    legs = [race(one.problem, how, MemoryStore(), trained=one.trained).legs[0] for one in (made, turned)]
    assert turned.trained.n == 48
    assert legs[0].losses == pytest.approx(legs[1].losses, rel=1e-10)
    assert not math.isclose(legs[0].losses[0] or 0, legs[0].losses[-1] or 0)


def test_every_noise_number_is_that_of_the_sample_set() -> None:
    some = diagnose.run(linear(), rows(), "logistic", **QUICK)
    inputs, labels = rows()
    opened, _ = open_task(linear(), rows(), Settings(samples=DRAWN, loss="logistic"))
    drawn = numbers(opened.samples)
    x, y = inputs[drawn].double().numpy(), labels[drawn].double().numpy()
    gradients = -x * (y / 2)[:, None]
    assert some.noise.samples == DRAWN
    assert some.training.initial_loss == pytest.approx(math.log(2))
    gradient = np.abs(gradients.mean(0)).sum()
    first = next(row for row in some.runs or () if row["step"] == 0)
    assert first["gradient_l1"] == pytest.approx(gradient, rel=1e-5)
