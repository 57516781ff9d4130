"""Keeps what the user has just pressed where it is while a scroll area lays itself out anew: forms unfold, messages
come and go above and below, and the pointer should still stand on the same control."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QEvent, QObject, QPoint
from PySide6.QtWidgets import QAbstractButton, QApplication, QScrollArea, QSlider, QWidget
from shiboken6 import isValid

from gui.widgets.column import Column
from gui.widgets.controls import ChoiceBox, NumberBox


class SteadyScroll(QObject):
    """Moves the scroll bar against the layout. Where there is nothing left to scroll it keeps the room that has become
    free, until the user scrolls, the pointer leaves the zone of what was pressed, or `release()`. Knows the controls
    that are in the content when it is made.

    slack: an empty widget in the content, below what comes and goes and above the controls: it takes that room.
    zones: the parts of the content that belong together: from a switch to its options nothing moves.
    """

    def __init__(self, area: QScrollArea, content: Column, slack: QWidget, zones: Sequence[QWidget] = ()) -> None:
        super().__init__(area)
        self._area, self._content, self._slack = area, content, slack
        for zone in zones:
            zone.installEventFilter(self)
        self._bar = area.verticalScrollBar()
        self._held: list[tuple[QWidget, int]] = []
        self._moving = False
        slack.setFixedHeight(0)
        # Told before the control does what it does: what that shows may move things at once.
        for button in content.findChildren(QAbstractButton):
            button.pressed.connect(lambda control=button: self._hold(control))
        for slider in content.findChildren(QSlider):
            slider.actionTriggered.connect(lambda _action, control=slider: self._hold(control))
        fields: list[ChoiceBox | NumberBox] = [*content.findChildren(ChoiceBox), *content.findChildren(NumberBox)]
        for field in fields:
            field.touched.connect(lambda control=field: self._hold(control))
        self._bar.actionTriggered.connect(lambda _action: self.release())
        content.laid_out.connect(self._settle)

    def release(self) -> None:
        """Hold nothing, and give back the room that was kept."""
        self._held = []
        self._slack.setFixedHeight(0)
        self._content.setMinimumHeight(0)

    def settle(self) -> None:
        """Lay everything out now. Left to Qt, a form that has just unfolded can be painted once as low as it was."""
        if self._held:
            self._settle()
        elif not self._moving:
            self._lay_out()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """The pointer has left what was pressed: the room that was kept for it is a hole now."""
        if event.type() == QEvent.Type.Leave and any(widget is watched for widget, _ in self._held) \
                and QApplication.activePopupWidget() is None:
            self.release()
        return super().eventFilter(watched, event)

    def _hold(self, control: QWidget) -> None:
        """Remember where a control stands, and all it stands in, should it go away."""
        self._held = []
        at: QWidget | None = control
        while at is not None and at is not self._content:
            self._held.append((at, self._top(at)))
            at = at.parentWidget()

    def _top(self, widget: QWidget) -> int:
        return widget.mapTo(self._area.viewport(), QPoint()).y()

    def _settle(self) -> None:
        """Put the held control back: by scrolling, and by keeping room where that does not reach."""
        if self._moving or not self._held:
            return
        self._moving = True
        try:
            self._lay_out()
            held = next(((w, top) for w, top in self._held if isValid(w) and w.isVisibleTo(self._content)), None)
            if held is not None:
                self._put_back(*held)
        finally:
            self._moving = False

    def _put_back(self, widget: QWidget, wanted: int) -> None:
        moved = self._top(widget) - wanted  # down
        kept = self._slack.height()
        room = max(0, kept - moved) if moved > 0 else kept + max(0, -(self._bar.value() + moved))
        if room != kept and self._top(self._slack) <= self._top(widget):
            self._slack.setFixedHeight(room)
            self._lay_out()
        value = self._bar.value() + self._top(widget) - wanted
        if value > self._bar.maximum():
            self._content.setMinimumHeight(value + self._area.viewport().height())
            self._lay_out()
        self._bar.setValue(value)

    def _lay_out(self) -> None:
        """Now, not when the event loop comes to it: the scroll area would give its content the same height."""
        layout, width = self._content.layout(), self._content.width()
        _activate(self._content)
        height = max(self._area.viewport().height(), layout.totalHeightForWidth(width), self._content.minimumHeight())
        self._content.resize(width, height)
        _activate(self._content)


def _activate(widget: QWidget) -> None:
    """The layouts within first: until then the ones around them go by heights from before."""
    for child in widget.children():
        if isinstance(child, QWidget) and not child.isHidden():
            _activate(child)
    layout = widget.layout()
    if layout is not None:
        layout.activate()
