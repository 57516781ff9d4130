"""Shows a chart of engine.bench.charts, and lets recipes in it be pointed at, walked to and chosen."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QByteArray, QRectF, QSize, Qt, Signal
from PySide6.QtGui import (
    QColor,
    QFocusEvent,
    QImage,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QResizeEvent,
)
from PySide6.QtSvg import QSvgRenderer
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from engine.bench.charts import Chart, Look, Mark
from gui.theme import colours, theme
from gui.widgets.labels import announce

Maker = Callable[[float, float, Look], Chart]
_SLACK = 4.0


class ChartView(QWidget):
    """`chosen` gives the lane that was clicked or entered. Arrow keys walk from recipe to recipe."""

    chosen = Signal(int)

    def __init__(self, name: str, look: Callable[[], Look], about: str = "", parent: QWidget | None = None) -> None:
        """about: what keys do here, where it is not recipes that are walked through."""
        super().__init__(parent)
        self._look = look
        self._make: Maker | None = None
        self._describe: Callable[[int], str] = lambda _lane: ""
        self._chart: Chart | None = None
        self._renderer = QSvgRenderer(self)
        self._current = -1  # place in the chart's marks
        self._pressed = -1
        self.setAccessibleName(name)
        self.setAccessibleDescription(about or self.tr(
            "Arrow keys walk through the recipes, Enter applies one. The Results tab has the same figures."))
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMouseTracking(True)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setMinimumSize(260, 120)
        theme().changed.connect(self.redraw)

    def show_chart(self, make: Maker, describe: Callable[[int], str]) -> None:
        """make: width, height, look -> Chart, called again for each size. describe: words for a lane."""
        self._make, self._describe = make, describe
        self.redraw()

    def redraw(self) -> None:
        """Draw for the size and colours of now."""
        if self._make is None:
            return
        self._chart = self._make(self.width(), self.height(), self._look())
        self._renderer.load(QByteArray(self._chart.svg.encode()))
        self._current = min(self._current, len(self._chart.marks) - 1)
        self.update()

    def svg(self) -> str:
        """The chart on white, whatever the theme, as a file's content."""
        return self._make(900, 480, Look()).svg if self._make is not None else ""

    def picture(self) -> QImage:
        """The same as a picture, twice as fine."""
        image = QImage(1800, 960, QImage.Format.Format_RGB32)
        image.fill(Qt.GlobalColor.white)
        painter = QPainter(image)
        QSvgRenderer(QByteArray(self.svg().encode())).render(painter)
        painter.end()
        return image

    @property
    def marks(self) -> tuple[Mark, ...]:
        """What can be pointed at."""
        return self._chart.marks if self._chart is not None else ()

    def sizeHint(self) -> QSize:
        """A comfortable size."""
        return QSize(560, 300)

    def paintEvent(self, event: QPaintEvent) -> None:
        """The chart, a ring round the recipe pointed at, and the keyboard's focus."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        self._renderer.render(painter, QRectF(self.rect()))
        painter.setPen(QPen(QColor(colours().accent), 2))
        if 0 <= self._current < len(self.marks):
            painter.drawRoundedRect(self._box(self.marks[self._current]), 5, 5)
        if self.hasFocus():
            painter.setPen(QPen(QColor(colours().accent), 1))
            painter.drawRect(self.rect().adjusted(0, 0, -1, -1))

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Another size is another drawing: letters keep theirs."""
        super().resizeEvent(event)
        self.redraw()

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Say what lies under the pointer."""
        found = self._at(event)
        self.setCursor(Qt.CursorShape.PointingHandCursor if found >= 0 else Qt.CursorShape.ArrowCursor)
        if found >= 0 and (found != self._current or not QToolTip.isVisible()):
            QToolTip.showText(event.globalPosition().toPoint(), self._describe(self.marks[found].lane), self)
        elif found < 0:
            QToolTip.hideText()
        self._point(found)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """A click begins."""
        self._pressed = self._at(event) if event.button() == Qt.MouseButton.LeftButton else -1

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """A click on one recipe chooses it."""
        if self._pressed >= 0 and self._pressed == self._at(event):
            self.chosen.emit(self.marks[self._pressed].lane)
        self._pressed = -1

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Arrows walk, Enter chooses."""
        step = {Qt.Key.Key_Right: 1, Qt.Key.Key_Down: 1, Qt.Key.Key_Left: -1, Qt.Key.Key_Up: -1}.get(
            Qt.Key(event.key()))
        if step and self.marks:
            self._point((self._current + step) % len(self.marks) if self._current >= 0 else 0)
            mark = self.marks[self._current]
            words = self._describe(mark.lane)
            QToolTip.showText(self.mapToGlobal(self._box(mark).bottomRight().toPoint()), words, self)
            announce(self, words)
        elif event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Space) and self._current >= 0:
            self.chosen.emit(self.marks[self._current].lane)
        else:
            super().keyPressEvent(event)

    def focusOutEvent(self, event: QFocusEvent) -> None:
        """The ring goes with the focus."""
        super().focusOutEvent(event)
        self._point(-1)

    def _point(self, place: int) -> None:
        if place != self._current:
            self._current = place
            self.update()

    def _at(self, event: QMouseEvent) -> int:
        return next((n for n, mark in enumerate(self.marks) if self._box(mark).contains(event.position())), -1)

    @staticmethod
    def _box(mark: Mark) -> QRectF:
        return QRectF(mark.x, mark.y, mark.width, mark.height).adjusted(-_SLACK, -_SLACK, _SLACK, _SLACK)
