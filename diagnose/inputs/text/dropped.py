"""Rows that the length leaves without a label: how many, and which length would keep them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from diagnose.errors import InputError
from estimators.results import Finding

KEEP = 0.9
"""Share of the rows that a suggested length keeps; where fewer are kept the finding is a warning."""
OTHER_WAY = "use a model with more positions, or a tokenizer that makes fewer tokens"


@dataclass(frozen=True)
class Needs:
    """What the rows of a data set need to keep a label.

    Args:
        needs: for each row the shortest length at which it keeps one, None where it has none at any length.
        size: the length in use.
        positions: the longest that the model takes, None without a limit.
        model: its name, for messages.
        part: what the cut takes away, "answer" or "text".
    """

    needs: Sequence[int | None]
    size: int
    positions: int | None
    model: str
    part: str

    @property
    def beyond(self) -> int:
        """Rows whose labels all lie beyond the cut."""
        return sum(1 for need in self.needs if need is not None and need > self.size)

    @property
    def empty(self) -> int:
        """Rows without a label at any length."""
        return sum(1 for need in self.needs if need is None)

    def words(self) -> str:
        """For the line that says what was understood; empty where no row was dropped."""
        reasons = [f"{self.beyond:,} dropped ({self.part} beyond the cut)"] if self.beyond else []
        return ", ".join(reasons + ([f"{self.empty:,} dropped (nothing to predict)"] if self.empty else []))

    def refuse_none_left(self, name: str) -> None:
        """Raises InputError where no row is left, naming the ``--max-length`` that would do."""
        if self.beyond + self.empty < len(self.needs):
            return
        if not self.beyond:
            raise InputError("no row has anything to predict", name, "give rows with text in them")
        what = f"no row is left: the {self.part} of each lies beyond the first {self.size:,} tokens"
        raise InputError(what, name, self._longer())

    def findings(self) -> tuple[Finding, ...]:
        """The warning that rows were dropped; none where none was."""
        count = self.beyond + self.empty
        if not count:
            return ()
        found = f"{count:,} of {len(self.needs):,} rows dropped: {self._why()}"
        few = count <= round((1 - KEEP) * len(self.needs), 9)
        return (
            Finding(
                code="rows-dropped",
                severity="note" if few else "warning",
                stage="opening",
                found=found,
                meaning="rows with long prompts are missing, so the numbers speak for the short ones"
                if self.beyond
                else "a row without anything to predict has no loss",
                action="nothing to do" if few else self._longer() if self.beyond else "fill in the rows that are empty",
            ),
        )

    def _why(self) -> str:
        cut = f"no {self.part} within the first {self.size:,} tokens"
        if self.beyond and self.empty:
            return f"{self.beyond:,} have {cut}, {self.empty:,} nothing to predict"
        return cut if self.beyond else "nothing to predict"

    def _longer(self) -> str:
        """The length that keeps nine rows in ten, else the most that the model takes, else how many it lacks."""
        known = sorted(need for need in self.needs if need is not None)
        goal = known[math.ceil(KEEP * len(known)) - 1]
        limit = self.positions
        if limit is None or goal <= limit:
            return f"use `--max-length {goal}`, which keeps nine rows in ten"
        if limit > self.size and known[0] <= limit:
            held = sum(1 for need in known if need <= limit)
            return f"use `--max-length {limit}`, the most that {self.model} has, which keeps {held:,} rows"
        needed = goal if known[0] <= limit else known[0]
        kept = "nine rows in ten need" if known[0] <= limit else "the shortest row needs"
        return f"{kept} {needed:,} positions, {self.model} has {limit:,}: {OTHER_WAY}"
