"""Lines on stderr: plain in a pipe, a bar on a terminal, names never interpreted; the closing block and the plan."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import Any

import pytest

from diagnose.command.console import Lines, clock_time, closing, plan_table, seconds_left
from diagnose.events import Events, Silent
from diagnose.planning.plan import Plan
from diagnose.stages.estimate import PlanRow
from reports.words.numbers import size
from tests.reports import made

EVIL = "a\x1b[31mred\x1b[0m [bold]b[/bold]\nc"
COLOUR = re.compile(r"\x1b\[[0-9;]*(3[0-9]|4[0-9]|9[0-7])(;[0-9]+)*m")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return Terminal()


def play(events: Events) -> None:
    """A small run."""
    events.opened(["mlp: 8,778 parameters", EVIL])
    events.resumed(["noise"])
    for done in range(4):
        events.progress("hessian_diagonal", done, 3)
    events.finished("hessian_diagonal", "64 probes", 62.4, f"Σ|h| 3.2 {EVIL}")
    events.progress("training", 1, 2)


def shown(stream: io.StringIO) -> str:
    with Lines(stream=stream) as lines:
        play(lines)
        assert lines.stage == "training"
    return stream.getvalue()


def test_in_a_pipe_lines_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    text = shown(io.StringIO())
    assert all(c.isprintable() or c == "\n" for c in text)
    lines = text.splitlines()
    assert len(lines) == 4
    assert "\\x1b[31mred" in lines[1]
    assert "[bold]b[/bold]\\nc" in lines[1]
    assert lines[2] == "  from an earlier attempt: noise"
    assert re.fullmatch(r"  hessian diagonal +64 probes +1:02   Σ\|h\| 3\.2 .*", lines[3])


def test_on_a_terminal_a_bar_runs_and_goes_away(terminal: Terminal) -> None:
    text = shown(terminal)
    assert "\x1b[2K" in text
    assert "\x1b[31m" not in text
    assert "[bold]b[/bold]" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\n", "").replace("  ", "")
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h")


def test_colour_can_be_refused(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    assert COLOUR.search(shown(terminal))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not COLOUR.search(shown(Terminal()))


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in shown(Terminal())


def test_quiet_shows_nothing_and_remembers_the_stage(terminal: Terminal) -> None:
    with Lines(quiet=True, stream=terminal) as lines:
        play(lines)
    assert terminal.getvalue() == ""
    assert lines.stage == "training"
    play(Silent())


def test_a_long_finding_is_folded_and_never_cut(terminal: Terminal) -> None:
    words = [f"word{i}" for i in range(60)]
    with Lines(stream=terminal) as lines:
        lines.finished("noise", "256 samples", 1.0, " ".join(words))
    assert re.findall(r"word\d+", terminal.getvalue()) == words
    assert max(map(len, terminal.getvalue().splitlines())) <= 100


def test_time_left_is_measured_on_what_was_done(terminal: Terminal) -> None:
    assert seconds_left(30.0, 3.0, 7.0) == pytest.approx(70.0)
    assert seconds_left(30.0, 0.0, 7.0) is None
    assert seconds_left(30.0, 3.0, -1.0) == 0
    times = iter([100.0, 110.0])
    with Lines(stream=terminal, clock=lambda: next(times)) as lines:
        lines.progress("noise", 2, 10)
        lines.progress("noise", 4, 10)
    assert "0:30 left" in terminal.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0:00"), (59.6, "1:00"), (62, "1:02"), (3599.7, "1:00:00"), (3725, "1:02:05")]
)
def test_clock_time(seconds: float, text: str) -> None:
    assert clock_time(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "2 kB"), (1_500_000, "1.5 MB"), (2.5e12, "2,500 GB")]
)
def test_size(count: float, text: str) -> None:
    assert size(count) == text


def test_the_closing_block_answers_first_and_ends_with_the_report() -> None:
    diagnosis = made.finished()
    lines = closing(diagnosis, "here/report.html").splitlines()
    assert lines[0].startswith("  AdaGrad should help")
    assert lines[-1] == "  report: here/report.html"
    for reason in diagnosis.verdict.reasons or ():
        assert f"  {reason}" in lines
    counted = [w.severity for w in diagnosis.warnings].count("warning")
    assert any(line.startswith(f"  {counted} warning") for line in lines)
    for finding in diagnosis.warnings:
        assert any(finding.found in line and finding.action in line for line in lines)


def test_without_warnings_it_says_so() -> None:
    assert "  no warnings" in closing(replace(made.finished(), warnings=()), "r").splitlines()


def test_notes_come_after_the_line_that_there_are_no_warnings() -> None:
    lines = closing(replace(made.finished(), warnings=(made.NOTE,)), "r").splitlines()
    assert lines.index("  no warnings") + 1 == lines.index("  1 note:")


@pytest.mark.parametrize(
    ("decided_by", "counts", "text"),
    [
        ("interval", (4, 8), "  training  orders 4 → 8 · decided after 1:01"),
        ("budget", (4, 8, 16), "  training  orders 4 → 8 → 16 · budget spent after 1:01"),
        ("orders", (12,), "  training  orders 12 · all orders run after 1:01"),
        (None, (4,), "  training  orders 4 · ended after 1:01"),
    ],
)
def test_the_closing_block_says_how_the_race_ended(decided_by: Any, counts: tuple[int, ...], text: str) -> None:
    base = made.finished()
    looks = [{"orders": count, "speedup": 1.9, "interval": (1.2, 3.0), "answer": "adagrad"} for count in counts]
    ended = replace(base, training=replace(base.training, looks=looks, decided_by=decided_by))
    assert text in closing(ended, "r").splitlines()
    older = replace(base, training=replace(base.training, looks=None, decided_by=None))
    assert "orders" not in closing(older, "r")


def test_hostile_names_stay_text_in_the_closing_block() -> None:
    text = closing(made.hostile(), f"diagnosis-{EVIL}/report.html")
    assert all(c.isprintable() or c == "\n" for c in text)


def row(stage: str, passes: float, seconds: float, memory: int, *most: float) -> PlanRow:
    most_passes, most_seconds = most or (None, None)
    return PlanRow(
        stage=stage,
        passes=passes,
        seconds=seconds,
        memory_bytes=memory,
        most_passes=most_passes,
        most_seconds=most_seconds,
    )


def test_the_plan_adds_up() -> None:
    rows = (row("noise", 1.5, 3.0, 4_000_000), row("hessian_diagonal", 1000, 60.0, 9_000_000))
    table = plan_table(Plan(understood=(), rows=rows)).splitlines()[1:]
    lines = [line.split() for line in table]
    assert lines[0] == ["stage", "passes", "time", "memory"]
    assert lines[-1] == ["total", "1,002", "1:03", "9.0", "MB"]
    assert len({len(line) for line in table}) == 1


def test_the_plan_shows_how_the_task_was_read_how_far_a_race_may_go_and_what_a_budget_cuts() -> None:
    rows = (row("noise", 1, 2.0, 10), row("training", 100, 60.0, 20, 800, 480.0))
    read = "mlp: 8 parameters [red]"
    lines = plan_table(Plan(understood=(read,), rows=rows, cuts=("steps 500 → 250",))).splitlines()
    assert lines[0] == f"  {read}"
    assert re.split(" {3,}", lines[4]) == ["  training", "100 to 800", "1:00 to 8:00", "20 B"]
    assert re.split(" {3,}", lines[5]) == ["  total", "101 to 801", "1:02 to 8:02", "20 B"]
    assert lines[-2:] == ["  cut to keep the budget:", "    steps 500 → 250"]
