"""Fixtures for data and models outside the checkout, markers left out by default, and a line on what was skipped."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# How fast examples are made says nothing on a machine that is busy with something else.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

LEFT_OUT = ("coverage", "limit", "sweep", "browser", "slow", "gpu")


def require_all() -> bool:
    """Whether a skip is a failure (DIAGNOSE_REQUIRE_ALL=1)."""
    return os.environ.get("DIAGNOSE_REQUIRE_ALL") == "1"


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Torch works on two threads of the processor, whatever the environment says."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def skip(reason: str) -> None:
    """Skip the test, or fail it where every test is required."""
    if require_all():
        pytest.fail(f"required, but skipped: {reason}")
    pytest.skip(reason)


def _folder(variable: str) -> Path:
    value = os.environ.get(variable, "")
    if not value:
        skip(f"{variable} is not set")
    if not Path(value).is_dir():
        pytest.fail(f"{variable}={value} is not a folder")
    return Path(value)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of data sets that are not embedded ($DIAGNOSE_DATA)."""
    return _folder("DIAGNOSE_DATA")


@pytest.fixture(scope="session")
def models_folder() -> Path:
    """The folder of saved models ($DIAGNOSE_MODELS)."""
    return _folder("DIAGNOSE_MODELS")


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page holds the command alone: drawing takes longer than all the rest of a small run."""
    monkeypatch.setattr("reports.render", lambda diagnosis: diagnosis.command)


@pytest.fixture
def in_float64() -> Iterator[None]:
    """New tensors hold float64: for runs of many steps. Rules that divide by a small root, or take signs, blow up what
    rounding in float32 leaves, so that no bound on it holds on every machine."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes long or another device, unless -m names a marker or a test was asked for by its id."""
    if config.option.markexpr or any("::" in argument for argument in config.args):
        return
    out = [item for item in items if any(item.get_closest_marker(name) for name in LEFT_OUT)]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]
        config.stash[_LEFT_OUT] = Counter(
            next(name for name in LEFT_OUT if item.get_closest_marker(name)) for item in out
        )


_LEFT_OUT = pytest.StashKey[Counter[str]]()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process of several tells the one that prints what it left out; all leave out the same."""
    told = getattr(session.config, "workeroutput", None)
    counts: Counter[str] = session.config.stash.get(_LEFT_OUT, Counter())
    if told is not None:
        told["left_out"] = dict(counts)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[_LEFT_OUT] = Counter(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """One line for what did not run, with the reasons."""
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        where = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[where.removeprefix("Skipped: ")] += 1
    for marker, count in config.stash.get(_LEFT_OUT, Counter()).items():
        reasons[f"marked {marker}, run with -m {marker}"] += count
    if reasons:
        listed = "; ".join(f"{count} ({reason})" for reason, count in sorted(reasons.items()))
        terminalreporter.write_line(f"not run: {listed}")
    else:
        terminalreporter.write_line("not run: nothing")
