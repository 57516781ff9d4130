"""One run as it goes: what the curves say in words, charts or a table of figures, samples of what the model writes."""

from __future__ import annotations

from collections.abc import Iterator

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QPlainTextEdit,
    QPushButton,
    QSplitter,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from engine.train_events import Finding
from engine.training.records import FAILED, RunRecord
from engine.units import count, rate, size
from gui.benchmark.table import CopyTable
from gui.training.charts_view import ChartsView, judged_points
from gui.widgets.labels import IconLabel, TextLabel, announce, engine_text, quiet

_NOTICES = 3  # shown at most, the newest
_ROWS = 500  # of the table; the run's CSV files have all


class Diagnosis(QFrame):
    """What the curves say, what would help, and a button that sets it. chosen: the Finding whose remedy is wanted."""

    chosen = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.setProperty("card", True)
        self.finding: Finding | None = None
        self._icon = IconLabel("warning", "warning")
        self._well = IconLabel("check", "good")
        self.text = TextLabel()
        self.text.setAccessibleName(self.tr("Diagnosis"))
        self.button = QPushButton(self.tr("Set this in the plan"))
        self.button.setAccessibleName(self.button.text())
        self.button.clicked.connect(lambda _=False: self.chosen.emit(self.finding))
        row = QHBoxLayout(self)
        row.setContentsMargins(10, 6, 8, 6)
        row.addWidget(self._icon, 0, Qt.AlignmentFlag.AlignTop)
        row.addWidget(self._well, 0, Qt.AlignmentFlag.AlignTop)
        row.addWidget(self.text, 1)
        row.addWidget(self.button)
        self.hide()

    def show_findings(self, findings: tuple[Finding, ...]) -> None:
        """Show them, the first one's remedy on the button."""
        self.setVisible(bool(findings))
        if not findings:
            self.finding = None
            return
        first = findings[0]
        if self.finding is None or first.kind != self.finding.kind:
            announce(self, engine_text(first.text))
        self.finding = first
        well = first.kind == "healthy"
        self._icon.setVisible(not well)
        self._well.setVisible(well)
        self.text.setText(" ".join(f"{engine_text(f.text)} {engine_text(f.advice)}".strip() for f in findings))
        self.button.setVisible(bool(first.remedy))
        self.button.setAccessibleDescription(engine_text(first.advice))
        self.button.setToolTip(engine_text(first.advice))


class RunView(QWidget):
    """Shows a RunRecord; call show_run() again when it has read on. remedied: a Finding whose remedy is wanted."""

    remedied = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._run: RunRecord | None = None
        self.facts = quiet()
        self.notices = quiet()
        self.diagnosis = Diagnosis()
        self.diagnosis.chosen.connect(self.remedied)
        self.charts = ChartsView()
        self.table = CopyTable(self.tr("Figures of the run"), self.tr(
            "One line for each of the last points of the curves, the newest first. Ctrl+C copies the table."), words=1)
        self.stack = QStackedWidget()
        self.stack.addWidget(self.charts)
        self.stack.addWidget(self.table)
        self.as_table = QPushButton(self.tr("Data table"))
        self.as_table.setCheckable(True)
        self.as_table.setProperty("quiet", True)
        self.as_table.setAccessibleName(self.as_table.text())
        self.as_table.setAccessibleDescription(self.tr("Show the figures of the charts as a table."))
        self.as_table.setToolTip(self.as_table.accessibleDescription())
        self.as_table.toggled.connect(self._turn)
        self.samples = QPlainTextEdit(readOnly=True)
        self.samples.setAccessibleName(self.tr("Samples of the model"))
        self.samples.setAccessibleDescription(self.tr("What it wrote at each evaluation, the newest first. Read-only."))
        self.samples.setTabChangesFocus(True)
        self.samples.setPlaceholderText(self.tr("Samples come with evaluations, where the plan has a sample prompt."))
        head = QHBoxLayout()
        head.addWidget(self.facts, 1)
        head.addWidget(self.as_table)
        beside = QWidget()
        below = QVBoxLayout(beside)
        below.setContentsMargins(0, 2, 0, 0)
        below.setSpacing(2)
        below.addWidget(TextLabel(self.tr("Samples"), heading=True))
        below.addWidget(self.samples, 1)
        self._curves = split = QSplitter(Qt.Orientation.Vertical)
        split.setChildrenCollapsible(False)
        split.addWidget(self.stack)
        split.addWidget(beside)
        split.setStretchFactor(0, 4)
        split.setStretchFactor(1, 1)
        split.setSizes([500, 80])
        column = QVBoxLayout(self)
        column.setContentsMargins(2, 6, 2, 0)
        column.setSpacing(4)
        for widget in (self.diagnosis, self.notices):
            column.addWidget(widget)
        column.addLayout(head)
        column.addWidget(split, 1)
        self.charts.pointed.connect(self._point)

    @property
    def shown(self) -> RunRecord | None:
        """The run that is shown."""
        return self._run

    def show_run(self, run: RunRecord | None) -> None:
        """A run, or another state of the one that is shown."""
        self._run = run
        self.setEnabled(run is not None)
        for widget in (self._curves, self.as_table):
            widget.setVisible(run is not None)
        if run is None:
            self.notices.hide()
            self.diagnosis.show_findings(())
            self.facts.setText(self.tr("No run is shown. Start one, or open one of the list."))
            return
        self.facts.setText(" · ".join(self._facts(run)))
        self.notices.setText(" ".join(map(engine_text, run.facts.notices[-_NOTICES:])))
        self.notices.setVisible(bool(run.facts.notices))
        self.diagnosis.show_findings(run.findings() if run.state != FAILED else ())
        self.charts.show_run(run)
        if self.as_table.isChecked():
            self._fill()
        self._show_samples(run)

    def _facts(self, run: RunRecord) -> Iterator[str]:
        if run.facts.parameters:
            part = run.facts.trained_parameters
            yield (self.tr("{count} parameters").format(count=count(run.facts.parameters)) if part ==
                   run.facts.parameters else self.tr("{part} of {count} parameters trained").format(
                       part=count(part), count=count(run.facts.parameters)))
            yield self.tr("{count} tokens to learn from").format(count=f"{run.facts.learned_tokens:,}")
        best = run.best
        if best is not None:
            yield self.tr("best perplexity {value} at step {step}").format(value=f"{best.perplexity:.2f}",
                                                                           step=f"{best.step:,}")
        by_label = {p.label: p for p in run.evaluations if p.label}
        if "dense baseline" in by_label and "pruned" in by_label:
            dense, cut = by_label["dense baseline"].perplexity, by_label["pruned"].perplexity
            yield self.tr("dense {dense}, pruned {cut}").format(dense=f"{dense:.2f}", cut=f"{cut:.2f}")
            if best is not None and cut > dense:
                yield self.tr("{share} of the loss recovered").format(
                    share=f"{100 * (cut - best.perplexity) / (cut - dense):.0f} %")
        if "rounded after training" in by_label:
            yield self.tr("rounded after training {value}").format(
                value=f"{by_label['rounded after training'].perplexity:.2f}")
            yield self.tr("full precision {value}").format(value=f"{by_label['full precision'].perplexity:.2f}")

    def _show_samples(self, run: RunRecord) -> None:
        found = [p for p in run.evaluations if p.sample]
        text = "\n\n".join(self.tr("Step {step}, loss {loss}: {sample}").format(
            step=f"{p.step:,}", loss=f"{p.loss:.3f}", sample=p.sample) for p in reversed(found))
        if text != self.samples.toPlainText():
            self.samples.setPlainText(text)

    def _point(self, number: int) -> None:
        """Bring the sample of an evaluation into view."""
        judged = judged_points(self._run) if self._run is not None else []
        if number < len(judged):
            words = self.tr("Step {step}, loss {loss}").format(step=f"{judged[number].step:,}",
                                                               loss=f"{judged[number].loss:.3f}")
            self.samples.moveCursor(self.samples.textCursor().MoveOperation.End)
            self.samples.find(words, self.samples.document().FindFlag.FindBackward)
            self.samples.setFocus()

    def _turn(self, table: bool) -> None:
        self.stack.setCurrentWidget(self.table if table else self.charts)
        if table:
            self._fill()

    def _fill(self) -> None:
        run = self._run
        if run is None:
            return
        headings = [
            self.tr("Step"), self.tr("Training loss"), self.tr("Held-out loss"), self.tr("Perplexity"),
            self.tr("Learning rate"), self.tr("Gradient norm"), self.tr("Speed"), self.tr("Memory"),
            self.tr("Loss scale"), self.tr("Skipped"), self.tr("Sparsity"), self.tr("Remarks")]
        if self.table.columnCount() != len(headings):
            self.table.set_headings(headings)
        rows: list[tuple[int, int, list[str]]] = []
        for p in run.train[-_ROWS:]:
            rows.append((p.step, 0, [
                f"{p.step:,}", f"{p.loss:.4f}", "", "", f"{p.lr:.8f}".rstrip("0"), f"{p.grad_norm:.3f}",
                rate(p.tokens_per_s), size(p.memory_bytes), f"{p.scale:,.0f}" if p.scale else "",
                ", ".join(map(str, p.skipped)), f"{100 * p.sparsity:.1f} %" if p.sparsity else "", ""]))
        for e in run.evaluations:
            remark = engine_text(e.label) or (self.tr("best so far") if e.best else "")
            rows.append((e.step, 1, [f"{e.step:,}", "", f"{e.loss:.4f}", f"{e.perplexity:.2f}", *[""] * 7, remark]))
        rows = sorted(rows, key=lambda r: (-r[0], -r[1]))[:_ROWS]
        self.table.setRowCount(len(rows))
        for place, (_, _, cells) in enumerate(rows):
            self.table.set_line(place, cells)
