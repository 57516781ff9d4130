"""The technique panel on a real engine with a tiny model, and, for what is hard to provoke, on events put by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import QPoint, QPointF, Qt, QTranslator
from PySide6.QtGui import QGuiApplication, QWheelEvent
from PySide6.QtWidgets import (
    QAbstractButton,
    QApplication,
    QLineEdit,
    QPlainTextEdit,
    QScrollArea,
    QToolButton,
    QWidget,
)
from pytestqt.qtbot import QtBot

from engine.messages import (
    Failed,
    JobStarted,
    Progress,
    RecipeApplied,
    RecipeFailed,
)
from engine.recipe import Recipe, make_options
from engine.techniques import all_techniques
from gui.settings import Settings
from gui.techniques.option_fields import NumberField
from gui.techniques.panel import TechniquePanel, grouped
from gui.techniques.recipe_state import SETTING, remembered_recipe
from gui.techniques.technique_row import is_segmented
from gui.theme import theme
from gui.widgets.controls import NumberBox, Slider
from gui.widgets.fold import FoldButton
from gui.widgets.labels import TextLabel
from gui.widgets.segments import Segments
from gui.widgets.switch import Switch
from tests.gui.technique_bench import BF16, INT8, L1, Bench, loaded, report

# ------------------------------------------------------------------------------------------------------- the registry


def test_every_technique_of_the_registry_has_its_control_and_every_option_its_field(bench: Bench) -> None:
    assert list(bench.panel.rows) == [t.key for t in all_techniques()]
    for technique in all_techniques():
        row = bench.panel.rows[technique.key]
        if is_segmented(technique):
            assert isinstance(row.control, Segments)
            continue
        assert isinstance(row.control, Switch)
        assert row.control.text() == technique.label
        fields = [f.name for f in dataclasses.fields(technique.options_type)]
        assert (list(row.form.fields) if row.form is not None else []) == fields


def test_precision_has_segments_and_autocast_a_switch(bench: Bench) -> None:
    assert isinstance(bench.panel.rows["precision"].control, Segments)
    assert isinstance(bench.panel.rows["autocast"].control, Switch)
    groups = grouped(all_techniques())
    assert groups[0][0] == "Precision"
    assert sorted(t.key for _, members in groups for t in members) == sorted(t.key for t in all_techniques())


def test_limits_steps_and_units_of_a_share_come_from_its_metadata(bench: Bench) -> None:
    form = bench.panel.rows["prune-l1"].form
    assert form is not None
    slider, box = form.fields["amount"].controls
    assert isinstance(slider, Slider) and isinstance(box, NumberBox)
    assert (box.minimum(), box.maximum(), box.singleStep()) == (0.0, 95.0, 5.0)
    assert box.text() == "50\u00a0%"
    assert (slider.minimum(), slider.maximum(), slider.value()) == (0, 95, 50)


@pytest.mark.parametrize(("typed", "share", "words"), [
    ("42", 0.42, ""), ("99", 0.95, "99 is outside 0 % to 95 %: the nearest is 95 %."),
    ("200", 0.95, "200 is outside 0 % to 95 %: the nearest is 95 %."),
    ("-5", 0.0, "-5 is outside 0 % to 95 %: the nearest is 0 %."),
    ("abc", 0.5, "“abc” is not a number: 50 % stays."), ("", 0.5, "“” is not a number: 50 % stays.")])
def test_a_typed_number_is_taken_whole_and_its_correction_is_said(bench: Bench, typed: str, share: float,
                                                                 words: str) -> None:
    bench.say(loaded(L1))
    form = bench.panel.rows["prune-l1"].form
    assert form is not None
    field = form.fields["amount"]
    assert isinstance(field, NumberField)
    _, box = field.controls
    assert isinstance(box, NumberBox)
    box.setFocus()
    box.selectAll()
    bench.qtbot.keyClick(box, Qt.Key.Key_Delete)
    bench.qtbot.keyClicks(box, typed)
    assert box.text().startswith(typed)
    bench.qtbot.keyClick(box, Qt.Key.Key_Return)
    assert field.value() == share and box.text() == f"{share * 100:.0f}\u00a0%"
    assert field.correction.text().replace("\u00a0", " ") == words and field.correction.isHidden() == (not words)
    assert bench.asked() == ([] if share == 0.5 else [Recipe((make_options("prune-l1", {"amount": share}),))])
    bench.qtbot.keyClicks(box, "1")
    assert field.correction.isHidden(), "until the next number"


def test_a_form_is_visible_only_while_its_switch_is_on(bench: Bench) -> None:
    form = bench.panel.rows["prune-l1"].form
    assert form is not None and form.isHidden()
    bench.switch("prune-l1").click()
    assert form.isVisible()
    bench.switch("prune-l1").click()
    assert form.isHidden()


# ------------------------------------------------------------------------------------------------- with a real engine


def test_a_switch_applies_and_the_report_says_what_engaged(bench: Bench, llama_folder: Path) -> None:
    bench.load(llama_folder)
    assert "fp32" in bench.panel.report_view.text
    bench.switch("int8-dynamic").click()
    assert bench.panel.recipe == INT8
    bench.settle()
    active = bench.panel.report_view.report
    assert active is not None and active.recipe == INT8, bench.panel.problem.text
    assert "int8 dynamic: engaged" in bench.panel.report_view.text
    assert active.kernels[0][0] in bench.panel.report_view.text
    bench.switch("int8-dynamic").click()
    bench.settle()
    assert bench.panel.report_view.report is not None
    assert bench.panel.report_view.report.recipe == Recipe()


def test_a_segment_applies_and_fp32_is_off(bench: Bench, llama_folder: Path) -> None:
    bench.load(llama_folder)
    bench.segment("precision", "bf16").click()
    assert bench.panel.recipe == BF16
    bench.settle()
    bench.segment("precision", "fp32").click()
    bench.settle()
    assert bench.panel.recipe == Recipe()
    assert bench.asked() == [BF16, Recipe()]


def test_a_slider_asks_once_when_it_is_let_go(bench: Bench, llama_folder: Path) -> None:
    bench.load(llama_folder)
    bench.switch("prune-l1").click()
    bench.settle()
    form = bench.panel.rows["prune-l1"].form
    assert form is not None
    slider, box = form.fields["amount"].controls
    assert isinstance(slider, Slider) and isinstance(box, NumberBox)
    slider.setSliderDown(True)
    for notch in range(51, 71):
        slider.setValue(notch)
    assert box.value() == 70
    assert len(bench.asked()) == 1
    slider.setSliderDown(False)  # emits sliderReleased
    assert len(bench.asked()) == 2
    bench.settle()
    assert bench.panel.recipe == Recipe((make_options("prune-l1", {"amount": 0.7}),))
    assert "70 % of the block weights" in bench.panel.report_view.text


def test_keys_on_a_slider_ask_after_a_pause(bench: Bench) -> None:
    bench.say(loaded(L1))
    form = bench.panel.rows["prune-l1"].form
    assert form is not None
    slider = form.fields["amount"].controls[0]
    for _ in range(3):
        bench.qtbot.keyClick(slider, Qt.Key.Key_Right)
    assert bench.asked() == []
    bench.until(lambda: bool(bench.asked()))
    assert bench.asked() == [Recipe((make_options("prune-l1", {"amount": 0.65}),))]


def test_an_exact_amount_of_a_file_is_not_rounded_by_showing_it(bench: Bench) -> None:
    recipe = Recipe((make_options("prune-l1", {"amount": 0.3333}), make_options("int8-dynamic", {})))
    bench.say(loaded(recipe))
    bench.switch("int8-dynamic").click()
    assert bench.asked() == [Recipe((make_options("prune-l1", {"amount": 0.3333}),))]


def test_options_come_back_when_a_switch_goes_on_again(bench: Bench) -> None:
    recipe = Recipe((make_options("prune-l1", {"amount": 0.3}),))
    bench.say(loaded(recipe))
    bench.switch("prune-l1").click()
    bench.switch("prune-l1").click()
    assert bench.asked() == [Recipe(), recipe]


# ---------------------------------------------------------------------------------------------- conflicts and failures


def test_a_failure_turns_the_switches_back_and_keeps_its_details_behind_a_fold(bench: Bench) -> None:
    bench.say(loaded())
    bench.switch("int8-dynamic").click()
    bench.say(RecipeFailed(0.0, INT8, Recipe(), "Memory ran out.", "Choose fewer bits.", "Traceback: here"))
    problem = bench.panel.problem
    assert not bench.switch("int8-dynamic").isChecked()
    assert bench.panel.recipe == Recipe()
    assert problem.text == "Memory ran out. Choose fewer bits."
    details = problem.findChild(QPlainTextEdit)
    assert details is not None and details.isHidden()
    fold = next(b for b in problem.findChildren(QToolButton) if b.isCheckable())
    fold.click()
    assert details.isVisible() and details.toPlainText() == "Traceback: here"
    problem.copy()
    assert QGuiApplication.clipboard().text() == "Memory ran out.\nChoose fewer bits.\nTraceback: here"
    bench.switch("int8-dynamic").click()
    assert problem.text == ""


def test_only_the_last_wish_decides(bench: Bench) -> None:
    bench.say(loaded())
    bench.switch("int8-dynamic").click()
    bench.segment("precision", "bf16").click()
    both = INT8.with_options(BF16.options[0])
    bench.say(RecipeApplied(0.0, report(INT8)))
    assert bench.panel.recipe == both and bench.panel.state.pending
    bench.say(RecipeFailed(0.0, INT8, Recipe(), "An older wish failed.", ""))
    assert bench.panel.recipe == both and bench.panel.problem.text == ""
    bench.say(RecipeApplied(0.0, report(both)))
    assert not bench.panel.state.pending


def test_a_recipe_applied_by_another_room_moves_the_switches(bench: Bench) -> None:
    bench.say(loaded())
    bench.say(RecipeApplied(0.0, report(INT8)))
    assert bench.switch("int8-dynamic").isChecked()
    assert bench.panel.recipe == INT8 and bench.asked() == []


def test_a_build_that_takes_long_shows_its_progress(bench: Bench) -> None:
    bench.say(loaded())
    bench.switch("int8-dynamic").click()
    bench.say(Progress(0, 0.0, "Building int8", 9, 21))
    assert not bench.panel.status.is_busy
    bench.until(lambda: bench.panel.status.is_busy)
    assert "int8" in bench.panel.status.text
    assert (bench.panel.status.bar.value(), bench.panel.status.bar.maximum()) == (9, 21)
    bench.say(RecipeApplied(0.0, report(INT8)))
    assert not bench.panel.status.is_busy
    assert bench.panel.status.text == "Active: int8 · 4.20 MB (0.39×)"


# ------------------------------------------------------------------------------------------------- loading and devices


def test_the_head_says_what_to_do_then_loading_then_the_model(bench: Bench) -> None:
    head = bench.panel.head
    assert "Ctrl+O" in head.accessibleDescription()
    bench.say(JobStarted(1, 0.0, "LoadModel"))
    assert "Loading the model…" in head.accessibleDescription()
    bench.say(loaded())
    said = head.accessibleDescription().replace("\u200b", "")
    assert said == "dyno-small-1, 5.5 M parameters · 10.9 MB as bf16 on disk, AMD EPYC · cpu"
    bench.say(JobStarted(2, 0.0, "LoadModel"), Failed(2, 0.0, "No.", ""))
    assert "5.5 M" in head.accessibleDescription()


def test_what_is_chosen_while_a_model_loads_is_applied_when_it_is_ready(bench: Bench) -> None:
    bench.say(JobStarted(1, 0.0, "LoadModel"))
    bench.switch("int8-dynamic").click()
    assert bench.asked() == [] and bench.panel.state.pending
    bench.say(loaded())
    assert bench.asked() == [INT8]
    assert bench.switch("int8-dynamic").isChecked()


def test_what_is_chosen_without_a_model_is_remembered_for_the_next(bench: Bench) -> None:
    bench.switch("int8-dynamic").click()
    assert bench.asked() == [] and not bench.panel.state.pending
    assert bench.panel.initial_recipe() == INT8 == remembered_recipe(bench.settings)
    bench.say(loaded(INT8))
    assert bench.asked() == []


def test_what_cannot_run_here_is_disabled_and_says_why(bench: Bench) -> None:
    why = "int8 dynamic runs on a CPU only."
    bench.say(loaded(unavailable=(("int8-dynamic", why), ("precision:bf16", "No bf16."),
                                  ("autocast:bf16", "No bf16."))))
    switch, row = bench.switch("int8-dynamic"), bench.panel.rows["int8-dynamic"]
    assert not switch.isEnabled()
    assert row.reason == why == switch.toolTip()
    assert why in switch.accessibleDescription()
    assert not bench.segment("precision", "bf16").isEnabled() and bench.segment("precision", "fp16").isEnabled()
    assert bench.segment("precision", "bf16").toolTip() == "No bf16."
    combo = bench.panel.presets.combo
    model = combo.model()
    enabled = {entry.title: bool(model.flags(model.index(row, 0)) & Qt.ItemFlag.ItemIsEnabled)
               for row, entry in combo.entries.items()}
    assert enabled["fp16"] and not enabled["bf16"] and not enabled["int8 dynamic"]
    bench.switch("autocast").click()  # its default type cannot be had, so it takes the one that can
    assert bench.asked() == [Recipe((make_options("autocast", {"dtype": "fp16"}),))]
    bench.say(loaded())
    assert switch.isEnabled() and row.reason == ""


def test_a_technique_that_is_on_can_be_switched_off_even_where_it_cannot_run(bench: Bench) -> None:
    bench.say(loaded(INT8, unavailable=(("int8-dynamic", "No."),)))
    assert bench.switch("int8-dynamic").isEnabled()
    bench.switch("int8-dynamic").click()
    assert bench.asked() == [Recipe()]
    assert not bench.switch("int8-dynamic").isEnabled()


# ---------------------------------------------------------------------------------------------------------- remembering


def test_the_recipe_that_was_applied_is_remembered_between_starts(bench: Bench, qtbot: QtBot, tmp_path: Path) -> None:
    recipe = L1.with_options(INT8.options[0])
    bench.say(loaded())
    bench.panel.apply_recipe(recipe)
    assert remembered_recipe(bench.settings) == Recipe()  # not before it has been built
    bench.say(RecipeApplied(0.0, report(recipe)))
    bench.settings.sync()
    again = TechniquePanel(bench.bridge, Settings(tmp_path))
    qtbot.addWidget(again)
    assert again.initial_recipe() == recipe


@pytest.mark.parametrize("text", ["", "nonsense", "[1]", '{"techniques": {"gone": {}}}',
                                  '{"techniques": {"prune-l1": {"amount": "much"}}}', '{"techniques": 1}', "null"])
def test_an_unreadable_memory_is_plain_fp32(tmp_path: Path, text: str) -> None:
    settings = Settings(tmp_path)
    settings.set(SETTING, text)
    assert remembered_recipe(settings) == Recipe()


# ------------------------------------------------------------------------------------------------ hands, eyes and ears


def test_everything_works_by_keyboard_alone(bench: Bench) -> None:
    bench.say(loaded())
    bench.panel.activateWindow()
    bench.panel.presets.combo.setFocus(Qt.FocusReason.TabFocusReason)
    bench.until(lambda: bench.panel.presets.combo.hasFocus())
    visited: list[QWidget] = []
    while True:
        bench.qtbot.keyClick(QApplication.focusWidget(), Qt.Key.Key_Tab)
        here = QApplication.focusWidget()
        if here in visited or here is bench.panel.presets.combo:
            break
        visited.append(here)
    assert bench.segment("precision", "fp32") in visited
    switches = [w for w in visited if isinstance(w, Switch)]
    assert {s.text() for s in switches} == {t.label for t in all_techniques() if not is_segmented(t)}
    tops = [w.mapTo(bench.panel.widget(), QPoint(0, 0)).y() for w in visited]
    assert tops == sorted(tops), "Tab goes down the panel"
    assert visited[-1] is bench.panel.report_view.why_button
    bench.segment("precision", "fp32").setFocus(Qt.FocusReason.TabFocusReason)
    bench.qtbot.keyClick(bench.segment("precision", "fp32"), Qt.Key.Key_Right)
    bench.qtbot.keyClick(bench.segment("precision", "tf32"), Qt.Key.Key_Right)
    assert [recipe.label for recipe in bench.asked()] == ["tf32", "bf16"]
    bench.qtbot.keyClick(bench.switch("prune-l1"), Qt.Key.Key_Space)
    assert bench.switch("prune-l1").isChecked()
    bench.qtbot.keyClick(bench.switch("prune-l1"), Qt.Key.Key_Return)
    assert not bench.switch("prune-l1").isChecked()
    bench.qtbot.keyClick(bench.switch("prune-l1"), Qt.Key.Key_Enter)
    assert bench.asked()[-1] == BF16.with_options(make_options("prune-l1", {}))


def test_every_control_has_an_accessible_name_and_description(bench: Bench) -> None:
    bench.say(loaded(INT8))
    bench.show_everything()
    bench.panel._open_layers()
    assert bench.panel._layers is not None
    nameless = []
    for root in (bench.panel, bench.panel._layers):
        for widget in root.findChildren(QWidget):
            inner = isinstance(widget, QLineEdit) or widget.window() is not root.window()  # of boxes; popups
            if widget.focusPolicy() & Qt.FocusPolicy.TabFocus and not inner and not isinstance(widget, QScrollArea):
                if not (widget.accessibleName() and widget.accessibleDescription()):
                    nameless.append(f"{type(widget).__name__} {widget.accessibleName()!r}")
            elif isinstance(widget, QAbstractButton) and not inner and not (widget.accessibleName() or widget.text()):
                if type(widget) is QAbstractButton:
                    continue  # Qt's own: the corner of a table
                nameless.append(type(widget).__name__)
    assert nameless == []
    bench.panel._layers.close()


def test_the_wheel_scrolls_the_panel_and_changes_no_value(bench: Bench) -> None:
    bench.say(loaded(L1))
    form = bench.panel.rows["prune-l1"].form
    assert form is not None
    for control in (*form.fields["amount"].controls, bench.panel.presets.combo):
        control.clearFocus()
        place, turn = QPointF(5, 5), QPoint(0, -120)
        event = QWheelEvent(place, control.mapToGlobal(place), turn, turn, Qt.MouseButton.NoButton,
                            Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase, False)
        QApplication.sendEvent(control, event)
    assert form.fields["amount"].value() == 0.5
    assert bench.asked() == []


class LongWinded(QTranslator):
    """A language whose every text is 40 % longer."""

    def translate(self, context: str, text: str, disambiguation: str | None = None, n: int = -1) -> str:
        more = "lorem ipsum dolor sit amet " * 9
        return f"{text} {more[:round(0.4 * len(text))]}".rstrip()


@pytest.fixture
def long_winded(qapp: QApplication) -> Iterator[None]:
    translator = LongWinded()
    qapp.installTranslator(translator)
    yield
    qapp.removeTranslator(translator)


def test_texts_forty_percent_longer_fit(long_winded: None, bench: Bench) -> None:
    assert bench.panel.report_view.layers_button.text() == "Layers… lor"
    check_that_nothing_is_cut_off(bench, 100, 260)


@pytest.mark.parametrize(("percent", "width"), [(100, 260), (150, 260), (150, 400)])
def test_nothing_is_cut_off_when_narrow_or_large(bench: Bench, percent: int, width: int) -> None:
    check_that_nothing_is_cut_off(bench, percent, width)


def check_that_nothing_is_cut_off(bench: Bench, percent: int, width: int) -> None:
    """No word is wider than the panel, and every wrapped text has the height it needs."""
    bench.say(loaded(INT8, unavailable=(
        ("autocast", "This device has no bf16 arithmetic, and no fp16 arithmetic either."),
        ("attention:flash", "The flash backend runs on NVIDIA cards only."), ("precision:bf16", "No bf16."))))
    bench.show_everything()
    theme().set_font_percent(percent)
    bench.panel.resize(width, 700)
    content = bench.panel.widget()
    bench.until(lambda: content.width() == bench.panel.viewport().width())
    assert content.minimumSizeHint().width() <= width
    texts = (*content.findChildren(Switch), *content.findChildren(FoldButton), *content.findChildren(TextLabel))
    assert sum(text.isVisible() for text in texts) > 60
    for text in texts:
        if text.isVisible():
            assert text.height() >= text.heightForWidth(text.width()), text.text()


def test_a_change_of_theme_repaints_in_its_colours(bench: Bench) -> None:
    bench.say(loaded(INT8))
    switch = bench.switch("int8-dynamic")
    light = switch.grab().toImage()
    theme().set_choice("dark")
    assert switch.grab().toImage() != light
