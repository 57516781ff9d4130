"""Groups that fold, techniques that do the same job, and choices that cannot be had."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QStandardItemModel
from PySide6.QtWidgets import QComboBox
from pytestqt.qtbot import QtBot

from engine.messages import RecipeApplied, RecipeFailed
from engine.recipe import Recipe, make_options
from engine.techniques import all_techniques, technique
from gui.techniques.choices import essence, grouped, is_segmented, rivals
from gui.techniques.group import OPEN_AT_FIRST
from gui.techniques.panel import TechniquePanel
from gui.techniques.recipe_state import SETTING
from gui.widgets.segments import Segments
from gui.widgets.switch import Switch
from tests.gui.technique_bench import BF16, INT8, L1, Bench, loaded, report

INT4 = Recipe((make_options("int4-weight", {}),))


@pytest.fixture
def fresh(themed: None, qtbot: QtBot, tmp_path: Path) -> Bench:
    """A panel as at the very first start: nothing remembered, nothing unfolded by the test."""
    return Bench(qtbot, tmp_path)


def restarted(bench: Bench) -> TechniquePanel:
    """The panel of the next start."""
    bench.settings.sync()
    panel = TechniquePanel(bench.bridge, bench.settings)
    bench.qtbot.addWidget(panel)
    return panel


def opened(panel: TechniquePanel) -> set[str]:
    return {name for name, group in panel.groups.items() if group.is_open}


# ---------------------------------------------------------------------------------------------------------- folding


def test_groups_come_in_order_and_at_first_only_the_common_ones_are_open(fresh: Bench) -> None:
    assert list(fresh.panel.groups) == ["Precision", "Pruning", "Quantization", "KV cache and attention", "Decoding"]
    assert opened(fresh.panel) == set(OPEN_AT_FIRST)
    assert sorted(t.key for _, members in grouped(all_techniques()) for t in members) == sorted(
        t.key for t in all_techniques())
    fresh.say(loaded())
    for name, group in fresh.panel.groups.items():
        rows = [row for row in fresh.panel.rows.values() if row.technique.group == name]
        assert rows and all(row.isVisible() == group.is_open for row in rows)


def test_a_heading_says_how_many_are_on(fresh: Bench) -> None:
    fresh.say(loaded(L1.with_options(BF16.options[0]).with_options(make_options("prune-heads", {}))))

    def said() -> list[str]:
        return [group.heading.text().replace("\u00a0", " ") for group in fresh.panel.groups.values()]

    assert said() == ["Precision · 1 on", "Pruning · 2 on", "Quantization", "KV cache and attention", "Decoding"]
    fresh.panel.apply_recipe(Recipe((make_options("precision", {"dtype": "fp32"}),)))
    assert said()[0] == "Precision", "fp32 changes nothing"
    assert fresh.panel.groups["Pruning"].heading.accessibleName() == "Pruning"


def test_what_the_user_folds_and_unfolds_is_remembered(fresh: Bench) -> None:
    groups = fresh.panel.groups
    groups["Quantization"].heading.click()
    fresh.qtbot.keyClick(groups["Decoding"].heading, Qt.Key.Key_Return)
    assert opened(fresh.panel) == {"Precision", "Decoding"} == opened(restarted(fresh))


def test_a_group_with_something_on_is_open_at_start_whatever_was_remembered(fresh: Bench) -> None:
    fresh.settings.set(SETTING, '{"techniques": {"prune-l1": {}, "int8-dynamic": {}}}')
    fresh.panel.groups["Quantization"].heading.click()
    panel = restarted(fresh)
    assert opened(panel) == {"Precision", "Pruning", "Quantization"}


def test_a_folded_groups_controls_are_out_of_the_keyboards_way(fresh: Bench) -> None:
    fresh.say(loaded())
    assert not fresh.switch("prune-l1").isVisible()
    fresh.panel.groups["Pruning"].heading.click()
    assert fresh.switch("prune-l1").isVisible()


# ------------------------------------------------------------------------------------- techniques with the same job


@pytest.mark.parametrize("old", ["int8-dynamic", "int8-weight", "fp8"])
def test_switching_on_a_technique_replaces_the_one_that_does_the_same_job(bench: Bench, old: str) -> None:
    bench.say(loaded(BF16.with_options(make_options(old, {}))))
    bench.switch("int4-weight").click()
    assert bench.asked() == [BF16.with_options(INT4.options[0])]
    assert not bench.switch(old).isChecked() and bench.switch("int4-weight").isChecked()
    row, rival = bench.panel.rows["int4-weight"], technique(old)
    assert rival is not None and row.refusal == ""
    assert row.note == f"Replaces {rival.label}: a recipe holds one quantization of the weights."
    bench.switch("prune-heads").click()
    assert row.note == "", "until the next wish"


def test_an_option_of_what_is_on_replaces_nothing(bench: Bench) -> None:
    bench.say(loaded(L1))
    form = bench.panel.rows["prune-l1"].form
    assert form is not None
    form.edited.emit(make_options("prune-l1", {"amount": 0.7}))
    assert bench.asked() == [Recipe((make_options("prune-l1", {"amount": 0.7}),))]
    assert bench.panel.rows["prune-l1"].note == ""
    assert rivals(L1, "prune-l1") == [] and rivals(L1, "int8-dynamic") == []
    assert [t.key for t in rivals(L1, "prune-wanda")] == ["prune-l1"]


def test_other_conflicts_are_settled_the_same_way_and_can_be_taken_back(bench: Bench) -> None:
    recipe = Recipe((make_options("precision", {"dtype": "bf16"}), *INT4.options))
    bench.say(loaded(recipe))
    bench.switch("autocast").click()
    row, wanted = bench.panel.rows["autocast"], INT4.with_options(make_options("autocast", {}))
    assert row.refusal == "" and row.note.startswith("Switched off Precision: ")
    assert "Autocast works on fp32 weights" in row.note, "and why"
    assert bench.asked() == [wanted] and bench.panel.recipe == wanted
    assert bench.switch("int4-weight").isChecked() and bench.switch("autocast").isChecked()
    bench.say(RecipeApplied(0.0, report(wanted)))
    assert row.undo_button.isVisibleTo(row)
    row.undo_button.click()
    assert bench.asked() == [wanted, recipe] and bench.panel.recipe == recipe
    assert row.note == "" and row.undo_button.isHidden()


def test_a_precision_switches_off_autocast_and_the_other_way_round(bench: Bench) -> None:
    bench.say(loaded(Recipe((make_options("autocast", {}),))))
    bench.segment("precision", "bf16").click()
    assert bench.asked() == [BF16] and not bench.switch("autocast").isChecked()
    assert bench.panel.rows["precision"].note.startswith("Switched off Autocast (AMP): ")
    bench.say(RecipeApplied(0.0, report(BF16)))
    bench.switch("autocast").click()
    assert bench.panel.recipe.label == "autocast bf16" and bench.segment("precision", "fp32").isChecked()
    assert bench.panel.rows["precision"].note == "" and "Precision" in bench.panel.rows["autocast"].note


def test_a_replacement_that_cannot_be_built_says_only_why(bench: Bench) -> None:
    bench.say(loaded(INT8))
    bench.switch("int4-weight").click()
    bench.say(RecipeFailed(0.0, INT4, INT8, "Memory ran out.", "Choose fewer bits."))
    assert bench.panel.rows["int4-weight"].note == ""
    assert bench.panel.problem.text == "Memory ran out. Choose fewer bits."
    assert bench.switch("int8-dynamic").isChecked()


# ------------------------------------------------------------------------------------------------ cases and choices


def test_segments_are_for_techniques_whose_one_choice_is_off(bench: Bench) -> None:
    for found in all_techniques():
        control = bench.panel.rows[found.key].control
        assert isinstance(control, Segments if found.neutral else Switch)
        assert is_segmented(found) == bool(found.neutral)
    neutral = Recipe((make_options("precision", {"dtype": "fp32"}),))
    assert essence(neutral) == Recipe() and essence(BF16) == BF16


def test_a_choice_that_cannot_be_had_is_disabled_with_its_reason_in_its_box(bench: Bench) -> None:
    why = "The cudnn backend runs on NVIDIA cards only."
    bench.say(loaded(Recipe((make_options("attention", {}),)),
                     unavailable=(("attention:cudnn", why), ("attention:flash", "No such kernel."))))
    row = bench.panel.rows["attention"]
    assert row.form is not None and row.reason == ""
    assert bench.switch("attention").isEnabled()
    box = row.form.fields["backend"].controls[0]
    assert isinstance(box, QComboBox)
    model = box.model()
    assert isinstance(model, QStandardItemModel)
    enabled = {box.itemText(i): model.item(i).isEnabled() for i in range(box.count())}
    assert enabled == {"plain": True, "math": True, "flash": False, "efficient": True, "cudnn": False}
    assert box.itemData(box.findData("cudnn"), Qt.ItemDataRole.ToolTipRole) == why
    words = getattr(row.form.fields["backend"], "reasons")  # noqa: B009  of choice fields alone
    assert words.isVisible() and words.text() == f"{why}\nflash: No such kernel."


def test_a_case_of_one_option_disables_no_choice_of_another(bench: Bench) -> None:
    bench.say(loaded(Recipe((make_options("kv-cache", {}),)), unavailable=(("kv-cache:bf16", "No bf16."),)))
    for found in all_techniques():
        form = bench.panel.rows[found.key].form
        for name, field in (form.fields.items() if form is not None else ()):
            box = field.controls[0]
            if isinstance(box, QComboBox):
                model = box.model()
                assert isinstance(model, QStandardItemModel)
                off = [box.itemData(i) for i in range(box.count()) if not model.item(i).isEnabled()]
                assert off == (["bf16"] if (found.key, name) == ("kv-cache", "dtype") else [])


def test_a_switch_takes_the_first_choice_that_can_be_had(bench: Bench) -> None:
    bench.say(loaded(unavailable=(("kv-cache:int8", "No."), ("kv-cache:fp32", "No."))))
    bench.switch("kv-cache").click()
    assert bench.asked() == [Recipe((make_options("kv-cache", {"dtype": "bf16"}),))]


def test_several_choices_are_compact_and_explained_behind_a_fold(bench: Bench) -> None:
    bench.say(loaded(INT4))
    form = bench.panel.rows["int4-weight"].form
    assert form is not None
    names = [f.name for f in dataclasses.fields(INT4.options[0])]
    boxes = [form.fields[name].widget for name in names]
    captions = [label for label in form.findChildren(type(bench.panel.rows["fp8"]._about))
                if label.text() == "Group size"]
    assert abs(captions[0].geometry().center().y() - boxes[0].geometry().center().y()) <= 2, "on one line"
    folded_height = form.sizeHint().height()
    assert not any(line.isVisible() for line in form._helps)
    form.fold.click()
    assert all(line.isVisible() for line in form._helps) and form.sizeHint().height() > folded_height
    assert boxes[0].accessibleDescription() == dataclasses.fields(INT4.options[0])[0].metadata["help"]
