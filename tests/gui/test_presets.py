"""The row of presets: those that ship with the app, the user's own, and recipes in files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QApplication, QFileDialog, QPushButton
from pytestqt.qtbot import QtBot

from engine.errors import DynoError
from engine.messages import RecipeApplied
from engine.recipe import Recipe, load_presets, make_options
from engine.recipe_files import list_recipes, save_recipe, write_recipe
from gui.techniques.presets import PresetRow
from tests.gui.technique_bench import BF16, INT8, L1, Bench, loaded, report

STACK = L1.with_options(INT8.options[0])


def items(presets: PresetRow) -> list[tuple[str, bool]]:
    """(text, whether it can be chosen) of every line of the list."""
    combo = presets.combo
    model = combo.model()
    return [(combo.itemText(row), bool(model.flags(model.index(row, 0)) & Qt.ItemFlag.ItemIsEnabled))
            for row in range(combo.count())]


def choose(presets: PresetRow, title: str) -> None:
    row = presets.combo.row(title)
    presets.combo.setCurrentIndex(row)
    presets.combo.activated.emit(row)


def save_as(presets: PresetRow, name: str) -> None:
    presets.save()
    presets.form.field.setText(name)
    presets.form.save_button.click()


def action(presets: PresetRow, text: str) -> QAction:
    return next(a for a in presets.menu_button.menu().actions() if a.text() == text)


def test_choosing_each_preset_asks_for_it_and_custom_stands_for_none(bench: Bench) -> None:
    bench.say(loaded())
    combo = bench.panel.presets.combo
    assert combo.currentText() == "fp32 baseline"
    for preset in load_presets():
        choose(bench.panel.presets, preset.title)
        assert bench.panel.recipe == preset.recipe
        assert combo.currentText() == preset.title and combo.toolTip() == preset.description
    bench.panel.apply_recipe(STACK)
    assert combo.currentIndex() == -1 and combo.placeholderText() == "Custom"
    bench.panel.apply_recipe(Recipe((make_options("precision", {"dtype": "fp32"}),)))
    assert combo.currentText() == "fp32 baseline"


def test_presets_stand_in_their_order_under_the_names_of_their_groups(bench: Bench) -> None:
    lines = items(bench.panel.presets)
    assert [text for text, chosen in lines if chosen] == [preset.title for preset in load_presets()]
    headings = [text for text, chosen in lines if not chosen]
    assert headings == ["Precision", "Quantization", "Pruning", "KV cache and attention", "Decoding",
                        "Several together"]
    assert lines[0] == ("Precision", False) and lines[-1] == ("Small and fast", True)


def test_arrow_keys_step_over_headings(bench: Bench) -> None:
    bench.say(loaded())
    combo = bench.panel.presets.combo
    choose(bench.panel.presets, "Autocast bf16 (AMP)")
    bench.qtbot.keyClick(combo, Qt.Key.Key_Down)
    assert combo.currentText() == "int8 dynamic"
    assert bench.panel.recipe.label == "int8"


def test_a_recipe_is_exported_and_imported_again(bench: Bench, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    bench.say(loaded(L1))
    path = tmp_path / "mine.json"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(path.with_suffix("")), ""))
    bench.panel.presets.export_file()
    assert Recipe.from_json(json.loads(path.read_text(encoding="utf-8"))) == L1
    bench.panel.apply_recipe(Recipe())
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(path), ""))
    bench.panel.presets.import_file()
    assert bench.panel.recipe == L1


def importing(bench: Bench, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(path), ""))
    bench.panel.presets.import_file()


def test_an_import_keeps_its_name_and_none_is_taken_twice(bench: Bench, tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    bench.say(loaded())
    presets, folder, path = bench.panel.presets, tmp_path / "recipes", tmp_path / "a file.json"
    write_recipe(path, STACK, "From a friend")
    importing(bench, path, monkeypatch)
    assert presets.combo.currentText() == "From a friend" and bench.panel.recipe == STACK
    assert presets.notice.text() == "Imported as “From a friend”."
    importing(bench, path, monkeypatch)
    assert [s.name for s in list_recipes(folder)[0]] == ["From a friend"], "the same one is not kept twice"
    write_recipe(path, L1, "From a friend")
    importing(bench, path, monkeypatch)
    assert presets.combo.currentText() == "From a friend 2" and bench.panel.recipe == L1
    write_recipe(path, STACK, "bf16")
    importing(bench, path, monkeypatch)
    assert presets.combo.currentText() == "bf16 2", "one that ships with the app keeps its name"
    write_recipe(path, L1.with_options(BF16.options[0]), "L1, bf16: mine.json")
    importing(bench, path, monkeypatch)
    assert presets.combo.currentText() == "L1 bf16 mine"
    write_recipe(path, BF16, "bf16")
    importing(bench, path, monkeypatch)
    assert presets.combo.currentText() == "bf16"
    write_recipe(path, INT8, "int8-dynamic")
    importing(bench, path, monkeypatch)
    assert presets.combo.currentText() == "int8-dynamic (import)", "a technique's name is none for a preset"


def test_export_offers_the_name_in_the_box(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offered: list[str] = []

    def ask(_parent: object, _title: str, name: str, _filter: str) -> tuple[str, str]:
        offered.append(name)
        return "", ""

    monkeypatch.setattr(QFileDialog, "getSaveFileName", ask)
    bench.say(loaded(STACK))
    bench.panel.presets.export_file()
    save_as(bench.panel.presets, "Mine 1/2")
    bench.panel.presets.export_file()
    assert offered == ["recipe.json", "Mine 1-2.json"]


@pytest.mark.parametrize(("techniques", "words"), [
    ('"int4-weight": {}, "int8-dynamic": {}', ["int4 weight-only", "int8 dynamic", "Take one of them out of the file"]),
    ('"int9": {}', ["int9"]), ('"precision": {"dtype": "fp64"}', ["fp64"])])
def test_what_is_wrong_with_a_file_names_it_and_speaks_of_no_switch(
        bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, techniques: str, words: list[str]) -> None:
    path = tmp_path / "odd.json"
    path.write_text(f'{{"techniques": {{{techniques}}}}}', encoding="utf-8")
    importing(bench, path, monkeypatch)
    text = bench.panel.problem.text
    assert text.startswith("odd.json cannot be imported. ") and all(word in text for word in words), text
    assert "witch" not in text and bench.panel.recipe == Recipe()


def test_the_chosen_one_of_two_equal_presets_is_shown_after_a_restart(
        bench: Bench, qtbot: QtBot, tmp_path: Path) -> None:
    bench.say(loaded())
    presets = bench.panel.presets
    save_recipe(tmp_path / "recipes", "A", INT8)
    save_recipe(tmp_path / "recipes", "B", INT8)
    presets._refresh()
    for name in ("B", "A", "int8 dynamic", "B"):
        choose(presets, name)
        bench.say(RecipeApplied(0.0, report(INT8)))
        again = Bench(qtbot, tmp_path)
        assert again.panel.presets.combo.currentText() == name
        again.panel.close()


def test_a_name_that_is_too_long_is_said_and_not_cut(bench: Bench, tmp_path: Path) -> None:
    bench.say(loaded(STACK))
    presets = bench.panel.presets
    presets.save()
    bench.qtbot.keyClicks(presets.form.field, "x" * 51)
    assert presets.form.field.text() == "x" * 51
    assert presets.form.problem == "A name has at most 50 letters; this one has 51."
    bench.qtbot.keyClick(presets.form.field, Qt.Key.Key_Return)
    assert presets.form.isVisible() and list_recipes(tmp_path / "recipes")[0] == ()
    bench.qtbot.keyClick(presets.form.field, Qt.Key.Key_Backspace)
    assert presets.form.problem == ""
    bench.qtbot.keyClick(presets.form.field, Qt.Key.Key_Return)
    assert presets.combo.currentText() == "x" * 50


def test_the_focus_goes_back_to_the_box_when_the_name_is_given(bench: Bench) -> None:
    bench.say(loaded(STACK))
    presets = bench.panel.presets
    bench.panel.activateWindow()
    for key in (Qt.Key.Key_Return, Qt.Key.Key_Escape):
        presets.save()
        presets.form.field.setText("Mine")
        bench.until(lambda: presets.form.field.hasFocus())
        bench.qtbot.keyClick(presets.form.field, key)
        assert presets.form.isHidden() and QApplication.focusWidget() is presets.combo


@pytest.mark.parametrize("text", ["", "[]", "{", '{"techniques": {"prune-l1": {"amount": 7}}}',
                                  '{"techniques": {"magic": {}}}', '{"techniques": {"prune-l1": 3}}', "[" * 100_000])
def test_a_file_that_is_no_recipe_is_a_line_and_changes_nothing(bench: Bench, tmp_path: Path, text: str,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(path), ""))
    bench.panel.presets.import_file()
    assert bench.panel.problem.text != ""
    assert bench.panel.recipe == Recipe()


def test_a_folder_that_cannot_be_written_is_a_line_and_leaves_no_file(bench: Bench, tmp_path: Path,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "taken.json"
    target.mkdir()
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(target), ""))
    before = sorted(tmp_path.iterdir())
    bench.panel.presets.export_file()
    assert "taken.json cannot be written" in bench.panel.problem.text
    assert sorted(tmp_path.iterdir()) == before


def test_the_menu_offers_what_fits_the_preset_in_the_box(bench: Bench) -> None:
    presets = bench.panel.presets
    bench.say(loaded(STACK))
    menu = presets.menu_button.menu()
    assert [a.text() for a in menu.actions() if not a.isSeparator()] == [
        "Save as preset…", "Rename…", "Delete", "Import…", "Export…", "Reset (all off)"]
    assert not action(presets, "Rename…").isEnabled() and not action(presets, "Delete").isEnabled()
    save_as(presets, "Mine")
    assert action(presets, "Rename…").isEnabled() and action(presets, "Delete").isEnabled()
    action(presets, "Reset (all off)").trigger()
    assert bench.asked() == [Recipe()]
    assert not action(presets, "Delete").isEnabled()


# ------------------------------------------------------------------------------------------------- the user's own


def test_a_recipe_saved_as_a_preset_is_in_the_list_and_in_that_of_the_next_start(bench: Bench, qtbot: QtBot,
                                                                                 tmp_path: Path) -> None:
    presets = bench.panel.presets
    bench.say(loaded(STACK))
    presets.save()
    assert presets.form.isVisible() and presets.form.field.text() == "L1 50 % + int8"
    assert presets.form.field.hasSelectedText()
    presets.form.field.setText("  My   fast one ")
    bench.qtbot.keyClick(presets.form.field, Qt.Key.Key_Return)
    assert presets.form.isHidden() and presets.combo.currentText() == "My fast one"
    assert items(presets)[-2:] == [("Your presets", False), ("My fast one", True)]
    again = PresetRow(tmp_path / "recipes")
    qtbot.addWidget(again)
    assert items(again)[-1] == ("My fast one", True)
    again.show_recipe(STACK)
    assert again.combo.currentText() == "My fast one"


def test_a_preset_of_ones_own_that_does_what_a_shipped_one_does_is_the_one_shown(bench: Bench) -> None:
    presets = bench.panel.presets
    bench.say(loaded(BF16))
    assert presets.combo.currentText() == "bf16"
    save_as(presets, "Half")
    assert presets.combo.currentText() == "Half"
    choose(presets, "bf16")
    assert presets.combo.currentText() == "bf16", "unless the other was chosen"


def test_a_taken_name_is_replaced_only_when_asked_twice(bench: Bench, tmp_path: Path) -> None:
    presets, folder = bench.panel.presets, tmp_path / "recipes"
    save_recipe(folder, "Mine", BF16)
    bench.say(loaded(STACK))
    save_as(presets, "mine")
    assert presets.form.isVisible() and "Replace it?" in presets.form.problem
    assert presets.form.save_button.text() == "Replace"
    assert [s.recipe for s in list_recipes(folder)[0]] == [BF16]
    presets.form.save_button.click()
    assert presets.form.isHidden()
    assert [(s.name, s.recipe) for s in list_recipes(folder)[0]] == [("mine", STACK)]


def test_typing_another_name_takes_the_offer_to_replace_back(bench: Bench, tmp_path: Path) -> None:
    presets = bench.panel.presets
    save_recipe(tmp_path / "recipes", "Mine", BF16)
    bench.say(loaded(STACK))
    save_as(presets, "Mine")
    bench.qtbot.keyClicks(presets.form.field, "2")
    assert presets.form.save_button.text() == "Save" and presets.form.problem == ""


@pytest.mark.parametrize(("name", "said"), [("", "needs a name"), ("  ", "needs a name"),
                                            ("FP32 Baseline", "ships with the app")])
def test_a_name_that_cannot_be_is_explained_under_the_field(bench: Bench, tmp_path: Path, name: str,
                                                           said: str) -> None:
    bench.say(loaded(STACK))
    save_as(bench.panel.presets, name)
    assert bench.panel.presets.form.isVisible() and said in bench.panel.presets.form.problem
    assert list_recipes(tmp_path / "recipes") == ((), ())


def test_escape_leaves_the_form_without_saving(bench: Bench, tmp_path: Path) -> None:
    bench.say(loaded(STACK))
    presets = bench.panel.presets
    presets.save()
    presets.form.field.setText("Mine")
    bench.qtbot.keyClick(presets.form.field, Qt.Key.Key_Escape)
    assert presets.form.isHidden() and list_recipes(tmp_path / "recipes")[0] == ()


def test_a_preset_is_renamed(bench: Bench, tmp_path: Path) -> None:
    bench.say(loaded(STACK))
    presets = bench.panel.presets
    save_as(presets, "Mine")
    save_recipe(tmp_path / "recipes", "Other", BF16)
    presets.rename()
    assert presets.form.field.text() == "Mine" and presets.form.save_button.text() == "Rename"
    presets.form.field.setText("Other")
    presets.form.save_button.click()
    assert "already" in presets.form.problem
    presets.form.field.setText("Better")
    presets.form.save_button.click()
    assert presets.combo.currentText() == "Better"
    assert [s.name for s in list_recipes(tmp_path / "recipes")[0]] == ["Better", "Other"]


def test_a_deleted_preset_comes_back_with_undo_and_the_recipe_stays_on(bench: Bench, tmp_path: Path) -> None:
    bench.say(loaded(STACK))
    presets, folder = bench.panel.presets, tmp_path / "recipes"
    save_as(presets, "Mine")
    presets.delete()
    assert list_recipes(folder)[0] == () and presets.combo.currentIndex() == -1
    assert bench.panel.recipe == STACK and presets.notice.text() == "Deleted “Mine”."
    undo = next(b for b in presets.notice.findChildren(QPushButton) if b.text() == "Undo")
    undo.click()
    assert presets.combo.currentText() == "Mine"
    assert [(s.name, s.recipe) for s in list_recipes(folder)[0]] == [("Mine", STACK)]


def test_a_damaged_preset_is_left_out_and_named(qtbot: QtBot, themed: None, tmp_path: Path) -> None:
    save_recipe(tmp_path, "Good", BF16)
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    presets = PresetRow(tmp_path)
    qtbot.addWidget(presets)
    assert presets.combo.row("Good") > 0
    assert "bad.json" in presets.notice.text() and not presets.notice.isHidden()


def test_a_disk_that_refuses_is_a_line_and_the_name_stays_in_the_form(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "recipes").write_text("a file where the folder should be", encoding="utf-8")
    bench.say(loaded(STACK))
    save_as(bench.panel.presets, "Mine")
    assert "cannot be written" in bench.panel.presets.form.problem
    assert bench.panel.presets.form.field.text() == "Mine"


def test_a_preset_that_cannot_run_here_says_why_and_cannot_be_chosen(bench: Bench, tmp_path: Path) -> None:
    save_recipe(tmp_path / "recipes", "Mine", BF16)
    bench.panel.presets._refresh()
    bench.say(loaded(unavailable=(("precision:bf16", "No bf16."), ("fp8", "No fp8."))))
    lines = dict(items(bench.panel.presets))
    assert not lines["Mine"] and not lines["bf16"] and not lines["fp8"] and lines["fp16"]
    combo = bench.panel.presets.combo
    assert combo.itemData(combo.row("Mine"), Qt.ItemDataRole.ToolTipRole) == "No bf16."


def test_an_undo_whose_name_was_taken_meanwhile_is_a_line(bench: Bench, tmp_path: Path) -> None:
    bench.say(loaded(STACK))
    presets = bench.panel.presets
    save_as(presets, "Mine")
    presets.delete()
    save_recipe(tmp_path / "recipes", "Mine", BF16)
    next(b for b in presets.notice.findChildren(QPushButton) if b.text() == "Undo").click()
    assert "already" in bench.panel.problem.text
    with pytest.raises(DynoError):
        save_recipe(tmp_path / "recipes", "Mine", STACK)
