"""Logistic regression on a4a at five batch sizes, four methods, each with its own steps and seeds.

    python examples/a4a_races.py

Prints f - f* at the best learning rate beside reference values that were computed apart, in units of the standard
error of the difference. The file ``a4a`` of the LIBSVM collection must lie in the folder that DIAGNOSE_DATA names. Two
minutes on one core.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import NamedTuple

from scipy import stats

import diagnose

MINIMUM = 0.319270
ROWS = 4781
ADAPTIVE = ("sgd", "adagrad-norm", "adagrad")
CLOSE = 3.0
"""Standard errors that a value may be away."""


class Reference(NamedTuple):
    """f - f* as (mean, standard error over seeds) by method, the third for SGD at eta / sqrt(t); and the speed-up."""

    batch_size: int
    steps: int
    seeds: int
    excess: dict[str, tuple[float, float]]
    speedup: float
    spread: float


def values(sgd: str, decayed: str, norm: str, adagrad: str) -> dict[str, tuple[float, float]]:
    """Pairs of mean and standard error from text such as "1061 50", in units of 1e-5."""
    named = {"sgd": sgd, "sgd, eta/sqrt(t)": decayed, "adagrad-norm": norm, "adagrad": adagrad}
    pairs = {name: [float(word) * 1e-5 for word in text.split()] for name, text in named.items()}
    return {name: (mean, error) for name, (mean, error) in pairs.items()}


REFERENCES = (
    Reference(16, 2988, 12, values("1061 50", "841 52", "876 51", "273 28"), 5.0, 0.26),
    Reference(64, 747, 20, values("1156 71", "941 82", "1019 78", "340 61"), 5.7, 0.24),
    Reference(256, 187, 40, values("1378 76", "1065 38", "1248 50", "366 27"), 6.4, 0.25),
    Reference(1024, 93, 40, values("1489 23", "1135 23", "1408 38", "310 30"), 7.8, 0.20),
    Reference(ROWS, 200, 1, values("973 1", "769 1", "807 1", "52 1"), 15.6, 0.0),
)


class Compared(NamedTuple):
    """A value, its reference, and how many standard errors of the difference lie between."""

    batch_size: int
    what: str
    found: float
    reference: float
    errors: float


def compared(reference: Reference) -> Iterator[Compared]:
    """Race at one batch size and compare."""

    def raced(**chosen: object) -> diagnose.Diagnosis:
        return diagnose.run(
            "logreg",
            "a4a",
            batch_size=reference.batch_size,
            steps=reference.steps,
            seeds=reference.seeds,
            **chosen,
        )

    constant = raced(optimizers=ADAPTIVE)
    decayed = raced(optimizers=("sgd",), schedule="inverse-sqrt")
    entries = dict(constant.training.methods or {})
    entries["sgd, eta/sqrt(t)"] = (decayed.training.methods or {})["sgd"]
    for name, (mean, error) in reference.excess.items():
        found = entries[name]["final_loss"] - MINIMUM
        own = 0.0
        if (ends := entries[name]["final_loss_interval"]) is not None:
            own = (ends[1] - ends[0]) / 2 / float(stats.t.ppf(0.975, reference.seeds - 1))
        yield Compared(reference.batch_size, name, found, mean, abs(found - mean) / math.hypot(error, own))
    speedup = constant.training.speedup or math.nan
    # The reference of the full batch is one run, given to three digits.
    error = reference.spread * math.sqrt(2 / reference.seeds) or 0.05 / reference.speedup
    away = abs(math.log(speedup / reference.speedup)) / error
    yield Compared(reference.batch_size, "speed-up", speedup, reference.speedup, away)


def main() -> int:
    """Print the table; 1 where a value is further away than :data:`CLOSE`."""
    rows = [row for reference in REFERENCES for row in compared(reference)]
    print(f"{'batch':>6}  {'what':<18}{'found':>10}{'reference':>11}  standard errors apart")
    for row in rows:
        print(f"{row.batch_size:>6}  {row.what:<18}{row.found:>10.5f}{row.reference:>11.5f}  {row.errors:.1f}")
    return int(any(not row.errors <= CLOSE for row in rows))


if __name__ == "__main__":
    sys.exit(main())
