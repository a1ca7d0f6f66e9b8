"""What a draw is blind to: the share of rows that it misses, and its intervals where such rows carry the noise."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from scipy.stats import hypergeom
from torch import Tensor

from estimators.gradient_noise.draw_intervals import noise_intervals
from estimators.gradient_noise.group_sums import Groups
from estimators.numbers import tails
from estimators.numbers.rare_rows import BOUND, MISSED, samples_to_see, unseen_share
from tests.markers import marked

ROWS, D = 20_000, 20
DRAWS = 400
DOCS = Path(__file__).parents[3] / "docs" / "noise.md"


# -- the share -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("samples", "rows"), [(64, 1797), (64, 20_000), (512, 1797), (1024, 20_000)])
def test_a_draw_misses_rarer_rows_more_often_than_it_says(samples: int, rows: int) -> None:
    """Against the hypergeometric law of drawing none: 2.5% at the share, more below, less above."""
    share = unseen_share(samples, rows)
    assert share is not None
    missed = [float(hypergeom.pmf(0, rows, round(f * share * rows), samples)) for f in (0.5, 1, 2)]
    assert missed[0] > 0.1
    assert missed[1] == pytest.approx(0.025, rel=0.35)  # whole rows
    assert missed[2] < 0.002
    assert hypergeom.pmf(0, rows, -(-share * rows // 1), samples) <= 0.025


def test_it_is_about_so_many_over_n() -> None:
    assert unseen_share(64, None) == pytest.approx(MISSED / 64)
    assert unseen_share(64, 10**7) == pytest.approx(MISSED / 64, rel=1e-4)
    assert unseen_share(2, None) == 1
    assert unseen_share(50, 50) is None
    assert (1 - MISSED / 64) ** 64 < 0.025
    shares = [unseen_share(n, 1000) or 0.0 for n in (10, 100, 500, 999)]
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize("rows", [None, 10**7, 20_000, 1797, 500])
def test_so_many_samples_see_a_share(rows: int | None) -> None:
    needed = samples_to_see(BOUND, rows)
    assert (unseen_share(needed, rows) or 0.0) <= BOUND
    assert (unseen_share(needed - 1, rows) or 1.0) > BOUND
    assert needed <= 370


def test_the_number_of_the_docs() -> None:
    assert samples_to_see(BOUND, None) == 370
    assert samples_to_see(BOUND, 60) == 60  # all of a small set


# -- the intervals ---------------------------------------------------------------------------------


def _normal(rows: int, seed: int) -> Tensor:
    return torch.randn(rows, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _larger(share: float) -> Tensor:
    """Rows whose gradients are ten times those of the others."""
    data = _normal(ROWS, 1) * torch.logspace(-0.5, 0.5, D, dtype=torch.float64)
    data[: round(share * ROWS)] *= 10
    return data


def _live(share: float) -> Tensor:
    """Rows with gradients among others that are saturated."""
    data = 0.001 * _normal(ROWS, 1)
    data[: round(share * ROWS)] = _normal(round(share * ROWS), 2)
    return data


@dataclass(frozen=True)
class Case:
    """A line of the table in the docs: its label there, the data set, and the draw."""

    label: str
    rows: Callable[[float], Tensor]
    share: float
    samples: int

    def __str__(self) -> str:
        return f"{self.rows.__name__[1:]}-{self.share:g}-{self.samples}"


CASES = (
    Case("1% of the rows ten times larger", _larger, 0.01, 64),
    Case("… 1 in 17 (3.7/n)", _larger, MISSED / 64, 64),
    Case("… 2 in 17", _larger, 2 * MISSED / 64, 64),
    Case("… 1%, with 370 samples (3.7/n)", _larger, 0.01, 370),
    Case("… 2%, with 370 samples", _larger, 0.02, 370),
    Case("1% of the rows live, the rest saturated", _live, 0.01, 64),
    Case("… 1 in 17 (3.7/n)", _live, MISSED / 64, 64),
    Case("… 1%, with 370 samples (3.7/n)", _live, 0.01, 370),
)


@dataclass(frozen=True)
class Coverage:
    """Shares of the draws."""

    l1: float
    null: float
    density: float
    l2: float

    def line(self, case: Case) -> str:
        shares = (self.l1, self.null, self.density, self.l2)
        return f"| {case.label} | {case.samples} | " + " | ".join(f"{100 * share:.0f}%" for share in shares) + " |"


@cache
def coverage(case: Case) -> Coverage:
    data = case.rows(case.share)
    sigma = data.std(0, correction=0)
    l1, l2 = float(sigma.sum()), float(sigma.norm())
    wanted = {"l1": l1, "density": l1 / (D**0.5 * l2), "l2": l2}
    missed, null = dict.fromkeys(wanted, 0), 0
    generator = torch.Generator().manual_seed(3)
    for _ in range(DRAWS):
        rows = data[torch.randperm(ROWS, generator=generator)[: case.samples]]
        found = noise_intervals(Groups.of_rows(rows), ROWS, [D], None, tails.settling(rows))
        null += found.l1_interval is None
        for key, value in wanted.items():
            low, high = getattr(found, f"{key}_interval") or (value, value)
            missed[key] += not low <= value <= high
    return Coverage(*(count / DRAWS for count in (missed["l1"], null, missed["density"], missed["l2"])))


@pytest.mark.parametrize("case", marked("coverage", CASES, [CASES[0], CASES[2]]), ids=str)
def test_coverage_is_that_of_the_docs(case: Case) -> None:
    """Within three standard errors of counts of 400 draws; the line as it should read is in the message."""
    found = coverage(case)
    written = re.findall(rf"^\| {re.escape(case.label)} \| {case.samples} \| (.*) \|$", DOCS.read_text(), re.MULTILINE)
    assert written, found.line(case)
    shares = [[float(cell.rstrip("%")) / 100 for cell in line.split(" | ")] for line in written]
    ours = [found.l1, found.null, found.density, found.l2]
    near = [
        all(abs(a - b) <= 3 * (a * (1 - a) / DRAWS) ** 0.5 + 0.01 for a, b in zip(ours, line, strict=True))
        for line in shares
    ]
    assert any(near), found.line(case)


def test_no_interval_of_a_draw_sees_what_it_drew_no_row_of() -> None:
    """One row in a hundred carries the noise: what 64 samples give is wrong but for 1% of draws; at twice the share
    that is named few are."""
    blind = coverage(CASES[0])
    assert blind.l1 > 0.4
    assert blind.l1 + blind.null >= 0.98
    assert coverage(CASES[2]).l1 < 0.08
