"""Charts of a benchmark, and the report that holds them."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from engine.bench import charts
from engine.bench.report import to_html
from engine.bench.results import render
from engine.measurements import BenchRow


def rows_of(*points: tuple[str, float, float]) -> list[BenchRow]:
    """A speed and a perplexity for each recipe."""
    rows = []
    for lane, (name, speed, quality) in enumerate(points):
        rows += [BenchRow(key=f"{lane}s", lane=lane, recipe=name, test="tg8", n_gen=8, avg_ts=speed, stddev_ts=1.0,
                          samples_ts=(speed - 1, speed + 1), weight_bytes=1_000_000),
                 BenchRow(key=f"{lane}q", lane=lane, recipe=name, test="ppl512", perplexity=quality,
                          perplexity_error=0.1)]
    return rows


def test_the_front_holds_what_nothing_else_beats_in_both() -> None:
    found = charts.dots(rows_of(("a", 10, 5.0), ("b", 20, 5.0), ("c", 30, 6.0), ("d", 25, 7.0)))
    assert {dot.recipe: dot.front for dot in found} == {"a": False, "b": True, "c": True, "d": False}


def test_equal_recipes_both_stand_on_the_front() -> None:
    assert all(dot.front for dot in charts.dots(rows_of(("a", 10, 5.0), ("b", 10, 5.0))))


def test_every_chart_is_xml_with_names_escaped_and_marks_inside() -> None:
    rows = rows_of(("a < b & c", 10, 5.0), ("b", 20, 6.0))
    for draw in (charts.scatter, charts.speed_bars, charts.memory_bars):
        chart = draw(rows, 400, 240)
        ElementTree.fromstring(chart.svg)
        assert "a &lt; b &amp; c" in chart.svg and [mark.lane for mark in chart.marks] == [0, 1]
        assert all(0 <= m.x <= 400 and 0 <= m.y <= 240 for m in chart.marks)


def test_faster_lies_to_the_right_and_better_below() -> None:
    slow, fast = charts.scatter(rows_of(("a", 10, 5.0), ("b", 20, 6.0)), 400, 240).marks
    assert fast.x > slow.x and fast.y < slow.y


def test_nothing_measured_is_a_sentence_and_no_marks() -> None:
    chart = charts.scatter([], 400, 240)
    assert "Nothing to draw" in chart.svg and not chart.marks


def test_the_report_stands_alone_and_names_failures() -> None:
    rows = [*rows_of(("a", 10, 5.0)), BenchRow(key="x", lane=1, recipe="<b>", test="tg8", error="It broke.")]
    page = to_html(rows, "My <run>")
    assert page.count("<svg") == 3 and "My &lt;run&gt;" in page and "&lt;b&gt;, tg8: It broke." in page
    assert "src=" not in page and "href=" not in page
    assert "<svg" in render(rows, "html")
