"""Headline, stage lines and warnings as plain text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from reports.record.diagnosis import Diagnosis
from reports.words.numbers import steps
from reports.words.sentences import (
    best_line,
    headline,
    limits,
    noise_side,
    printable,
    smoothness_side,
    stage_line,
    warning_line,
)
from tests.reports import made


def answered(answer: Any, speedup: float | None, pair: tuple[float, float] | None, why: str = "") -> Diagnosis:
    base = made.finished()
    return replace(
        base,
        verdict=replace(base.verdict, answer=answer),
        training=replace(
            base.training,
            speedup=speedup,
            speedup_interval=pair,
            why={} if speedup is not None else {"speedup": why, "speedup_interval": why},
        ),
    )


@pytest.mark.parametrize(
    ("answer", "speedup", "pair", "text"),
    [
        ("adagrad", 1.87, (1.52, 2.41), "AdaGrad should help: 1.9× fewer steps, 95% interval [1.5, 2.4]"),
        ("sgd", 0.5, (0.4, 0.625), "SGD should do better: 2× fewer steps than AdaGrad, 95% interval [1.6, 2.5]"),
        (
            "no-difference",
            1.02,
            (0.93, 1.11),
            "AdaGrad makes no difference here: a speed-up of 1.02×, 95% interval [0.93, 1.11]",
        ),
        ("undecided", 1.3, (0.7, 2.4), "Undecided: AdaGrad's speed-up over SGD is 1.3×, 95% interval [0.70, 2.4]"),
        ("undecided", 1.3, None, "Undecided: AdaGrad's speed-up over SGD is 1.3×, no interval"),
        ("undecided", None, None, "Undecided, as no speed-up was measured: sgd diverged"),
        (
            "adagrad",
            1.87,
            None,
            "AdaGrad should help: 1.9× fewer steps, with full batches, in which nothing is left to chance",
        ),
    ],
)
def test_headline(answer: str, speedup: float | None, pair: tuple[float, float] | None, text: str) -> None:
    assert headline(answered(answer, speedup, pair, "sgd diverged")) == text


def test_a_prediction_is_named_as_one() -> None:
    base = answered("adagrad", None, None, "training was off")
    told = replace(base, prediction=replace(base.prediction, speedup=1.7, interval=(0.9, 3.1)))
    assert (
        headline(told) == "AdaGrad should help: predicted, nothing was trained: 1.7× fewer steps, interval [0.90, 3.1]"
    )


def test_an_unfinished_run_has_no_answer() -> None:
    assert headline(made.empty()) == "No answer yet: the run is not finished"


def test_without_training_the_headline_is_what_was_measured() -> None:
    assert headline(made.untrained()) == (
        "Noise sits in few coordinates (φ 0.31), curvature is partly aligned with the coordinates (R_L 0.24): the "
        "theory favours AdaGrad; nothing was trained"
    )
    bare = made.untrained()
    assert headline(replace(bare, verdict=replace(bare.verdict, theory=None))) == (
        "Nothing was measured; nothing was trained"
    )


def best(method: str, by: Any = "validation", tied: tuple[str, ...] = (), margin: float | None = 0.0) -> str | None:
    base = made.finished()
    chosen = replace(base.verdict, best_method=method, best_by=by, best_tied=tied, best_margin=margin)
    return best_line(replace(base, verdict=chosen))


def test_the_best_method_of_all() -> None:
    assert (
        best("adam", margin=0.018) == "Adam validates best of the 4 methods: its held-out loss is 1.8% below AdaGrad's"
    )
    assert best("adam", "training", margin=0.018) == (
        "Adam ends lowest of the 4 methods: its lowest final loss is 1.8% below AdaGrad's"
    )
    assert best("adagrad") == "AdaGrad validates best of the 4 methods"
    assert best("adam", margin=None) == "Adam validates best of the 4 methods"
    assert best_line(made.untrained()) is None


def test_the_lowest_of_all_rates_is_not_the_one_that_is_drawn() -> None:
    base = made.finished()
    methods = dict(base.training.methods or {})
    methods["adagrad"] = {**methods["adagrad"], "lowest_loss_rate": 1.0}
    ended = replace(base, training=replace(base.training, methods=methods))
    lowest = replace(base.verdict, best_method="adagrad", best_by="training", best_tied=(), best_margin=0.0)
    said = "AdaGrad ends lowest of the 4 methods, each at the rate where it ends lowest"
    assert best_line(replace(ended, verdict=lowest)) == said
    assert best_line(replace(base, verdict=lowest)) == "AdaGrad ends lowest of the 4 methods"


def test_methods_that_are_not_told_apart_are_named_as_such() -> None:
    assert best("adagrad", tied=("adam",)) == (
        "By held-out loss AdaGrad and Adam are not told apart, and best of the 4 methods"
    )
    assert best("adagrad", "training", tied=("adam", "sgd", "adagrad-norm")) == (
        "By lowest final loss SGD, AdaGrad, AdaGrad-Norm and Adam are not told apart"
    )
    # AdaGrad-Norm's orders scatter: it is level with Adam, and no better than AdaGrad, which is not.
    assert best("adam", tied=("adagrad-norm",), margin=0.1) == (
        "By held-out loss AdaGrad-Norm and Adam are not told apart: Adam's is 10% below AdaGrad's"
    )


def test_where_steps_do_not_tell_two_apart_the_held_out_loss_may() -> None:
    base = made.finished()
    methods = dict(base.training.methods or {})
    methods["adam"] = {**methods["adam"], "adagrad_speedup_interval": (0.8, 1.1)}
    told = replace(base, training=replace(base.training, methods=methods))
    assert best_line(told) == (
        "AdaGrad and Adam are not told apart in steps; Adam validates best of the 4 methods: its held-out loss is 1.8% "
        "below AdaGrad's"
    )


def test_seeds_that_ran_alike_have_no_interval() -> None:
    """Where a batch is the whole set every order is the same run."""
    alike = answered("adagrad", 1.18, (1.18, 1.18), "")
    assert headline(alike) == "AdaGrad should help: 1.18× fewer steps, the same in every order of the batches"
    whole = replace(made.finished(), task=replace(made.finished().task, batch_size=1024))
    assert "order" not in (limits(whole) or "order")


@pytest.mark.parametrize(
    ("steps", "batch", "rows", "said"),
    [
        (60, 8, 915, "60 steps in batches of 8, which see 480 of the 915 rows, with 3 orders of the batches"),
        (2000, 32, 455, "2,000 steps in batches of 32, which see each of the 455 rows about 141 times, with"),
        (100, 32, 640, "100 steps in batches of 32, which see each of the 640 rows 5 times, with"),
        (100, 32, 1000, "100 steps in batches of 32, which see each of the 1,000 rows about 3.2 times, with"),
        (100, 32, 3200, "100 steps in batches of 32, which see each of the 3,200 rows once, with"),
        (100, 640, 640, "100 steps on all 640 rows at once; curvature"),
        (100, 32, None, "100 steps in batches of 32, with 3 orders"),
    ],
)
def test_how_much_of_the_data_a_run_has_seen(steps: int, batch: int, rows: int | None, said: str) -> None:
    base = made.finished()
    task = replace(base.task, batch_size=batch, training_rows=rows)
    text = limits(replace(base, task=task, training=replace(base.training, steps=steps)))
    assert f"; of runs of {said}" in (text or "")


def test_a_method_that_did_not_run_is_not_named() -> None:
    base = made.finished()
    methods = {name: entry for name, entry in (base.training.methods or {}).items() if name != "adagrad"}
    text = best_line(replace(base, training=replace(base.training, methods=methods)))
    assert text == "Adam validates best of the 3 methods: its held-out loss is 1.8% below SGD's"
    two = {name: methods[name] for name in ("sgd", "adam")}
    text = best_line(replace(base, training=replace(base.training, methods=two)))
    assert text == "Adam validates better than the other: its held-out loss is 1.8% below SGD's"
    alone = best_line(replace(base, training=replace(base.training, methods={"adam": methods["adam"]})))
    assert alone == "Adam alone ran"


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "not measured"), (2.0, "2"), (4.683, "4.68"), (467.5, "468"), (1234.4, "1,234")],
)
def test_steps_to_a_loss_lie_between_two_steps(count: float | None, text: str) -> None:
    assert steps(count) == text


def test_limits_name_what_was_used() -> None:
    base = made.finished()
    whole = replace(
        base,
        task=replace(base.task, rows=1024, curvature_samples=1024, training_rows=1024, seeds=1),
        training=replace(base.training, steps=1),
    )
    assert limits(whole) == (
        "The answer is that of all 1,024 rows; of runs of 1 step in batches of 32, which see 32 of the 1,024 rows, "
        "with 1 order of the batches. A longer race may give another answer."
    )
    measured = replace(made.untrained(), settings={"max_length": 128})
    assert limits(measured) == (
        "The answer is that of 1,024 of 1,797 sequences, each of at most 128 tokens; curvature was measured on 512 of "
        "these sequences. More data or longer sequences may give another answer."
    )
    assert limits(replace(measured, task=replace(measured.task, rows=None, curvature_samples=None), settings={})) == (
        "The answer is that of 1,024 rows."
    )
    assert limits(made.empty()) is None


STAGES = ("noise", "smoothness", "hessian_diagonal", "spectrum", "generalized_smoothness", "training")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_line_is_a_plain_line_or_the_reason(stage: str) -> None:
    line = stage_line(stage, getattr(made.finished(), stage))
    assert line
    assert not {"\n", "<", "None"} & set(line.split())
    assert stage_line(stage, getattr(made.empty(), stage)) == "not measured: not reached yet"


def test_stage_lines_hold_the_numbers() -> None:
    whole = made.finished()
    assert stage_line("training", whole.training) == (
        "orders 4 → 8, decided: AdaGrad's speed-up over SGD 1.9×, 95% interval [1.5, 2.3]; over Adam, the best of 3 "
        "others, 1.4×, 95% interval [1.13, 1.7]"
    )
    alone = replace(whole.training, speedup=None, speedup_interval=None, why={"speedup": "sgd did not run"})
    assert stage_line("training", alone) == (
        "orders 4 → 8, decided: speed-up over SGD not measured: sgd did not run; over Adam, the best of 3 others, "
        "1.4×, 95% interval [1.13, 1.7]"
    )
    methods = {name: (whole.training.methods or {})[name] for name in ("sgd", "adagrad")}
    two = replace(whole.training, best_other="sgd", methods=methods, looks=None)
    assert stage_line("training", two) == "AdaGrad's speed-up over SGD 1.9×, 95% interval [1.5, 2.3]"
    assert (
        stage_line("noise", replace(whole.noise, density=0.7338, density_interval=(0.7338, 0.7338)))
        == "density 0.7338, exact"
    )
    smooth = replace(whole.smoothness, l1_lower=133_212.0, l1_upper=149_777.0, density=0.05, whole_data=None)
    assert stage_line("smoothness", smooth) == "‖L‖₁ between 133,200 and 149,800, d·λ 2,996,000"
    unknown = replace(whole.hessian_diagonal, abs_sum=None, why={"abs_sum": "hidden by noise"})
    assert stage_line("hessian_diagonal", unknown).startswith("Σ|h| within [217, 352] (95%); trace 185.6, 95% interval")


def test_whose_smoothness_it_is_is_said() -> None:
    """A draw's bracket is never passed off as the data's; on all rows there is nothing to say."""
    smooth = replace(made.finished().smoothness, l1_lower=133_212.0, l1_upper=149_777.0, density=0.05)
    draw = {"samples": 16, "rows": 3485, "interval": (18_000.0, 183_000.0), "mean": 1e5, "inflation": 1.5}
    assert stage_line("smoothness", replace(smooth, whole_data=draw)) == (
        "‖L‖₁ of the 16 samples drawn between 133,200 and 149,800, d·λ 2,996,000; "
        "of all 3,485 rows 95% interval [18,000, 183,000]"
    )
    unknown = {**draw, "interval": None, "why": {"interval": "too few samples"}}
    assert stage_line("smoothness", replace(smooth, whole_data=unknown)).endswith(
        "; of all 3,485 rows unknown: too few samples"
    )
    named = {**draw, "rare_rows": 3.7 / 16}
    assert stage_line("smoothness", replace(smooth, whole_data=named)).endswith(
        "95% interval [18,000, 183,000], unless rows rarer than 1 in 4 carry it"
    )
    everything = {**draw, "samples": 3485}
    assert "drawn" not in stage_line("smoothness", replace(smooth, whole_data=everything))


def test_an_interval_of_a_draw_says_what_it_rests_on() -> None:
    part = replace(made.finished().noise, density=0.312, density_interval=(0.284, 0.341), rare_rows=3.7 / 64)
    line = "density 0.312, 95% interval [0.284, 0.341]"
    assert stage_line("noise", part) == f"{line}, unless rows rarer than 1 in 17 carry the noise"
    assert stage_line("noise", replace(part, rare_rows=None)) == line  # a file of an earlier version
    assert stage_line("noise", replace(part, density_interval=None)) == "density 0.3120 on 1,024 samples"


def test_sides_turn_at_their_thresholds() -> None:
    assert "strongly favours" in noise_side(0.49)
    assert "some degree" in noise_side(0.51)
    assert "neither" in noise_side(0.96)
    assert "strongly" in smoothness_side(0.09)
    assert "some degree" in smoothness_side(0.11)
    assert "neither" in smoothness_side(0.56)
    assert "random rotation" in smoothness_side(0.3, rotated=0.28)


def test_a_warning_is_found_meaning_action_on_one_line() -> None:
    line = warning_line(replace(made.WARNING, found="line\nbreak \x1b[31m"))
    assert line.split(" → ")[0] == "line\ufffdbreak \ufffd[31m (lr-at-grid-edge)"
    assert line.split(" → ")[1:] == [made.WARNING.meaning, made.WARNING.action]


def test_printable_keeps_letters_of_all_scripts() -> None:
    assert printable("größe 重み ‖L‖₁") == "größe 重み ‖L‖₁"
    assert printable("a\u202eb\x00\ud800") == "a\ufffdb\ufffd\ufffd"
