"""Fixtures of the estimators."""

from __future__ import annotations

from importlib import import_module

import pytest

BRACKETS = ("growth.generalized", "growth.frozen_quadratic", "growth.left_out", "smoothness_vector.at_a_point")


@pytest.fixture
def by_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brackets, and fits of pairs to them, as for a model too large to form its Hessian."""
    for name in BRACKETS:
        monkeypatch.setattr(import_module(f"estimators.{name}"), "DENSE_LIMIT", 0)
