"""What one technique did, as the engine reported it."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QCoreApplication, Qt
from PySide6.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from engine.messages import TechniqueReport
from gui.widgets.labels import IconLabel, TextLabel, engine_text, quiet
from gui.widgets.words import NBSP, change_text, duration_text, size_text

_WORTH_SAYING_S = 0.001


def kernels_text(kernels: Sequence[tuple[str, int]]) -> str:
    """How many layers run which kernel: "12 × oneDNN int8", a line each."""
    return "\n".join(f"{count}{NBSP}× {engine_text(kernel)}" for kernel, count in kernels)


class TechniqueBlock(QWidget):
    """Engaged or not and why, the layers and bytes it touched, their kernels, and what building it took."""

    def __init__(self, report: TechniqueReport, working: bool = False, parent: QWidget | None = None) -> None:
        """working: it is still being made in the background."""
        super().__init__(parent)
        mark = IconLabel("check", "good") if report.engaged else IconLabel("dash", "muted")
        state = _tr("engaged") if report.engaged else _tr("in the making") if working else _tr("did not engage")
        words = QVBoxLayout()
        words.setSpacing(1)
        words.addWidget(TextLabel(f"{engine_text(report.label)}: {state}", bold=True, factor=0.94))
        words.addWidget(quiet(engine_text(report.detail)))
        for line in _facts(report):
            words.addWidget(TextLabel(line, factor=0.88))
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(6)
        row.addWidget(mark, 0, Qt.AlignmentFlag.AlignTop)
        row.addLayout(words, 1)


def _facts(report: TechniqueReport) -> list[str]:
    before, after = report.bytes_before, report.bytes_after
    touched = _tr("Weight matrices touched: {count}").format(count=report.layers_touched)
    lines = [touched] if report.layers_touched else []
    if before != after:
        lines.append(_tr("Model's weights: {change}").format(change=change_text(before, after)))
    elif lines:
        lines.append(_tr("Model's weights: {size}, unchanged").format(size=size_text(after)))
    if report.kernels:
        lines.append(kernels_text(report.kernels))
    if report.build_s >= _WORTH_SAYING_S:
        lines.append(_tr("Building it took {time}").format(time=duration_text(report.build_s)))
    return lines


def _tr(text: str) -> str:
    return QCoreApplication.translate("TechniqueBlock", text)
