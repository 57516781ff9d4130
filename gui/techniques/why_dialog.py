"""The window behind "Why isn't it faster?": measures one token, says where its time goes and what would help."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import (
    QDialog,
    QHBoxLayout,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from engine.messages import Failed, SpeedReport
from gui.techniques import why_words
from gui.techniques.problem_card import ProblemCard
from gui.techniques.why_job import WhyJob
from gui.techniques.why_report import WhyReport
from gui.theme import theme
from gui.widgets.column import Column
from gui.widgets.controls import ChoiceBox, action_button
from gui.widgets.labels import TextLabel, announce, engine_text, marked_line, quiet, set_icon

_DEPTHS = (32, 128, 512, 2048, 8192, 32768)
_USUAL_DEPTH = 128


class WhyDialog(QDialog):
    """A window beside the main one. It measures when it is opened; closing it gives up a measurement under way."""

    def __init__(self, job: WhyJob, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setModal(False)
        self.setWindowTitle(self.tr("Why isn't it faster?"))
        self._job = job
        self._said = ""
        self._shown: SpeedReport | None = None
        self._failure: Failed | None = None
        self._intro = quiet(self.tr("Measures a few tokens with the active recipe and divides their time. Other jobs "
                                    "wait for it; it takes a few seconds."))
        self._state = TextLabel()
        self._stale, self._stale_text = marked_line("warning", "warning", muted=False)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setAccessibleName(self.tr("Progress of the measurement"))
        self.problem = ProblemCard()
        self.figures: WhyReport | None = None
        self._content = Column()
        self._column = QVBoxLayout(self._content)
        self._column.setContentsMargins(12, 12, 12, 12)
        self._column.setSpacing(10)
        self.stop_button = self._button(self.tr("Stop"), self.tr("Give up this measurement."))
        self.stop_button.clicked.connect(job.stop)
        self._progress = QWidget()  # Stop stands here, far from Run: a second click must not begin another
        progress = QHBoxLayout(self._progress)
        progress.setContentsMargins(0, 0, 0, 0)
        progress.addWidget(self.bar, 1)
        progress.addWidget(self.stop_button)
        self._before = quiet()
        for widget in (self._intro, self._stale, self._state, self._progress, self.problem, self._before):
            self._column.addWidget(widget)
        self._column.addStretch(1)
        self._scroll = scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAsNeeded)
        scroll.setWidget(self._content)
        scroll.setFocusPolicy(Qt.FocusPolicy.StrongFocus)  # arrow keys scroll
        scroll.setAccessibleName(self.tr("Figures"))
        scroll.setAccessibleDescription(self.tr("Where the time of a token goes, and what would help."))
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 12)
        column.addWidget(scroll, 1)
        column.addLayout(self._buttons())
        job.changed.connect(self._refresh)
        theme().changed.connect(self._restyle)
        self._restyle()
        room = self.screen().availableGeometry()
        letter = self.fontMetrics().averageCharWidth()
        self.resize(min(92 * letter, room.width() - 40), min(44 * self.fontMetrics().height(), room.height() - 60))
        self._refresh()

    def begin(self) -> None:
        """Measure, unless there are figures that hold or a measurement is under way."""
        if self._job.report is None or self._job.stale:
            self.run()

    def run(self) -> None:
        """Measure."""
        self._job.run(self.depth_box.currentData() or _USUAL_DEPTH)

    def copy(self) -> None:
        """Put everything on the clipboard as text."""
        if self._job.report is not None:
            QGuiApplication.clipboard().setText(why_words.as_text(self._job.report, self._job.model))

    def reject(self) -> None:
        """Esc, the button and the window's own Close all come here: nobody looks any more."""
        self._job.stop()
        super().reject()

    def _buttons(self) -> QHBoxLayout:
        caption = TextLabel(self.tr("Tokens in the cache"))
        caption.setWordWrap(False)
        self.depth_box = ChoiceBox(letters=5)
        self.depth_box.setAccessibleName(self.tr("Tokens in the cache"))
        self.depth_box.setAccessibleDescription(
            self.tr("How long the conversation is in which the token is made: attention reads all of it."))
        self.depth_box.setToolTip(self.depth_box.accessibleDescription())
        caption.setBuddy(self.depth_box)
        self.copy_button = self._button(self.tr("Copy as text"), self.tr("Copy all figures and findings."))
        self.run_button = self._button(self.tr("Run again"), self.tr("Measure the active recipe anew."))
        self.close_button = self._button(self.tr("Close"), self.tr("Close this window."))
        self.copy_button.clicked.connect(self.copy)
        self.run_button.clicked.connect(self.run)
        self.close_button.clicked.connect(self.close)
        row = QHBoxLayout()
        row.setContentsMargins(12, 0, 12, 0)
        row.addWidget(caption)
        row.addWidget(self.depth_box)
        row.addStretch(1)
        for button in (self.copy_button, self.run_button, self.close_button):
            row.addWidget(button)
        return row

    def _button(self, text: str, about: str) -> QPushButton:
        button = action_button(text, about)
        button.setAutoDefault(False)
        return button

    def _refresh(self) -> None:
        job = self._job
        self._show_depths(job.context)
        if job.failure is not self._failure:
            self._failure = job.failure
            self.problem.clear()
            if job.failure is not None:
                self.problem.tell(job.failure.summary, job.failure.hint, job.failure.details)
        text = self._state_text()
        self._state.setText(text)
        self._state.setVisible(bool(text))
        self._progress.setVisible(job.is_busy)
        _, done, total = job.step
        self.bar.setRange(0, total)
        self.bar.setValue(done)
        self._show_figures()
        self._fade_figures()
        self._show_stale()
        self._intro.setVisible(job.report is None)
        self.copy_button.setEnabled(job.report is not None)
        self.run_button.setText(self.tr("Run again") if job.stage else self.tr("Run"))
        if job.is_busy and self.run_button.hasFocus():
            self._scroll.setFocus()  # or the focus would pass to Close, and a second press of the key close it
        self.run_button.setEnabled(job.has_model and not job.is_busy)
        if text and text != self._said:
            announce(self, text)
        self._said = text

    def _state_text(self) -> str:
        job = self._job
        if job.stage == "waiting":
            return {"": self.tr("Waiting for the engine…"),
                    "Generate": self.tr("Waiting: it begins after the current reply."),
                    "LoadModel": self.tr("Waiting: it begins when the model is loaded."),
                    }.get(job.ahead, self.tr("Waiting: it begins after the current job."))
        if job.stage == "running":
            return f"{engine_text(job.step[0])}…" if job.step[0] else self.tr("Measuring…")
        if not job.has_model:
            return self.tr("No model is open. Open one with Ctrl+O; then its speed can be measured.")
        return self.tr("Stopped before there were figures.") if job.stage == "stopped" else ""

    def _show_stale(self) -> None:
        job = self._job
        old = job.report.recipe if job.report is not None else ""
        text = {"": "",
                "model": self.tr("These figures are of another model, {model}. Run again for the one that is open now."
                                 ).format(model=job.model),
                "recipe": self.tr("These figures are for the old recipe, {old}. Run again for {new}.").format(
                    old=old, new=job.active),
                "engaged": self.tr("What runs has changed since these figures were measured. Run again for what runs "
                                   "now.")}[job.stale]
        self._stale_text.setText(text)
        self._stale.setVisible(bool(text) and not job.is_busy)
        self.run_button.setProperty("primary", bool(text))
        self.run_button.style().unpolish(self.run_button)
        self.run_button.style().polish(self.run_button)

    def _show_figures(self) -> None:
        report = self._job.report
        if report is self._shown:
            return
        self._shown = report
        if self.figures is not None:
            self._column.removeWidget(self.figures)
            self.figures.hide()
            self.figures.deleteLater()
        self.figures = WhyReport(report, self._job.model) if report is not None else None
        if self.figures is not None:
            self._column.insertWidget(self._column.count() - 1, self.figures)
            announce(self, why_words.headline(self._job.report) if self._job.report is not None else "")

    def _fade_figures(self) -> None:
        """While others are measured, those from before must not be taken for them."""
        report, figures = self._job.report, self.figures
        old = self._job.is_busy and report is not None
        self._before.setVisible(old)
        if report is not None and figures is not None:
            self._before.setText(self.tr("Below: what was measured before, of {recipe}.").format(recipe=report.recipe))
            figures.setEnabled(not old)

    def _show_depths(self, context: int) -> None:
        depths = [n for n in _DEPTHS if n < context] or [_USUAL_DEPTH]
        if [self.depth_box.itemData(i) for i in range(self.depth_box.count())] != depths:
            chosen = self.depth_box.currentData() or _USUAL_DEPTH
            self.depth_box.clear()
            for depth in depths:
                self.depth_box.addItem(f"{depth:,}", depth)
            self.depth_box.setCurrentIndex(max(0, self.depth_box.findData(min(chosen, depths[-1]))))

    def _restyle(self) -> None:
        set_icon(self.copy_button, "copy")
