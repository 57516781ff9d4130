"""The Compare page over the whole application and a tiny model."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QAbstractButton, QApplication, QFileDialog, QWidget
from pytestqt.qtbot import QtBot

from engine.bench.history import History
from engine.messages import ApplyRecipe
from engine.models.devices import with_free_bytes
from engine.paths import benchmark_history
from engine.recipe import parse_recipe
from gui.app import Application
from gui.compare.lane_text import MARK, shade
from gui.compare.page import ComparePage
from gui.context import find_pages
from tests.gui.conftest import end_application, start_application, tab_to, until

PROMPT = "The boats came home"


def opened(qapp: QApplication, app: Application, *keys: str, length: int = 20) -> ComparePage:
    """The page in front, its model loaded, with a lane for each recipe."""
    page = app.window.pages["compare"]
    assert isinstance(page, ComparePage)
    app.window.show_page(list(app.window.pages).index("compare"))
    until(qapp, lambda: page.measure.isEnabled(), "the model")
    for _ in keys[2:]:
        page.add_lane()
    for lane, key in zip(page.lanes, keys, strict=True):
        lane.recipe.choose(key)
    page.options.length.setValue(length)
    page.options.prompt.setPlainText(PROMPT)
    return page


def ended(qapp: QApplication, page: ComparePage) -> None:
    until(qapp, lambda: not page.busy, "the end of the comparison")


def cells(page: ComparePage, row: int) -> list[str]:
    """A line of the table."""
    return [page.figures.table.item(row, column).text() for column in range(page.figures.table.columnCount())]


def test_the_page_stands_between_chat_and_benchmark_without_a_list_of_pages() -> None:
    assert [page.key for page in find_pages()][:3] == ["chat", "compare", "benchmark"]


def test_lanes_write_side_by_side_and_the_table_holds_them_against_the_base(
        qapp: QApplication, qtbot: QtBot, application: Application) -> None:
    page = opened(qapp, application, "preset:fp32", "preset:l1-50", "preset:fp32")
    qtbot.mouseClick(page.watch, Qt.MouseButton.LeftButton)
    assert page.stop.isVisible() and not page.watch.isVisible() and not page.lanes[0].recipe.isEnabled()
    ended(qapp, page)
    base, other, same = page.lanes
    assert [len(lane.text.tokens) for lane in page.lanes] == [20, 20, 20]
    assert base.text.text == same.text.text != other.text.text
    gone = next(token for token in other.text.tokens if token.departs)
    before = "".join(token.text for token in other.text.tokens if token.number < gone.number)
    assert other.text.toPlainText() == f"{before}{MARK}{other.text.text[len(before):]}"
    assert f"departs at token {gone.number}" in other.line.text() and "as the base" in same.line.text()
    assert MARK not in base.text.toPlainText() and MARK not in same.text.toPlainText()
    assert cells(page, 0)[0] == "A: fp32 (base)" and "\n" not in "".join(cells(page, 0))
    assert "the same" in cells(page, 2)[1] and cells(page, 2)[5].startswith("0\n")
    assert cells(page, 2)[5].endswith("no difference measured") and "differs" in cells(page, 1)[5]
    assert page.status.text() == "Watched." and "how sure, not how good" in page.figures.about.text()


def test_measuring_fills_the_table_with_intervals_and_keeps_the_run_in_the_history(
        qapp: QApplication, qtbot: QtBot, application: Application) -> None:
    page = opened(qapp, application, "preset:fp32", "preset:fp32")
    qtbot.mouseClick(page.measure, Qt.MouseButton.LeftButton)
    until(qapp, lambda: page.measuring.run_id, "the start")
    panel = application.window._dock_widgets["monitor"][1].widget()
    assert "stand still" in panel.footer.note.text()
    ended(qapp, page)
    for column in (2, 3):  # TTFT and speed
        value, ratio, verdict = cells(page, 1)[column].split("\n")
        assert value and "×" in ratio and " to " in ratio and verdict in ("no difference measured", "faster", "slower")
    assert "1.000×" in cells(page, 1)[4] and "no difference measured" in cells(page, 1)[4]
    assert "Measured in turns: pp256" in page.figures.about.text()
    with contextlib.closing(History(benchmark_history(application.settings.folder))) as history:
        run, = history.runs()
    assert (run.state, run.rows, run.plan.interleave) == ("complete", 6, True)


def test_stop_keeps_what_was_written_and_the_next_run_begins_anew(
        qapp: QApplication, qtbot: QtBot, application: Application) -> None:
    page = opened(qapp, application, "preset:fp32", "preset:int8", length=200)
    told, pressed = itertools.count(), threading.Event()
    # The engine waits in the middle of the texts: a fast one would be done before the button is.
    application.outbox._wake = lambda: pressed.wait(30) if next(told) > 40 else None
    page.start_watching()
    until(qapp, lambda: page.lanes[1].text.tokens, "a token")
    qtbot.mouseClick(page.stop, Qt.MouseButton.LeftButton)
    pressed.set()
    ended(qapp, page)
    written = len(page.lanes[0].text.tokens)
    assert 0 < written < 200 and "Stopped" in page.status.text() and "stopped" in page.lanes[0].line.text()
    assert "tok/s" in cells(page, 0)[3] or written < 2
    page.options.length.setValue(10)
    page.start_watching()
    ended(qapp, page)
    assert [len(lane.text.tokens) for lane in page.lanes] == [10, 10] and page.status.text() == "Watched."


def test_a_measurement_that_is_stopped_keeps_its_rows(qapp: QApplication, application: Application) -> None:
    page = opened(qapp, application, "preset:fp32", "preset:bf16")
    page.start_measuring()
    until(qapp, lambda: page.measuring.rows, "a row")
    application.window._escape()
    ended(qapp, page)
    assert "ms" in cells(page, 0)[2] and "Stopped" in page.status.text()
    with contextlib.closing(History(benchmark_history(application.settings.folder))) as history:
        run, = history.runs()
    assert run.state == "stopped" and run.rows >= 1


def test_a_lane_that_fails_says_why_and_the_others_write_on(qapp: QApplication, application: Application) -> None:
    page = opened(qapp, application, "preset:fp32", "preset:l1-50", "preset:int8")
    state = application.bridge._worker._state
    assert state is not None and state.session is not None and state.session.active is not None
    need = state.session.active.report.weight_bytes
    state.session.device = with_free_bytes(state.session.device, int(0.7 * need))  # room for int8, not for fp32 again
    page.start_watching()
    ended(qapp, page)
    assert [len(lane.text.tokens) for lane in page.lanes] == [20, 0, 20]
    assert "are free" in page.lanes[1].text.toPlainText() and "failed" in page.lanes[1].line.text()
    assert cells(page, 1)[1] == "failed" and "are free" in page.figures.about.text()
    assert "tok/s" in cells(page, 2)[3]


def test_a_recipe_that_cannot_run_here_is_not_offered_and_says_why(qapp: QApplication,
                                                                   application: Application) -> None:
    page = opened(qapp, application, "preset:fp32", "preset:fp8")
    assert not page.watch.isEnabled() and not page.measure.isEnabled()
    assert page.status.text().startswith("Lane B cannot run here: ")
    box = page.lanes[1].recipe.box
    assert not box.model().item(box.currentIndex()).isEnabled()  # type: ignore[attr-defined]
    page.lanes[1].recipe.choose("preset:bf16")
    assert page.watch.isEnabled()


def test_a_prompt_too_long_fails_with_a_sentence_and_a_remedy(qapp: QApplication, application: Application) -> None:
    page = opened(qapp, application, "preset:fp32", "preset:bf16")
    page.options.prompt.setPlainText("boats " * 2000)
    page.start_watching()
    ended(qapp, page)
    assert page.notice.isVisible() and "does not fit" in page.notice.text() and "failed" in page.status.text()


def test_applying_a_lane_gives_the_model_its_recipe_and_leaves_the_figures(
        qapp: QApplication, qtbot: QtBot, application: Application) -> None:
    page = opened(qapp, application, "panel", "preset:bf16")
    page.start_watching()
    ended(qapp, page)
    before, text = cells(page, 1), page.lanes[0].text.text
    qtbot.mouseClick(page.lanes[1].apply, Qt.MouseButton.LeftButton)
    until(qapp, lambda: application.window._recipe == "bf16", "the recipe")
    # Lane A was the panel's recipe; the panel has another one now, and the lane is still what it was.
    assert page.lanes[0].recipe.recipe.label == "fp32" and page.lanes[0].text.text == text
    assert cells(page, 1) == before


def test_the_panels_recipe_can_be_a_lane(qapp: QApplication, application: Application) -> None:
    page = opened(qapp, application, "preset:fp32", "preset:int8")
    application.bridge.submit(ApplyRecipe(parse_recipe("neurons-30,precision:dtype=bf16")))
    until(qapp, lambda: "bf16" in page._panel.label, "the recipe")
    page.lanes[1].recipe.choose("panel")
    assert page.recipes[1] == parse_recipe("neurons-30,precision:dtype=bf16")
    page.start_watching()
    ended(qapp, page)
    assert len(page.lanes[1].text.tokens) == 20


def test_another_recipe_clears_its_lane_and_another_base_clears_all(qapp: QApplication,
                                                                    application: Application) -> None:
    page = opened(qapp, application, "preset:fp32", "preset:int8", "preset:bf16", length=4)
    page.start_watching()
    ended(qapp, page)
    page.lanes[1].recipe.choose("preset:l1-50")
    assert [bool(lane.text.tokens) for lane in page.lanes] == [True, False, True]
    assert set(cells(page, 1)[1:]) == {"–"} and "smaller" in cells(page, 2)[1]
    page.lanes[0].recipe.choose("preset:fp16")
    assert not any(lane.text.tokens for lane in page.lanes) and set(cells(page, 2)[1:]) == {"–"}


def test_lanes_are_added_up_to_four_and_removed_down_to_two(qapp: QApplication, qtbot: QtBot,
                                                            application: Application) -> None:
    page = opened(qapp, application, "preset:fp32", "preset:int8")
    assert not page.lanes[0].remove.isVisible()
    for _ in range(3):
        qtbot.mouseClick(page.add, Qt.MouseButton.LeftButton)
    assert len(page.lanes) == 4 and not page.add.isEnabled()
    qtbot.mouseClick(page.lanes[1].remove, Qt.MouseButton.LeftButton)
    qtbot.mouseClick(page.lanes[2].remove, Qt.MouseButton.LeftButton)
    assert [lane.name.text() for lane in page.lanes] == ["A", "B"] and not page.lanes[1].remove.isVisible()
    assert page.figures.table.rowCount() == 2


def test_what_is_shown_is_exported(qapp: QApplication, application: Application, tmp_path: Path,
                                   monkeypatch: pytest.MonkeyPatch) -> None:
    page = opened(qapp, application, "preset:fp32", "preset:l1-50")
    assert not page.export.isEnabled()
    application.context.actions.export.emit()
    assert "nothing to export" in page.notice.text()
    page.start_watching()
    ended(qapp, page)
    for suffix in (".md", ".json", ".csv"):
        path = tmp_path / f"out{suffix}"
        monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_a, p=path: (str(p), ""))
        page.export_comparison(suffix)
        assert "L1 50 %" in path.read_text()
    raw = json.loads((tmp_path / "out.json").read_text())
    assert raw["prompt"] == PROMPT and [len(lane["tokens"]) for lane in raw["lanes"]] == [20, 20]
    assert raw["lanes"][1]["text"] == page.lanes[1].text.text
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_a: (str(tmp_path / "no" / "out.md"), ""))
    page.export_comparison(".md")
    assert "cannot be written" in page.notice.text()


def test_the_keyboard_alone_suffices(qapp: QApplication, qtbot: QtBot, application: Application) -> None:
    page = opened(qapp, application, "preset:fp32", "preset:fp32")
    window = application.window
    window.show_page(0)
    window.activateWindow()
    qtbot.keyClick(window, Qt.Key.Key_2, Qt.KeyboardModifier.ControlModifier)
    assert page.isVisible()
    page.options.prompt.clear()
    page.options.prompt.setFocus()
    qtbot.keyClicks(qapp.focusWidget(), "Ahoy")
    tab_to(qtbot, qapp, page.lanes[1].recipe.box)
    while page.recipes[1] != parse_recipe("l1-50"):
        before = page.lanes[1].recipe.box.currentIndex()
        qtbot.keyClick(qapp.focusWidget(), Qt.Key.Key_Down)
        assert page.lanes[1].recipe.box.currentIndex() > before, "l1-50 is not in the list"
    tab_to(qtbot, qapp, page.options.prompt)
    qtbot.keyClick(qapp.focusWidget(), Qt.Key.Key_Return)
    assert page.busy and qapp.focusWidget() is page.stop
    ended(qapp, page)
    assert qapp.focusWidget() is page.watch
    tab_to(qtbot, qapp, page.lanes[1].text)
    for _ in range(3):
        qtbot.keyClick(qapp.focusWidget(), Qt.Key.Key_Right)
    selection, = page.lanes[1].text.extraSelections()
    assert selection.cursor.selectedText() in page.lanes[1].text.toPlainText()
    assert "Token 3" in page.lanes[1].text.words(2)
    tab_to(qtbot, qapp, page.lanes[1].apply)
    qtbot.keyClick(qapp.focusWidget(), Qt.Key.Key_Space)
    until(qapp, lambda: window._recipe == "L1 50 %", "the recipe")
    tab_to(qtbot, qapp, page.measure)
    qtbot.keyClick(qapp.focusWidget(), Qt.Key.Key_Space)
    assert page.measuring.busy
    qtbot.keyClick(window, Qt.Key.Key_Escape)
    ended(qapp, page)


def test_every_control_has_a_name_and_a_description(qapp: QApplication, application: Application) -> None:
    page = opened(qapp, application, "preset:fp32", "preset:int8", "preset:bf16")
    controls = [w for w in page.findChildren(QWidget) if w.focusPolicy() & Qt.FocusPolicy.TabFocus
                and w.isVisible() and (w.parent() is None or not w.focusProxy())]
    named = [w for w in controls if not w.objectName().startswith("qt_")]
    assert len(named) > 15
    for widget in named:
        assert widget.accessibleName() or (isinstance(widget, QAbstractButton) and widget.text()), widget
        assert widget.accessibleDescription(), widget.accessibleName()


def test_what_was_measured_and_what_was_watched_stand_side_by_side(qapp: QApplication, qtbot: QtBot,
                                                                   application: Application) -> None:
    page = opened(qapp, application, "preset:fp32", "preset:bf16")
    page.start_measuring()
    ended(qapp, page)
    measured = cells(page, 1)
    assert not page.figures.which.isVisible()
    page.start_watching()
    ended(qapp, page)
    assert page.figures.which.isVisible() and page.figures.which.value == "watched" and cells(page, 1) != measured
    qtbot.mouseClick(page.figures.which.segment("measured"), Qt.MouseButton.LeftButton)
    assert cells(page, 1) == measured and "Measured in turns" in page.figures.about.text()
    assert "Measured in turns" in page.comparison().lanes[1].figures.source
    page.lanes[0].recipe.choose("preset:int8")
    assert not page.figures.which.isVisible() and cells(page, 1)[1] == "–"


def test_lanes_and_prompt_are_remembered(qapp: QApplication, tmp_path: Path, llama_folder: Path) -> None:
    first = start_application(qapp, tmp_path, llama_folder)
    page = opened(qapp, first, "preset:bf16", "preset:fp32", "preset:l1-50")
    end_application(qapp, first)
    second = start_application(qapp, tmp_path, llama_folder)
    page = second.window.pages["compare"]
    assert isinstance(page, ComparePage)
    assert [lane.recipe.key for lane in page.lanes] == ["preset:bf16", "preset:fp32", "preset:l1-50"]
    assert page.options.prompt.toPlainText() == PROMPT
    end_application(qapp, second)


@pytest.mark.parametrize(("kl", "strength"), [(0.0, 0.0), (5e-5, 0.0), (1e-4, 0.06), (50.0, 0.5)])
def test_every_divergence_that_is_one_can_be_seen(kl: float, strength: float) -> None:
    assert shade(kl) == pytest.approx(strength, abs=1e-3)
