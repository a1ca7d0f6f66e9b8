"""A run within a given time: which numbers are made smaller, how long the race may go on, when a stage must end."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from diagnose.limits import CUTS, ENOUGH, NUMBERS, Work, typed
from diagnose.planning.costs import planned, seconds_of
from diagnose.planning.pace import Clock
from diagnose.settings import flag
from diagnose.stages.estimate import Pace, Shape
from estimators.results import Finding
from estimators.smoothness_vector.bracket import FEWEST_PRODUCTS
from reports.record.diagnosis import PAIR

FILLED = 0.85
"""Share of the time that is left which a plan may fill: a plan is right within 30%."""
LATEST = 1.1
"""Budgets after which a stage that is still running is left out."""
TIMED = 1.0
"""Seconds of the noise from which what it takes tells the pace of the machine."""
CERTAIN = ("noise", "verdict")
"""Stages that every run has: no budget is too small for an answer or a measurement."""
Cut = tuple[str, Any]
"""A number by its name and what it becomes; ("left_out", STAGE) leaves out a stage."""
Cuts = dict[str, Any]
"""What became smaller, as settings of result.json hold it; ``left_out`` is a list."""


class OutOfTime(Exception):
    """A stage was still running when the budget had been spent."""


def ladder(work: Work) -> list[Cut]:
    """What is cut, one after another: the least for the answer first.

    The question is the speed-up and its interval, then the noise, then the bracket; details of curvature come last. In
    the race other methods are given up first, then samples that losses are measured on, and steps, which change the
    question, at the end.
    """
    drop = "left_out"
    return [
        *_smaller(work, "points", 3),
        (drop, "generalized_smoothness"),
        ("one_norm", 0),
        ("density_starts", 0),
        ("whole_data", False),
        ("directions", False),
        *_smaller(work, "probes", 16),
        *([("batch_sizes", None)] if work.resolved.batch_sizes else []),
        *_fewer_methods(work),
        *_smaller(work, "probes", 4, above=16),
        (drop, "hessian_diagonal"),
        *_smaller(work, "products", 4 * FEWEST_PRODUCTS),
        *_smaller(work, "curvature_samples", 8),
        *_smaller(work, "samples", 32),
        *_smaller(work, "seeds", 4),
        *_smaller(work, "evaluations", 12),
        *_smaller(work, "products", FEWEST_PRODUCTS, above=4 * FEWEST_PRODUCTS),
        (drop, "smoothness"),
        *_smaller(work, "curvature_samples", 4, above=8),
        *_smaller(work, "steps", 20),
        (drop, "spectrum"),
        *_smaller(work, "seeds", 1, above=4),
        *([("seeds", 1)] if work.resolved.seeds == "auto" else []),
        *_smaller(work, "evaluations", 6, above=12),
        *_smaller(work, "samples", 8, above=32),
        *_smaller(work, "steps", 8, above=20),
        (drop, "training"),
    ]


def _smaller(work: Work, name: str, least: int, above: int | None = None) -> Iterator[Cut]:
    """Halvings of a number down to the least, from where those down to ``above`` ended; none of a word."""
    value = work.number(name)
    if not isinstance(value, int):
        return
    if above is not None:
        value = min(value, above)
    while value > least:
        value = max(value // 2, least)
        yield name, value


def _fewer_methods(work: Work) -> Iterator[Cut]:
    """One after another from the end, until SGD and AdaGrad are left."""
    methods = list(work.resolved.optimizers)
    for method in reversed(work.resolved.optimizers):
        if method not in PAIR and set(PAIR) <= set(methods):
            methods.remove(method)
            yield "optimizers", list(methods)


def choose(
    work: Work, shape: Shape, pace: Pace, seconds: float, done: Collection[str] = (), fixed: Cuts | None = None
) -> Cuts:
    """The cuts with which the stages that are not done fit into the time, as few of the valuable ones as will do.

    They are added in the order of the ladder; then those that turn out not to be needed are taken back, the most
    valuable first.

    Args:
        work: the run without cuts.
        shape, pace: what it works on, and how fast.
        seconds: for the stages that are not done.
        done: stages that are, whose numbers stay.
        fixed: the cuts that were made for them.
    """
    fixed = fixed or {}
    kept = {name: value for name, value in fixed.items() if name in NUMBERS and NUMBERS[name].stage in done}
    if out := [stage for stage in fixed.get("left_out", ()) if stage in done]:
        kept["left_out"] = out

    def taken(cuts: list[Cut]) -> float:
        rows = planned(work.with_cuts(_folded(kept, cuts)), shape, pace)
        return seconds_of([row for row in rows if row.stage not in done])

    free = [cut for cut in ladder(work) if (cut[1] if cut[0] == "left_out" else NUMBERS[cut[0]].stage) not in done]
    made: list[Cut] = []
    for cut in free:
        if taken(made) <= seconds:
            break
        made.append(cut)
    most = max(seconds, taken(made))
    for number in reversed(range(len(made))):
        without = made[:number] + made[number + 1 :]
        if taken(without) <= most:
            made = without
    return _folded(kept, made)


def _folded(kept: Cuts, cuts: list[Cut]) -> Cuts:
    found = dict(kept)
    for name, value in cuts:
        found[name] = [*found.get(name, ()), value] if name == "left_out" else value
    return found


class Budget:
    """The time of a run, and what is cut to keep it.

    Attributes:
        cuts: what became smaller so far.
        enough: seconds that would do without cuts; None as long as nothing is cut.
        recorded: whether the cuts are those of an earlier attempt, which are taken as they are.
    """

    def __init__(
        self,
        seconds: float,
        spent: float = 0.0,
        recorded: Mapping[str, Any] | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        self.seconds, self.clock = seconds, clock
        self._began = clock() - spent
        self.recorded = recorded is not None and CUTS in recorded
        self.cuts: Cuts = dict(recorded[CUTS]) if recorded and CUTS in recorded else {}
        self.enough: float | None = recorded.get(ENOUGH) if recorded else None
        self._stage, self._stage_began, self._race_passes, self.blocks = "", 0.0, 0.0, 0
        self._expected, self._slower = dict[str, float](), 1.0
        # What a race that was ended takes from the store is taken however late it is.
        self._strict = "race_blocks" not in self.cuts

    @property
    def spent(self) -> float:
        return self.clock() - self._began

    @property
    def left(self) -> float:
        return self.seconds - self.spent

    def stored(self) -> dict[str, Any]:
        """What settings of result.json hold besides, so that a run that goes on makes the same cuts."""
        return {CUTS: dict(self.cuts), ENOUGH: self.enough if self.cuts else None}

    def cut(self, work: Work, shape: Shape, pace: Pace | None, done: Collection[str]) -> Work:
        """The work with the cuts that what is left of the time takes; without a pace, with those that were recorded."""
        if pace is not None:
            before = {name: value for name, value in self.cuts.items() if name == "race_blocks"}
            self.cuts = choose(work, shape, pace, FILLED * self.left / self._slower, done, self.cuts) | before
            rows = planned(work.with_cuts(self.cuts), shape, pace)
            self._expected = {row.stage: self._slower * row.seconds for row in rows if row.stage not in done}
            if self.enough is None:
                # To the end of every race, in the same folder, where what this attempt takes counts too.
                whole = sum(max(row.seconds, row.most_seconds or 0.0) for row in planned(work, shape, pace))
                self.enough = LATEST * self.seconds + (self.spent + whole) / FILLED
        return work.with_cuts(self.cuts)

    def overrun(self, stage: str, complete: Cuts | None = None) -> None:
        """The stage was still running when the time had been spent: what is cut then.

        Of a race the blocks that are done are stored, and it ends with them; in the first block with what is
        ``complete`` (``racing.finished``) as cuts of the race. All else is left out.
        """
        if stage == "training" and (self.blocks or complete):
            self.cuts |= complete or {}
            self.cuts["race_blocks"] = max(self.blocks - 1, 0)
            self._strict = False
        else:
            self.cuts["left_out"] = [*self.cuts.get("left_out", ()), stage]

    def begin(self, stage: str) -> None:
        """A stage begins."""
        self._stage, self._stage_began = stage, self.clock()
        if stage == "training":
            self._race_passes, self.blocks = 0.0, 0

    def ended(self) -> None:
        """The stage has ended. What the noise took beside its plan, a fixed number of passes, is the machine's pace
        since that was taken: other work on it, or memory that ran short."""
        expected = self._expected.pop(self._stage, 0.0)
        if self._stage == "noise" and expected >= TIMED:
            self._slower = max((self.clock() - self._stage_began) / expected, 1.0)

    def late(self) -> bool:
        """Whether what is left of the time is what the stages after this one are planned to take: then one that can
        stop anywhere stops."""
        rest = sum(seconds for name, seconds in self._expected.items() if name != self._stage)
        return bool(self._expected) and FILLED * self.left < rest

    def progress(self, stage: str, done: float) -> None:
        """So much of a stage is done, of the race so many passes.

        Raises:
            OutOfTime: the time is over.
        """
        if stage == "training":
            self._race_passes = done
        if self._strict and stage not in CERTAIN and self.spent > LATEST * self.seconds:
            raise OutOfTime(stage)

    def affordable(self, passes: float) -> bool:
        """Whether a block of so many passes fits into the time, at the pace of the race so far."""
        most = self.cuts.get("race_blocks")
        if most is not None:
            fits = bool(self.blocks < most)
        else:
            pace = (self.clock() - self._stage_began) / self._race_passes if self._race_passes else 0.0
            fits = passes * pace <= self.left
        if fits:
            self.blocks += 1
        else:
            self.cuts["race_blocks"] = self.blocks
        return fits


def in_words(work: Work, cuts: Mapping[str, Any]) -> list[str]:
    """What was cut, from what to what."""
    lines = []
    for name, value in cuts.items():
        if name == "left_out":
            lines += [f"without {stage.replace('_', ' ')}" for stage in value]
        elif name == "race_blocks" or not value:
            lines.append(f"without {NUMBERS[name].words}")
        elif isinstance(value, list):
            lines.append(f"{NUMBERS[name].words} {', '.join(work.number(name))} → {', '.join(value)}")
        else:
            before = work.number(name)
            lines.append(f"{NUMBERS[name].words} {before if isinstance(before, str) else f'{before:,}'} → {value:,}")
    return lines


def advised(finding: Finding, cuts: Mapping[str, Any]) -> Finding:
    """The finding; where it asks for more of what a budget made smaller, it asks for a larger budget."""
    for name, value in cuts.items():
        if isinstance(value, int) and f"`{flag(name)} " in finding.action:
            return replace(finding, action=f"use a larger `--budget`: this one allows {value:,} {NUMBERS[name].words}")
    return finding


def budget_cut(work: Work, budget: Budget) -> Finding:
    """What a budget changed; ``work`` is the run without cuts."""
    longer = "a larger `--budget`"
    if budget.enough is not None and budget.enough > budget.seconds:
        longer = f"`--budget {typed(_rounded(budget.enough))}`"
    return Finding(
        code="budget-cut",
        severity="note",
        stage="verdict",
        found=f"to keep `--budget {typed(budget.seconds)}`: {'; '.join(in_words(work, budget.cuts))}",
        meaning="what was cut is known less well than without a budget, and what was left out is not known",
        action=f"{longer} should do without these cuts",
    )


def _rounded(seconds: float) -> float:
    """Up to a number that is easily typed."""
    step = next((step for limit, step in ((120, 10), (600, 60), (3600, 300)) if seconds <= limit), 1800)
    return math.ceil(seconds / step) * step
