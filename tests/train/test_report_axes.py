"""Ticks and numbers as text."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toque.train.report import axes

NBSP = "\N{NO-BREAK SPACE}"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 0.3, [0, 0.1, 0.2, 0.3]),
        (0.5, 2.4, [0.5, 1, 1.5, 2]),
        (0, 12_000, [0, 2500, 5000, 7500, 10_000]),
        (-3, 3, [-2, 0, 2]),
        (7, 7, [7]),
    ],
)
def test_ticks_are_the_ones_a_person_would_choose(
    low: float, high: float, expected: list[float]
) -> None:
    assert axes.round_ticks(low, high, 5) == pytest.approx(expected)


def test_integer_ticks_are_integers_even_for_a_short_range() -> None:
    assert axes.round_ticks(0, 2, 4, integers=True) == [0, 1, 2]
    assert axes.round_ticks(0, 10, 4, integers=True) == [0, 5, 10]


@settings(deadline=None)
@given(
    low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6), most=st.integers(2, 8), whole=st.booleans()
)
def test_ticks_lie_in_the_range_at_equal_round_steps(
    low: float, span: float, most: int, whole: bool
) -> None:
    high = low + span
    ticks = axes.round_ticks(low, high, most, integers=whole)
    slack = 1e-6 * max(1.0, abs(low), abs(high))
    assert len(ticks) <= most + 1
    assert all(low - slack <= tick <= high + slack for tick in ticks)
    step = axes.round_step(span, most, whole)
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert min(abs(mantissa - choice) for choice in (1, 2, 2.5, 5)) < 1e-6
    assert all(abs((b - a) - step) < slack for a, b in itertools.pairwise(ticks))


@settings(deadline=None)
@given(low=st.floats(-1e3, 1e3), span=st.floats(0, 1e3))
def test_enclose_holds_the_range_and_ends_on_ticks(low: float, span: float) -> None:
    bottom, top = axes.enclose(low, low + span, 5)
    assert bottom < top
    assert bottom <= low + 1e-6 and top >= low + span - 1e-6


@settings(deadline=None)
@given(low=st.floats(0, 1e7), span=st.floats(1e-7, 1e7))
def test_labels_tell_all_ticks_apart_and_mean_their_value(low: float, span: float) -> None:
    ticks = axes.round_ticks(low, low + span, 5)
    labels = axes.tick_labels(ticks)
    assert len(set(labels)) == len(ticks)
    letters = {"k": 1e3, "M": 1e6, "G": 1e9}
    for tick, label in zip(ticks, labels, strict=True):
        value = float(label.rstrip("kMG")) * letters.get(label[-1], 1.0)
        assert value == pytest.approx(tick, rel=1e-9, abs=1e-9 * ticks[-1])


def test_labels() -> None:
    assert axes.tick_labels([0.0, 0.05, 0.1]) == ["0", "0.05", "0.10"]
    assert axes.tick_labels([0.0, 2.5, 5.0]) == ["0", "2.5", "5.0"]
    assert axes.tick_labels([0.0, 20_000.0, 40_000.0]) == ["0", "20k", "40k"]
    assert axes.tick_labels([0.0, 2e-4, 4e-4]) == ["0", "0.0002", "0.0004"]
    assert axes.tick_labels([0.0, 2e-6, 4e-6]) == ["0", "2e-6", "4e-6"]
    assert axes.tick_labels([2500.0, 5000.0]) == ["2.5k", "5k"]
    assert axes.tick_labels([9.95e6, 10e6, 10.05e6]) == ["9.95M", "10M", "10.05M"]
    assert axes.tick_labels([0.0]) == ["0"]


def test_compact() -> None:
    expected = {
        0: "0", 7: "7", 950: "950", 999.6: "1k", 12_500: "12.5k", 999_600: "1M", 3e6: "3M",
        1.281e9: "1.28G", 0.0004: "0.0004", 5e-6: "5e-6", -12_500: "-12.5k",
    }  # fmt: skip
    assert {value: axes.compact(value) for value in expected} == expected


def test_a_percentage_never_claims_all_or_nothing_wrongly() -> None:
    assert axes.percent(0.9431) == f"94.3{NBSP}%"
    assert axes.percent(1.0) == f"100.0{NBSP}%"
    assert axes.percent(0.99999) == f"> 99.9{NBSP}%"
    assert axes.percent(0.0) == f"0.0{NBSP}%"
    assert axes.percent(1e-6) == f"< 0.1{NBSP}%"
    assert axes.percent(math.nan) == "–"


def test_duration() -> None:
    assert [axes.duration(s) for s in (0.5, 4.25, 59.4, 161, 7300, 200_000)] == [
        "0.5 s", "4.2 s", "59 s", "2 min 41 s", "2 h 1 min", "2 d 7 h",
    ]  # fmt: skip


def test_duration_never_shows_sixty_seconds() -> None:
    assert axes.duration(59.7) == "1 min 0 s"
    assert axes.duration(119.7) == "2 min 0 s"
