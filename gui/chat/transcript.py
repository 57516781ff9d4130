"""The column of turns. It follows a growing reply unless the user has scrolled up; then a button leads back down."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QFrame, QLabel, QPushButton, QScrollArea, QSizePolicy, QVBoxLayout, QWidget

from gui.chat.message_view import MessageView
from gui.theme import icon
from gui.widgets.labels import Line, quiet

_COLUMN_WIDTH = 860
_NEAR_END_PX = 24
_PROPOSAL_PADDING = 14  # px: the padding and the border below


class _Proposal(QPushButton):
    """A text to click, cut at the end where there is no room for it; its tip has it whole."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._whole = text
        self.setAccessibleName(text)
        self.setToolTip(text)
        self.setStyleSheet("text-align: left; padding: 9px 12px;")
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Show as much as there is room for."""
        super().resizeEvent(event)
        room = self.width() - 2 * _PROPOSAL_PADDING
        self.setText(self.fontMetrics().elidedText(self._whole, Qt.TextElideMode.ElideRight, room))


class Transcript(QScrollArea):
    """Shows turns from top to bottom, and suggestions while there are none."""

    suggestion_chosen = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setAccessibleName(self.tr("Conversation"))
        self._column = QWidget()
        self._column.setMaximumWidth(_COLUMN_WIDTH)
        self._turns = QVBoxLayout(self._column)
        self._turns.setContentsMargins(12, 8, 12, 12)
        self._turns.setSpacing(10)
        self._turns.addStretch(1)
        outer = QWidget()
        centred = QVBoxLayout(outer)
        centred.setContentsMargins(0, 0, 0, 0)
        centred.addWidget(self._column, 1)
        centred.setAlignment(self._column, Qt.AlignmentFlag(0))
        self.setWidget(outer)
        self._welcome: QWidget | None = None
        self._mark: _Mark | None = None
        self._following = True
        self._latest = QPushButton(self.tr("Latest"), self)
        self._latest.setIcon(icon("down", size=16))
        self._latest.setToolTip(self.tr("Go to the end and follow the reply"))
        self._latest.clicked.connect(self.follow)
        self._latest.hide()
        bar = self.verticalScrollBar()
        bar.rangeChanged.connect(self._range_changed)
        bar.actionTriggered.connect(lambda _: self._scrolled())
        bar.valueChanged.connect(lambda _: self._show_latest())

    def add(self, view: QWidget) -> None:
        """Append a turn (or any other widget)."""
        self.show_welcome("", (), "")
        self._turns.insertWidget(self._turns.count() - 1, view)

    def mark_context(self, view: QWidget | None, text: str) -> None:
        """Draw a line above the first turn that the model still sees; None: it sees all of them."""
        if self._mark is not None:
            mark, self._mark = self._mark, None
            self._turns.removeWidget(mark)
            mark.hide()
            mark.deleteLater()
        index = self._turns.indexOf(view) if view is not None else -1
        if index > 0:
            self._mark = _Mark(text)
            self._turns.insertWidget(index, self._mark)

    def remove_from(self, view: QWidget) -> None:
        """Take a turn and everything after it off the screen."""
        if self._mark is not None and self._turns.indexOf(self._mark) > self._turns.indexOf(view):
            self.mark_context(None, "")
        index = self._turns.indexOf(view)
        if index >= 0:
            self._remove_after(index)

    def clear(self) -> None:
        """Take everything off the screen."""
        self.mark_context(None, "")
        self._remove_after(0)
        self._welcome = None
        self.follow()

    def show_welcome(self, title: str, suggestions: tuple[str, ...], note: str) -> None:
        """What an empty conversation shows; no title takes it away."""
        if self._welcome is not None:
            welcome, self._welcome = self._welcome, None
            self._turns.removeWidget(welcome)
            welcome.hide()
            welcome.deleteLater()
        if not title:
            return
        welcome = QWidget()
        layout = QVBoxLayout(welcome)
        layout.setContentsMargins(12, 48, 12, 12)
        layout.setSpacing(10)
        heading = QLabel(title)
        font = heading.font()
        font.setPointSizeF(font.pointSizeF() * 1.5)
        heading.setFont(font)
        heading.setWordWrap(True)
        layout.addWidget(heading)
        for text in suggestions:
            button = _Proposal(text)
            button.clicked.connect(lambda _=False, t=text: self.suggestion_chosen.emit(t))
            layout.addWidget(button)
        line = QLabel(note)
        line.setProperty("muted", True)
        line.setWordWrap(True)
        layout.addWidget(line)
        self.add(welcome)
        self._welcome = welcome

    def views(self) -> list[MessageView]:
        """The turns on the screen, in order."""
        widgets = (self._turns.itemAt(i).widget() for i in range(self._turns.count()))
        return [w for w in widgets if isinstance(w, MessageView)]

    def restyle(self) -> None:
        """Draw again in the active colours."""
        self._latest.setIcon(icon("down", size=16))
        for view in self.views():
            view.restyle()

    def _remove_after(self, index: int) -> None:
        while self._turns.count() - 1 > index:
            widget = self._turns.takeAt(index).widget()
            widget.hide()
            widget.deleteLater()

    # --------------------------------------------------------------------------------------------------- following

    def follow(self) -> None:
        """Go to the end and stay there."""
        self._following = True
        bar = self.verticalScrollBar()
        bar.setValue(bar.maximum())
        self._show_latest()

    def wheelEvent(self, event) -> None:  # type: ignore[no-untyped-def]
        super().wheelEvent(event)
        self._scrolled()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        hint = self._latest.sizeHint()
        self._latest.setGeometry((self.width() - hint.width()) // 2, self.height() - hint.height() - 10, hint.width(),
                                 hint.height())

    def _scrolled(self) -> None:
        bar = self.verticalScrollBar()
        self._following = bar.sliderPosition() >= bar.maximum() - _NEAR_END_PX
        self._show_latest()

    def _range_changed(self, _low: int, high: int) -> None:
        if self._following:
            self.verticalScrollBar().setValue(high)
        self._show_latest()

    def _show_latest(self) -> None:
        bar = self.verticalScrollBar()
        show = not self._following and bar.value() < bar.maximum() - _NEAR_END_PX
        if show != self._latest.isVisible():
            self._latest.setVisible(show)


class _Mark(QWidget):
    """A line with a sentence on it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        label = quiet(text)
        label.setAccessibleName(text)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(14, 2, 14, 2)
        layout.setSpacing(3)
        layout.addWidget(label)
        layout.addWidget(Line())
