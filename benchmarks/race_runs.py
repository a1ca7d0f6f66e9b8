"""Every rate of SGD and AdaGrad with 64 orders of the batches on one task, trained by the package, kept in a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diagnose.training.resolution import resolution
from diagnose.training.runs import Contender, Leg, RaceSettings
from diagnose.training.speedup import Curves
from reports.record.diagnosis import PAIR

Array = NDArray[np.float64]
ORDERS = 64
"""The rule on all of them is taken for the truth."""
STACK = 512
"""Runs that are trained at once: more gain nothing."""


@dataclass(frozen=True)
class RaceTask:
    """A task and the rates 10^(k/4), k in ``exponents``, that hold each method's best ones inside."""

    model: Callable[[], Any] | str
    data: str
    exponents: tuple[range, range]
    options: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 2000
    batch_size: int = 32
    evaluations: int = 80


def small_gpt2() -> Any:
    """One layer of width 32 that reads 64 bytes."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from benchmarks.tasks import PLAIN_GPT2

    torch.manual_seed(0)
    shape: dict[str, Any] = {"vocab_size": 257, "n_positions": 64, "n_embd": 32, "n_layer": 1, "n_head": 2}
    model: Any = GPT2LMHeadModel(GPT2Config(**shape, **PLAIN_GPT2))
    model.set_attn_implementation("eager")
    return model


RACES: Mapping[str, RaceTask] = {
    "logreg breast-cancer": RaceTask("logreg", "breast-cancer", (range(-4, 9), range(-6, 7))),
    "logreg a4a": RaceTask("logreg", "a4a", (range(-7, 4), range(-9, 2))),
    "logreg w8a": RaceTask("logreg", "w8a", (range(3, 14), range(-1, 10)), {"samples": 2000}),
    "softmax wine": RaceTask("softmax", "wine", (range(-2, 11), range(-4, 9))),
    "softmax iris": RaceTask("softmax", "iris", (range(-4, 9), range(-4, 9))),
    "softmax digits": RaceTask("softmax", "digits", (range(-3, 8), range(-5, 6))),
    "mlp iris": RaceTask("mlp", "iris", (range(-3, 8), range(-9, 2)), steps=500),
    "mlp wine": RaceTask("mlp", "wine", (range(-5, 6), range(-11, 0)), steps=500),
    "mlp digits": RaceTask("mlp", "digits", (range(-6, 3), range(-8, 1)), {"samples": 512}, steps=500),
    "cnn digits": RaceTask("cnn", "digits", (range(-6, 3, 2), range(-10, -1, 2)), {"samples": 256}, 80, evaluations=40),
    "gpt2 pydoc-topics": RaceTask(
        small_gpt2, "pydoc-topics", (range(-6, 3, 2), range(-10, -1, 2)), {"samples": 32, "max_length": 64}, 80, 8, 20
    ),
}


@dataclass(frozen=True)
class Runs:
    """Losses (rates, orders, evaluations) of SGD and AdaGrad at the same steps, infinite from where a run diverged on;
    ``resolutions`` (rates,) are those of each rate."""

    steps: Array
    rates: tuple[Array, Array]
    losses: tuple[Array, Array]
    resolutions: tuple[Array, Array]

    @property
    def orders(self) -> int:
        return int(self.losses[0].shape[1])

    def curves(self, orders: Sequence[int] | NDArray[np.intp]) -> tuple[Curves, Curves]:
        """Those of some orders, at the rates that came through with each of them."""
        first, second = (
            _curves(self.steps, rates, losses[:, orders], resolutions)
            for rates, losses, resolutions in zip(self.rates, self.losses, self.resolutions, strict=True)
        )
        return first, second


def _curves(steps: Array, rates: Array, losses: Array, resolutions: Array) -> Curves:
    through = np.isfinite(losses).all((1, 2))
    return Curves(steps, rates[through], losses[through], resolutions[through])


def runs_of(name: str, folder: Path) -> Runs:
    """The runs of a task of RACES: from the folder if they are there, else trained and kept."""
    path = folder / f"{name.replace(' ', '-')}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        made = trained(RACES[name])
        columns = {
            f"{method}_{kind}": getattr(made, kind)[place]
            for place, method in enumerate(PAIR)
            for kind in ("rates", "losses", "resolutions")
        }
        np.savez_compressed(path, steps=made.steps, allow_pickle=False, **columns)
    with np.load(path) as stored:
        rates, losses, resolutions = (
            tuple(stored[f"{method}_{kind}"] for method in PAIR) for kind in ("rates", "losses", "resolutions")
        )
        return Runs(stored["steps"], rates, losses, resolutions)


def trained(task: RaceTask, orders: int = ORDERS) -> Runs:
    """Train every rate with every order, by the package."""
    from diagnose.inputs.opening import open_task
    from diagnose.settings import Settings
    from diagnose.training.running import Course, look, run_alone
    from diagnose.training.stacking import run_stack, stackable
    from diagnose.training.tuning import rate_of
    from estimators import Problem

    model = task.model() if callable(task.model) else task.model
    opened, _ = open_task(model, task.data, Settings(**task.options))
    problem = Problem(opened.model, opened.samples, opened.loss)
    settings = RaceSettings(
        steps=task.steps,
        batch_size=task.batch_size,
        rows=problem.n,
        seeds=orders,
        seed=0,
        evaluations=task.evaluations,
        optimizers=PAIR,
        stacked=stackable(problem),
    )
    course = Course(problem, settings, look(problem, problem.parameters))

    def train(runs: Sequence[Contender]) -> list[Leg]:
        if settings.stacked and len(runs) > 1:
            return run_stack(course, runs, lambda share: None)
        return [run_alone(course, run, lambda share: None) for run in runs]

    grids = [[rate_of(k) for k in exponents] for exponents in task.exponents]
    legs = []
    for method, rates in zip(PAIR, grids, strict=True):
        runs = [Contender(method, rate, seed) for rate in rates for seed in range(orders)]
        legs.append([leg for at in range(0, len(runs), STACK) for leg in train(runs[at : at + STACK])])
    steps = max((leg.steps for own in legs for leg in own), key=len)
    tables = [_table(own, len(rates), len(steps)) for own, rates in zip(legs, grids, strict=True)]
    told = [
        np.array([resolution(leg.rounding for leg in own[at : at + orders]) for at in range(0, len(own), orders)])
        for own in legs
    ]
    first, second = (np.array(rates) for rates in grids)
    return Runs(np.array(steps, dtype=np.float64), (first, second), (tables[0], tables[1]), (told[0], told[1]))


def _table(legs: Sequence[Leg], rates: int, evaluations: int) -> Array:
    losses = np.full((len(legs), evaluations), np.inf)
    for row, leg in zip(losses, legs, strict=True):
        if not leg.diverged:
            row[:] = leg.losses
    return losses.reshape(rates, -1, evaluations)
