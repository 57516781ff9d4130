"""What is under the pointer stays there, whatever unfolds, appears or vanishes around it."""

from __future__ import annotations

import pytest
from PySide6.QtCore import QEvent, QObject, QPoint, Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QWidget

from engine.messages import RecipeApplied
from engine.recipe import Recipe, make_options
from gui.widgets.controls import ChoiceBox
from tests.gui.technique_bench import BF16, INT8, Bench, loaded, report


def top(bench: Bench, widget: QWidget) -> int:
    """Where a control stands in what is visible of the panel."""
    for _ in range(4):
        QApplication.processEvents()
    return widget.mapTo(bench.panel.viewport(), QPoint()).y()


def scrolled(bench: Bench, widget: QWidget, height: int = 420) -> int:
    """A low panel with a control in the middle; where that stands."""
    bench.panel.resize(320, height)
    top(bench, widget)  # laid out
    bench.panel.verticalScrollBar().setValue(widget.mapTo(bench.panel.widget(), QPoint()).y() - height // 2)
    place = top(bench, widget)
    assert 0 < place < height, "it can be clicked"
    return place


def click(widget: QWidget) -> None:
    QTest.mouseClick(widget, Qt.MouseButton.LeftButton, pos=QPoint(12, widget.height() // 2))


@pytest.mark.parametrize("key", ["prune-l1", "int8-dynamic", "int4-weight", "lookup", "kv-cache"])
@pytest.mark.parametrize("recipe", [Recipe(), INT8, BF16])
def test_a_switch_stays_under_the_mouse_when_its_options_unfold_and_fold(bench: Bench, key: str,
                                                                         recipe: Recipe) -> None:
    bench.say(loaded(recipe))
    switch = bench.switch(key)
    before = scrolled(bench, switch)
    for _ in range(3):
        click(switch)
        assert top(bench, switch) == before
        bench.say(RecipeApplied(0.0, report(bench.panel.recipe)))
        assert top(bench, switch) == before, "what the engine reports moves it neither"


def test_a_switch_at_the_top_stays_when_a_message_above_it_goes(bench: Bench) -> None:
    bench.say(loaded())
    bench.panel.problem.tell("The recipe needs 5.20 GB for weights; 3.10 GB are free.", "Close other programs.")
    bench.panel.verticalScrollBar().setValue(0)
    segment = bench.segment("precision", "bf16")
    before = top(bench, segment)
    click(segment)
    assert bench.panel.problem.isHidden() and bench.panel.verticalScrollBar().value() == 0
    assert top(bench, segment) == before
    QApplication.sendEvent(bench.panel, QEvent(QEvent.Type.Leave))
    assert top(bench, segment) < before, "the room is given back when the mouse has gone"


def test_the_room_kept_for_a_switch_is_given_back_when_the_pointer_leaves_it(bench: Bench) -> None:
    bench.say(loaded(INT8))
    bench.panel.resize(320, 900)
    bench.panel.verticalScrollBar().setValue(0)
    switch, row = bench.switch("int4-weight"), bench.panel.rows["int4-weight"]
    before = top(bench, switch)
    click(switch)
    bench.say(RecipeApplied(0.0, report(bench.panel.recipe)))
    assert top(bench, switch) == before and bench.panel._steady._slack.height() > 0
    QApplication.sendEvent(bench.panel.rows["fp8"], QEvent(QEvent.Type.Leave))
    assert top(bench, switch) == before, "another one's leaving means nothing"
    QApplication.sendEvent(row, QEvent(QEvent.Type.Leave))
    assert top(bench, switch) < before and bench.panel._steady._slack.height() == 0, "no hole is left behind"


def test_a_control_at_the_very_end_stays_when_the_content_gets_shorter(bench: Bench) -> None:
    recipe = Recipe((make_options("lookup", {}),))
    bench.say(loaded(recipe))
    bench.panel.resize(320, 420)
    bar = bench.panel.verticalScrollBar()
    QApplication.processEvents()
    heading = list(bench.panel.groups.values())[-1].heading
    bench.panel.report_view.hide()
    QApplication.processEvents()
    bar.setValue(bar.maximum())
    before = top(bench, heading)
    click(heading)
    assert not heading.isChecked() and top(bench, heading) == before
    click(heading)
    assert heading.isChecked() and top(bench, heading) == before


def test_a_choice_stays_when_the_words_above_it_change(bench: Bench) -> None:
    bench.say(loaded(INT8))
    box = next(b for b in bench.panel.rows["int8-dynamic"].findChildren(ChoiceBox) if b.count() == 2)
    before = scrolled(bench, box)
    bench.panel.rows["int8-dynamic"].tell("Replaces int4 weight-only: a recipe holds one quantization of the weights.")
    assert top(bench, box) > before, "words above it move it"
    before = scrolled(bench, box)
    QTest.keyClick(box, Qt.Key.Key_Down)
    assert bench.panel.rows["int8-dynamic"].note == "" and top(bench, box) == before, "but not once it is in use"


def test_scrolling_lets_go(bench: Bench) -> None:
    bench.say(loaded())
    switch = bench.switch("prune-l1")
    before = scrolled(bench, switch)
    click(switch)
    bar = bench.panel.verticalScrollBar()
    bar.triggerAction(bar.SliderAction.SliderSingleStepAdd)
    moved = top(bench, switch)
    assert moved < before
    bench.say(RecipeApplied(0.0, report(bench.panel.recipe)))
    assert top(bench, switch) == moved


def test_what_follows_the_presets_stands_still_whichever_is_chosen(bench: Bench) -> None:
    bench.say(loaded())
    places = set()
    for recipe in (Recipe(), INT8, BF16, Recipe((make_options("prune-l1", {"amount": 0.12}),))):
        bench.panel.presets.show_recipe(recipe)
        assert bench.panel.presets._about.text()
        places.add(top(bench, bench.panel.status))
    assert len(places) == 1


class _Squeezed(QObject):
    """Notes what is painted lower than its texts and controls need."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.seen = 0

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() == QEvent.Type.Paint and isinstance(watched, QWidget) and watched.layout() is not None:
            self.seen += 1
            need = watched.layout().totalMinimumHeightForWidth(watched.width())
            if watched.height() < need:
                self.found.append(f"{watched.height()} for {need} px")
        return False


@pytest.mark.parametrize("key", ["prune-l1", "int4-weight"])
def test_options_are_never_painted_squeezed(bench: Bench, key: str) -> None:
    bench.say(loaded())
    form = bench.panel.rows[key].form
    assert form is not None
    watch = _Squeezed()
    form.installEventFilter(watch)
    switch = bench.switch(key)
    scrolled(bench, switch)
    for _ in range(2):
        click(switch)
        bench.panel.repaint()  # as a painting that comes before the layout's turn
        top(bench, switch)
        bench.say(RecipeApplied(0.0, report(bench.panel.recipe)))
        bench.panel.repaint()
        top(bench, switch)
    assert watch.seen and watch.found == []
