"""Downloads under way: one line each, with what it does, how far it is, and what may be done about it."""

from __future__ import annotations

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from engine.hub.records import CHECKING, DONE, FAILED, PAUSED, RUNNING, WAITING, DownloadView
from gui.models.words import download_text
from gui.theme import theme
from gui.widgets.column import Column
from gui.widgets.labels import ElidedLabel, IconLabel, TextLabel, announce, set_icon

_BUSY = (WAITING, RUNNING, CHECKING)
_LINES_SHOWN, _SHARE = 3, 0.3


class DownloadLine(QFrame):
    """One download."""

    def __init__(self, owner: DownloadsView) -> None:
        super().__init__()
        self.setProperty("card", True)
        self._state = ""
        self.key, self.path = "", ""
        self.name = ElidedLabel()
        self.text = TextLabel(factor=0.92)
        self.mark = IconLabel("warning", "error")
        self.bar = QProgressBar()
        self.bar.setRange(0, 1000)
        self.bar.setTextVisible(False)
        self.pause = self._tool("pause", lambda: owner.pause.emit(self.key))
        self.resume = self._tool("retry", lambda: owner.resume.emit(self.key))
        self.open = QPushButton(self.tr("Open"))
        self.open.clicked.connect(lambda _=False: owner.open.emit(self.path))
        self.close_button = self._tool("close", lambda: owner.discard.emit(self.key))
        told = QHBoxLayout()
        told.setSpacing(6)
        told.addWidget(self.mark, 0, Qt.AlignmentFlag.AlignTop)
        told.addWidget(self.text, 1)
        words = QVBoxLayout()
        words.setSpacing(1)
        words.addWidget(self.name)
        words.addLayout(told)
        top = QHBoxLayout()
        top.addLayout(words, 1)
        for button in (self.open, self.pause, self.resume, self.close_button):
            top.addWidget(button, 0, Qt.AlignmentFlag.AlignVCenter)
        column = QVBoxLayout(self)
        column.setContentsMargins(10, 4, 6, 6)
        column.setSpacing(3)
        column.addLayout(top)
        column.addWidget(self.bar)
        self.restyle()

    def show_view(self, view: DownloadView) -> None:
        """Show where it stands."""
        self.key, self.path = view.key, view.path
        name = view.plan.repo + (f"  ·  {view.plan.choice}" if view.plan.choice.endswith(".gguf") else "")
        text = download_text(view)
        self.name.setText(name)
        self.text.setText(text)
        self.mark.setVisible(view.state == FAILED)
        self.bar.setValue(round(1000 * view.done / view.plan.nbytes) if view.plan.nbytes else 1000)
        self.bar.setVisible(view.state != DONE)
        self.bar.setAccessibleName(self.tr("Progress of {name}").format(name=name))
        focused = any(button.hasFocus() for button in (self.pause, self.resume))
        shown = {self.pause: view.state in _BUSY, self.resume: view.state in (PAUSED, FAILED),
                 self.open: view.state == DONE}
        for button, visible in sorted(shown.items(), key=lambda item: not item[1]):
            button.setVisible(visible)
            if visible and focused:  # it would else go on to the button that throws the download away
                button.setFocus()
        for button, words in ((self.pause, self.tr("Pause; what has arrived is kept")),
                              (self.resume, self.tr("Resume where it stopped")),
                              (self.close_button, self.tr("Hide") if view.state == DONE else
                               self.tr("Throw the download away")),
                              (self.open, self.tr("Open the model"))):
            button.setToolTip(words)
            button.setAccessibleName(f"{words}: {name}")
        if view.state != self._state:
            self._state = view.state
            self.setProperty("problem", view.state == FAILED)
            self.setProperty("card", view.state != FAILED)
            self.style().unpolish(self)
            self.style().polish(self)
            if view.state in (FAILED, DONE, PAUSED):
                announce(self, f"{name}: {text}")

    def restyle(self) -> None:
        """Take the theme's icons."""
        set_icon(self.pause, "pause")
        set_icon(self.resume, "retry")
        set_icon(self.close_button, "close")

    def _tool(self, icon_name: str, slot) -> QToolButton:  # type: ignore[no-untyped-def]
        button = QToolButton()
        set_icon(button, icon_name)
        button.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        button.clicked.connect(lambda _=False: slot())
        return button


class DownloadsView(QScrollArea):
    """Hidden while there is nothing under way. Each signal carries a download's key; open carries a path."""

    pause = Signal(str)
    resume = Signal(str)
    discard = Signal(str)
    open = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAccessibleName(self.tr("Downloads"))
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.lines: dict[str, DownloadLine] = {}
        inner = Column()
        self._column = QVBoxLayout(inner)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._column.setSpacing(4)
        self.setWidget(inner)
        self.hide()
        self._fitting = QTimer(self, singleShot=True, interval=0)  # when the texts have been laid out
        self._fitting.timeout.connect(self.fit)
        theme().changed.connect(self._restyle)

    def show_view(self, view: DownloadView) -> None:
        """A download is somewhere else than before."""
        line = self.lines.get(view.key)
        if line is None:
            line = self.lines[view.key] = DownloadLine(self)
            self._column.addWidget(line)
        line.show_view(view)
        self._fitting.start()

    def drop(self, key: str) -> None:
        """A download is gone."""
        line = self.lines.pop(key, None)
        if line is not None:
            line.hide()
            line.deleteLater()
            self._column.removeWidget(line)
        self._fitting.start()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Texts wrap otherwise."""
        super().resizeEvent(event)
        self._fitting.start()

    def fit(self) -> None:
        """As high as the lines, three at the most and no more than a share of the page; the others scroll."""
        self.setVisible(bool(self.lines))
        width = max(200, self.viewport().width())
        heights = [line.heightForWidth(width) if line.hasHeightForWidth() else line.sizeHint().height()
                   for line in self.lines.values()]
        page = self.parentWidget().height() if self.parentWidget() is not None else 0
        shown = sum(heights[:_LINES_SHOWN]) + 4 * max(0, min(len(heights), _LINES_SHOWN) - 1) + 2
        least = max(heights, default=0) + 2
        self.setFixedHeight(max(least, min(shown, round(_SHARE * page))))

    def _restyle(self) -> None:
        for line in self.lines.values():
            line.restyle()
        self._fitting.start()
