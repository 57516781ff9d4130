"""The answer to "Why isn't it faster?": the job behind it, the window that shows its figures, and the ways to it."""

from __future__ import annotations

import dataclasses
import itertools

from PySide6.QtCore import Qt
from PySide6.QtGui import QAction, QGuiApplication
from PySide6.QtWidgets import QApplication, QLabel, QPushButton, QScrollArea, QTableWidget, QWidget

from engine.messages import (
    Cancel,
    Cancelled,
    Compiling,
    Explain,
    Failed,
    Finished,
    JobStarted,
    Progress,
    RecipeApplied,
    SpeedReport,
    TechniqueReport,
    TimeShare,
)
from engine.recipe import Recipe, make_options
from gui.app import Application
from gui.techniques import why_words
from gui.techniques.why_dialog import WhyDialog
from gui.techniques.why_report import WhyReport
from gui.theme import theme
from tests.gui.conftest import until
from tests.gui.technique_bench import INT8, L1, Bench, loaded, report

FIGURES = SpeedReport(
    recipe="int8", context=128, threads=2, token_s=0.0115,
    shares=(TimeShare("matrix products", 0.0073, 57), TimeShare("attention", 0.0005, 12),
            TimeShare("small operators", 0.0031, 1204), TimeShare("Python and the rest", 0.0006, 0)),
    operators=(("quantized::linear_dynamic", 0.0061, 45), ("aten::mm", 0.0012, 12)), weight_bytes=4_200_000,
    cache_bytes=262_144, bandwidth=12.3e9, floor_s=0.0042,
    findings=("A token reads 4.5 MB.", "63 % of it are matrix products."))


def opened(bench: Bench) -> WhyDialog:
    """The window, opened from the report."""
    bench.panel.report_view.why_button.click()
    assert bench.panel._why is not None
    return bench.panel._why


def job_id(bench: Bench) -> int:
    """The newest job asked for."""
    return [command.job_id for command in bench.worker.told if isinstance(command, Explain)][-1]


def measured(bench: Bench) -> WhyDialog:
    """The window with FIGURES in it."""
    bench.say(loaded(INT8))
    dialog = opened(bench)
    bench.say(JobStarted(job_id(bench), 0.0, "Explain"), Finished(job_id(bench), 0.0, FIGURES))
    return dialog


def said(widget: QWidget) -> str:
    """Every visible text, line by line."""
    QApplication.processEvents()  # a layout shows what is new in it at the next turn of the loop
    texts = [label.text() for label in widget.findChildren(QLabel) if label.isVisible()]
    return "\n".join(texts).replace("\u00a0", " ")


# ------------------------------------------------------------------------------------------------- from ask to answer


def test_opening_it_measures_at_once_and_shows_progress(bench: Bench) -> None:
    bench.say(loaded(INT8))
    dialog = opened(bench)
    assert dialog.isVisible() and not dialog.isModal()
    asked = [command for command in bench.worker.told if isinstance(command, Explain)]
    assert [command.context for command in asked] == [128]
    assert dialog.bar.isVisible() and dialog.bar.maximum() == 0 and "Waiting for the engine" in said(dialog)
    bench.say(JobStarted(job_id(bench), 0.0, "Explain"), Progress(job_id(bench), 0.0, "Timing tokens", 2, 4))
    assert "Timing tokens…" in said(dialog)
    assert (dialog.bar.value(), dialog.bar.maximum()) == (2, 4)
    assert dialog.stop_button.isVisible() and not dialog.run_button.isEnabled()
    dialog.close()


def test_the_figures_stand_in_words_and_not_in_colour_alone(bench: Bench) -> None:
    dialog = measured(bench)
    text = said(dialog)
    for part in ("87.0 tok/s, 11.5 ms per token", "2.7 times the floor of 4.20 ms",
                 "Matrix products", "7.30 ms · 63 % · 57 calls", "Attention", "0.50 ms · 4.3 % · 12 calls",
                 "Small operators", "3.10 ms · 27 % · 1,204 calls", "Python and the rest", "0.60 ms · 5.2 %",
                 "A token reads 4.5 MB.", "63 % of it are matrix products.",
                 "4.20 MB of weights, 262 kB of cache after 128 tokens", "12.3 GB per second", "int8", "dyno-small-1"):
        assert part in text, part
    assert not dialog.bar.isVisible() and dialog.run_button.isEnabled()
    table = dialog.findChild(QTableWidget)
    assert table is not None
    cells = [[table.item(r, c).text().replace("\u00a0", " ") for c in range(4)] for r in range(table.rowCount())]
    assert cells == [["quantized::linear_dynamic", "6.10 ms", "53 %", "45"], ["aten::mm", "1.20 ms", "10 %", "12"]]
    dialog.close()


def test_parts_of_the_token_follow_each_other_and_fill_it(bench: Bench) -> None:
    lines = why_words.share_lines(FIGURES)
    assert lines[0][1] == 0.0
    for before, after in itertools.pairwise(lines):
        assert abs(before[1] + before[2] - after[1]) < 1e-9
    assert abs(lines[-1][1] + lines[-1][2] - 1.0) < 1e-9


def test_everything_is_copied_as_text(bench: Bench) -> None:
    dialog = measured(bench)
    dialog.copy_button.click()
    text = QGuiApplication.clipboard().text()
    for part in ("87.0 tok/s, 11.5 ms per token; 2.7 times the floor of 4.20 ms", "Matrix products: 7.30 ms · 63 %",
                 "- A token reads 4.5 MB.", "Threads: 2", "Recipe: int8", "Model: dyno-small-1",
                 "quantized::linear_dynamic\t6.10 ms\t53 %\t45"):
        assert part in text
    assert "\u00a0" not in text
    dialog.close()


def test_a_report_without_a_floor_or_operators_is_shown_too(bench: Bench) -> None:
    empty = SpeedReport("fp32", 1, 1, 0.0, (), (), 0, 0, 0.0, 0.0, ())
    view = WhyReport(empty, "m")
    bench.qtbot.addWidget(view)
    view.show()
    assert why_words.floor_line(empty) == "" and "times" not in said(view)
    assert why_words.as_text(empty, "m")


# ---------------------------------------------------------------------------------------------------- other states


def test_without_a_model_it_says_what_to_do_and_measures_once_there_is_one(bench: Bench) -> None:
    bench.panel.open_why()
    dialog = bench.panel._why
    assert dialog is not None and "Ctrl+O" in said(dialog)
    assert not dialog.run_button.isEnabled() and not dialog.copy_button.isEnabled()
    assert not any(isinstance(command, Explain) for command in bench.worker.told)
    bench.say(loaded(INT8))
    assert "Ctrl+O" not in said(dialog)
    dialog.run_button.click()
    assert bench.panel.why_job.stage == "waiting"
    dialog.close()


def test_it_waits_for_the_reply_that_streams_and_says_so(bench: Bench) -> None:
    bench.say(loaded(INT8), JobStarted(77, 0.0, "Generate"))
    dialog = opened(bench)
    assert "after the current reply" in said(dialog)
    bench.say(Finished(77, 0.0))
    assert "after the current reply" not in said(dialog)
    bench.say(JobStarted(78, 0.0, "Evaluate"))
    assert "after the current job" in said(dialog)
    bench.say(Cancelled(78, 0.0), JobStarted(job_id(bench), 0.0, "Explain"))
    assert "Measuring…" in said(dialog)
    dialog.close()


def test_stop_cancels_and_says_that_there_are_no_figures(bench: Bench) -> None:
    bench.say(loaded(INT8))
    dialog = opened(bench)
    dialog.stop_button.click()
    assert Cancel(job_id(bench)) in bench.worker.told
    bench.say(JobStarted(job_id(bench), 0.0, "Explain"), Cancelled(job_id(bench), 0.0))
    assert "Stopped before there were figures." in said(dialog)
    assert dialog.run_button.isEnabled() and not dialog.bar.isVisible()
    dialog.run_button.click()
    assert bench.panel.why_job.is_busy
    dialog.close()


def test_closing_it_gives_up_what_is_under_way(bench: Bench) -> None:
    for close in (WhyDialog.close, WhyDialog.reject):
        bench.say(loaded(INT8))
        dialog = opened(bench)
        close(dialog)
        assert [command for command in bench.worker.told if isinstance(command, Cancel)] == [Cancel(job_id(bench))]
        bench.say(JobStarted(job_id(bench), 0.0, "Explain"), Cancelled(job_id(bench), 0.0))
        bench.worker.told.clear()


def test_a_failure_is_a_sentence_with_its_details_and_can_be_tried_again(bench: Bench) -> None:
    bench.say(loaded(INT8))
    dialog = opened(bench)
    bench.say(JobStarted(job_id(bench), 0.0, "Explain"),
              Failed(job_id(bench), 0.0, "Memory ran out.", "Choose fewer bits.", "Traceback"))
    assert dialog.problem.text == "Memory ran out. Choose fewer bits."
    dialog.problem.clear()  # dismissed
    bench.say(RecipeApplied(0.0, report(INT8)))
    assert dialog.problem.text == "", "and it does not come back"
    dialog.run_button.click()
    bench.say(JobStarted(job_id(bench), 0.0, "Explain"), Finished(job_id(bench), 0.0, FIGURES))
    assert "11.5 ms" in said(dialog) and dialog.problem.text == ""
    dialog.close()


def test_figures_of_another_recipe_say_so_until_they_are_measured_again(bench: Bench) -> None:
    dialog = measured(bench)
    assert "old recipe" not in said(dialog)
    bench.say(RecipeApplied(0.0, report(L1)))
    assert "for the old recipe, int8. Run again for L1 50 %." in said(dialog)
    assert dialog.run_button.text() == "Run again" and dialog.run_button.property("primary")
    bench.say(RecipeApplied(0.0, report(INT8)))
    assert "old recipe" not in said(dialog), "back at what was measured"
    bench.say(RecipeApplied(0.0, report(L1)))
    dialog.run_button.click()
    assert "11.5 ms" in said(dialog), "the old figures stand until there are new ones"
    assert "what was measured before, of int8" in said(dialog) and dialog.figures is not None
    assert not dialog.figures.isEnabled(), "and are faded, as they are not what is measured now"
    bench.say(JobStarted(job_id(bench), 0.0, "Explain"), Finished(job_id(bench), 0.0, FIGURES))
    assert "old recipe" not in said(dialog) and "measured before" not in said(dialog)
    assert dialog.figures.isEnabled()
    dialog.close()


def test_run_never_stands_where_stop_was(bench: Bench) -> None:
    dialog = measured(bench)
    run = dialog.run_button.mapToGlobal(dialog.run_button.rect().center())
    dialog.run_button.click()
    QApplication.processEvents()
    stop = dialog.stop_button
    assert stop.isVisible() and dialog.childAt(dialog.mapFromGlobal(run)) is not stop
    place = dialog.mapFromGlobal(stop.mapToGlobal(stop.rect().center()))
    stop.click()
    bench.say(JobStarted(job_id(bench), 0.0, "Explain"), Cancelled(job_id(bench), 0.0))
    QApplication.processEvents()
    assert not isinstance(dialog.childAt(place), QPushButton), "a second click hits nothing"
    dialog.close()


def test_shares_of_operators_never_exceed_the_whole_and_agree_with_the_bars(bench: Bench) -> None:
    slow = dataclasses.replace(
        FIGURES, token_s=0.00065, shares=(TimeShare("matrix products", 0.000635, 25), TimeShare("attention", 15e-6, 6)),
        operators=(("native matmul", 0.00124, 25), ("native attention", 29.3e-6, 6)), floor_s=0.00109)
    rows = [[cell.replace("\u00a0", " ") for cell in row] for row in why_words.operator_rows(slow)]
    assert [row[2] for row in rows] == ["98 %", "2.3 %"]
    bars = [words.replace("\u00a0", " ").split(" · ")[1] for *_, words in why_words.share_lines(slow)]
    assert bars == ["98 %", "2.3 %"]
    view = WhyReport(slow, "m")
    bench.qtbot.addWidget(view)
    view.show()
    assert "Profiling makes a token slower: 1.27 ms" in said(view)
    assert "dashed" not in said(view), "a floor beyond the bars has no line in them"
    assert "Profiling makes" not in why_words.as_text(FIGURES, "m") and why_words.floor_mark(FIGURES)


def test_a_switch_in_mid_measurement_makes_the_figures_old(bench: Bench) -> None:
    bench.say(loaded(INT8))
    dialog = opened(bench)
    bench.say(JobStarted(job_id(bench), 0.0, "Explain"), RecipeApplied(0.0, report(L1)),
              Finished(job_id(bench), 0.0, FIGURES))
    assert bench.panel.why_job.stale == "recipe" and "old recipe" in said(dialog)
    dialog.close()


def test_another_model_and_a_compiler_that_is_done_make_the_figures_old(bench: Bench) -> None:
    compiled = Recipe((make_options("compile", {}),))

    def news(engaged: bool) -> RecipeApplied:
        made = TechniqueReport("compile", "Compile", engaged, 0, 0, 0, "")
        return RecipeApplied(0.0, report(compiled, techniques=(made,)))

    bench.say(loaded(), news(False))
    dialog = opened(bench)
    bench.say(JobStarted(job_id(bench), 0.0, "Explain"), Compiling(0.0, 1.0), Finished(job_id(bench), 0.0, FIGURES))
    assert bench.panel.why_job.stale == ""
    bench.say(news(True))
    assert "What runs has changed" in said(dialog)
    other = loaded(compiled)
    bench.say(type(other)(9, 0.0, type(other.model)(**(other.model.__dict__ | {"name": "other"})), other.report))
    assert "another model, dyno-small-1" in said(dialog)
    dialog.close()


def test_opening_it_again_shows_figures_that_hold_and_measures_those_that_do_not(bench: Bench) -> None:
    measured(bench).close()
    opened(bench)
    assert len([command for command in bench.worker.told if isinstance(command, Explain)]) == 1
    bench.say(RecipeApplied(0.0, report(L1)))
    opened(bench)
    assert len([command for command in bench.worker.told if isinstance(command, Explain)]) == 2
    assert bench.panel._why is not None
    bench.panel._why.close()


def test_the_depth_can_be_chosen_below_the_models_context(bench: Bench) -> None:
    dialog = measured(bench)
    box = dialog.depth_box
    assert [box.itemData(i) for i in range(box.count())] == [32, 128], "the model takes 512"
    box.setCurrentIndex(0)
    dialog.run_button.click()
    assert [c.context for c in bench.worker.told if isinstance(c, Explain)] == [128, 32]
    dialog.close()


# ------------------------------------------------------------------------------------------------- hands, eyes and ears


def test_every_control_has_a_name_and_a_description_and_tab_reaches_it(bench: Bench) -> None:
    dialog = measured(bench)
    for widget in dialog.findChildren(QWidget):
        inner = widget.window() is not dialog or isinstance(widget.parent(), (QTableWidget, QScrollArea))
        if widget.focusPolicy() & Qt.FocusPolicy.TabFocus and widget.isVisible() and not inner:
            assert widget.accessibleName() and widget.accessibleDescription(), type(widget).__name__
    dialog.activateWindow()
    dialog.copy_button.setFocus(Qt.FocusReason.TabFocusReason)
    bench.until(lambda: dialog.copy_button.hasFocus())
    bench.qtbot.keyClick(dialog.copy_button, Qt.Key.Key_Tab)
    assert QApplication.focusWidget() is dialog.run_button
    bench.qtbot.keyClick(dialog.run_button, Qt.Key.Key_Space)
    assert bench.panel.why_job.is_busy and not isinstance(QApplication.focusWidget(), QPushButton)
    bench.qtbot.keyClick(dialog, Qt.Key.Key_Escape)
    assert not dialog.isVisible() and Cancel(job_id(bench)) in bench.worker.told


def test_it_fits_in_both_themes_and_at_large_fonts(bench: Bench) -> None:
    dialog = measured(bench)
    light = dialog.grab().toImage()
    theme().set_choice("dark")
    assert dialog.grab().toImage() != light
    theme().set_font_percent(150)
    content = dialog._content
    bench.until(lambda: content.width() >= content.minimumSizeHint().width())
    for text in content.findChildren(QLabel):
        if text.isVisible() and text.wordWrap():
            assert text.height() >= text.heightForWidth(text.width()), text.text()
    table = dialog.findChild(QTableWidget)
    assert table is not None
    bench.until(lambda: table.verticalScrollBar().maximum() == 0)
    dialog.close()


# ------------------------------------------------------------------------------------------------- the real engine


def test_the_button_beside_the_speed_measures_the_real_model(application: Application, qapp: QApplication) -> None:
    window = application.window
    button = next(b for b in window.statusBar().findChildren(QPushButton) if b.text() == "Why isn't it faster?")
    assert not button.isVisible(), "nothing to explain yet"
    until(qapp, lambda: button.isVisible(), "the model")
    button.click()
    dialog = window.findChild(WhyDialog)
    assert dialog is not None and dialog.isVisible()
    until(qapp, lambda: dialog.figures is not None, "the figures")
    text = said(dialog)
    assert "per token" in text and "tiny-llama" in text and "Matrix products" in text
    assert not dialog.problem.text
    dialog.close()


def test_the_way_to_it_is_in_the_menu_too(application: Application, qapp: QApplication) -> None:
    window = application.window
    until(qapp, lambda: window._model is not None, "the model")
    next(a for a in window.findChildren(QAction) if a.text() == "Why isn't it faster?").trigger()
    dialog = window.findChild(WhyDialog)
    assert dialog is not None and dialog.isVisible()
    dialog.close()
