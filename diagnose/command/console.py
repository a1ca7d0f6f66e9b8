"""What the command shows: live lines on stderr, the closing block and the plan as text for stdout."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TextIO

from diagnose.settings import printable
from reports.words.numbers import size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from diagnose.planning.plan import Plan
    from reports.record.diagnosis import Diagnosis

STAGE_WIDTH, AMOUNT_WIDTH, TIME_WIDTH = 22, 20, 7
INDENT = "  "


class Lines:
    """Events as lines: one for each finished stage and, on a terminal, a bar with time left while one runs.

    In a pipe the lines are plain, without control characters and without a bar. With ``quiet`` nothing is
    shown; the stage is remembered all the same. Use it as a context manager, so that the bar goes away.
    """

    def __init__(
        self, quiet: bool = False, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.stage: str | None = None
        self._quiet = quiet
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._console = None if quiet else _terminal(self._stream)
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._start = (0.0, 0.0)

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    def opened(self, lines: Sequence[str]) -> None:
        """Model and data as understood."""
        for line in lines:
            self._line(line)

    def resumed(self, stages: Sequence[str]) -> None:
        """Stages taken over from an earlier attempt."""
        if stages:
            self._line("from an earlier attempt: " + ", ".join(title(stage) for stage in stages))

    def progress(self, stage: str, done: float, total: float) -> None:
        """Move the bar; a new stage starts a new one."""
        now = self._clock()
        if stage != self.stage:
            self._stop()
            self.stage, self._start = stage, (now, done)
        if self._console is None:
            return
        left = seconds_left(now - self._start[0], done - self._start[1], total - done)
        if self._progress is None:
            self._progress = _bar(self._console)
            self._progress.start()
            self._task = self._progress.add_task(title(stage), total=total or None, left="")
        assert self._task is not None
        self._progress.update(
            self._task, completed=done, total=total or None, left="" if left is None else f"{clock_time(left)} left"
        )

    def finished(self, stage: str, amount: str, seconds: float, finding: str) -> None:
        """The line of a finished stage."""
        self._stop()
        self.stage = stage
        cells = title(stage), printable(amount), clock_time(seconds), printable(finding)
        if self._console is None:
            self._line(
                f"{cells[0]:<{STAGE_WIDTH}} {cells[1]:<{AMOUNT_WIDTH}} {cells[2]:>{TIME_WIDTH}}   {cells[3]}".rstrip()
            )
            return
        from rich.table import Table
        from rich.text import Text

        row = Table.grid(padding=(0, 1), pad_edge=False)
        row.add_column(width=len(INDENT) - 1)
        row.add_column(width=STAGE_WIDTH)
        row.add_column(width=AMOUNT_WIDTH, overflow="fold")
        row.add_column(width=TIME_WIDTH, justify="right")
        row.add_column(width=1)
        row.add_column(overflow="fold")
        row.add_row("", *(Text(cell) for cell in cells[:3]), "", Text(cells[3]))
        self._console.print(row)

    def _line(self, text: str) -> None:
        if self._quiet:
            return
        line = INDENT + printable(text)
        if self._console is None:
            print(line, file=self._stream, flush=True)
            return
        from rich.text import Text

        self._console.print(Text(line), overflow="fold")

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = self._task = None


def _terminal(stream: TextIO) -> Console | None:
    """A console that may move the cursor, or None where plain lines are due (a pipe, a dumb terminal)."""
    if not stream.isatty():
        return None
    from rich.console import Console

    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    return None if console.is_dumb_terminal else console


def _bar(console: Console) -> Progress:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    return Progress(
        TextColumn(INDENT + "{task.description:<" + str(STAGE_WIDTH) + "}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[left]}", markup=False),
        console=console,
        transient=True,
    )


def seconds_left(elapsed: float, done: float, left: float) -> float | None:
    """Measured seconds per unit done times the units left; None before anything is done."""
    return elapsed / done * max(left, 0.0) if done > 0 else None


def clock_time(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def title(stage: str) -> str:
    """A stage's name in words."""
    return printable(stage.replace("_", " "))


def closing(diagnosis: Diagnosis, report_path: str) -> str:
    """The block that ends a run: the answer, its reasons, the warnings, where the report is."""
    from reports.words.sentences import following, headline, warning_line

    verdict = diagnosis.verdict
    lines = [headline(diagnosis), *([verdict.advice] if verdict.advice else []), *(verdict.reasons or ())]
    if (race := race_line(diagnosis)) is not None:
        lines.append(race)
    kinds = [finding.severity for finding in diagnosis.warnings]
    if "warning" not in kinds:
        lines.append("no warnings")
    for word in ("warning", "note"):
        count = kinds.count(word)
        if count:
            lines.append(f"{count} {word}{'s' if count > 1 else ''}:")
            lines += [INDENT + warning_line(f) for f in diagnosis.warnings if f.severity == word]
    if (how := following(diagnosis)) is not None:
        lines.append(how)
    lines.append(f"report: {report_path}")
    return "\n".join(INDENT + printable(line) for line in lines)


def race_line(diagnosis: Diagnosis) -> str | None:
    """How many orders of the batches it took, and how long: "training  orders 4 → 8 · decided after 0:41"."""
    from reports.words.sentences import ending, looks

    looked, seconds = looks(diagnosis.training), (diagnosis.cost.stages or {}).get("training")
    if not looked:
        return None
    after = "" if seconds is None else f" after {clock_time(seconds)}"
    return f"training  {looked} · {ending(diagnosis.training)}{after}"


def plan_table(plan: Plan) -> str:
    """A plan: how model and data were read; passes, time and memory of each stage and of the run, whose memory is the
    largest; and what a budget cuts. A stage that may end early has two numbers."""
    rows = plan.rows
    cells = [("stage", "passes", "time", "memory")]
    for row in rows:
        passes = _up_to(f"{row.passes:,.0f}", None if row.most_passes is None else f"{row.most_passes:,.0f}")
        lasts = _up_to(clock_time(row.seconds), None if row.most_seconds is None else clock_time(row.most_seconds))
        cells.append((title(row.stage), passes, lasts, size(row.memory_bytes)))
    most_passes = sum(row.passes if row.most_passes is None else row.most_passes for row in rows)
    most_seconds = sum(row.seconds if row.most_seconds is None else row.most_seconds for row in rows)
    passes = _up_to(f"{sum(row.passes for row in rows):,.0f}", f"{most_passes:,.0f}")
    lasts = _up_to(clock_time(sum(row.seconds for row in rows)), clock_time(most_seconds))
    cells.append(("total", passes, lasts, size(max((row.memory_bytes for row in rows), default=0))))
    widths = [max(len(row[i]) for row in cells) for i in range(4)]
    table = ["   ".join([row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in (1, 2, 3))]) for row in cells]
    cuts = ["cut to keep the budget:", *(INDENT + line for line in plan.cuts)] if plan.cuts else []
    return "\n".join(INDENT + printable(line) for line in (*plan.understood, "", *table, *cuts)).replace("  \n", "\n")


def _up_to(least: str, most: str | None) -> str:
    return least if most is None or most == least else f"{least} to {most}"
