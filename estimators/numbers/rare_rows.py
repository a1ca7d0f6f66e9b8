"""What a draw of rows cannot show: whatever happens only in rows that it did not draw.

Of N rows n are drawn without replacement. A share p of the rows is missed by all of them with probability
prod_{k < pN} (1 - n/(N - k)) <= (1 - n/N)^(pN), and at most exp(-pn). At

    p = 3.7 / (-N log(1 - n/N)),   about 3.7/n while n is a small part of N,

that is exp(-3.7) = 2.5%, one side of a 95% interval. Rarer rows are missed more often, whatever the statistic: an
interval of the draw is one for the data only as long as such rows do not carry what it measures. Needs no torch.
"""

from __future__ import annotations

import math

MISSED = 3.7
"""-log 0.025: with probability 0.975 what a draw never saw happens in fewer than 3.7/n of the rows."""
BOUND = 0.01
"""The share of the rows that advice brings the limit down to."""


def unseen_share(samples: int, rows: int | None) -> float | None:
    """The share of the rows below which a draw of ``samples`` misses all of them in more than 2.5% of draws.

    At most 1; None where all ``rows`` were drawn. ``rows`` None: endless.
    """
    if rows is None:
        return min(1.0, MISSED / samples)
    return None if samples >= rows else min(1.0, MISSED / (-rows * math.log1p(-samples / rows)))


def samples_to_see(share: float, rows: int | None) -> int:
    """The least draw whose :func:`unseen_share` is at most ``share``: 370 for 1% of many rows."""
    if rows is None:
        return math.ceil(MISSED / share - 1e-9)
    return min(rows, math.ceil(-rows * math.expm1(-MISSED / (share * rows)) - 1e-9))
