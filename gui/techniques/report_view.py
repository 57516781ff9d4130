"""What engaged: what the engine really built, as it reported it, beside what was asked for."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from engine.messages import EngagedReport, TechniqueReport
from gui.techniques.labels import IconLabel, TextLabel, engine_text, quiet, set_icon
from gui.techniques.words import NBSP, change_text, duration_text, percent_text, size_text
from gui.theme import theme


class ReportView(QWidget):
    """Totals, kernels, and what each technique did. `layers_asked`: the user wants the table of layers."""

    layers_asked = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.report: EngagedReport | None = None
        self._column = QVBoxLayout(self)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._column.setSpacing(8)
        self._body = QWidget()
        self._nothing = quiet(self.tr("Sizes, kernels and what each technique did appear here with the model."))
        self.layers_button = QPushButton(self.tr("Layers…"))
        self.layers_button.setAccessibleName(self.tr("Layers"))
        self.layers_button.setAccessibleDescription(
            self.tr("Open a table of every linear layer: shape, type, zeros, bytes and kernel."))
        self.layers_button.setToolTip(self.layers_button.accessibleDescription())
        self.layers_button.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
        self.layers_button.clicked.connect(self.layers_asked)
        for widget in (self._nothing, self._body, self.layers_button):
            self._column.addWidget(widget)
        self._body.hide()
        self.layers_button.hide()
        theme().changed.connect(self._restyle)
        self._restyle()

    @property
    def text(self) -> str:
        """Everything that stands in the report, line by line."""
        labels = self._body.findChildren(TextLabel)
        return "\n".join(label.text() for label in labels).replace(NBSP, " ")

    def show_report(self, report: EngagedReport) -> None:
        """Show what is active now."""
        self.report = report
        body = QWidget()
        column = QVBoxLayout(body)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(8)
        column.addLayout(self._totals(report))
        for technique in report.techniques:
            column.addWidget(_technique_block(self, technique))
        if not report.techniques:
            column.addWidget(quiet(self.tr("No technique is on: this is the model in fp32, untouched.")))
        self._column.replaceWidget(self._body, body)
        self._body.deleteLater()
        self._body.hide()
        self._body = body
        self._nothing.hide()
        self.layers_button.show()

    def _totals(self, report: EngagedReport) -> QGridLayout:
        grid = QGridLayout()
        grid.setHorizontalSpacing(10)
        grid.setVerticalSpacing(4)
        grid.setColumnStretch(1, 1)
        rows = [(self.tr("Weights"), change_text(report.baseline_bytes, report.weight_bytes)),
                (self.tr("KV cache"), self.tr("{size} per token, {dtype}").format(
                    size=size_text(report.kv_bytes_per_token), dtype=report.cache_dtype))]
        if report.sparsity > 0:
            rows.append((self.tr("Zeros"), self.tr("{share} of the block weights").format(
                share=percent_text(report.sparsity))))
        rows.append((self.tr("Built"), self.tr("from cache") if report.from_cache
                     else self.tr("in {time}").format(time=duration_text(report.build_s))))
        kernels = "\n".join(f"{count}{NBSP}× {engine_text(kernel)}" for kernel, count in report.kernels)
        rows.append((self.tr("Kernels"), kernels))
        top = Qt.AlignmentFlag.AlignTop
        for row, (name, value) in enumerate(rows):
            caption, text = quiet(name), TextLabel(value, factor=0.94)
            caption.setWordWrap(False)
            caption.setBuddy(text)
            text.setAccessibleName(name)
            grid.addWidget(caption, row, 0, top)
            grid.addWidget(text, row, 1, top)
        return grid

    def _restyle(self) -> None:
        set_icon(self.layers_button, "layers")


def _technique_block(view: ReportView, report: TechniqueReport) -> QWidget:
    """Engaged or not, the layers and bytes it touched, and the engine's sentence about it."""
    block = QWidget()
    row = QHBoxLayout(block)
    row.setContentsMargins(0, 0, 0, 0)
    row.setSpacing(6)
    mark = IconLabel("check", "good") if report.engaged else IconLabel("dash", "muted")
    state = view.tr("engaged") if report.engaged else view.tr("did not engage")
    title = TextLabel(f"{engine_text(report.label)}: {state}", bold=True, factor=0.94)
    words = QVBoxLayout()
    words.setSpacing(1)
    words.addWidget(title)
    if report.layers_touched:
        if report.bytes_after == report.bytes_before:
            change = view.tr("{size}, unchanged").format(size=size_text(report.bytes_after))
        else:
            change = change_text(report.bytes_before, report.bytes_after)
        words.addWidget(TextLabel(view.tr("Layers touched: {count} · {change}").format(
            count=report.layers_touched, change=change), factor=0.88))
    words.addWidget(quiet(engine_text(report.detail)))
    row.addWidget(mark, 0, Qt.AlignmentFlag.AlignTop)
    row.addLayout(words, 1)
    return block
