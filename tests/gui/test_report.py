"""What engaged: the report under the switches, the table of layers, and the line that says the compiler is at work."""

from __future__ import annotations

import dataclasses

from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QLabel

from engine.messages import Compiling, LayerReport, RecipeApplied, TechniqueReport
from engine.recipe import Recipe, make_options
from gui.widgets.words import change_text, percent_text, precise_text
from tests.gui.technique_bench import INT8, Bench, loaded, report

COMPILED = Recipe((make_options("compile", {}),))


def compile_report(engaged: bool, detail: str, build_s: float = 0.0) -> RecipeApplied:
    made = TechniqueReport("compile", "Compile (torch.compile)", engaged, 0, 0, 0, detail, build_s)
    return RecipeApplied(0.0, report(COMPILED, techniques=(made,)))


def test_the_report_gives_sizes_ratio_cache_kernels_and_each_techniques_sentence(bench: Bench) -> None:
    bench.say(loaded(INT8))
    text = bench.panel.report_view.text
    for part in ("10.9 MB → 4.20 MB (0.39×)", "2.05 kB per token, fp32", "50 % of the block weights", "in 31 ms",
                 "12 × oneDNN int8", "1 × F.linear", "int8-dynamic: engaged", "Weight matrices touched: 20",
                 "A plain sentence."):
        assert part in text
    assert "mapped" not in text and "full context" not in text
    cached = report(Recipe((make_options("prune-l1", {}),)), from_cache=True, sparsity=0.0, techniques=(
        TechniqueReport("prune-l1", "Pruning", False, 0, 0, 0, "Nothing to prune at this amount."),))
    bench.say(RecipeApplied(0.0, cached))
    text = bench.panel.report_view.text
    assert "from cache" in text and "Pruning: did not engage" in text and "block weights" not in text


def test_the_report_gives_the_cache_at_full_context_and_what_is_mapped(bench: Bench) -> None:
    bench.say(loaded(INT8), RecipeApplied(0.0, report(INT8, context=4096, mapped_bytes=154_000_000)))
    text = bench.panel.report_view.text
    assert "8.39 MB at the full context of 4,096 tokens" in text
    assert "rows are read from the file: 154 MB mapped, no memory of their own" in text


def test_the_report_says_how_single_tokens_run_where_the_engine_tells(bench: Bench) -> None:
    why = "PyTorch, not the native step. Autocast brings its own way to compute a token."
    bench.say(loaded(INT8))
    assert "Single tokens" not in bench.panel.report_view.text
    bench.say(RecipeApplied(0.0, report(INT8, token_step=why)))
    assert f"Single tokens\n{why}" in bench.panel.report_view.text


def test_the_report_says_which_layers_lie_where_and_nothing_where_one_device_holds_them(bench: Bench) -> None:
    where = "Layers 1 to 20 and what surrounds them on A card (cuda:0); layers 21 to 32 on A processor (cpu)."
    bench.say(loaded(INT8))
    assert "Devices" not in bench.panel.report_view.text
    bench.say(RecipeApplied(0.0, report(INT8, placement=where)))
    assert f"Devices\n{where}" in bench.panel.report_view.text


def test_a_technique_says_its_kernels_and_what_building_it_took(bench: Bench) -> None:
    made = TechniqueReport("int8-dynamic", "int8 dynamic", True, 24, 18_000_000, 4_200_000, "Codes.", 0.042,
                           (("oneDNN int8", 20), ("F.linear", 4)))
    bench.say(loaded(INT8), RecipeApplied(0.0, report(INT8, techniques=(made,))))
    text = bench.panel.report_view.text
    assert "Weight matrices touched: 24\nModel's weights: 18.0 MB → 4.20 MB (0.23×)" in text
    assert "20 × oneDNN int8\n4 × F.linear" in text and "Building it took 42 ms" in text


def test_the_fingerprint_can_be_selected_and_copied(bench: Bench) -> None:
    bench.say(loaded(INT8))
    shown = next(label for label in bench.panel.report_view.findChildren(QLabel)
                 if label.text() == INT8.fingerprint)
    assert shown.accessibleName() == "Fingerprint"
    bench.panel.activateWindow()
    shown.setFocus(Qt.FocusReason.TabFocusReason)
    bench.until(lambda: shown.hasFocus())
    assert shown.selectedText() == INT8.fingerprint
    bench.qtbot.keyClick(shown, Qt.Key.Key_C, Qt.KeyboardModifier.ControlModifier)
    assert QGuiApplication.clipboard().text() == INT8.fingerprint


def test_the_line_of_weights_explains_why_the_programs_memory_grows(bench: Bench) -> None:
    bench.say(loaded(INT8))
    weights = next(label for label in bench.panel.report_view.findChildren(QLabel) if label.text() == "Weights")
    assert "kept in memory, so that switching back takes no time" in weights.toolTip()


# ------------------------------------------------------------------------------------------------------ the layers


def test_the_table_of_layers_sorts_by_number_and_copies_plain_values(bench: Bench) -> None:
    bench.say(loaded(INT8))
    bench.panel.report_view.layers_button.click()
    table = bench.panel._layers
    assert table is not None and table.isVisible() and not table.isModal()
    table.table.sortByColumn(5, Qt.SortOrder.DescendingOrder)
    table.copy()
    lines = QGuiApplication.clipboard().text().splitlines()
    assert lines[0].split("\t") == ["Layer", "Shape", "Type", "Zeros", "Error", "Bytes", "Kernel", "Shared"]
    assert lines[1].split("\t") == ["head", "5000x256", "fp32", "0.0", "0.0", "5120000", "F.linear", "yes"]
    assert len(lines) == 14
    table.table.sortByColumn(0, Qt.SortOrder.AscendingOrder)
    table.table.selectRow(10)
    bench.qtbot.keyClick(table.table, Qt.Key.Key_C, Qt.KeyboardModifier.ControlModifier)
    assert QGuiApplication.clipboard().text().splitlines()[1:] == [
        "blocks.10.attn.qkv\t768x266\tint8\t0.5\t0.0\t196608\toneDNN int8\tno"]
    bench.say(RecipeApplied(0.0, report(Recipe(), layers=report(Recipe()).layers[:3])))
    assert table.model.rowCount() == 3
    table.close()


def test_the_error_of_a_layer_is_a_percentage_a_dash_for_none_and_sorts_by_size(bench: Bench) -> None:
    errors = (0.0, 0.078, 0.0017, 0.000002, 0.25)
    layers = tuple(LayerReport(f"blocks.{i}.mlp.up", (8, 8), "int4", 0.0, 64, "a kernel", error=error)
                   for i, error in enumerate(errors))
    bench.say(loaded(INT8), RecipeApplied(0.0, report(INT8, layers=layers)))
    bench.panel.report_view.layers_button.click()
    table = bench.panel._layers
    assert table is not None
    assert table.model.headerData(4, Qt.Orientation.Horizontal, Qt.ItemDataRole.ToolTipRole)
    table.table.sortByColumn(4, Qt.SortOrder.DescendingOrder)
    proxy = table.table.model()
    shown = [str(proxy.index(row, 4).data()).replace("\u00a0", " ") for row in range(5)]
    assert shown == ["25 %", "7.8 %", "0.2 %", "< 0.01 %", "–"]
    table.close()


def test_numbers_keep_their_units_and_never_turn_scientific() -> None:
    assert change_text(10_900_000, 4_200_000).replace("\u00a0", " ") == "10.9 MB → 4.20 MB (0.39×)"
    assert change_text(0, 0).endswith("(–)")
    shares = (0.0, 0.0000001, 0.0004, 0.004, 0.5, 1.0)
    assert [percent_text(x).replace("\u00a0", " ") for x in shares] == [
        "0 %", "< 0.01 %", "0.04 %", "0.4 %", "50 %", "100 %"]
    times_s = (0.0, 0.00000004, 0.0000124, 0.00027, 0.0115, 0.0999, 0.104, 1.24, 99.96)
    assert [precise_text(x).replace("\u00a0", " ") for x in times_s] == [
        "0 ms", "0.04 µs", "12.4 µs", "0.27 ms", "11.5 ms", "99.9 ms", "104 ms", "1.24 s", "100 s"]


def test_what_the_last_switch_did_stands_near_the_top_on_one_line(bench: Bench) -> None:
    status = bench.panel.status
    height = status.sizeHint().height()
    bench.say(loaded())
    assert status.last_switch == "Kernel: oneDNN int8"
    bench.say(RecipeApplied(0.0, report(INT8, weight_bytes=2_100_000)))
    assert status.last_switch == "Last switch: 4.20 MB → 2.10 MB · oneDNN int8"
    bench.say(RecipeApplied(0.0, report(INT8, weight_bytes=2_100_000)))
    assert status.last_switch.startswith("Last switch: 4.20 MB → "), "news of the same recipe are no switch"
    bench.say(RecipeApplied(0.0, report(Recipe(), weight_bytes=2_100_000)))
    assert status.last_switch == "Last switch: 2.10 MB, as before · oneDNN int8"
    assert status.sizeHint().height() == height, "nothing below it moves"
    bench.say(loaded(job_id=2))
    assert status.last_switch == "Kernel: oneDNN int8", "another model"


# -------------------------------------------------------------------------------------------------------- compiling


def test_the_compilers_work_is_counted_until_the_report_has_the_news(bench: Bench) -> None:
    bench.say(loaded(), compile_report(False, "The token step is compiled in the background."))
    status = bench.panel.status
    assert "Active: compiled (uncompiled so far)" in status.text and not status.is_busy
    bench.say(Compiling(0.0, 0.2))
    assert status.is_busy and status.bar.maximum() == 0, "a bar without an end"
    bench.say(Compiling(0.0, 12.3))
    assert status.text == "Compiling… 12 s (chatting goes on uncompiled)"
    assert "Compile (torch.compile): in the making" in bench.panel.report_view.text
    row = bench.panel.rows["compile"]
    assert row.working == "Compiling… 12 s. Until it is ready replies go on uncompiled.", "said at the switch too"
    bench.say(compile_report(True, "The token step was compiled in 12.9 s.", 12.9))
    assert not status.is_busy and "Active: compiled ·" in status.text and row.working == ""
    text = bench.panel.report_view.text
    assert "Compile (torch.compile): engaged" in text and "Building it took 12.9 s" in text


def test_a_compiler_that_fails_leaves_a_sentence_and_no_bar(bench: Bench) -> None:
    bench.say(loaded(), compile_report(False, "In the background."), Compiling(0.0, 3.0),
              compile_report(False, "Compiling failed, so the uncompiled decoder runs: no compiler."))
    assert not bench.panel.status.is_busy
    text = bench.panel.report_view.text
    assert "did not engage" in text and "Compiling failed" in text


def test_switching_compile_off_ends_the_count(bench: Bench) -> None:
    bench.say(loaded(), compile_report(False, "In the background."), Compiling(0.0, 3.0))
    bench.switch("compile").click()
    assert bench.asked() == [Recipe()]
    bench.say(Compiling(0.0, 4.0), RecipeApplied(0.0, report(Recipe())))
    assert not bench.panel.status.is_busy and "Active: fp32" in bench.panel.status.text


def test_a_build_is_said_before_the_compilers_work(bench: Bench) -> None:
    bench.say(loaded(), compile_report(False, "In the background."), Compiling(0.0, 3.0))
    bench.switch("int8-weight").click()
    bench.until(lambda: "int8 weights" in bench.panel.status.text)
    both = COMPILED.with_options(make_options("int8-weight", {}))
    bench.say(RecipeApplied(0.0, dataclasses.replace(report(both))), Compiling(0.0, 0.1))
    assert bench.panel.status.text == "Compiling… 0 s (chatting goes on uncompiled)"


def test_news_of_the_active_recipe_ask_for_nothing_and_move_no_switch(bench: Bench) -> None:
    changes: list[Recipe] = []
    bench.say(loaded(), compile_report(False, "In the background."))
    bench.panel.recipe_changed.connect(changes.append)
    bench.say(compile_report(True, "Compiled."))
    assert bench.asked() == [] and changes == [] and bench.panel.recipe == COMPILED
