"""One line under the presets: what is active and how large, or what is being built and how far it is."""

from __future__ import annotations

from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QProgressBar, QVBoxLayout, QWidget

from engine.messages import EngagedReport
from gui.techniques.labels import TextLabel
from gui.techniques.words import NBSP, ratio_text, size_text

QUICK_MS = 150  # a build shorter than this shows no progress: a flash would say less than nothing


class StatusLine(QWidget):
    """Quiet while nothing happens; a thin bar while a recipe is built."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._text = TextLabel(factor=0.94)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setFixedHeight(4)
        self.bar.setRange(0, 0)
        self.bar.setAccessibleName(self.tr("Building the recipe"))
        keep = self.bar.sizePolicy()
        keep.setRetainSizeWhenHidden(True)
        self.bar.setSizePolicy(keep)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addWidget(self._text)
        column.addWidget(self.bar)
        self._quick = QTimer(self)
        self._quick.setSingleShot(True)
        self._quick.setInterval(QUICK_MS)
        self._quick.timeout.connect(self._show_pending)
        self._active, self._asked = "", ""
        self.show_chosen("fp32")
        self.bar.hide()

    @property
    def text(self) -> str:
        """What it says."""
        return self._text.text().replace(NBSP, " ")

    @property
    def is_busy(self) -> bool:
        """Whether it shows that something is being built."""
        return not self.bar.isHidden()

    def show_chosen(self, label: str) -> None:
        """No model: these are only chosen."""
        self._active = self.tr("Chosen: {recipe}").format(recipe=label)
        self._refresh()

    def show_active(self, report: EngagedReport) -> None:
        """This is active now."""
        self._active = self.tr("Active: {recipe} · {size} ({ratio})").format(
            recipe=report.recipe.label, size=size_text(report.weight_bytes),
            ratio=ratio_text(report.weight_bytes, report.baseline_bytes))
        self._refresh()

    def set_pending(self, label: str) -> None:
        """A recipe is being built; empty: none is."""
        self._asked = label
        if label:
            self._quick.start()
        else:
            self._quick.stop()
            self.bar.hide()
            self.bar.setRange(0, 0)
            self._refresh()

    def show_progress(self, done: int, total: int) -> None:
        """How far the build is."""
        self.bar.setRange(0, total)
        self.bar.setValue(done)

    def _show_pending(self) -> None:
        self.bar.show()
        self._refresh()

    def _refresh(self) -> None:
        if self.is_busy and self._asked:
            self._text.setText(self.tr("Building {recipe}…").format(recipe=self._asked))
        else:
            self._text.setText(self._active)
