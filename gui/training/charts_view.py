"""The curves of a run as charts: loss first and largest, then what steers and costs it. Which ones are shown follows
from the run: a loss scale only where there is one, sparsity only where weights are cut."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from PySide6.QtCore import QT_TRANSLATE_NOOP, Qt, Signal
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QGridLayout, QScrollArea, QSizePolicy, QWidget

from engine.bench import curves
from engine.bench.charts import Chart, Look
from engine.bench.svg import tick
from engine.train_events import EvalPoint, TrainPoint
from engine.training.records import RunRecord
from engine.units import size
from gui.benchmark.chart_view import ChartView
from gui.theme import colours
from gui.training.words import said
from gui.widgets.labels import TextLabel

_LETTERS = 34  # width of a small chart, in letters
_LEVELS = {"dense baseline": QT_TRANSLATE_NOOP("training", "dense"),
           "full precision": QT_TRANSLATE_NOOP("training", "full precision, before"),
           "rounded after training": QT_TRANSLATE_NOOP("training", "rounded after training")}


@dataclass(frozen=True)
class _Small:
    """A chart of one value of the training points. shown: whether the run has it."""

    key: str
    title: str
    value: Callable[[TrainPoint], float]
    written: Callable[[float], str] = tick
    may_be_log: bool = False
    shown: Callable[[RunRecord], bool] = lambda run: True


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


_SMALL = (
    _Small("lr", str(QT_TRANSLATE_NOOP("training", "Learning rate")), lambda p: p.lr),
    _Small("grad_norm", str(QT_TRANSLATE_NOOP("training", "Gradient norm")), lambda p: p.grad_norm, may_be_log=True),
    _Small("speed", str(QT_TRANSLATE_NOOP("training", "Tokens per second")), lambda p: p.tokens_per_s),
    _Small("memory", str(QT_TRANSLATE_NOOP("training", "Memory")), lambda p: float(p.memory_bytes), size),
    _Small("scale", str(QT_TRANSLATE_NOOP("training", "Loss scale and skipped steps")), lambda p: p.scale,
           may_be_log=True, shown=lambda run: run.plan.precision == "fp16" and run.plan.scaler == "on"),
    _Small("sparsity", str(QT_TRANSLATE_NOOP("training", "Sparsity")), lambda p: p.sparsity, _percent,
           shown=lambda run: run.plan.prune == "weights"),
)


class ChartsView(QScrollArea):
    """pointed: the number of an evaluation that was clicked or entered."""

    pointed = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWidgetResizable(True)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._run: RunRecord | None = None
        self.loss = ChartView(self.tr("Loss"), self._look, self.tr(
            "Arrow keys walk through the evaluations, Enter shows a sample. The data table has the same figures."))
        self.loss.setMinimumHeight(150)
        self.loss.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Ignored)  # small ones below
        self.loss.chosen.connect(self.pointed)
        self.small: dict[str, tuple[TextLabel, ChartView]] = {}
        content = QWidget()
        self._grid = QGridLayout(content)
        self._grid.setContentsMargins(2, 4, 10, 4)
        self._grid.setHorizontalSpacing(12)
        self._grid.setVerticalSpacing(2)
        self._heading = TextLabel(self.loss.accessibleName(), heading=True)
        for spec in _SMALL:
            view = ChartView(said(spec.title), self._look, self.tr("The data table has the same figures."))
            view.setFocusPolicy(Qt.FocusPolicy.NoFocus)  # it has nothing to walk through
            view.setMinimumSize(140, 96)
            view.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
            view.setFixedHeight(110)
            self.small[spec.key] = (TextLabel(said(spec.title), factor=0.88, heading=True), view)
        self._columns = 0
        self._shown: tuple[str, ...] = ()
        self.setWidget(content)

    def show_run(self, run: RunRecord) -> None:
        """Draw what the run has by now."""
        self._run = run
        self._arrange()
        self.loss.show_chart(lambda w, h, look: _loss(run, w, h, look), self._describe)
        for spec in _SMALL:
            if spec.key in self._shown:
                self.small[spec.key][1].show_chart(functools.partial(_of_points, run, spec), lambda _lane: "")

    def resizeEvent(self, event: QResizeEvent) -> None:
        """As many small charts side by side as can be read."""
        super().resizeEvent(event)
        self._arrange()

    def _arrange(self) -> None:
        shown = tuple(s.key for s in _SMALL if self._run is None or s.shown(self._run))
        columns = max(1, min(len(shown), self.width() // max(1, _LETTERS * self.fontMetrics().averageCharWidth())))
        if (columns, shown) == (self._columns, self._shown):
            return
        before, self._columns, self._shown = self._columns, columns, shown
        for column in range(max(before, columns)):
            self._grid.setColumnStretch(column, int(column < columns))
        self._grid.addWidget(self._heading, 0, 0, 1, columns)
        self._grid.addWidget(self.loss, 1, 0, 1, columns)
        self._grid.setRowStretch(1, 1)
        for key, widgets in self.small.items():
            for offset, widget in enumerate(widgets):
                self._grid.removeWidget(widget)
                widget.setParent(self.widget())
                widget.setVisible(key in shown)
                if key in shown:
                    row, column = divmod(shown.index(key), columns)
                    self._grid.addWidget(widget, 2 + 2 * row + offset, column)

    def _describe(self, number: int) -> str:
        judged = judged_points(self._run) if self._run is not None else []
        if number >= len(judged):
            return ""
        point = judged[number]
        text = self.tr("Step {step}: held-out loss {loss}, perplexity {perplexity}").format(
            step=f"{point.step:,}", loss=f"{point.loss:.4f}", perplexity=f"{point.perplexity:.2f}")
        return self.tr("{text}, the best so far").format(text=text) if point.best else text

    def _look(self) -> Look:
        c = colours()
        return Look(c.text, c.muted, c.border, c.window, c.series, self.fontMetrics().height() * 0.78,
                    empty=self.tr("No steps yet."))


def _of_points(run: RunRecord, spec: _Small, width: float, height: float, look: Look) -> Chart:
    """One value of the training points; with the loss scale, the steps that were skipped."""
    points = [(float(p.step), spec.value(p)) for p in run.train]
    skipped = [curves.Moment(step, "", short=True) for p in run.train for step in p.skipped]
    return curves.draw([curves.Curve(said(spec.title), points)], width, height, look, run.plan.steps,
                       skipped if spec.key == "scale" else (), spec.written, spec.may_be_log, from_zero=True,
                       legend=False)


def judged_points(run: RunRecord) -> list[EvalPoint]:
    """The evaluations that the held-out curve goes through."""
    return [p for p in run.evaluations if not p.label or p.label == "pruned"]


def _loss(run: RunRecord, width: float, height: float, look: Look) -> Chart:
    """Held-out loss with its points, training loss, what both are compared with, and the cuts."""
    judged = [(float(p.step), p.loss) for p in judged_points(run)]
    lines = [curves.Curve(said("held-out"), judged, dots=True),
             curves.Curve(said("training"), [(float(p.step), p.loss) for p in run.train])]
    lines += [curves.Curve(said(str(words)), [(0.0, p.loss)], level=True)
              for label, words in _LEVELS.items() for p in run.evaluations if p.label == label]
    best = run.best
    moments = [curves.Moment(p.step, said("pruned")) for p in run.evaluations if p.label == "pruned"]
    moments += [curves.Moment(best.step, said("best"))] if best is not None else []
    return curves.draw(lines, width, height, look, run.plan.steps, moments)


_WORDS = (QT_TRANSLATE_NOOP("training", "held-out"), QT_TRANSLATE_NOOP("training", "training"),
          QT_TRANSLATE_NOOP("training", "pruned"), QT_TRANSLATE_NOOP("training", "best"))
"""Marked so that the translation tools find them."""
