"""What the advice says on cases made up for it: one thing to do, in words that say what and why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from diagnose.verdict.advice import Raced, advice
from diagnose.verdict.best import Best
from reports.record.diagnosis import Training
from tests.diagnose.verdict.cases import NOISE, OFF, entry, trained

AT_32 = Raced(32)


def raced(**changes: Any) -> Training:
    methods = {
        "sgd": entry(2.0, 1.78, steps_to_target=500.0, validation_loss=2.2),
        "adagrad": entry(1.0, 0.32, steps_to_target=190.2, validation_loss=1.1),
        "adam": entry(0.5, 0.01),
    }
    return trained([2.6, 2.7, 2.5, 2.6], **({"methods": methods} | changes))


def changed(training: Training, method: str, **changes: Any) -> Training:
    methods = dict(training.methods or {})
    methods[method] = {**methods[method], **changes}
    return replace(training, methods=methods)


def test_which_optimizer_at_which_rate_and_what_that_gains() -> None:
    assert advice("adagrad", raced(), NOISE, None, AT_32) == (
        "Use AdaGrad at a learning rate near 0.32 in batches of 32: it is at SGD's final loss after 190 steps instead "
        "of 500. The rates that end nearly as low span a factor of 6.3."
    )
    either = advice("no-difference", raced(), NOISE, None, AT_32)
    assert either == "Take either in batches of 32: SGD at 1.78 or AdaGrad at 0.32; SGD needs no extra memory."


def test_where_the_winner_sets_the_target_the_loss_is_named() -> None:
    """AdaGrad is there sooner and ends higher, or the target was raised: it isn't SGD's final loss."""
    higher = changed(raced(), "adagrad", lowest_loss=2.1)
    for training in (higher, raced(target_floored=True)):
        said = advice("adagrad", training, NOISE, None, AT_32)
        assert ": it is at a loss of 2 after 190 steps instead of 500." in said
    slower = changed(changed(raced(), "sgd", steps_to_target=95.4), "adagrad", lowest_loss=3.0)
    assert "near 1.78 in batches of 32: it is at AdaGrad's final loss after 95.4 steps instead of 190." in advice(
        "sgd", slower, NOISE, None, AT_32
    )


def test_a_rate_that_ends_lower_is_named_too() -> None:
    lower = changed(raced(), "adagrad", lowest_loss_rate=0.178)
    assert "Over the whole of 500 steps it ends lowest at 0.178." in advice("adagrad", lower, NOISE, None, AT_32)
    assert "ends lowest" not in advice("adagrad", raced(), NOISE, None, AT_32)


@pytest.mark.parametrize(
    ("scale", "rows", "text"),
    [
        (240.3, None, "Larger batches should pay, up to about 240: in smaller ones the noise is larger than the"),
        (240.3, 100, "up to about 100:"),
        (63.0, None, ""),
        (17.0, None, ""),
        (3.2, None, "In the first steps batches of 3 would do nearly as well"),
        (0.01, None, "In the first steps batches of 1 would do"),
        (None, None, ""),
    ],
)
def test_batches_are_spoken_of_where_others_would_pay(scale: float | None, rows: int | None, text: str) -> None:
    said = advice("adagrad", raced(), replace(NOISE, noise_scale_l1=scale), None, Raced(32, rows=rows))
    assert text in said
    if not text:
        assert "would do" not in said
        assert "should pay" not in said


def test_each_method_has_its_own_noise_scale_and_a_sweep_knows_better() -> None:
    noise = replace(NOISE, noise_scale_l1=240.0, noise_scale_l2=1000.0)
    assert "up to about 1,000:" in advice("sgd", raced(), noise, None, AT_32)
    swept = raced(noise_terms={"adagrad": {"pays_up_to": 256, "pays_at_least": False}})
    said = advice("adagrad", swept, noise, None, AT_32)
    assert "Larger batches pay up to 256, by the sweep." in said
    assert "240" not in said
    assert "batches pay" not in advice("adagrad", raced(), noise, None, Raced(32, rows=32, deterministic=True))


def test_a_method_that_is_told_to_validate_better_is_to_be_tried() -> None:
    best = Best("adam", "validation", (), 0.05)
    hint = "Try Adam at 0.01 too: its held-out loss is 5.0% below AdaGrad's."
    assert advice("adagrad", raced(), NOISE, best, AT_32).endswith(hint)
    slower = changed(raced(), "adam", adagrad_speedup=1.5, adagrad_speedup_interval=(1.2, 1.8))
    assert "Adam" not in advice("adagrad", slower, NOISE, best, AT_32)


def test_a_method_that_is_told_to_be_faster_is_to_be_tried_where_it_does_not_validate_worse() -> None:
    faster = changed(
        raced(), "adam", adagrad_speedup=0.5, adagrad_speedup_interval=(0.4, 0.7), adagrad_rates=[0.03, 0.3]
    )
    level = Best("adagrad", "validation", ("adam",), 0.0)
    hint = "Try Adam at 0.03 too: it needs 2× fewer steps than AdaGrad to the same loss."
    assert advice("adagrad", faster, NOISE, level, AT_32).endswith(hint)
    assert "Adam" not in advice("adagrad", faster, NOISE, Best("adagrad", "validation", (), 0.0), AT_32)
    assert "Adam" not in advice("sgd", faster, NOISE, Best("sgd", "validation", ("adam",), 0.0), AT_32)
    unsure = changed(faster, "adam", adagrad_speedup_interval=(0.4, 1.1))
    assert "Adam" not in advice("adagrad", unsure, NOISE, level, AT_32)


def test_the_final_loss_alone_is_no_advice() -> None:
    """Adam ends at half of AdaGrad's loss and is not told apart from it."""
    assert "Adam" not in advice("adagrad", raced(), NOISE, Best("adagrad", "training", ("adam",), 0.0), AT_32)


def test_without_training_the_command_that_trains() -> None:
    trains = "Train both: the same command without `--no-training` or `training` in `--skip`."
    assert advice("undecided", OFF, NOISE, None, AT_32) == trains
    methods = {"sgd": entry(1.0)}
    assert "`sgd` and `adagrad` among" in advice("undecided", raced(methods=methods), NOISE, None, AT_32)


def test_undecided_says_what_the_interval_means_and_the_one_command_that_could_tell() -> None:
    wide = raced(speedup=1.5, speedup_interval=(0.8, 2.8))
    said = advice("undecided", wide, NOISE, None, AT_32)
    assert said.startswith(
        "AdaGrad at 0.32 in batches of 32 is the better bet: it needs at worst 1.25× and at best 0.36× as many steps "
        "as SGD. If it is as it looks, `--seeds "
    )
    assert said.count("`") == 2
    mirrored = raced(speedup=1 / 1.5, speedup_interval=(1 / 2.8, 1.25))
    assert advice("undecided", mirrored, NOISE, None, AT_32).startswith(
        "SGD at 1.78 in batches of 32 is the better bet: it needs at worst 1.25× and at best 0.36× as many steps as "
    )
    even = raced(speedup=1.05, speedup_interval=(0.75, 1.4))
    said = advice("undecided", even, NOISE, None, AT_32)
    assert said.startswith("Either may be the better one: AdaGrad needs at worst 1.3× and at best 0.71×")


def test_a_race_that_its_budget_ended_is_given_more_of_it() -> None:
    cut = raced(speedup=1.5, speedup_interval=(0.8, 2.8), decided_by="budget")
    said = advice("undecided", cut, NOISE, None, AT_32)
    assert said.endswith("A larger `--budget` lets it race until it is decided.")
    assert "--seeds" not in said


def test_where_no_number_of_orders_would_tell_larger_batches_may() -> None:
    hopeless = raced(speedup=1.2, speedup_interval=(0.0073, 2700.0))
    said = advice("undecided", hopeless, NOISE, None, Raced(32, rows=1000))
    assert said.endswith("larger batches, such as `--batch-size 128`, may.")
    assert "`--batch-size 100`" in advice("undecided", hopeless, NOISE, None, Raced(32, rows=100))
    assert "--seeds" not in said
    assert "too small" not in said


def test_few_orders_are_to_be_more() -> None:
    assert advice("undecided", trained([1.5]), NOISE, None, AT_32).startswith("Run it with `--seeds 4` or more")
    failed = raced(speedup=None, speedup_interval=None, why={"speedup": "every learning rate of sgd diverged"})
    assert advice("undecided", failed, NOISE, None, AT_32) == (
        "First get both to train: every learning rate of sgd diverged."
    )


def test_no_sample_size_is_advised_beside_those_of_the_warnings() -> None:
    drawn = replace(NOISE, density_interval=(0.3, 0.5), rare_rows=3.7 / 64)
    assert "--samples" not in advice("adagrad", raced(), drawn, None, AT_32)


def test_the_advice_names_what_it_holds_for() -> None:
    under = advice("adagrad", raced(), NOISE, None, Raced(64, "inverse-sqrt", 0.5))
    assert "in batches of 64, divided by the root of the step, kept within 0.5" in under
    assert "No advice" in advice("adagrad", raced(), NOISE, None, Raced(64, rotated=True))
