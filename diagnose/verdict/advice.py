"""What to do: which optimizer, which learning rate, up to which batch size it pays, and what beat both."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from diagnose.schema import CLEAR, PAIR, Answer, Training
from diagnose.training.looks import seeds_that_tell
from estimators.rare_rows import BOUND, samples_to_see
from estimators.results import Noise
from reports.numbers import number, rate
from reports.text import method_name, of_the_pair, unless_rare

BEATS = 0.01
"""A method beats another where it takes off this share more of the loss."""
FOR: dict[Answer, tuple[str, ...]] = {
    "adagrad": ("adagrad",),
    "sgd": ("sgd",),
    "no-difference": PAIR,
    "undecided": (),
}


@dataclass(frozen=True)
class Raced:
    """How the race was run: what an advice holds for."""

    batch_size: int | None = None
    schedule: str = "constant"
    box: float | None = None
    rotated: bool = False

    def words(self) -> str:
        said = "" if self.batch_size is None else f" in batches of {number(self.batch_size)}"
        said += ", divided by the root of the step" if self.schedule == "inverse-sqrt" else ""
        return said + ("" if self.box is None else f", kept within {number(self.box)} of the start")


UNSAID = Raced()


def advice(
    answer: Answer,
    training: Training,
    noise: Noise,
    best: str | None,
    margin: float | None,
    raced: Raced,
    rows: int | None = None,
) -> str:
    """One to five sentences. ``best`` and ``margin`` are those of the verdict, ``rows`` those of the data."""
    if raced.rotated:
        return "No advice: coordinates were rotated at random, which is a control and not your training."
    if answer == "undecided":
        return _undecided(training) + _beaten(training, best, margin) + _rare(noise, rows)
    said = [_take(answer, training, raced), *(_batches(method, training, noise) for method in FOR[answer])]
    return " ".join(text for text in said if text) + _beaten(training, best, margin) + _rare(noise, rows)


def _take(answer: Answer, training: Training, raced: Raced) -> str:
    methods, at = training.methods or {}, raced.words()
    if answer == "no-difference":
        rates = " or ".join(f"{method_name(m)} at {_rate(methods.get(m))}" for m in FOR[answer])
        return f"Take either, tuned{at}: {rates}; SGD keeps no state."
    (method,) = FOR[answer]
    entry = methods.get(method) or {}
    width = entry.get("tuning_range")
    text = f"Use {method_name(method)} at a learning rate near {_rate(entry)}{at}"
    if not width:  # not known, or of one rate alone
        return f"{text}."
    least = "at least " if entry.get("tuning_range_at_least") else ""
    return f"{text}; the rates that end nearly as low span {least}a factor of {number(10**width, 2)}."


def _rate(entry: Any) -> str:
    return rate((entry or {}).get("learning_rate"))


def _batches(method: str, training: Training, noise: Noise) -> str:
    """Up to which batch size it pays: measured by a sweep, else by the noise scale at the start."""
    term = (training.noise_terms or {}).get(method) or {}
    if term.get("pays_up_to") is not None:
        least = "at least " if term.get("pays_at_least") else ""
        return f"Larger batches pay for {method_name(method)} up to {least}{number(term['pays_up_to'])}, by the sweep."
    scale = noise.noise_scale_l2 if method == "sgd" else noise.noise_scale_l1
    if scale is None:
        return ""
    if scale < 1:
        return (
            f"At the start one sample's gradient is hardly noisy: larger batches pay little for {method_name(method)}."
        )
    return (
        f"At the start noise and gradient are equal at batches of {number(max(1, round(scale)), 2)} for "
        f"{method_name(method)}: much larger ones pay little there; later in a run they may."
    )


def _beaten(training: Training, best: str | None, margin: float | None) -> str:
    """Which other method beat both, where one did clearly."""
    if best is None or best in PAIR or margin is None or margin < BEATS:
        return ""
    beaten = "both" if all(method in (training.methods or {}) for method in PAIR) else of_the_pair(training)
    return f" {method_name(best)} at {_rate((training.methods or {}).get(best))} ended lower than {beaten}: try it."


def _rare(noise: Noise, rows: int | None) -> str:
    """Which draw would bound what the interval of the noise is blind to, where this one leaves it wide."""
    if noise.density_interval is None or not noise.rare_rows or noise.rare_rows <= BOUND:
        return ""
    needed, bound = samples_to_see(BOUND, rows), number(int(1 / BOUND))
    rare = unless_rare(noise.rare_rows)
    return f" The interval of the noise holds {rare}: `--samples {needed}` brings that to 1 in {bound}."


def _undecided(training: Training) -> str:
    speedup, interval = training.speedup, training.speedup_interval
    if training.steps is None:
        return "Let it train: without a race there is nothing to rest an answer on."
    if not all(method in (training.methods or {}) for method in PAIR):
        return "Let both race, with `sgd` and `adagrad` among `--optimizers`: the question is about them."
    if speedup is None:
        return "Mend what kept SGD or AdaGrad from training, then run it again."
    needed = seeds_that_tell(training)
    if interval is None:
        return f"Run it with `--seeds {needed}` or more: fewer give no interval."
    if abs(math.log(speedup)) < math.log(CLEAR):
        return "Take what you know: the difference looks too small to matter, and more seeds may show that it is."
    if needed is not None:
        return (
            f"If the difference is as it looks, about `--seeds {needed}` would show it. Until then take what you know."
        )
    return "Take what you know: if there is a difference, it is too small for these seeds to show."
