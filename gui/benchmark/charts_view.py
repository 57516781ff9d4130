"""The charts of a run: speed against quality, speed, memory; each can be saved."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QHBoxLayout, QPushButton, QScrollArea, QVBoxLayout, QWidget

from engine.bench import charts
from engine.errors import DynoError
from engine.measurements import BenchRow
from engine.units import rate, size
from gui.benchmark.chart_view import ChartView
from gui.benchmark.exports import write_chart
from gui.theme import colours
from gui.widgets.controls import ChoiceBox
from gui.widgets.export_button import ask_where
from gui.widgets.labels import TextLabel, quiet


class ChartsView(QScrollArea):
    """chosen: the lane of a recipe that was clicked. problem: a DynoError. table_wanted: show the figures instead."""

    chosen = Signal(int)
    problem = Signal(object)
    table_wanted = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._rows: tuple[BenchRow, ...] = ()
        self._wanted = ""  # the test the user chose; generation comes first otherwise
        self.setWidgetResizable(True)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.test = ChoiceBox(10)
        self.test.setAccessibleName(self.tr("Speed test of the charts"))
        self.test.setAccessibleDescription(self.tr("Which test's tokens/s the charts show."))
        self.test.activated.connect(self._choose_test)
        self.scatter = ChartView(self.tr("Speed against quality"), self._look)
        self.speed = ChartView(self.tr("Speed"), self._look)
        self.memory = ChartView(self.tr("Memory"), self._look)
        content = QWidget()
        column = QVBoxLayout(content)
        column.setContentsMargins(12, 8, 12, 12)
        column.setSpacing(6)
        for view, least in ((self.scatter, 280), (self.speed, 120), (self.memory, 120)):
            head = QHBoxLayout()
            head.addWidget(TextLabel(view.accessibleName(), heading=True), 1)
            if view is self.scatter:
                head.addWidget(self.test)
                table = QPushButton(self.tr("Data table"))
                table.clicked.connect(lambda _=False: self.table_wanted.emit())
                self._name(table, self.tr("Show the figures as a table."))
                head.addWidget(table)
            save = QPushButton(self.tr("Save…"))
            save.clicked.connect(lambda _=False, v=view: self._save(v))
            save.setProperty("quiet", True)
            self._name(save, self.tr("Save this chart as SVG or PNG: {name}").format(name=view.accessibleName()))
            head.addWidget(save)
            column.addLayout(head)
            view.setMinimumHeight(least)
            view.chosen.connect(self.chosen)
            column.addWidget(view, 1)
            if view is self.scatter:
                column.addWidget(quiet(self.tr("Filled: on the Pareto front, by the means. Bars: deviation of the "
                                               "runs, standard error of perplexity. Click a recipe to apply it.")))
        self.setWidget(content)

    def show_rows(self, rows: Sequence[BenchRow]) -> None:
        """Draw these rows."""
        self._rows = tuple(rows)
        tests, before = charts.speed_tests(self._rows), self._wanted
        self.test.blockSignals(True)
        self.test.clear()
        self.test.addItems(list(tests))
        self.test.setCurrentIndex(max(0, self.test.findText(before)))
        self.test.blockSignals(False)
        self.test.setEnabled(len(tests) > 1)
        self._draw()

    def _choose_test(self, _place: int) -> None:
        self._wanted = self.test.currentText()
        self._draw()

    def _draw(self) -> None:
        rows, test = self._rows, self.test.currentText()
        lanes = len({row.lane for row in rows})
        for view in (self.speed, self.memory):
            view.setMinimumHeight(max(120, (2 + 2 * lanes) * self.fontMetrics().height()))
        self.scatter.show_chart(lambda w, h, look: charts.scatter(rows, w, h, look, test), self._describe)
        self.speed.show_chart(lambda w, h, look: charts.speed_bars(rows, w, h, look, test), self._describe)
        self.memory.show_chart(lambda w, h, look: charts.memory_bars(rows, w, h, look), self._describe)

    def _describe(self, lane: int) -> str:
        """A recipe with its figures, and what a click does."""
        rows = [row for row in self._rows if row.lane == lane and not row.error]
        lines = [rows[0].recipe] if rows else []
        for row in rows:
            if row.avg_ts:
                lines.append(f"{row.test}: {rate(row.avg_ts)} ± {rate(row.stddev_ts or 0)}")
            if row.perplexity:
                lines.append(f"{row.test}: {row.perplexity:.3f} ± {row.perplexity_error or 0:.3f}")
        if rows and rows[0].weight_bytes:
            lines.append(self.tr("weights {size}").format(size=size(rows[0].weight_bytes)))
        return "\n".join([*lines, self.tr("Click or Enter applies it.")])

    def _look(self) -> charts.Look:
        c = colours()
        return charts.Look(
            c.text, c.muted, c.border, c.surface, (c.series[0], c.series[1]), self.fontMetrics().height() * 0.8,
            self.tr("tok/s, more is better"), self.tr("perplexity, less is better"), self.tr("Pareto front"),
            self.tr("weights"), self.tr("KV cache"), self.tr("Nothing to draw yet."))

    def _save(self, view: ChartView) -> None:
        name = view.accessibleName().lower().replace(" ", "-")
        path = ask_where(self, self.tr("Save chart"), f"{name}.svg", "SVG (*.svg);;PNG (*.png)")
        if path is None:
            return
        try:
            write_chart(path, view)
        except DynoError as error:
            self.problem.emit(error)

    @staticmethod
    def _name(button: QPushButton, about: str) -> None:
        button.setAccessibleName(button.text())
        button.setAccessibleDescription(about)
        button.setToolTip(about)
