"""The best method of all that ran, on losses made up for it."""

from __future__ import annotations

from typing import Any

import pytest

from diagnose.verdict.best import Best, best_of_all
from tests.diagnose.verdict.cases import entry, trained


def of(**methods: Any) -> Any:
    return trained([1.0] * 4, methods=methods)


def near(margin: float) -> Any:
    return pytest.approx(margin)


def test_the_lowest_loss_that_is_told_apart() -> None:
    found = best_of_all(of(sgd=entry(2.0), adagrad=entry(1.0), adam=entry(0.5)), "adagrad")
    assert found == Best("adam", "training", (), near(0.5))
    assert best_of_all(of(sgd=entry(2.0), adagrad=entry(1.0)), "adagrad") == Best("adagrad", "training", (), 0.0)


def test_held_out_loss_goes_before_final_loss() -> None:
    held: dict[str, Any] = {"validation_loss": 1.0, "validation_loss_interval": (0.95, 1.05)}
    worse: dict[str, Any] = {"validation_loss": 1.3, "validation_loss_interval": (1.25, 1.35)}
    found = best_of_all(of(sgd=entry(2.0, **held), adagrad=entry(1.0, **worse), adam=entry(0.1, **worse)), "adagrad")
    assert found == Best("sgd", "validation", (), 0.0)


def test_what_is_not_told_apart_is_not_the_best_before_the_pair() -> None:
    found = best_of_all(of(sgd=entry(2.0), adagrad=entry(1.0), adam=entry(0.99)), "adagrad")
    assert found == Best("adagrad", "training", ("adam",), 0.0)
    blind: dict[str, Any] = {"lowest_loss_interval": None}
    found = best_of_all(of(sgd=entry(2.0), adagrad=entry(1.0, **blind), adam=entry(0.1, **blind)), "adagrad")
    assert found == Best("adagrad", "training", ("sgd", "adam"), 0.0)


def test_of_a_pair_that_is_not_told_apart_the_answer_is_the_best() -> None:
    pair = of(sgd=entry(0.999), adagrad=entry(1.0))
    assert best_of_all(pair, "adagrad") == Best("adagrad", "training", ("sgd",), 0.0)
    assert best_of_all(pair, "no-difference") == Best("sgd", "training", ("adagrad",), 0.0)


def test_two_others_that_are_not_told_apart_are_both_named() -> None:
    found = best_of_all(of(sgd=entry(2.0), adagrad=entry(2.0), adam=entry(0.5), rmsprop=entry(0.501)), "undecided")
    assert found == Best("adam", "training", ("rmsprop",), near(0.75))


def test_a_method_that_ended_above_its_start_is_never_praised() -> None:
    """Diabetes with fixed rates of 10: every method ends above f(w0) = 10."""
    held: dict[str, Any] = {"validation_loss": 1.0, "validation_loss_interval": (0.9, 1.1)}
    assert best_of_all(of(sgd=entry(12.0, **held), adagrad=entry(11.0, **held)), "undecided") is None
    found = best_of_all(of(sgd=entry(12.0, **held), adam=entry(2.0)), "undecided")
    assert found == Best("adam", "training", (), None)
    assert best_of_all(of(sgd=entry(None)), "undecided") is None
    assert best_of_all(of(sgd=entry(10.0 - 1e-9, loss_resolution=1e-8)), "undecided") is None


def test_losses_that_rounding_alone_tells_apart_are_equal() -> None:
    ends = {"lowest_loss_interval": (1.0, 1.0)}
    told = {"loss_resolution": 1e-7}
    first, second = (
        entry(1.0, **told) | ends,
        entry(1.0 - 5e-8, **told) | {"lowest_loss_interval": (1 - 5e-8, 1 - 5e-8)},
    )
    assert best_of_all(of(sgd=first, adagrad=first, adam=second), "undecided") == Best(
        "sgd", "training", ("adagrad", "adam"), 0.0
    )
    assert best_of_all(of(sgd=first, adagrad=first, adam=entry(0.9)), "undecided") == Best(
        "adam", "training", (), near(0.1)
    )


def test_one_run_of_full_batches_tells_apart_what_rounding_does_not_explain() -> None:
    exact: dict[str, Any] = {"lowest_loss_interval": None}
    runs = of(sgd=entry(2.0, **exact), adagrad=entry(1.0, **exact), adam=entry(0.9, **exact))
    assert best_of_all(runs, "adagrad", deterministic=True) == Best("adam", "training", (), near(0.1))
    assert best_of_all(runs, "adagrad") == Best("adagrad", "training", ("sgd", "adam"), 0.0)


def test_a_loss_below_zero_has_no_share() -> None:
    found = best_of_all(of(sgd=entry(-1.0), adam=entry(-4.0)), "undecided")
    assert found is not None
    assert found.margin is None
