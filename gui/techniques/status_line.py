"""Two lines under the presets: what is active and how large, what is being built and how far it is, or how long the
compiler has been at work; and what the last switch did, as the whole report stands far below."""

from __future__ import annotations

from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QApplication, QProgressBar, QVBoxLayout, QWidget

from engine.messages import EngagedReport
from gui.techniques.running import running_label, switch_text
from gui.theme import small_font, theme
from gui.widgets.labels import ElidedLabel, TextLabel, announce, engine_text
from gui.widgets.words import NBSP, ratio_text, size_text

QUICK_MS = 150  # a build shorter than this shows no progress: a flash would say less than nothing


class StatusLine(QWidget):
    """Quiet while nothing happens; a thin bar while a recipe is built or compiled."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._text = TextLabel(factor=0.94)
        self._switch = ElidedLabel()
        self._switch.setProperty("muted", True)
        self._before: EngagedReport | None = None
        self._now: EngagedReport | None = None
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setFixedHeight(4)
        self.bar.setRange(0, 0)
        keep = self.bar.sizePolicy()
        keep.setRetainSizeWhenHidden(True)
        self.bar.setSizePolicy(keep)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addWidget(self._text)
        column.addWidget(self._switch)
        column.addWidget(self.bar)
        self._quick = QTimer(self)
        self._quick.setSingleShot(True)
        self._quick.setInterval(QUICK_MS)
        self._quick.timeout.connect(self._show_pending)
        theme().changed.connect(self._restyle)
        self._restyle()
        self._active, self._asked, self._stage = "", "", ""
        self._building = False
        self._compiling_s: float | None = None
        self.show_chosen("fp32")

    @property
    def text(self) -> str:
        """What it says."""
        return self._text.text().replace(NBSP, " ")

    @property
    def last_switch(self) -> str:
        """What it says of the last switch."""
        return self._switch.text().replace(NBSP, " ")

    @property
    def is_busy(self) -> bool:
        """Whether it shows that something is being built or compiled."""
        return not self.bar.isHidden()

    def show_chosen(self, label: str) -> None:
        """No model: these are only chosen."""
        self._active = self.tr("Chosen: {recipe}").format(recipe=label)
        self._refresh()

    def show_active(self, report: EngagedReport) -> None:
        """This is active now."""
        self._active = self.tr("Active: {recipe} · {size} ({ratio})").format(
            recipe=running_label(report), size=size_text(report.weight_bytes),
            ratio=ratio_text(report.weight_bytes, report.baseline_bytes))
        if self._now is not None and report.recipe != self._now.recipe:
            self._before = self._now
        self._now = report
        self._switch.setText(switch_text(self._before, report))
        self._refresh()

    def forget(self) -> None:
        """Another model: what was before is none of its switches."""
        self._before = self._now = None

    def set_pending(self, label: str) -> None:
        """A recipe is being built; empty: none is."""
        self._asked, self._stage = label, ""
        if label:
            self._quick.start()
        else:
            self._quick.stop()
            self._building = False
            self.bar.setRange(0, 0)
            self._refresh()

    def show_progress(self, stage: str, done: int, total: int) -> None:
        """How far the build is. stage: what is being done, in the engine's words."""
        self._stage = stage
        self.bar.setRange(0, total)
        self.bar.setValue(done)
        self._refresh()

    def set_compiling(self, elapsed_s: float | None) -> None:
        """The compiler has been at work for so long; None: it is not."""
        before, self._compiling_s = self._compiling_s, elapsed_s
        self._refresh()
        if before is None and elapsed_s is not None:
            announce(self, self._text.text())

    def _restyle(self) -> None:
        self._switch.setFont(small_font(QApplication.font(), 0.88))
        self._switch.setMinimumHeight(self._switch.fontMetrics().height())  # also while it says nothing

    def _show_pending(self) -> None:
        self._building = True
        self._refresh()

    def _refresh(self) -> None:
        if self._building and self._asked:
            stage = engine_text(self._stage) if self._stage else self.tr("Building")
            text, name = self.tr("{stage}: {recipe}…"), self.tr("Building the recipe")
            text = text.format(stage=stage, recipe=self._asked)
        elif self._compiling_s is not None:
            text, name = self.tr("Compiling… {seconds} s (chatting goes on uncompiled)"), self.tr("Compiling")
            text = text.format(seconds=round(self._compiling_s)).replace(" s ", f"{NBSP}s ")
            self.bar.setRange(0, 0)
        else:
            text, name = self._active, ""
        self.bar.setAccessibleName(name)
        self.bar.setVisible(bool(name))
        self._text.setText(text)
