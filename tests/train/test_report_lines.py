"""Line charts: the drawn points are the given ones, and nothing is hidden."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toque.train.report import lines


def curve(y: list[float], x: list[float] | None = None, name: str = "Training") -> lines.Curve:
    positions = np.arange(1.0, len(y) + 1) if x is None else np.array(x, dtype=float)
    return lines.Curve(name, "train", positions, np.array(y, dtype=float))


def points(path: str) -> list[list[tuple[float, float]]]:
    """The unbroken parts of a path."""
    return [
        [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", part)]
        for part in path.split("M")[1:]
    ]


def drawn(*curves: lines.Curve, **options: object) -> lines.Chart:
    chart = lines.draw("Loss", list(curves), **options)  # type: ignore[arg-type]
    assert chart is not None
    return chart


def test_points_lie_where_their_values_say() -> None:
    chart = drawn(curve([0.0, 1.0, 0.5], x=[0, 50, 100]))
    assert points(chart.lines[0].path) == [[(0, 1000), (500, 0), (1000, 500)]]
    assert [(tick.at, tick.label) for tick in chart.y_ticks] == [
        (100, "0"), (80, "0.2"), (60, "0.4"), (40, "0.6"), (20, "0.8"), (0, "1.0"),
    ]  # fmt: skip
    assert [(tick.at, tick.label) for tick in chart.x_ticks] == [
        (0, "0"), (50, "50"), (100, "100"),
    ]  # fmt: skip


def test_what_is_not_finite_is_a_gap_and_is_counted() -> None:
    chart = drawn(curve([1, 2, np.nan, 2, np.inf, 1, 1]))
    parts = points(chart.lines[0].path)
    assert [len(part) for part in parts] == [2, 1, 2]
    # The lonely point would be invisible as a move alone.
    assert re.search(r"M[\d.]+ [\d.]+h0M", chart.lines[0].path)
    assert chart.remarks == ["Training: 2 values missing or not finite, a gap."]
    assert "nan" not in chart.lines[0].path and "inf" not in chart.lines[0].path


def test_one_point_is_a_dot_within_the_chart() -> None:
    chart = drawn(curve([0.7], x=[1000]))
    (((across, down),),) = points(chart.dots[0].path)
    assert across == 1000 and 0 < down < 1000
    assert chart.dots[0].says == "Training 0.7 at 1k images"
    assert chart.summary == "Training: 0.7 at 1k images."


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0, 1e-9, 1e12])
def test_a_flat_curve_is_drawn_inside_the_chart(value: float) -> None:
    chart = drawn(curve([value] * 3))
    (part,) = points(chart.lines[0].path)
    assert all(0 <= y <= 1000 for _, y in part)
    assert len(chart.y_ticks) >= 2


def test_nothing_to_draw_is_no_chart() -> None:
    assert lines.draw("Loss", []) is None
    assert lines.draw("Loss", [curve([]), curve([np.nan, np.inf])]) is None


def test_a_spike_leaves_the_chart_instead_of_flattening_it_and_is_named() -> None:
    values = [2.0 - n / 100 for n in range(150)]
    values[40] = 5000.0
    plain, cut = drawn(curve(values)), drawn(curve(values), cut_spikes=True)
    assert plain.y_ticks[0].label == "0" and plain.y_ticks[-1].label == "5k"
    assert cut.y_ticks[-1].label == "2.0"
    assert cut.remarks[0] == "1 of 150 values lies above, up to 5k."
    heights = [y for line in cut.lines for part in points(line.path) for _, y in part]
    assert min(heights) == 0  # the spike ends at the upper edge
    bold = next(line for line in cut.lines if not line.pale)
    assert all(y > 40 for part in points(bold.path) for _, y in part[10:])  # its mean is not lifted


def test_a_usual_loss_curve_is_never_cut() -> None:
    falling = [6.9 * np.exp(-n / 30) + 0.01 for n in range(400)]
    assert not any("above" in remark for remark in drawn(curve(falling), cut_spikes=True).remarks)


def test_epochs_are_labelled_where_they_happened() -> None:
    scale = (np.array([0.0, 4.0]), np.array([0.0, 4000.0]))
    chart = drawn(curve([1, 2, 3], x=[1000, 2000, 4000]), images_of_epoch=scale, best_epoch=2)
    assert [(tick.at, tick.label) for tick in chart.epoch_ticks] == [
        (0, "0"), (25, "1"), (50, "2"), (75, "3"), (100, "4"),
    ]  # fmt: skip
    assert chart.best == 50


def test_percentages_stay_between_0_and_100() -> None:
    chart = lines.draw("Accuracy", [curve([0.98, 1.0, 0.99])], unit="percent")
    assert chart is not None
    assert chart.y_ticks[-1].label == "100.0 %"
    assert chart.y_ticks[-1].at == 0
    low = lines.draw("Accuracy", [curve([0.0, 0.0])], unit="percent")
    assert low is not None and low.y_ticks[0].label == "0 %"


def slow_mean(y: np.ndarray, width: int) -> list[float]:
    result = []
    for n in range(len(y)):
        near = [v for v in y[max(0, n - width // 2) : n + width // 2 + 1] if np.isfinite(v)]
        result.append(float(np.mean(near)) if np.isfinite(y[n]) else np.nan)
    return result


values = st.lists(st.one_of(st.floats(-100, 100), st.just(np.nan)), min_size=1, max_size=60)


@settings(deadline=None)
@given(y=values, half=st.integers(1, 9))
def test_running_mean_is_the_mean_of_the_neighbours(y: list[float], half: int) -> None:
    array = np.array(y)
    np.testing.assert_allclose(
        lines.running_mean(array, 2 * half + 1), slow_mean(array, 2 * half + 1), atol=1e-9
    )


@settings(deadline=None)
@given(
    y=st.lists(st.one_of(st.floats(-100, 100), st.just(np.nan)), min_size=1, max_size=400),
    buckets=st.integers(3, 12),
)
def test_thinning_keeps_extremes_ends_and_gaps(y: list[float], buckets: int) -> None:
    values = np.array(y)
    x = np.arange(len(y), dtype=float)
    thin_x, thin_y = lines.thin(x, values, buckets)
    assert len(thin_x) <= 5 * buckets
    assert np.all(np.diff(thin_x) > 0)
    np.testing.assert_array_equal(thin_y, values[thin_x.astype(int)])  # real points, none invented
    if len(y) > 2 * buckets:
        edges = np.linspace(x[0], x[-1], buckets + 1)
        edges[-1] += 1
        for start, stop in itertools.pairwise(edges):
            inside = (x >= start) & (x < stop)
            kept = (thin_x >= start) & (thin_x < stop)
            if np.isfinite(values[inside]).any():
                assert np.nanmin(thin_y[kept]) == np.nanmin(values[inside])
                assert np.nanmax(thin_y[kept]) == np.nanmax(values[inside])
            assert np.isnan(values[inside]).any() == np.isnan(thin_y[kept]).any()


def test_a_hundred_thousand_points_are_a_small_path() -> None:
    y = np.sin(np.arange(100_000) / 500)
    y[70_123] = 9.0
    chart = drawn(lines.Curve("Training", "train", np.arange(100_000.0), y))
    assert sum(len(line.path) for line in chart.lines) < 60_000
    assert (
        min(down for part in points(chart.lines[0].path) for _, down in part) == 83.3
    )  # 9 on an axis of -2 .. 10
