"""The table of results, row by row."""

from __future__ import annotations

import pytest
from pytestqt.qtbot import QtBot

from engine.measurements import BenchPlan, BenchRow, SpeedTest
from engine.recipe import Recipe
from gui.benchmark.results_view import ResultsView


@pytest.mark.usefixtures("themed")
def test_a_failed_row_says_why_across_the_table_and_is_measured_after_all(qtbot: QtBot) -> None:
    view = ResultsView()
    qtbot.addWidget(view)
    plan = BenchPlan((Recipe(),), (SpeedTest(generate=8),))
    key = plan.key(0, plan.speed[0])
    view.show_run(plan, {}, waiting=True)
    assert view.table.item(0, 2).text() == "waiting"
    view.show_row(BenchRow(key=key, recipe="fp32", test="tg8", error="Memory ran out.", hint="Choose fewer bits."))
    assert view.table.item(0, 2).text() == "failed: Memory ran out. Choose fewer bits."
    assert view.table.columnSpan(0, 2) == view.table.columnCount() - 2
    view.show_row(BenchRow(key=key, recipe="fp32", test="tg8", avg_ts=87.3, stddev_ts=1.0))
    assert view.table.item(0, 2).text() == "87.3 tok/s" and view.table.columnSpan(0, 2) == 1
