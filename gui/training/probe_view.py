"""What a data probe finds: a line for each short run as it comes, then what twice the data or the model would bring."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFrame, QHBoxLayout, QToolButton, QVBoxLayout, QWidget

from engine.messages import ProbeReport
from engine.train_events import Probed
from engine.units import count
from gui.theme import icon, theme
from gui.widgets.labels import TextLabel, announce, engine_text, quiet
from gui.widgets.words import percent_text


class ProbeView(QFrame):
    """Hidden until begin()."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("card", True)
        self.words = TextLabel()
        self.runs = quiet()
        self._close = QToolButton()
        self._close.setAccessibleName(self.tr("Close the data probe"))
        self._close.setAccessibleDescription(self.tr("Hides what it found."))
        self._close.clicked.connect(lambda _=False: self.hide())
        head = QHBoxLayout()
        head.addWidget(TextLabel(self.tr("Data probe"), heading=True), 1)
        head.addWidget(self._close, 0, Qt.AlignmentFlag.AlignTop)
        column = QVBoxLayout(self)
        column.setContentsMargins(12, 6, 8, 8)
        column.setSpacing(3)
        column.addLayout(head)
        column.addWidget(self.words)
        column.addWidget(self.runs)
        theme().changed.connect(self._restyle)
        self._restyle()
        self.hide()

    def begin(self) -> None:
        """A probe is asked for."""
        self.words.setText(self.tr("Training briefly on a quarter, a half and all of the data…"))
        self.runs.setText("")
        self.show()

    def add(self, run: Probed) -> None:
        """A short run has ended."""
        line = self.tr("{share} of the data, {size} parameters, read {times} times: held-out loss {loss}, "
                       "training loss {train}").format(share=percent_text(run.share), size=count(run.parameters),
                                         times=f"{run.epochs:.1f}", loss=f"{run.loss:.3f}",
                                         train=f"{run.train_loss:.3f}")
        self.runs.setText("\n".join(part for part in (self.runs.text(), line) if part))

    def conclude(self, report: ProbeReport) -> None:
        """Say what follows."""
        self.words.setText(" ".join(map(engine_text, report.sentences)))
        announce(self, self.words.text())

    def _restyle(self) -> None:
        self._close.setIcon(icon("close"))
