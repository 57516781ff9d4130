"""The figures of all lanes in one table: a line for each lane, a column for each metric."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QSize
from PySide6.QtWidgets import QSizePolicy, QWidget

from engine.bench.compared import METRICS, Figure, LaneFigures, interval, letter
from engine.bench.results import figures
from engine.units import rate
from gui.benchmark.table import CopyTable
from gui.widgets.labels import engine_text
from gui.widgets.words import precise_text, size_text

_LEAST_LINES = 6.5  # of text that are seen in the smallest window: the base, a lane, and that there is more


class FiguresTable(CopyTable):
    """Each cell has the value, its ratio to lane A with the 95 % interval, and the verdict, one under the other."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("", "", 1, parent)
        self.setAccessibleName(self.tr("Figures of the lanes"))
        self.setAccessibleDescription(self.tr(
            "Each with its ratio to lane A and the 95 % interval. Ctrl+C copies the table as Markdown."))
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)

    def show_lanes(self, labels: Sequence[str], lanes: Sequence[LaneFigures]) -> None:
        """labels: the recipes; lanes: what is known of each."""
        self.set_headings([self.tr("Recipe"), self.tr("Memory"), self.tr("TTFT"), self.tr("Speed"),
                           self.tr("Perplexity"), self.tr("KL from A")])
        for row, (label, lane) in enumerate(zip(labels, lanes, strict=True)):
            name = f"{letter(row)}: {label}" if row else self.tr("A: {recipe} (base)").format(recipe=label)
            self.set_line(row, [name, *(self._words_for(row, metric, lane) for metric in METRICS)], lane.error)
            lines = max(self.item(row, column).text().count("\n") + 1 for column in range(self.columnCount()))
            self.setRowHeight(row, lines * self.fontMetrics().lineSpacing() + 8)
        least = self.horizontalHeader().sizeHint().height() + round(_LEAST_LINES * self.fontMetrics().lineSpacing())
        self.setMinimumHeight(min(least, self.sizeHint().height()))
        self.updateGeometry()

    def sizeHint(self) -> QSize:
        """As high as its lines: nothing beneath them, and nothing to scroll where there is room."""
        rows = sum(self.rowHeight(row) for row in range(self.rowCount()))
        wide = sum(self.columnWidth(column) for column in range(self.columnCount())) + 2 * self.frameWidth()
        bar = self.horizontalScrollBar().sizeHint().height() if wide > self.width() else 0
        return QSize(super().sizeHint().width(),
                     self.horizontalHeader().sizeHint().height() + rows + bar + 2 * self.frameWidth() + 2)

    def _words_for(self, lane: int, metric: str, found: LaneFigures) -> str:
        figure = found.figures.get(metric)
        if figure is None:
            return self.tr("failed") if found.error else "–"
        parts = [self._value(metric, figure), self._ratio(figure), engine_text(figure.verdict) if lane else ""]
        return "\n".join(part for part in parts if part)

    @staticmethod
    def _value(metric: str, figure: Figure) -> str:
        if metric == "memory":
            return size_text(figure.value)
        if metric == "ttft":
            return precise_text(figure.value)
        if metric == "speed":
            return rate(figure.value)
        return f"{figure.value:.3f}" if metric == "perplexity" else figures(figure.value)

    def _ratio(self, figure: Figure) -> str:
        if figure.low is not None and figure.high is not None:
            return self.tr("({low} to {high})").format(low=figures(figure.low), high=figures(figure.high))
        return f"{figure.ratio.value:.3f}×{interval(figure.ratio)}" if figure.ratio is not None else ""
