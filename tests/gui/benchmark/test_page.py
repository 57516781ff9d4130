"""The Benchmark page over the whole application and a tiny model."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QApplication, QFileDialog
from pytestqt.qtbot import QtBot

from engine.bench.history import History
from engine.messages import RecipeFailed
from engine.recipe import Recipe, parse_recipe
from gui.app import Application
from gui.benchmark.page import BenchmarkPage
from tests.gui.conftest import end_application, start_application, tab_to, until


def opened(qapp: QApplication, app: Application) -> BenchmarkPage:
    """The page in front, its model loaded, and a plan of seconds."""
    page = app.window.pages["benchmark"]
    assert isinstance(page, BenchmarkPage)
    app.window.show_page(list(app.window.pages).index("benchmark"))
    until(qapp, lambda: page.start.isEnabled(), "the model")
    page.form.prompt.setText("8")
    page.form.generate.setText("4")
    page.form.repetitions.setValue(1)
    page.form.chunks.setValue(1)
    for number in range(page.form.recipes.count()):
        item = page.form.recipes.item(number)
        recipe = item.data(Qt.ItemDataRole.UserRole)
        item.setCheckState(Qt.CheckState.Checked if recipe.fingerprint in (
            Recipe().fingerprint, parse_recipe("fp32").fingerprint, parse_recipe("bf16").fingerprint)
            else Qt.CheckState.Unchecked)
    return page


def ended(qapp: QApplication, page: BenchmarkPage) -> None:
    until(qapp, lambda: not page.job.busy, "the end of the benchmark")


def test_a_plan_fills_the_table_and_the_history_and_is_exported(
        qapp: QApplication, qtbot: QtBot, application: Application, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    page = opened(qapp, application)
    planned = len(page.form.checked()) * 3
    qtbot.mouseClick(page.start, Qt.MouseButton.LeftButton)
    until(qapp, lambda: page.job.run_id, "the start")
    panel = application.window._dock_widgets["monitor"][1].widget()
    assert "stand still" in panel.footer.note.text()
    ended(qapp, page)
    assert "stand still" not in panel.footer.note.text()
    assert page.results.table.rowCount() == planned == len(page.job.rows)
    results = [page.results.table.item(row, 2).text() for row in range(planned)]
    assert sum("tok/s" in text for text in results) == planned * 2 // 3
    assert sum("PPL" in text for text in results) == planned // 3
    assert [(r.state, r.rows) for r in page.history.runs] == [("complete", planned)]
    assert len(page.charts.scatter.marks) == planned // 3
    qtbot.mouseClick(page.copy, Qt.MouseButton.LeftButton)
    assert QGuiApplication.clipboard().text().count("\n") == planned + 2
    for suffix in (".html", ".md", ".csv", ".json"):
        path = tmp_path / f"out{suffix}"
        monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_a, p=path: (str(p), ""))
        page.export_run(suffix)
        assert "tg4" in path.read_text()
    assert (tmp_path / "out.html").read_text().count("<svg") == 4
    for suffix, magic in ((".svg", b"<svg"), (".png", b"\x89PNG")):
        path = tmp_path / f"chart{suffix}"
        monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_a, p=path: (str(p), ""))
        page.charts._save(page.charts.memory)
        assert path.read_bytes().startswith(magic)


def test_stop_keeps_finished_rows_and_resume_measures_the_others(
        qapp: QApplication, qtbot: QtBot, application: Application) -> None:
    page = opened(qapp, application)
    qtbot.mouseClick(page.start, Qt.MouseButton.LeftButton)
    until(qapp, lambda: page.job.rows, "a row")
    qtbot.mouseClick(page.stop, Qt.MouseButton.LeftButton)
    ended(qapp, page)
    kept = dict(page.job.rows)
    assert kept and page.resume.isVisible()
    qtbot.mouseClick(page.resume, Qt.MouseButton.LeftButton)
    ended(qapp, page)
    assert len(page.history.runs) == 1 and page.history.runs[0].state == "complete"
    assert all(page.job.rows[key] == row for key, row in kept.items())
    assert not page.resume.isVisible()


def test_enter_on_a_dot_applies_its_recipe(qapp: QApplication, qtbot: QtBot, application: Application) -> None:
    page = opened(qapp, application)
    qtbot.mouseClick(page.start, Qt.MouseButton.LeftButton)
    ended(qapp, page)
    page.tabs.setCurrentWidget(page.charts)
    qapp.processEvents()
    for _ in range(1 + next(n for n, m in enumerate(page.charts.scatter.marks) if m.lane == 1)):
        qtbot.keyClick(page.charts.scatter, Qt.Key.Key_Right)
    qtbot.keyClick(page.charts.scatter, Qt.Key.Key_Return)
    until(qapp, lambda: application.window._recipe == page.job.plan.recipes[1].label, "the recipe")


def test_runs_are_compared_renamed_deleted_and_had_back(
        qapp: QApplication, qtbot: QtBot, application: Application) -> None:
    page = opened(qapp, application)
    for _ in range(2):
        page._start()
        ended(qapp, page)
    view = page.history
    page.tabs.setCurrentWidget(view)
    view.table.selectAll()
    qtbot.mouseClick(view.buttons["compare"], Qt.MouseButton.LeftButton)
    table = view.compared
    verdicts = {table.item(row, 1).text(): table.item(row, 6).text() for row in range(table.rowCount())}
    assert table.rowCount() == len(page.job.rows)
    assert next(v for test, v in verdicts.items() if test.startswith("ppl")) == "no difference measured"
    view.table.selectRow(0)
    view.table.setFocus()
    qtbot.keyClick(view.table, Qt.Key.Key_Delete)
    assert len(view.runs) == 1
    view.notice._action.click()
    assert len(view.runs) == 2
    view.table.selectRow(0)
    view.delete()
    view.settle()
    with contextlib.closing(History(view._path)) as history:
        assert len(history.runs()) == 1


def test_a_plan_that_cannot_be_says_why_and_does_not_start(qapp: QApplication, application: Application) -> None:
    page = opened(qapp, application)
    page.form.prompt.setText("many")
    until(qapp, lambda: not page.start.isEnabled())
    assert "many" in page.status.text()
    page.form.prompt.setText("")
    page.form.generate.setText("")
    page.form.quality.setCurrentIndex(0)
    page.form.changed.emit()
    until(qapp, lambda: "nothing to measure" in page.status.text())
    assert not page.start.isEnabled()


def test_closing_the_window_in_a_run_keeps_what_was_measured(
        qapp: QApplication, qtbot: QtBot, application: Application) -> None:
    page = opened(qapp, application)
    qtbot.mouseClick(page.start, Qt.MouseButton.LeftButton)
    until(qapp, lambda: page.job.rows, "a row")
    application.stop()
    with contextlib.closing(History(page._path)) as history:
        run, = history.runs()
    assert run.state == "stopped" and run.rows >= 1


def test_the_plan_is_remembered(qapp: QApplication, tmp_path: Path, llama_folder: Path) -> None:
    first = start_application(qapp, tmp_path, llama_folder)
    page = opened(qapp, first)
    page.form.interleave.setChecked(True)
    state = page.form.state()
    until(qapp, lambda: first.settings.get("benchmark/plan", "") == state, "the plan to be kept")
    end_application(qapp, first)
    second = start_application(qapp, tmp_path, llama_folder)
    page = second.window.pages["benchmark"]
    assert isinstance(page, BenchmarkPage)
    until(qapp, lambda: page.start.isEnabled(), "the model")
    assert page.form.state() == state and page.form.prompt.text() == "8"
    end_application(qapp, second)


@pytest.mark.parametrize("damaged", ["", "{", "[]", '{"recipes": 3}'])
def test_a_damaged_plan_leaves_the_usual_one(qapp: QApplication, application: Application, damaged: str) -> None:
    page = application.window.pages["benchmark"]
    assert isinstance(page, BenchmarkPage)
    before = page.form.state()
    page.form.restore(damaged)
    assert page.form.state() == before


def test_a_recipe_that_is_applied_from_a_chart_says_what_became_of_it(qapp: QApplication,
                                                                      application: Application) -> None:
    page = opened(qapp, application)
    page._start()
    ended(qapp, page)
    page.apply(1)
    assert "Applying" in page.notice.text()
    until(qapp, lambda: "is active" in page.notice.text(), "the recipe")
    page._applying._wanted = recipe = page._shown[0].recipes[0]  # type: ignore[index]
    application.context.bridge.received.emit(RecipeFailed(0.0, recipe, recipe, "No room.", "Close something."))
    assert "No room." in page.notice.text()


def test_the_keyboard_alone_suffices(qapp: QApplication, qtbot: QtBot, application: Application, tmp_path: Path,
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    page, window = opened(qapp, application), application.window
    page.form.repetitions.setValue(200)
    window.show_page(0)
    window.activateWindow()
    qtbot.keyClick(window, Qt.Key.Key_3, Qt.KeyboardModifier.ControlModifier)
    assert page.isVisible() and qapp.focusWidget() is page.form.recipes
    wanted = next(n for n in range(page.form.recipes.count()) if page.form.recipes.item(n).text().startswith("int8"))
    qtbot.keyClick(qapp.focusWidget(), Qt.Key.Key_Home)
    while page.form.recipes.currentRow() != wanted:
        qtbot.keyClick(qapp.focusWidget(), Qt.Key.Key_Down)
    qtbot.keyClick(qapp.focusWidget(), Qt.Key.Key_Space)
    assert "int8" in [recipe.label for recipe in page.form.checked()]
    tab_to(qtbot, qapp, page.start)
    qtbot.keyClick(qapp.focusWidget(), Qt.Key.Key_Space)
    assert page.job.busy and qapp.focusWidget() is page.stop
    until(qapp, lambda: page.job.rows, "a row")
    qtbot.keyClick(window, Qt.Key.Key_Escape)
    ended(qapp, page)
    kept = dict(page.job.rows)
    assert 0 < len(kept) < 9
    tab_to(qtbot, qapp, page.resume)
    qtbot.keyClick(qapp.focusWidget(), Qt.Key.Key_Space)
    ended(qapp, page)
    assert len(page.job.rows) == 9 and kept.items() <= page.job.rows.items()
    tab_to(qtbot, qapp, page.tabs.tabBar())
    qtbot.keyClick(qapp.focusWidget(), Qt.Key.Key_Right)
    assert page.tabs.currentWidget() is page.charts
    tab_to(qtbot, qapp, page.charts.scatter)
    qtbot.keyClick(qapp.focusWidget(), Qt.Key.Key_Right)
    qtbot.keyClick(qapp.focusWidget(), Qt.Key.Key_Right)
    lane = page.charts.scatter.marks[page.charts.scatter._current].lane
    qtbot.keyClick(qapp.focusWidget(), Qt.Key.Key_Return)
    until(qapp, lambda: "is active" in page.notice.text(), "the recipe")
    assert window._recipe == page._shown[0].recipes[lane].label  # type: ignore[index]
    out = tmp_path / "run.html"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(out), ""))
    qtbot.keyClick(window, Qt.Key.Key_E, Qt.KeyboardModifier.ControlModifier)
    assert "To measure it again" in out.read_text(encoding="utf-8")
    tab_to(qtbot, qapp, page.tabs.tabBar())
    qtbot.keyClick(qapp.focusWidget(), Qt.Key.Key_Right)
    assert page.tabs.currentWidget() is page.history
    tab_to(qtbot, qapp, page.history.table)
    qtbot.keyClick(qapp.focusWidget(), Qt.Key.Key_Return)
    assert page.tabs.currentWidget() is page.results
