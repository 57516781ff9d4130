"""The technique panel on a real engine with a tiny model, and, for what is hard to provoke, on events put by hand."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import QEvent, QPoint, QPointF, Qt, QTranslator
from PySide6.QtGui import QGuiApplication, QWheelEvent
from PySide6.QtWidgets import (
    QAbstractButton,
    QApplication,
    QFileDialog,
    QLineEdit,
    QPlainTextEdit,
    QRadioButton,
    QScrollArea,
    QToolButton,
    QWidget,
)
from pytestqt.qtbot import QtBot

import gui.theme
from engine.errors import DynoError
from engine.messages import (
    ApplyRecipe,
    Command,
    EngagedReport,
    Event,
    Failed,
    JobStarted,
    LayerReport,
    LoadModel,
    ModelInfo,
    ModelLoaded,
    Progress,
    RecipeApplied,
    RecipeFailed,
    Sampling,
    TechniqueReport,
)
from engine.outbox import Outbox
from engine.recipe import Recipe, load_presets, make_options
from engine.techniques import all_techniques
from engine.worker import Worker
from gui.bridge import Bridge
from gui.settings import Settings
from gui.techniques.controls import NumberBox, Slider
from gui.techniques.labels import TextLabel
from gui.techniques.panel import TechniquePanel, grouped
from gui.techniques.presets import read_recipe, write_recipe
from gui.techniques.recipe_state import SETTING, remembered_recipe
from gui.techniques.segments import Segments
from gui.techniques.switch import Switch
from gui.techniques.technique_row import is_segmented
from gui.techniques.words import change_text, percent_text
from gui.theme import install_theme, theme

INT8 = Recipe((make_options("int8-dynamic", {}),))
BF16 = Recipe((make_options("precision", {"dtype": "bf16"}),))
L1 = Recipe((make_options("prune-l1", {"amount": 0.5}),))
PATIENCE_MS = 60_000


class WatchedWorker(Worker):
    """A real worker that keeps a list of what it was told. It is only started where a test wants a model."""

    def __init__(self, outbox: Outbox) -> None:
        super().__init__(outbox, probe=False)
        self.told: list[Command] = []

    def submit(self, command: Command) -> None:
        self.told.append(command)
        super().submit(command)


class Bench:
    """A shown panel, its bridge, and a way to say what an engine would say."""

    def __init__(self, qtbot: QtBot, folder: Path) -> None:
        self.outbox = Outbox()
        self.worker = WatchedWorker(self.outbox)
        self.bridge = Bridge(self.worker, self.outbox)
        self.settings = Settings(folder)
        self.panel = TechniquePanel(self.bridge, self.settings)
        self.started = False
        qtbot.addWidget(self.panel)
        self.panel.resize(320, 900)
        self.panel.show()
        qtbot.waitExposed(self.panel)
        self.qtbot = qtbot

    def say(self, *events: Event) -> None:
        """Let the engine say something."""
        for event in events:
            self.outbox.put(event)
        self.bridge.drain()

    def load(self, folder: Path) -> None:
        """Start the engine and load a model with the panel's recipe."""
        self.bridge.start()
        self.started = True
        self.bridge.submit(LoadModel(self.bridge.next_id(), str(folder), self.panel.initial_recipe(), "cpu"))
        self.until(lambda: self.panel.state.has_model)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for it."""
        self.qtbot.waitUntil(condition, timeout=PATIENCE_MS)

    def settle(self) -> None:
        """Wait until the engine has answered."""
        self.until(lambda: not self.panel.state.pending)

    def asked(self) -> list[Recipe]:
        """The recipes the engine was asked for."""
        return [c.recipe for c in self.worker.told if isinstance(c, ApplyRecipe)]

    def switch(self, key: str) -> Switch:
        control = self.panel.rows[key].control
        assert isinstance(control, Switch)
        return control

    def segment(self, key: str, dtype: str) -> QRadioButton:
        control = self.panel.rows[key].control
        assert isinstance(control, Segments)
        return control.segment(dtype)


@pytest.fixture(autouse=True)
def themed(qapp: QApplication) -> Iterator[None]:
    """The theme, light and at its own size, before and after every test."""
    if gui.theme._theme is None:
        install_theme(qapp, "light", 100)
    theme().choice, theme().font_percent = "light", 100
    theme().apply()
    yield
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)  # or dead windows would be restyled for ever
    theme().choice, theme().font_percent = "light", 100
    theme().apply()


@pytest.fixture
def bench(qtbot: QtBot, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(qtbot, tmp_path)
    yield bench
    if bench.started:
        assert bench.bridge.stop()


def report(recipe: Recipe, **changes: object) -> EngagedReport:
    """A report as the engine would give it."""
    made = EngagedReport(
        recipe=recipe,
        techniques=tuple(TechniqueReport(o.key, o.key, True, 20, 10_900_000, 4_200_000, "A plain sentence.")
                         for o in recipe.options),
        layers=(*(LayerReport(f"blocks.{i}.attn.qkv", (768, 256 + i), "int8", 0.5, 196_608, "FBGEMM int8")
                  for i in range(12)), LayerReport("head", (5000, 256), "fp32", 0.0, 5_120_000, "F.linear", True)),
        weight_bytes=4_200_000, baseline_bytes=10_900_000, kv_bytes_per_token=2048, cache_dtype="fp32", sparsity=0.5,
        build_s=0.031)
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def loaded(recipe: Recipe = Recipe(), unavailable: tuple[tuple[str, str], ...] = (),  # noqa: B008 (frozen)
           job_id: int = 1) -> ModelLoaded:
    """A model as the engine would announce it."""
    info = ModelInfo("dyno-small-1", "/models/dyno-small-1", "llama", 5_500_000, 512, "bf16", 10_900_000, "cpu",
                     "AMD EPYC", 1, True, Sampling(), unavailable)
    return ModelLoaded(job_id, 0.0, info, report(recipe))


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
        assert row.form is not None
        assert list(row.form.fields) == [f.name for f in dataclasses.fields(technique.options_type)]


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


def test_a_conflict_turns_the_switch_back_and_says_why(bench: Bench) -> None:
    bench.say(loaded(BF16))
    bench.switch("autocast").click()
    with pytest.raises(DynoError) as error:
        BF16.with_options(make_options("autocast", {}))
    row = bench.panel.rows["autocast"]
    assert not bench.switch("autocast").isChecked()
    assert error.value.summary in row.refusal and error.value.hint in row.refusal
    assert bench.asked() == []
    bench.segment("precision", "fp32").click()
    assert row.refusal == ""


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
    model = bench.panel.presets.combo.model()
    enabled = {preset.title: bool(model.flags(model.index(row, 0)) & Qt.ItemFlag.ItemIsEnabled)
               for row, preset in enumerate(load_presets())}
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


# ------------------------------------------------------------------------------------------------- presets and recipes


def test_choosing_each_preset_asks_for_it_and_custom_stands_for_none(bench: Bench) -> None:
    bench.say(loaded())
    combo = bench.panel.presets.combo
    assert combo.currentText() == "fp32 baseline"
    for row, preset in enumerate(load_presets()):
        combo.setCurrentIndex(row)
        combo.activated.emit(row)
        assert bench.panel.recipe == preset.recipe
        assert combo.currentText() == preset.title and combo.toolTip() == preset.description
    bench.panel.apply_recipe(L1.with_options(INT8.options[0]))
    assert combo.currentIndex() == -1 and combo.placeholderText() == "Custom"
    bench.panel.apply_recipe(Recipe((make_options("precision", {"dtype": "fp32"}),)))
    assert combo.currentText() == "fp32 baseline"


def test_a_recipe_is_saved_and_opened_again(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.say(loaded(L1))
    path = tmp_path / "mine.json"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(path.with_suffix("")), ""))
    bench.panel.presets.save()
    assert Recipe.from_json(json.loads(path.read_text(encoding="utf-8"))) == L1
    bench.panel.apply_recipe(Recipe())
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(path), ""))
    bench.panel.presets.open()
    assert bench.panel.recipe == L1


@pytest.mark.parametrize("text", ["", "[]", "{", '{"techniques": {"prune-l1": {"amount": 7}}}',
                                  '{"techniques": {"magic": {}}}', '{"techniques": {"prune-l1": 3}}', "[" * 100_000])
def test_a_file_that_is_no_recipe_is_a_line_and_changes_nothing(bench: Bench, tmp_path: Path, text: str,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(path), ""))
    bench.panel.presets.open()
    assert bench.panel.problem.text != ""
    assert bench.panel.recipe == Recipe()


def test_a_folder_that_cannot_be_written_is_a_line_and_leaves_no_file(bench: Bench, tmp_path: Path,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "taken.json"
    target.mkdir()
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(target), ""))
    before = sorted(tmp_path.iterdir())
    bench.panel.presets.save()
    assert "taken.json cannot be written" in bench.panel.problem.text
    assert sorted(tmp_path.iterdir()) == before


def test_writing_and_reading_a_recipe_are_inverse(tmp_path: Path) -> None:
    for preset in load_presets():
        write_recipe(tmp_path / "r.json", preset.recipe)
        assert read_recipe(tmp_path / "r.json") == preset.recipe


def test_reset_switches_everything_off(bench: Bench) -> None:
    bench.say(loaded(L1.with_options(INT8.options[0])))
    menu = bench.panel.presets.menu_button.menu()
    assert [a.text() for a in menu.actions() if not a.isSeparator()] == [
        "Save recipe…", "Open recipe…", "Reset (all off)"]
    menu.actions()[-1].trigger()
    assert bench.asked() == [Recipe()]


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


# -------------------------------------------------------------------------------------------------------- the report


def test_the_report_gives_sizes_ratio_cache_kernels_and_each_techniques_sentence(bench: Bench) -> None:
    bench.say(loaded(INT8))
    text = bench.panel.report_view.text
    for part in ("10.9 MB → 4.20 MB (0.39×)", "2.05 kB per token, fp32", "50 % of the block weights", "in 31 ms",
                 "12 × FBGEMM int8", "1 × F.linear", "int8-dynamic: engaged", "Layers touched: 20",
                 "A plain sentence."):
        assert part in text
    cached = report(Recipe((make_options("prune-l1", {}),)), from_cache=True, sparsity=0.0, techniques=(
        TechniqueReport("prune-l1", "Pruning", False, 0, 0, 0, "Nothing to prune at this amount."),))
    bench.say(RecipeApplied(0.0, cached))
    text = bench.panel.report_view.text
    assert "from cache" in text and "Pruning: did not engage" in text and "block weights" not in text


def test_the_table_of_layers_sorts_by_number_and_copies_plain_values(bench: Bench) -> None:
    bench.say(loaded(INT8))
    bench.panel.report_view.layers_button.click()
    table = bench.panel._layers
    assert table is not None and table.isVisible() and not table.isModal()
    table.table.sortByColumn(4, Qt.SortOrder.DescendingOrder)
    table.copy()
    lines = QGuiApplication.clipboard().text().splitlines()
    assert lines[0].split("\t") == ["Layer", "Shape", "Type", "Zeros", "Bytes", "Kernel", "Shared"]
    assert lines[1].split("\t") == ["head", "5000x256", "fp32", "0.0", "5120000", "F.linear", "yes"]
    assert len(lines) == 14
    table.table.sortByColumn(0, Qt.SortOrder.AscendingOrder)
    table.table.selectRow(10)
    bench.qtbot.keyClick(table.table, Qt.Key.Key_C, Qt.KeyboardModifier.ControlModifier)
    assert QGuiApplication.clipboard().text().splitlines()[1:] == [
        "blocks.10.attn.qkv\t768x266\tint8\t0.5\t196608\tFBGEMM int8\tno"]
    bench.say(RecipeApplied(0.0, report(Recipe(), layers=report(Recipe()).layers[:3])))
    assert table.model.rowCount() == 3
    table.close()


def test_numbers_keep_their_units_and_never_turn_scientific() -> None:
    assert change_text(10_900_000, 4_200_000).replace("\u00a0", " ") == "10.9 MB → 4.20 MB (0.39×)"
    assert change_text(0, 0).endswith("(–)")
    assert [percent_text(x).replace("\u00a0", " ") for x in (0.0, 0.004, 0.5, 1.0)] == ["0 %", "0.4 %", "50 %", "100 %"]


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
    assert visited[-1] is bench.panel.report_view.layers_button
    bench.segment("precision", "fp32").setFocus(Qt.FocusReason.TabFocusReason)
    bench.qtbot.keyClick(bench.segment("precision", "fp32"), Qt.Key.Key_Right)
    assert bench.asked()[-1] == BF16
    bench.qtbot.keyClick(bench.switch("prune-l1"), Qt.Key.Key_Space)
    assert bench.switch("prune-l1").isChecked()
    bench.qtbot.keyClick(bench.switch("prune-l1"), Qt.Key.Key_Return)
    assert not bench.switch("prune-l1").isChecked()
    bench.qtbot.keyClick(bench.switch("prune-l1"), Qt.Key.Key_Enter)
    assert bench.asked()[-1] == BF16.with_options(make_options("prune-l1", {}))


def test_every_control_has_an_accessible_name_and_description(bench: Bench) -> None:
    bench.say(loaded(Recipe(tuple(t.options_type() for t in all_techniques() if t.key != "autocast"))))
    bench.panel.problem.tell("A", "B", "C")
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
    bench.say(loaded(Recipe(tuple(t.options_type() for t in all_techniques() if t.key != "autocast")),
                     unavailable=(("autocast", "This device has no bf16 arithmetic, and no fp16 arithmetic either."),)))
    bench.panel.problem.tell("The recipe needs 5.20 GB for weights; 3.10 GB are free.", "Close other programs.", "x")
    theme().set_font_percent(percent)
    bench.panel.resize(width, 700)
    content = bench.panel.widget()
    bench.until(lambda: content.width() == bench.panel.viewport().width())
    assert content.minimumSizeHint().width() <= width
    for text in (*content.findChildren(Switch), *content.findChildren(TextLabel)):
        if text.isVisible():
            assert text.height() >= text.heightForWidth(text.width()), text.text()


def test_a_change_of_theme_repaints_in_its_colours(bench: Bench) -> None:
    bench.say(loaded(INT8))
    switch = bench.switch("int8-dynamic")
    light = switch.grab().toImage()
    theme().set_choice("dark")
    assert switch.grab().toImage() != light
