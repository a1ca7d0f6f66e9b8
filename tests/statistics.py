"""Whether a claimed interval covers as often as it says, judged by a binomial band."""

from __future__ import annotations

from scipy.stats import binom

ALPHA = 1e-4
"""A correct interval fails a judgement this often."""


def fewest(repeats: int, claimed: float) -> int:
    """The smallest number of hits out of ``repeats`` that coverage ``claimed`` allows at level ALPHA."""
    return int(binom.ppf(ALPHA, repeats, claimed))


def most(repeats: int, claimed: float) -> int:
    """The largest such number: more hits mean an interval wider than it says."""
    return int(binom.isf(ALPHA, repeats, claimed))


def assert_covers(hits: int, repeats: int, claimed: float) -> None:
    """The interval covers at least as often as it claims; a conservative one passes."""
    least = fewest(repeats, claimed)
    assert hits >= least, f"covered {hits} of {repeats}; {claimed:.0%} allows no fewer than {least}"


def assert_calibrated(hits: int, repeats: int, claimed: float) -> None:
    """The interval covers neither less nor more often than it claims."""
    assert_covers(hits, repeats, claimed)
    largest = most(repeats, claimed)
    assert hits <= largest, f"covered {hits} of {repeats}; {claimed:.0%} allows no more than {largest}"
