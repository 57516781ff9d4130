"""The line below the charts: what is missing, the window of time, pause, and the rest in a menu."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QSize, Qt, Signal
from PySide6.QtGui import QColor, QPainter, QPaintEvent
from PySide6.QtWidgets import QButtonGroup, QHBoxLayout, QMenu, QSizePolicy, QToolButton, QWidget

from gui.monitor.frame import WINDOWS_S
from gui.theme import colours, small_font


class Note(QWidget):
    """One quiet line, cut to the room there is; the whole of it in the tool tip."""

    def __init__(self) -> None:
        super().__init__()
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self._text = ""

    def text(self) -> str:
        """What it says."""
        return self._text

    def set_text(self, text: str, whole: str = "") -> None:
        """Say something; repaints only when it is new. whole: for the tool tip, where there is more to say."""
        if text != self._text or (whole or text) != self.toolTip():
            self._text = text
            self.setToolTip(whole or text)
            self.setAccessibleName(whole or text)
            self.update()

    def sizeHint(self) -> QSize:
        """One line; the width is what is left."""
        return QSize(40, self.fontMetrics().height())

    def paintEvent(self, event: QPaintEvent) -> None:
        """The line in the muted colour."""
        painter = QPainter(self)
        painter.setPen(QColor(colours().muted))
        text = self.fontMetrics().elidedText(self._text, Qt.TextElideMode.ElideRight, self.width())
        painter.drawText(self.rect(), Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft, text)


class Footer(QWidget):
    """window_chosen: seconds. paused: whether the charts stand still."""

    window_chosen = Signal(int)
    paused = Signal(bool)

    def __init__(self, menu: QMenu, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.note = Note()
        row = QHBoxLayout(self)
        row.setContentsMargins(8, 0, 6, 2)
        row.setSpacing(2)
        row.addWidget(self.note, 1)
        self.windows: dict[int, QToolButton] = {}
        group = QButtonGroup(self)
        texts = {60: self.tr("60 s"), 300: self.tr("5 min"), 1800: self.tr("30 min")}
        for window_s in WINDOWS_S:
            button = QToolButton(checkable=True, text=texts[window_s])
            button.setAccessibleName(self.tr("Show the last {time}").format(time=texts[window_s]))
            button.setToolTip(button.accessibleName())
            button.clicked.connect(lambda _=False, chosen=window_s: self.window_chosen.emit(chosen))
            group.addButton(button)
            row.addWidget(button)
            self.windows[window_s] = button
        row.addSpacing(8)
        self.pause = QToolButton(checkable=True, text=self.tr("Pause"))
        self.pause.setToolTip(self.tr("Let the charts stand still; the recording goes on (Space)"))
        self.pause.setAccessibleName(self.tr("Pause the charts"))
        self.pause.toggled.connect(self.paused)
        self.more = QToolButton(text="⋯")
        self.more.setAccessibleName(self.tr("More: data table, export, picture"))
        self.more.setToolTip(self.more.accessibleName())
        self.more.setMenu(menu)
        self.more.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        row.addWidget(self.pause)
        row.addWidget(self.more)

    def show_window(self, window_s: float) -> None:
        """Show which window of time is visible; none is marked after a zoom."""
        group = next(iter(self.windows.values())).group()
        group.setExclusive(False)
        for length_s, button in self.windows.items():
            button.setChecked(length_s == window_s)
        group.setExclusive(True)

    def show_notes(self, notes: Sequence[str]) -> None:
        """What is missing: the first sentence, the others in the tool tip."""
        more = self.tr(" (and {count} more)").format(count=len(notes) - 1) if len(notes) > 1 else ""
        self.note.set_text(f"{notes[0]}{more}" if notes else "", "\n".join(notes))

    def restyle(self) -> None:
        """Fonts changed."""
        for widget in (self.note, self.pause, self.more, *self.windows.values()):
            widget.setFont(small_font(self.font()))
        self.note.update()
