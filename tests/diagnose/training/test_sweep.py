"""Batch sizes: noise of a batch by brute force, slopes of made-up races, and a sweep on a quadratic of known noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import diagnose
from diagnose.training import race
from diagnose.training.runs import MemoryStore, Race
from diagnose.training.sweep import noise_terms, races, relative_noise, rows
from tests.diagnose.training.tasks import made_race, quadratic, settings


def made(finals: dict[int, list[float]]) -> list[Race]:
    """Races of AdaGrad that end at these losses, one for each seed, by batch size."""
    return [
        made_race({"adagrad": {0.1: [[10.0, loss] for loss in ends]}}, batch_size=m, rows=1000)
        for m, ends in finals.items()
    ]


@pytest.mark.parametrize("size", [1, 4, 9, 10])
def test_noise_of_a_piece_of_a_permutation(size: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=10)
    means = [values[rng.permutation(10)[:size]].mean() for _ in range(20_000)]
    assert np.std(means) == pytest.approx(values.std() * relative_noise(size, 10), rel=0.02, abs=1e-12)


def test_slope_in_the_noise_of_a_batch() -> None:
    finals = {m: [s + 2.0 * relative_noise(m, 100) for s in (0.1, 0.2, 0.3, 0.4)] for m in (1, 4, 16)}
    term = noise_terms(made(finals), 100, {"adagrad": 1.5})["adagrad"]
    assert term["slope"] == pytest.approx(2.0)
    assert term["slope_interval"] == pytest.approx((2.0, 2.0))
    assert term["predicted"] == 1.5
    assert (term["pays_up_to"], term["pays_at_least"]) == (16, True)


def test_larger_batches_pay_until_seeds_no_longer_tell() -> None:
    finals = {1: [3.0, 3.1, 3.2, 3.1], 4: [2.0, 2.1, 2.0, 2.1], 16: [2.1, 1.9, 2.2, 2.0], 64: [0.1] * 4}
    term = noise_terms(made(finals), 100, {"adagrad": None})["adagrad"]
    assert (term["pays_up_to"], term["pays_at_least"]) == (4, False)
    assert term["predicted"] is None
    assert term["why"]["predicted"]


def test_where_nothing_pays_there_is_no_size() -> None:
    term = noise_terms(made({m: [2.0, 2.1, 1.9, 2.0] for m in (8, 16, 32)}), 100, {"adagrad": 1.0})["adagrad"]
    assert term["pays_up_to"] is None
    assert "second size" in term["why"]["pays_up_to"]


def test_beyond_the_whole_sample_set_there_is_no_larger_batch() -> None:
    finals = {m: [s + 2.0 * relative_noise(m, 16) for s in (0.1, 0.2, 0.3, 0.4)] for m in (1, 4, 16)}
    term = noise_terms(made(finals), 16, {"adagrad": 1.0})["adagrad"]
    assert (term["pays_up_to"], term["pays_at_least"]) == (16, False)


def test_nulls_have_reasons() -> None:
    for finals in ({1: [3.0] * 3, 4: [2.0] * 3}, {1: [3.0], 4: [2.0], 16: [1.0]}):
        term = noise_terms(made(finals), 100, {"adagrad": 1.0})["adagrad"]
        assert all(term["why"][key] for key, value in term.items() if value is None)
    diverged = [made_race({"adagrad": {0.1: [[10.0, None]] * 3}}, batch_size=m) for m in (1, 4, 16)]
    assert "diverged" in noise_terms(diverged, 100, {"adagrad": 1.0})["adagrad"]["why"]["slope"]


def test_sizes_above_the_sample_set_are_one_row_and_a_note() -> None:
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(3))
    found = diagnose.run(torch.nn.Linear(3, 2), (x, (x[:, 0] > 0).long()), steps=3, seeds=1, batch_sizes=(40, 4, 100))
    assert [row["batch_size"] for row in found.training.batch_sizes or ()] == [4, 20]
    notes = [finding for finding in found.warnings if finding.code == "batch-sizes-above"]
    assert [note.found for note in notes] == ["40 and 100 of `--batch-sizes` are above the 20 rows that runs train on"]


def test_a_sweep_takes_over_the_main_race_and_its_loss_falls_with_the_noise() -> None:
    problem = quadratic(torch.ones(4), 2 * torch.ones(4))
    how = settings(batch_size=16, rows=256, seeds=4, steps=60)
    store = MemoryStore()
    main = race(problem, how, store)
    before = problem.passes.total
    (same,) = races(problem, how, [16], store)
    assert problem.passes.total - before <= 1
    assert same.legs == main.legs
    seen: list[tuple[float, float]] = []
    ended = races(problem, how, [64, 4, 16], store, lambda _, done, total: seen.append((done, total)))
    assert [one.settings.batch_size for one in ended] == [4, 16, 64]
    assert seen[-1][0] == pytest.approx(seen[-1][1])
    found = rows(ended)
    for method in ("sgd", "adagrad"):
        finals = [row["methods"][method]["final_loss"] for row in found]
        assert finals == sorted(finals, reverse=True)
    assert [row["batch_size"] for row in found] == [4, 16, 64]
    assert all(row["speedup"] > 0 for row in found)
    term = noise_terms(ended, problem.n, {"sgd": 1.0})["sgd"]
    assert term["slope"] > 0
    low, high = term["slope_interval"]
    assert low <= term["slope"] <= high
