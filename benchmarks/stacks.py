"""Milliseconds that one run takes for a step and for an evaluation: alone, and among others in a stack.

    python -m benchmarks stacks [--tasks logreg,mlp] [--repeats N]

One thread, float32, batches of 32, half of the runs by SGD and half by AdaGrad, four orders of the batches. Ways take
turns, and the fastest round counts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from benchmarks.clock import seconds
from benchmarks.table import RESULTS
from diagnose.inputs.data import embedded
from diagnose.training.running import Course, look, run_alone
from diagnose.training.runs import Contender, RaceSettings, evaluation_steps
from diagnose.training.stacking import run_stack
from estimators import Problem
from reports.record.diagnosis import PAIR

NAME = "stacks"
RUNS, ORDERS = (1, 8, 32, 128), 4
SHORT, LONG = 4, 24
"""Steps of the runs that are timed."""
STILL = 1e-6
"""A rate at which nothing diverges."""


def _digits(*layers: nn.Module) -> Problem:
    table = embedded.table("digits")
    model = nn.Sequential(*layers)
    inputs = torch.from_numpy(table.images).float().flatten(1)
    return Problem(model, (inputs[:1024] / 16, torch.from_numpy(table.targets)[:1024].long()))


def logistic() -> Problem:
    """As many features as a4a has, and as many rows."""
    model = nn.Linear(123, 1, bias=False)
    nn.init.zeros_(model.weight)
    inputs = (torch.rand(4781, 123) < 0.11).float()
    return Problem(model, (inputs, torch.where(torch.rand(4781) < 0.25, 1.0, -1.0)), "logistic")


def softmax() -> Problem:
    return _digits(nn.Linear(64, 10, bias=False))


def network() -> Problem:
    return _digits(nn.Linear(64, 100), nn.Tanh(), nn.Linear(100, 20), nn.Tanh(), nn.Linear(20, 10))


TASKS: Mapping[str, Callable[[], Problem]] = {"logreg": logistic, "softmax": softmax, "mlp": network}


def rows(make: Callable[[], Problem], repeats: int) -> Iterator[tuple[int, float, float]]:
    """How many runs there are in a stack, and milliseconds of one for a step and an evaluation; first those of a run
    alone."""
    torch.manual_seed(0)
    problem = make()
    settings = RaceSettings(
        steps=LONG, batch_size=32, rows=problem.n, seeds=ORDERS, seed=0, evaluations=1, optimizers=PAIR, stacked=True
    )
    course = Course(problem, settings, look(problem, problem.parameters))
    briefs = {
        "long": course,
        "short": replace(course, settings=replace(settings, steps=SHORT)),
        "looked": replace(course, settings=replace(settings, steps=SHORT, evaluations=SHORT)),
    }
    more = len(evaluation_steps(SHORT, SHORT)) - len(evaluation_steps(SHORT, 1))
    stacks = {count: _runs(count) for count in RUNS}
    calls: dict[tuple[int, str], Callable[[], object]] = {
        (count, kind): partial(_trained, brief, runs)
        for count, runs in stacks.items()
        for kind, brief in briefs.items()
    }
    taken = seconds({f"{count} {kind}": call for (count, kind), call in calls.items()}, repeats)
    for count in RUNS:
        long, short, looked = (1000 * taken[f"{count} {kind}"] / count for kind in briefs)
        yield count, (long - short) / (LONG - SHORT), (looked - short) / more


def _runs(count: int) -> list[Contender]:
    """Of AdaGrad where there is one alone."""
    methods = PAIR if count > 1 else PAIR[1:]
    return [Contender(methods[at % len(methods)], STILL * (1 + at), at // len(methods) % ORDERS) for at in range(count)]


def _trained(course: Course, runs: Sequence[Contender]) -> None:
    if len(runs) > 1:
        run_stack(course, runs, lambda _: None)
    else:
        run_alone(course, runs[0], lambda _: None)


def table(names: Sequence[str], repeats: int) -> str:
    """In Markdown: a row for each task, step / evaluation."""
    heads = ["alone", *(f"{count} at once" for count in RUNS[1:])]
    lines = [f"| model | d | samples | {' | '.join(heads)} |", "|---|" + "---|" * (2 + len(heads))]
    for name in names:
        problem = TASKS[name]()
        cells = [f"{step:.2g} / {look:.2g}" for _, step, look in rows(TASKS[name], repeats)]
        lines.append(f"| {name} | {problem.d} | {problem.n} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks stacks", description=__doc__)
    parser.add_argument("--tasks", default=",".join(TASKS), help="comma-separated; default all")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; the fastest counts")
    asked = parser.parse_args(arguments)
    names = asked.tasks.split(",")
    if unknown := [name for name in names if name not in TASKS]:
        parser.error(f"unknown: {', '.join(unknown)}")
    torch.set_num_threads(1)
    made = table(names, asked.repeats)
    path = RESULTS / "stacks.md"
    path.write_text(made, encoding="utf-8")
    print(made)
    print(f"written: {path}")
