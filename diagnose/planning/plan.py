"""``--plan``: what a run would take, without running it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from diagnose.events import Silent
from diagnose.inputs import open_task
from diagnose.limits import Work
from diagnose.planning.budget import Budget, in_words
from diagnose.planning.costs import planned
from diagnose.planning.pace import Clock, pace_of
from diagnose.settings import Settings, check, own_optimizers
from diagnose.stages.bench import Bench
from diagnose.stages.estimate import Pace, PlanRow, Shape
from diagnose.stages.training import race_settings
from diagnose.training.runs import MemoryStore


@dataclass(frozen=True, kw_only=True)
class Plan:
    """``understood``: how model and data were read; ``cuts``: what a budget cuts, in words."""

    understood: tuple[str, ...]
    rows: tuple[PlanRow, ...]
    cuts: tuple[str, ...] = ()


def plan(asked: Settings, model: Any, data: Any, clock: Clock = time.perf_counter) -> Plan:
    """Open model and data, time the elements of a run, and estimate each stage.

    Raises:
        InputError: see :func:`diagnose.run`.
    """
    began = clock()
    check(asked)
    opened, resolved = open_task(model, data, asked)
    bench = Bench.build(opened, resolved, MemoryStore(), Silent().progress, own_optimizers(asked))
    opening = PlanRow(stage="opening", passes=bench.passes, seconds=clock() - began, memory_bytes=0)
    work, shape, pace = measured(bench, clock)
    assert pace is not None
    cuts: tuple[str, ...] = ()
    if resolved.budget is not None:
        budget = Budget(resolved.budget, spent=clock() - began, clock=clock)
        whole, work = work, budget.cut(work, shape, pace, ())
        cuts = tuple(in_words(whole, budget.cuts))
    return Plan(understood=opened.understood, rows=(opening, *planned(work, shape, pace)), cuts=cuts)


def measured(bench: Bench, clock: Clock | None = time.perf_counter) -> tuple[Work, Shape, Pace | None]:
    """What a plan is made from: the work as it was asked for, what it is done on, and how fast that goes here.

    Without a clock the pace is not taken.
    """
    race = race_settings(bench) if bench.resolved.training else None
    pace = None if clock is None else pace_of(bench, race, clock)
    return Work(bench.resolved, bench.limits), Shape.of(bench, race), pace
