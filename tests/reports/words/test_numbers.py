"""Numbers as a person reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.words.numbers import (
    bracket,
    duration,
    interval,
    measured,
    number,
    percent,
    rate,
    ratio,
    ratio_interval,
    rounded,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "not measured"),
        (0, "0"),
        (0.0, "0"),
        (48.1207, "48.12"),
        (2.0, "2"),
        (1.98, "1.980"),
        (133_212.4, "133,200"),
        (100_000_000, "100,000,000"),
        (0.09999999, "0.1000"),
        (999.96, "1,000"),
        (1.234e-5, "1.234×10⁻⁵"),
        (9.99996e-6, "1.000×10⁻⁵"),
        (12_345_678.9, "1.235×10⁷"),
        (-1.5, "−1.500"),
        (float("nan"), "not finite"),
        (float("inf"), "not finite"),
    ],
)
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text


def test_digits() -> None:
    assert number(0.31249, 2) == "0.31"
    assert number(31249.0, 2) == "31,000"


@pytest.mark.parametrize(
    ("pair", "text"),
    [
        (None, "not measured"),
        ((1.524, 2.413), "[1.52, 2.41]"),
        ((0.2841, 0.3412), "[0.284, 0.341]"),
        ((133_212.0, 149_777.0), "[133,200, 149,800]"),
        ((-0.5, 0.5), "[−0.50, 0.50]"),
        ((1.2e-5, 3.4e-5), "[1.2, 3.4]×10⁻⁵"),
        ((3.0, 3.0), "[3, 3]"),
        ((0.0, 0.0), "[0, 0]"),
    ],
)
def test_interval(pair: tuple[float, float] | None, text: str) -> None:
    assert interval(pair) == text


def test_measured() -> None:
    assert measured(1.8731, (1.524, 2.413)) == "1.87, 95% interval [1.52, 2.41]"
    assert measured(0.7338, (0.7338, 0.7338)) == "0.7338, exact"
    assert measured(0.7338, None) == "0.7338"
    assert measured(None, (1.0, 2.0)) == "not measured"
    assert "±" not in measured(1.0, (0.5, 1.5))


@given(st.floats(1e-12, 1e12), st.floats(1e-9, 10))
def test_certified_bounds_are_rounded_outwards(lower: float, gap: float) -> None:
    upper = lower * (1 + gap)
    low, high = (_back(text) for text in bracket(lower, upper))
    slack = 1e-8 * upper
    assert low <= lower + slack
    assert high >= upper - slack


@given(st.floats(1e-9, 1e9), st.floats(1e-6, 1))
def test_a_value_is_shown_near_itself(value: float, share: float) -> None:
    half = share * value
    assert abs(_back(rounded(value, (value - half, value + half))) - value) <= max(0.06 * half, 1e-5 * value)
    assert abs(_back(number(value)) - value) <= 6e-4 * value


def _back(text: str) -> float:
    head, _, power = text.replace(",", "").replace("−", "-").partition("×10")
    return float(head) * 10.0 ** int(power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")) or 0)


def test_ratio() -> None:
    assert [ratio(v) for v in (1.87, 0.534, 1.02, 12.34, 1.98, None)] == [
        "1.9×",
        "0.53×",
        "1.02×",
        "12×",
        "2.0×",
        "not measured",
    ]
    assert ratio_interval((1.524, 2.413)) == "[1.5, 2.4]"
    assert ratio_interval((0.934, 1.113)) == "[0.93, 1.11]"


def test_percent() -> None:
    assert [percent(v) for v in (0, 0.0004, 0.043, 0.31, 0.98, 0.999, 0.9999, 1)] == [
        "0%",
        "<0.1%",
        "4.3%",
        "31%",
        "98%",
        "99.9%",
        ">99.9%",
        "100%",
    ]


def test_rate_and_duration() -> None:
    assert [rate(v) for v in (0.1, 0.17783, 10.0, 1e-4)] == ["0.1", "0.178", "10", "1×10⁻⁴"]
    assert [duration(v) for v in (0.423, 9.96, 59.7, 125, 3840)] == [
        "0.42 s",
        "10 s",
        "1 min 00 s",
        "2 min 05 s",
        "1 h 04 min",
    ]
