"""The test bench itself: bands that reject, a package that loads no torch, cases that are what they say."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from tests import oracles
from tests.problems import BY_NAME, CASES, Case
from tests.statistics import assert_calibrated, assert_covers, fewest, most


def test_the_band_rejects_what_covers_too_rarely_or_too_often() -> None:
    assert_covers(285, 300, 0.95)
    assert_calibrated(285, 300, 0.95)
    assert_covers(300, 300, 0.95)
    with pytest.raises(AssertionError, match="no more than"):
        assert_calibrated(300, 300, 0.95)
    with pytest.raises(AssertionError, match="no fewer than"):
        assert_covers(255, 300, 0.95)
    assert fewest(300, 0.95) < 285 < most(300, 0.95)


def test_a_correct_interval_passes_the_band() -> None:
    generator = np.random.default_rng(0)
    for hits in generator.binomial(300, 0.95, 200):
        assert_covers(int(hits), 300, 0.95)


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, estimators, estimators.results, estimators.errors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_cases_have_their_own_names() -> None:
    assert len(BY_NAME) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_cases_are_fresh_and_the_same(case: Case) -> None:
    (one, _, _), (other, _, _) = case.parts(), case.parts()
    assert one is not other
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert a is not b
        assert a.equal(b)
        assert str(a.dtype) == "torch.float64"


def test_the_oracle_knows_a_derivative() -> None:
    """Logistic regression by its textbook formulas."""
    model, samples, _ = BY_NAME["logistic"].parts()
    assert isinstance(samples, tuple)
    x, y = (part.numpy() for part in samples)
    w = next(model.parameters()).detach().numpy()
    p = 1 / (1 + np.exp(y * (x @ w)))
    parts = BY_NAME["logistic"].parts()
    np.testing.assert_allclose(oracles.per_sample_gradients(parts), -(p * y)[:, None] * x, rtol=1e-12)
    np.testing.assert_allclose(oracles.hessian(parts), (x.T * (p * (1 - p))) @ x / len(x), rtol=1e-11)


def test_the_oracle_knows_a_dominating_diagonal() -> None:
    assert oracles.smallest_diagonal(np.array([[0.0, 1.0], [1.0, 0.0]])) == pytest.approx(2, rel=1e-6)
    assert oracles.smallest_diagonal(np.diag([1.0, -2.0, 0.0])) == pytest.approx(3, rel=1e-6)
