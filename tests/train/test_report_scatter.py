"""Scatter charts: dots where the numbers are, by arithmetic of our own."""

from __future__ import annotations

import re

import numpy as np
import pytest

from toque.train import report
from toque.train.report import scatter

DOT = re.compile(r"M([\d.]+) ([\d.]+)h0")


def points(chart):
    (stroke,) = [one for one in chart.lines if one.kind == "points"]
    return [tuple(map(float, one)) for one in DOT.findall(stroke.path)]


def at(ticks, where):
    """The value at a percentage, from the first and the last tick."""
    (low, high) = ((tick.at, float(tick.label)) for tick in (ticks[0], ticks[-1]))
    return low[1] + (where - low[0]) / (high[0] - low[0]) * (high[1] - low[1])


def test_dots_lie_where_the_ticks_say():
    true, said = np.array([[1.0], [5.0], [9.0]]), np.array([[2.0], [5.0], [3.0]])
    (chart,) = scatter.charts(["age"], true, said)
    for (x, y), t, s in zip(points(chart), true[:, 0], said[:, 0], strict=True):
        assert at(chart.x_ticks, x / 10) == pytest.approx(t, abs=0.02)
        assert at(chart.y_ticks, y / 10) == pytest.approx(s, abs=0.02)
    # The dashed line is where both are equal: it goes through the corners of one scale.
    assert [tick.label for tick in chart.x_ticks] == [tick.label for tick in chart.y_ticks]
    assert [x.at + y.at for x, y in zip(chart.x_ticks, chart.y_ticks, strict=True)] == [
        100.0
    ] * len(chart.x_ticks)
    assert chart.dots[0].says == "true 9, predicted 3" and "Missed most: true 9" in chart.summary


def test_what_is_far_out_is_drawn_on_the_edge_and_said():
    true = np.linspace(0, 10, 50)[:, None]
    said = true.copy()
    said[7], said[8], said[9] = 1e6, -1e7, np.nan
    (chart,) = scatter.charts(["x"], true, said)
    heights = [y for _, y in points(chart)]
    assert len(heights) == 49 and min(heights) == 0 and max(heights) == 1000
    assert sorted(heights)[5] < 900  # the others still have the whole height
    assert any("2 of 49 answers lie outside, up to -10M" in remark for remark in chart.remarks)
    assert any("1 of 50 answers are no finite number" in remark for remark in chart.remarks)


def test_many_images_are_cells_that_hold_all_of_them():
    draw = np.random.default_rng(0)
    true = draw.normal(size=(30_000, 1))
    (chart,) = scatter.charts(["x"], true, true + 0.2 * draw.normal(size=true.shape))
    paths = "".join(one.path for one in chart.lines)
    assert len(paths) < 200_000
    assert {one.kind for one in chart.lines} == {"ideal", "cells1", "cells2", "cells3"}
    corners = re.findall(r"M([\d.]+) ([\d.]+)h12.5v12.5h-12.5z", paths)
    assert len(corners) == len(set(corners)) > 500


def test_one_number_for_all_and_none_at_all():
    same = np.full((4, 1), 3.0)
    (chart,) = scatter.charts(["x"], same, same + np.array([[0], [1], [-1], [0]]))
    assert len(points(chart)) == 4
    assert scatter.charts(["x"], np.empty((0, 1)), np.empty((0, 1))) == []
    assert scatter.charts(["x"], same, np.full((4, 1), np.nan)) == []


def test_the_page_has_a_chart_for_each_number():
    true = np.random.default_rng(0).normal(size=(20, 14))
    charts = scatter.charts([f"n<{d}>" for d in range(14)], true, true)
    assert len(charts) == 12
    page = report.render(report.ReportData(title="t", answered=charts))
    assert page.count("n&lt;0&gt;, predicted over true") == 1 and "n<0>" not in page
    assert "Predicted beside true" in page
