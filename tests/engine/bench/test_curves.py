"""Charts of curves: what is drawn, what can be pointed at, and how lines are told apart."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

from engine.bench.charts import Look
from engine.bench.curves import Curve, Moment, draw

LOOK = Look()


def texts(svg: str) -> list[str]:
    return [e.text or "" for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("text")]


def test_each_point_of_the_dotted_curve_can_be_pointed_at() -> None:
    held_out = Curve("held-out", [(0, 4.0), (50, 2.0), (100, 1.0)], dots=True)
    chart = draw([held_out, Curve("training", [(10, 3.0), (100, 0.5)])], 400, 200, LOOK, 100)
    assert [mark.lane for mark in chart.marks] == [0, 1, 2]
    xs = [mark.x for mark in chart.marks]
    assert xs == sorted(xs) and chart.marks[0].y < chart.marks[2].y, "less loss is lower"
    assert {"held-out", "training"} <= set(texts(chart.svg))


def test_lines_differ_in_dash_and_not_in_colour_alone() -> None:
    lines = [Curve(str(n), [(0, n), (9, n + 1)]) for n in range(4)]
    dashes = re.findall(r'stroke-dasharray="([^"]+)"', draw(lines, 800, 200, LOOK, 9, legend=False).svg)
    assert len(dashes) == len(set(dashes)) == 3


def test_values_far_apart_have_a_logarithmic_axis() -> None:
    points = [(0, 1.0), (10, 1000.0)]
    assert "100" in texts(draw([Curve("a", points)], 400, 200, LOOK, 10, may_be_log=True).svg)
    middle = draw([Curve("a", [(0, 1.0), (5, 10.0), (10, 100.0)], dots=True)], 400, 200, LOOK, 10, may_be_log=True)
    heights = [mark.y for mark in middle.marks]
    assert math.isclose(heights[0] - heights[1], heights[1] - heights[2], rel_tol=1e-3)


def test_a_level_reaches_across_and_a_moment_at_the_edge_keeps_its_label_inside() -> None:
    chart = draw([Curve("a", [(0, 1.0), (10, 2.0)]), Curve("dense", [(0, 1.5)], level=True)], 400, 200, LOOK, 10,
                 [Moment(10, "best")])
    level = re.findall(r'points="([^"]+)"', chart.svg)[-1].split()
    assert float(level[-1].split(",")[0]) - float(level[0].split(",")[0]) > 300
    assert 'text-anchor="end">best' in chart.svg


def test_numbers_that_are_none_are_left_out_and_nothing_is_said_so() -> None:
    chart = draw([Curve("a", [(0, math.nan)])], 400, 200, LOOK, 10)
    assert LOOK.empty in texts(chart.svg) and not chart.marks


def test_thousands_of_points_are_thinned_to_what_can_be_seen() -> None:
    points = [(float(n), math.sin(n)) for n in range(20_000)]
    chart = draw([Curve("a", points)], 400, 200, LOOK, 20_000)
    assert len(chart.svg) < 60_000
    shown = [float(p.split(",")[1]) for p in re.findall(r'points="([^"]+)"', chart.svg)[-1].split()]
    assert max(shown) - min(shown) > 100, "peaks were lost"
