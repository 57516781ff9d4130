"""What engaged: what the engine really built, as it reported it, beside what was asked for."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QFocusEvent
from PySide6.QtWidgets import QGridLayout, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from engine.messages import EngagedReport
from gui.techniques.technique_block import TechniqueBlock, kernels_text
from gui.theme import theme
from gui.widgets.labels import TextLabel, engine_text, quiet, set_icon
from gui.widgets.words import NBSP, change_text, duration_text, percent_text, size_text


class ReportView(QWidget):
    """Totals, kernels, and what each technique did. `layers_asked`: the user wants the table of layers; `why_asked`:
    an explanation of the speed."""

    layers_asked = Signal()
    why_asked = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.report: EngagedReport | None = None
        self._compiling = False
        self._column = QVBoxLayout(self)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._column.setSpacing(8)
        self._body = QWidget()
        self._nothing = quiet(self.tr("Sizes, kernels and what each technique did appear here with the model."))
        self.layers_button = QPushButton(self.tr("Layers…"))
        self.layers_button.setAccessibleName(self.tr("Layers"))
        self.layers_button.setAccessibleDescription(
            self.tr("Open a table of every linear layer: shape, type, zeros, error, bytes and kernel."))
        self.layers_button.setToolTip(self.layers_button.accessibleDescription())
        self.layers_button.clicked.connect(self.layers_asked)
        self.why_button = QPushButton(self.tr("Why isn't it faster?"))
        self.why_button.setProperty("link", True)
        self.why_button.setCursor(Qt.CursorShape.PointingHandCursor)
        self.why_button.setAccessibleName(self.tr("Why isn't it faster?"))
        self.why_button.setAccessibleDescription(
            self.tr("Measure where the time of one token goes with the active recipe."))
        self.why_button.setToolTip(self.why_button.accessibleDescription())
        self.why_button.clicked.connect(self.why_asked)
        for widget in (self._nothing, self._body, self.layers_button, self.why_button):
            self._column.addWidget(widget)
        for button in (self.layers_button, self.why_button):
            button.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
            button.hide()
        self._body.hide()
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
            column.addWidget(TechniqueBlock(technique, self._compiling and technique.key == "compile"))
        if not report.techniques:
            column.addWidget(quiet(self.tr("No technique is on: this is the model in fp32, untouched.")))
        self._column.replaceWidget(self._body, body)
        self._body.deleteLater()
        self._body.hide()
        self._body = body
        self._nothing.hide()
        self.layers_button.show()
        self.why_button.show()

    def set_compiling(self, compiling: bool) -> None:
        """Whether the compiler is at work on the recipe of the report."""
        if compiling != self._compiling:
            self._compiling = compiling
            if self.report is not None:
                self.show_report(self.report)

    def _totals(self, report: EngagedReport) -> QGridLayout:
        grid = QGridLayout()
        grid.setHorizontalSpacing(10)
        grid.setVerticalSpacing(4)
        grid.setColumnStretch(1, 1)
        top = Qt.AlignmentFlag.AlignTop
        for row, (name, value, about) in enumerate(self._rows(report)):
            named = name == self.tr("Fingerprint")
            caption, text = quiet(name), _Selectable(value, factor=0.94) if named else TextLabel(value, factor=0.94)
            caption.setWordWrap(False)
            caption.setBuddy(text)
            text.setAccessibleName(name)
            for label in (caption, text):
                label.setToolTip(about)
            text.setAccessibleDescription(about)
            grid.addWidget(caption, row, 0, top)
            grid.addWidget(text, row, 1, top)
        return grid

    def _rows(self, report: EngagedReport) -> list[tuple[str, str, str]]:
        """(name, value, tool tip) of every line about the whole."""
        rows = [(self.tr("Weights"), change_text(report.baseline_bytes, report.weight_bytes),
                 self.tr("Recipes built before are kept in memory, so that switching back takes no time. That is why "
                         "the program's memory can grow while its weights get smaller."))]
        if report.mapped_bytes:
            rows.append((self.tr("Embedding"), self.tr(
                "rows are read from the file: {size} mapped, no memory of their own").format(
                    size=size_text(report.mapped_bytes)), ""))
        cache = self.tr("{size} per token, {dtype}").format(
            size=size_text(report.kv_bytes_per_token), dtype=report.cache_dtype)
        if report.context:
            cache += "\n" + self.tr("{size} at the full context of {count} tokens").format(
                size=size_text(report.kv_bytes_per_token * report.context), count=f"{report.context:,}")
        rows.append((self.tr("KV cache"), cache, ""))
        if report.sparsity > 0:
            rows.append((self.tr("Zeros"), self.tr("{share} of the block weights").format(
                share=percent_text(report.sparsity)), ""))
        rows.append((self.tr("Kernels"), kernels_text(report.kernels), ""))
        if report.placement:
            rows.append((self.tr("Devices"), engine_text(report.placement), self.tr(
                "One device has no room for the whole model. Each token passes from one to the next, which takes time; "
                "with fewer bits it may fit on the first.")))
        if report.token_step:
            rows.append((self.tr("Single tokens"), engine_text(report.token_step), self.tr(
                "The native step computes a whole token in one call, without Python between its parts.")))
        built = (self.tr("from cache: it was built before and kept") if report.from_cache
                 else self.tr("in {time}").format(time=duration_text(report.build_s)))
        rows.append((self.tr("Built"), built, ""))
        rows.append((self.tr("Fingerprint"), report.recipe.fingerprint, self.tr(
            "Names this recipe in benchmarks and logs. The same recipe has the same fingerprint everywhere.")))
        return rows

    def _restyle(self) -> None:
        set_icon(self.layers_button, "layers")


class _Selectable(TextLabel):
    """Text to copy: by mouse, or, with the keyboard's focus, with Ctrl+C."""

    def __init__(self, text: str, *, factor: float) -> None:
        super().__init__(text, factor=factor)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse
                                     | Qt.TextInteractionFlag.TextSelectableByKeyboard)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)

    def focusInEvent(self, event: QFocusEvent) -> None:
        """All of it is selected, which shows the focus too."""
        super().focusInEvent(event)
        if event.reason() != Qt.FocusReason.MouseFocusReason:
            self.setSelection(0, len(self.text()))
