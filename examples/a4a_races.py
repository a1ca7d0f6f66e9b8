"""Logistic regression on a4a at five batch sizes, four methods, each with its own steps and seeds.

    python examples/a4a_races.py

Prints f - f* at the learning rate that ends lowest beside reference values that were computed apart, in units of the
standard error of the difference. So it does with a speed-up by an earlier rule, that of the reference: in each order of
the batches the earliest hit of the worse final loss over all rates, a rate that nobody can choose beforehand. The
speed-up by the rule of the package stands beside it. The file ``a4a`` of the LIBSVM collection must lie in the folder
that DIAGNOSE_DATA names. Two minutes on one core.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import diagnose

MINIMUM = 0.319270
ROWS = 4781
ADAPTIVE = ("sgd", "adagrad-norm", "adagrad")
CLOSE = 3.0
"""Standard errors that a value may be away."""


class Reference(NamedTuple):
    """f - f* as (mean, standard error over seeds) by method, the third for SGD at eta / sqrt(t); and the speed-up by
    the earlier rule, with the standard deviation of its logarithm over seeds."""

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
    for name, (mean, error) in reference.excess.items():
        race, method = (constant, name) if name in ADAPTIVE else (decayed, "sgd")
        rate = (race.training.methods or {})[method]["lowest_loss_rate"]
        ends = [curve[-1][1] for curve in curves(race.runs, method)[rate].values()]
        found, own = (
            float(np.mean(ends)) - MINIMUM,
            float(np.std(ends, ddof=1)) / math.sqrt(len(ends)) if ends[1:] else 0.0,
        )
        yield Compared(reference.batch_size, name, found, mean, abs(found - mean) / math.hypot(error, own))
    speedup = earliest_hits(constant.runs)
    # The reference of the full batch is one run, given to three digits.
    error = reference.spread * math.sqrt(2 / reference.seeds) or 0.05 / reference.speedup
    away = abs(math.log(speedup / reference.speedup)) / error
    yield Compared(reference.batch_size, "speed-up, earlier rule", speedup, reference.speedup, away)
    yield Compared(reference.batch_size, "speed-up", constant.training.speedup or math.nan, math.nan, 0.0)


Curve = Sequence[tuple[float, float]]
"""(step, loss) along a run."""


def curves(runs: Sequence[Mapping[str, Any]], method: str) -> dict[float, dict[int, Curve]]:
    """rate -> seed -> curve, of the rates that came through with as many seeds as any."""
    table: dict[float, dict[int, list[tuple[float, float]]]] = {}
    diverged = {row["learning_rate"] for row in runs if row["method"] == method and row["diverged"]}
    for row in runs:
        if row["method"] == method and row["learning_rate"] not in diverged:
            run = table.setdefault(row["learning_rate"], {}).setdefault(row["seed"], [])
            run.append((row["step"], row["loss"]))
    most = max(len(seeds) for seeds in table.values())
    return {rate: dict(seeds) for rate, seeds in table.items() if len(seeds) == most}


def earliest_hits(runs: Sequence[Mapping[str, Any]]) -> float:
    """The geometric mean over seeds of the steps of SGD over AdaGrad's, each the earliest over all rates to the worse
    of the two methods' best final losses in that seed, linear between evaluations."""
    sgd, adagrad = (curves(runs, method) for method in ("sgd", "adagrad"))
    logs = []
    for seed in next(iter(sgd.values())):
        target = max(min(rates[seed][-1][1] for rates in one.values()) for one in (sgd, adagrad))
        first, second = (min(hit(rates[seed], target) for rates in one.values()) for one in (sgd, adagrad))
        logs.append(math.log(first / second))
    return math.exp(float(np.mean(logs)))


def hit(curve: Curve, target: float) -> float:
    """The first step at which a run meets the target; infinite if it never does."""
    for (step, above), (after, below) in itertools.pairwise(curve):
        if below <= target:
            return step + (after - step) * (above - target) / (above - below)
    return math.inf


def main() -> int:
    """Print the table; 1 where a value is further away than :data:`CLOSE`."""
    rows = [row for reference in REFERENCES for row in compared(reference)]
    print(f"{'batch':>6}  {'what':<24}{'found':>10}{'reference':>11}  standard errors apart")
    for row in rows:
        beside = "" if math.isnan(row.reference) else f"{row.reference:>11.5f}  {row.errors:.1f}"
        print(f"{row.batch_size:>6}  {row.what:<24}{row.found:>10.5f}{beside}")
    return int(any(not row.errors <= CLOSE for row in rows))


if __name__ == "__main__":
    sys.exit(main())
