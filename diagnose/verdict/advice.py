"""What to do: which optimizer at which learning rate, in which batches, and what beats both; else what would tell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diagnose.training.looks import seeds_that_tell
from diagnose.training.speedup import FEWEST_ORDERS
from diagnose.verdict.best import Best
from estimators.results import Interval, Noise
from reports.record.diagnosis import CLEAR, PAIR, Answer, Training
from reports.words.numbers import number, percent, rate, ratio, steps, steps_that_divide
from reports.words.sentences import better_of_the_pair, loss_of, method_name

FAR = 2.0
"""Batches this many times larger or smaller are worth a word."""
LARGER = 4
"""How many times larger the batches are whose order is to matter less."""


@dataclass(frozen=True)
class Raced:
    """How the race was run: what an advice holds for.

    ``rows`` are those that runs train on; ``deterministic``: a batch is all of them, so that nothing is left to chance.
    """

    batch_size: int | None = None
    schedule: str = "constant"
    box: float | None = None
    rotated: bool = False
    rows: int | None = None
    deterministic: bool = False

    def words(self) -> str:
        said = "" if self.batch_size is None else f" in batches of {number(self.batch_size)}"
        said += ", divided by the root of the step" if self.schedule == "inverse-sqrt" else ""
        return said + ("" if self.box is None else f", kept within {number(self.box)} of the start")


UNSAID = Raced()


def advice(answer: Answer, training: Training, noise: Noise, best: Best | None, raced: Raced) -> str:
    """One to five sentences with one thing to do; ``best`` is the best method of all that ran."""
    if raced.rotated:
        return "No advice: coordinates were rotated at random, which is a control and not your training."
    if answer == "undecided":
        return _undecided(training, raced)
    if answer == "no-difference":
        said = [_either(training, raced)]
    else:
        said = [_take(answer, training, raced), _batches(answer, training, noise, raced)]
    said.append(_better(answer, training, best))
    return " ".join(text for text in said if text)


def _either(training: Training, raced: Raced) -> str:
    rates = " or ".join(f"{method_name(m)} at {_rate(_entry(training, m))}" for m in PAIR)
    return f"Take either{raced.words()}: {rates}; SGD needs no extra memory."


def _take(method: str, training: Training, raced: Raced) -> str:
    entry = _entry(training, method)
    said = [
        f"Use {method_name(method)} at a learning rate near {_rate(entry)}{raced.words()}{_sooner(method, training)}."
    ]
    lowest = entry.get("lowest_loss_rate")
    if lowest is not None and lowest != entry.get("learning_rate"):
        said.append(f"Over the whole of {number(training.steps)} steps it ends lowest at {rate(lowest)}.")
    if (width := entry.get("tuning_range")) and width > 0:  # 0 of one rate alone
        least = "at least " if entry.get("tuning_range_at_least") else ""
        said.append(f"The rates that end nearly as low span {least}a factor of {number(10**width, 2)}.")
    return " ".join(said)


def _sooner(method: str, training: Training) -> str:
    """At which loss it is after how many steps, beside the other of the two."""
    other = PAIR[method == PAIR[0]]
    mine, others = (_entry(training, one).get("steps_to_target") for one in (method, other))
    if mine is None or others is None or training.target_loss is None:
        return ""
    where = f"a loss of {number(training.target_loss, 3)}"
    end, others_end = (_entry(training, one).get("lowest_loss") for one in (method, other))
    if not training.target_floored and end is not None and others_end is not None and end < others_end:
        where = f"{method_name(other)}'s final loss"
    # To the decimals of the table and the figure, where they divide to the speed-up.
    pair = tuple(_entry(training, one)["steps_to_target"] for one in PAIR)
    more = steps_that_divide(pair, training.speedup)
    return f": it is at {where} after {steps(mine, more)} steps instead of {steps(others, more)}"


def _entry(training: Training, method: str) -> Mapping[str, Any]:
    return (training.methods or {}).get(method) or {}


def _rate(entry: Mapping[str, Any]) -> str:
    return rate(entry.get("learning_rate"))


def _batches(method: str, training: Training, noise: Noise, raced: Raced) -> str:
    """Whether other batches pay: as a sweep measured, else by the noise scale at the start where that is far off."""
    term = (training.noise_terms or {}).get(method) or {}
    if term.get("pays_up_to") is not None:
        least = "at least " if term.get("pays_at_least") else ""
        return f"Larger batches pay up to {least}{number(term['pays_up_to'])}, by the sweep."
    scale = noise.noise_scale_l2 if method == "sgd" else noise.noise_scale_l1
    if scale is None or raced.batch_size is None or raced.deterministic:
        return ""
    size = max(1, round(scale))
    if size >= FAR * raced.batch_size:
        most = size if raced.rows is None else min(size, raced.rows)
        return (
            f"Larger batches should pay, up to about {number(most, 2)}: in smaller ones the noise is larger than the "
            "gradient, at the start already."
        )
    if size <= raced.batch_size / FAR:
        return (
            f"In the first steps batches of {number(size, 2)} would do nearly as well, since their noise is no larger "
            "than the gradient; later, when the gradient is small, larger ones pay."
        )
    return ""


def _better(answer: Answer, training: Training, best: Best | None) -> str:
    """Another method, where it is told to be better than the one advised and nowhere told to be worse."""
    if best is None:
        return ""
    ends = _entry(training, best.method).get("adagrad_speedup_interval")
    slower = ends is not None and ends[0] > 1
    if best.method not in PAIR and best.margin and not slower:
        _, loss = loss_of(best.by)
        return (
            f"Try {method_name(best.method)} at {_rate(_entry(training, best.method))} too: its {loss} is "
            f"{percent(best.margin)} below {better_of_the_pair(best.by, training)}'s."
        )
    if answer == "sgd":  # how AdaGrad stands to a method says nothing about SGD
        return ""
    level = {best.method, *best.tied} - set(PAIR)
    faster = [name for name in level if _sure(_entry(training, name))]
    if not faster:
        return ""
    first = min(faster, key=lambda name: (_entry(training, name)["adagrad_speedup"], name))
    entry = _entry(training, first)
    at = (entry.get("adagrad_rates") or [entry.get("learning_rate")])[0]
    return (
        f"Try {method_name(first)} at {rate(at)} too: it needs {ratio(1 / entry['adagrad_speedup'])} fewer steps than "
        "AdaGrad to the same loss."
    )


def _sure(entry: Mapping[str, Any]) -> bool:
    """Whether AdaGrad is told to be slower than the method."""
    ends = entry.get("adagrad_speedup_interval")
    speedup = entry.get("adagrad_speedup")
    return ends is not None and ends[1] < 1 and speedup is not None and speedup <= 1 / CLEAR


def _undecided(training: Training, raced: Raced) -> str:
    if training.steps is None:
        why = training.why.get("steps", "")
        if "--budget" in why:
            return "A larger `--budget` lets both train: this one left no time for it."
        how = "without `--no-training` or `training` in `--skip`" if "--no-training" in why else "with the training"
        return f"Train both: the same command {how}."
    if not all(method in (training.methods or {}) for method in PAIR):
        return "Let both race, with `sgd` and `adagrad` among `--optimizers`: the question is about them."
    if training.speedup is None:
        return f"First get both to train: {training.why.get('speedup', 'one of them did not')}."
    if training.speedup_interval is None:
        if training.decided_by == "budget":
            return f"A larger `--budget` lets it race on {FEWEST_ORDERS} orders or more: fewer give no interval."
        needed = seeds_that_tell(training)
        if needed is None:
            return f"Take smaller rates or more steps: {training.why.get('speedup_interval', 'there is no interval')}."
        return f"Run it with `--seeds {needed}` or more: fewer orders of the batches give no interval."
    return f"{_bet(training, training.speedup, training.speedup_interval, raced)} {_to_tell(training, raced)}".strip()


def _bet(training: Training, speedup: float, interval: Interval, raced: Raced) -> str:
    """What the interval means for the choice."""
    even = abs(math.log(speedup)) < math.log(CLEAR)
    method = "sgd" if speedup < 1 and not even else "adagrad"
    worst, best = interval if method == "adagrad" else (1 / interval[1], 1 / interval[0])
    other = method_name(PAIR[method == PAIR[0]])
    ends = f"at worst {ratio(1 / worst)} and at best {ratio(1 / best)} as many steps as {other}"
    if even:
        return f"Either may be the better one: AdaGrad needs {ends}."
    at = f"{_rate(_entry(training, method))}{raced.words()}"
    return f"{method_name(method)} at {at} is the better bet: it needs {ends}."


def _to_tell(training: Training, raced: Raced) -> str:
    """The one thing that could decide it, where something could."""
    if training.decided_by == "budget":
        return "A larger `--budget` lets it race until it is decided."
    if (needed := seeds_that_tell(training)) is not None:
        return f"If it is as it looks, `--seeds {needed}` would tell."
    if raced.batch_size is None or raced.deterministic:
        return ""
    larger = LARGER * raced.batch_size if raced.rows is None else min(LARGER * raced.batch_size, raced.rows)
    if larger <= raced.batch_size:
        return ""
    return f"More orders of the batches would hardly tell; larger batches, such as `--batch-size {larger}`, may."
