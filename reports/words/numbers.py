"""Numbers as a person reads them; console, page and documentation share these functions.

A value is shown to the precision that its interval supports: the half-width to two significant digits.
Full precision is in result.json.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

NARROW = 0.06
"""Up to this width, relative, the upper end stands for a bracket: 5%, and what lambda is known to."""
NOT_MEASURED = "not measured"
SMALL, LARGE = 1e-3, 1e7
"""Outside this range a number is written in scientific notation."""
MOST_DIGITS = 6
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float | None, digits: int = 4) -> str:
    """A number to ``digits`` significant digits, with thousands separators; whole numbers in full.

    ``None`` gives "not measured"; below 10⁻³ and from 10⁷ on a float reads "1.234×10⁻⁵".
    """
    if value is None:
        return NOT_MEASURED
    if isinstance(value, int):
        return _fixed(value, 0)
    if not math.isfinite(value):
        return "not finite"
    whole = value == round(value) and abs(value) < 10**digits
    value = float(f"{value:.{digits - 1}e}")  # rounding first, so that a carry changes the exponent here alone
    if value == 0:
        return "0"
    exponent = _exponent(value)
    if not SMALL <= abs(value) < LARGE:
        return _fixed(value / 10.0**exponent, digits - 1) + _power(exponent)
    return _fixed(value, 0 if whole else digits - 1 - exponent)


def interval(pair: Sequence[float] | None) -> str:
    """ "[lo, hi]", both ends to two significant digits of the half-width."""
    if pair is None:
        return NOT_MEASURED
    low, high = float(pair[0]), float(pair[1])
    if low == high or not (math.isfinite(low) and math.isfinite(high)):
        return f"[{number(low)}, {number(high)}]"
    decimals, exponent = _precision(low, high)
    scale = 10.0**exponent
    return f"[{_fixed(low / scale, decimals)}, {_fixed(high / scale, decimals)}]" + (
        _power(exponent) if exponent else ""
    )


def rounded(value: float | None, pair: Sequence[float] | None) -> str:
    """A value to the precision of the ends of its interval; without an interval to four digits."""
    if value is None or pair is None or pair[0] == pair[1] or not all(map(math.isfinite, (value, *pair))):
        return number(value)
    decimals, exponent = _precision(float(pair[0]), float(pair[1]))
    return _fixed(value / 10.0**exponent, decimals) + (_power(exponent) if exponent else "")


def measured(value: float | None, pair: Sequence[float] | None) -> str:
    """The value with its interval: "0.312, 95% interval [0.284, 0.341]"; an interval of one point reads "exact"."""
    if value is None or pair is None:
        return number(value)
    if pair[0] == pair[1]:
        return f"{number(value)}, exact"
    return f"{rounded(value, pair)}, 95% interval {interval(pair)}"


def bracket(lower: float | None, upper: float | None) -> tuple[str, str]:
    """Certified bounds: the lower one rounded down and the upper one up, so that what is printed holds."""
    if lower is None or upper is None or not (math.isfinite(lower) and math.isfinite(upper)):
        return number(lower), number(upper)
    if lower == upper:
        return number(lower), number(upper)
    decimals, exponent = _precision(lower, upper)
    step, scale = 10.0**decimals, 10.0**exponent
    tail = _power(exponent) if exponent else ""
    floor = math.floor(lower / scale * step + 1e-9) / step
    ceiling = math.ceil(upper / scale * step - 1e-9) / step
    return _fixed(floor, decimals) + tail, _fixed(ceiling, decimals) + tail


def certified(value: float | None, pair: Sequence[float] | None, digits: int = 4) -> str:
    """The upper end of a narrow bracket alone, and a wide one as what it is: "0.203", "0.15 to 0.24"."""
    if value is None or pair is None or pair[1] <= (1 + NARROW) * pair[0]:
        return number(value, digits)
    return "{} to {}".format(*bracket(*pair))


def ratio(value: float | None) -> str:
    """A ratio as a factor: "1.9×"; two decimals near 1 ("1.02×"), no more than two digits elsewhere."""
    return NOT_MEASURED if value is None else f"{_factor(value)}×"


def ratio_interval(pair: Sequence[float] | None) -> str:
    """The interval of a ratio, its ends rounded as :func:`ratio` rounds: "[1.5, 2.4]"."""
    return NOT_MEASURED if pair is None else f"[{_factor(pair[0])}, {_factor(pair[1])}]"


def percent(share: float | None) -> str:
    """A share as a percentage to two digits; only exact 0 and 1 read "0%" and "100%"."""
    if share is None:
        return NOT_MEASURED
    if share in (0, 1):
        return f"{100 * share:.0f}%"
    if 0 < share < 0.001:
        return "<0.1%"
    if 0.999 < share < 1:
        return ">99.9%"
    return f"{100 * share:.1f}%" if share < 0.1 or share > 0.99 else f"{100 * share:.0f}%"


def rate(value: float | None) -> str:
    """A learning rate to three digits without trailing zeros: "0.178", "10", "5.62×10⁻⁴"."""
    text = number(value, 3)
    head, times, tail = text.partition("×")
    return (head.rstrip("0").rstrip(".") if "." in head else head) + times + tail


def steps(count: float | None, more: int = 0) -> str:
    """Steps to a loss, which lies between two of them: whole from 100 on, to three digits below; ``more`` decimals
    besides."""
    if count is None:
        return NOT_MEASURED
    text = _fixed(count, more + (count < 99.95) + (count < 9.995))
    return text.rstrip("0").rstrip(".") if "." in text else text


def steps_that_divide(pair: Sequence[float] | None, quotient: float | None) -> int:
    """The fewest further decimals at which the printed steps divide to the printed ratio."""
    if not pair or quotient is None or min(pair) <= 0:
        return 0
    for more in range(MOST_DIGITS):
        first, second = (float(steps(count, more).replace(",", "")) for count in pair)
        turned = ratio(first / second), ratio(second / first)
        if turned == (ratio(quotient), ratio(1 / quotient)):
            return more
    return 0


def size(count: float | None) -> str:
    """Bytes as "40 B", "36 kB", "1.2 MB", "15 GB"."""
    if count is None:
        return NOT_MEASURED
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5 or unit == "GB":
            return f"{count:,.0f} {unit}" if unit in ("B", "kB") or count >= 99.95 else f"{count:,.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def duration(seconds: float | None) -> str:
    """Time as "0.42 s", "42 s", "2 min 05 s", "1 h 04 min"."""
    if seconds is None:
        return NOT_MEASURED
    if seconds < 0.01:
        return "<0.01 s"
    if seconds < 9.95:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _factor(value: float) -> str:
    if 0.795 <= value <= 1.255:
        return _fixed(value, 2)
    return number(float(value), 2)


def _exponent(value: float) -> int:
    return math.floor(math.log10(abs(value)))


def _power(exponent: int) -> str:
    return "×10" + str(exponent).translate(_SUPERSCRIPT)


def _fixed(value: float, decimals: int) -> str:
    """``value`` with ``decimals`` decimals (negative: rounded to tens, hundreds), never "−0"."""
    text = f"{round(value, decimals):,.{max(decimals, 0)}f}"
    if text.startswith("-"):
        text = text[1:] if not text.strip("-0.,") else "−" + text[1:]
    return text


def _precision(low: float, high: float) -> tuple[int, int]:
    """Decimals that show the half-width to two digits, and the common power of ten (0 for none)."""
    largest = max(abs(low), abs(high))
    if largest == 0:
        return 0, 0
    exponent = 0 if SMALL <= largest < LARGE else _exponent(largest)
    half_width = (high - low) / 2 / 10.0**exponent
    top = _exponent(largest) - exponent
    return min(1 - _exponent(half_width), MOST_DIGITS - 1 - top), exponent
