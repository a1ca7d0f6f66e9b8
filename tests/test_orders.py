"""The study of the orders of the batches measures what it says it measures."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import race_runs
from benchmarks.orders import Stop, coverage, earliest_hits, replays, rule, rule_before, ties, truth_of
from benchmarks.race_runs import Array, RaceTask, Runs, runs_of, trained
from diagnose.training.speedup import Curves

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def runs() -> Runs:
    """A task that takes a moment, at rates that are small enough and one that diverges in no order."""
    return trained(RaceTask("softmax", "wine", (range(-4, 1), range(-6, -1)), steps=60, evaluations=20), orders=12)


def curves(losses: list[list[list[float]]]) -> Curves:
    values: Array = np.array(losses)
    return Curves(
        np.array([0.0, 1.0, 2.0, 4.0]), np.linspace(1, len(values), len(values)), values, np.zeros(len(values))
    )


def test_the_rule_before_takes_the_earliest_hit_of_each_order() -> None:
    # Target 4, the first method's; it meets that at step 4, the second's other rate at 1.
    first = curves([[[10.0, 8.0, 6.0, 4.0]]])
    second = curves([[[10.0, 9.0, 5.0, 2.0]], [[10.0, 4.0, 4.0, 5.0]]])
    assert earliest_hits(first, second) == pytest.approx([math.log(4 / 1)])


def test_interpolation_of_the_rule_before_is_linear_in_steps() -> None:
    first, second = curves([[[10.0, 8.0, 6.0, 5.0]]]), curves([[[10.0, 8.0, 6.0, 4.0]]])
    assert earliest_hits(first, second) == pytest.approx([math.log(4 / 3)])


@pytest.mark.parametrize(
    ("answer", "truth", "wrong"),
    [
        ("adagrad", 1.3, False),
        ("adagrad", 1.0, True),
        ("adagrad", 0.7, True),
        ("sgd", 0.7, False),
        ("sgd", 1.0, True),
        ("no-difference", 1.0, False),
        ("no-difference", 1.2, False),
        ("no-difference", 1.3, True),
        ("undecided", 3.0, False),
    ],
)
def test_what_contradicts_the_truth(answer: str, truth: float, wrong: bool) -> None:
    assert Stop(answer, 4, 1.0, (0.5, 2.0)).contradicts(truth) == wrong  # type: ignore[arg-type]


def test_runs_are_trained_once(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[RaceTask] = []

    def once(task: RaceTask) -> Runs:
        calls.append(task)
        return runs

    monkeypatch.setattr(race_runs, "trained", once)
    first, again = (runs_of("softmax wine", tmp_path) for _ in range(2))
    assert len(calls) == 1
    for made in (first, again):
        for kind in ("rates", "losses", "resolutions"):
            assert all(map(np.array_equal, getattr(made, kind), getattr(runs, kind)))


def test_runs_are_those_of_every_rate_and_order(runs: Runs) -> None:
    assert runs.orders == 12
    assert [losses.shape[:2] for losses in runs.losses] == [(5, 12), (5, 12)]
    assert np.ptp(runs.losses[0][..., 0]) == 0
    assert (runs.losses[0].std(1)[:, -1] > 0).all()
    assert all((told > 0).all() for told in runs.resolutions)


def test_a_rate_that_diverged_in_an_order_plays_no_part_in_subsets_that_hold_it(runs: Runs) -> None:
    losses = runs.losses[0].copy()
    losses[-1, 3] = np.inf
    changed = Runs(runs.steps, runs.rates, (losses, runs.losses[1]), runs.resolutions)
    assert len(changed.curves([2, 3])[0].rates) == 4
    assert len(changed.curves([2, 4])[0].rates) == 5


@pytest.mark.parametrize("method", [rule, rule_before])
def test_all_orders_are_their_own_truth(runs: Runs, method: object) -> None:
    found = coverage(method, runs, 12, repeats=2)  # type: ignore[arg-type]
    assert found.covers == 1
    assert found.bias == pytest.approx(0, abs=1e-12)
    assert found.half > 0


def test_sequences_are_played_on_races_and_on_ties(runs: Runs) -> None:
    assert {stop.orders for stop in replays(runs, (4, 8), (0.02, 0.03), 3)} <= {4, 8}
    for stop in ties(runs, (4, 6), (0.02, 0.03), 4):
        assert stop.orders in (4, 6)
        assert stop.interval[0] <= stop.speedup <= stop.interval[1]
    assert math.isfinite(truth_of(rule, runs))


def test_the_tables_in_the_docs_are_those_that_the_command_wrote() -> None:
    written = (ROOT / "benchmarks/results/orders.md").read_text(encoding="utf-8")
    docs = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    assert all(table.strip() in docs for table in written.split("\n\n"))
