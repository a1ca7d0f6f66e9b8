"""Cases and repeats of one check of which a few run always and the rest where their marker is named."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def marked(marker: str, cases: Iterable[Any], fast: Collection[Any]) -> list[Any]:
    """The cases in their order; those that are not among the fast ones carry the marker."""
    mark = getattr(pytest.mark, marker)

    def with_mark(case: Any) -> Any:
        return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=mark)

    return [case if case in fast else with_mark(case) for case in cases]


def seeds(count: int, fast: int = 1) -> list[Any]:
    """Seeds to repeat a check with: the first few, and the rest marked `coverage`."""
    return [range(fast), pytest.param(range(fast, count), marks=pytest.mark.coverage)]
