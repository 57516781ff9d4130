"""A graph of facts, drawn: boxes with names, arrows with relations. Panned by dragging or the arrow keys, zoomed with
Ctrl and the wheel or + and -; 0 shows all of it. A wheel alone scrolls the transcript it stands in."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt
from PySide6.QtGui import (
    QColor,
    QFont,
    QFontMetricsF,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPainterPath,
    QPaintEvent,
    QPen,
    QPolygonF,
    QResizeEvent,
    QWheelEvent,
)
from PySide6.QtWidgets import QToolTip, QWidget

from engine.triples import Triple
from gui.chat.results.layout import place
from gui.theme import colours, small_font, theme

_PAD = 10.0
_LONGEST_LABEL_PX = 190.0
_ARROW_PX = 9.0
_BEND = 0.16
_STEP_PX, _ZOOM, _MOST, _LEAST, _MARGIN = 48.0, 1.2, 4.0, 0.05, 16.0
_WHOLE_FROM, _READABLE = 0.55, 0.7  # zooms: all of it is shown at first from here on; else it begins with this one


class GraphCanvas(QWidget):
    """Shows facts given by set_facts()."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._facts: tuple[Triple, ...] = ()
        self._names: list[str] = []
        self._boxes: list[QRectF] = []
        self._edges: dict[tuple[int, int], str] = {}
        self._scale, self._shift = 1.0, QPointF()
        self._home = True  # nobody has panned or zoomed yet
        self._held: QPointF | None = None
        self._over = -1
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMouseTracking(True)
        self.setCursor(Qt.CursorShape.OpenHandCursor)
        self.setMinimumHeight(160)
        theme().changed.connect(self._restyle)

    def sizeHint(self) -> QSize:
        return QSize(400, 320)

    def set_facts(self, facts: Sequence[Triple]) -> None:
        """Draw these facts."""
        self._facts = tuple(facts)
        self._names = list(dict.fromkeys(name for fact in facts for name in (fact.subject, fact.object)))
        number = {name: i for i, name in enumerate(self._names)}
        said: dict[tuple[int, int], list[str]] = {}
        for fact in facts:
            said.setdefault((number[fact.subject], number[fact.object]), []).append(fact.relation)
        self._edges = {pair: ", ".join(relations) for pair, relations in said.items()}
        self.setAccessibleDescription(self.tr(
            "{facts} facts about {names} names; the table has the same. Arrow keys move, + and - zoom, 0 shows all."
            ).format(facts=len(facts), names=len(self._names)))
        self._lay_out()

    def facts_of(self, name: str) -> list[str]:
        """Every fact about a name, in words."""
        return [" ".join(fact) for fact in self._facts if name in (fact.subject, fact.object)]

    @property
    def zoom(self) -> float:
        """Pixels on the screen for each of the drawing."""
        return self._scale

    def box(self, name: str) -> QRectF:
        """Where a name's box is on the screen."""
        box = self._boxes[self._names.index(name)]
        return QRectF(box.topLeft() * self._scale + self._shift, box.size() * self._scale)

    # ------------------------------------------------------------------------------------------------ pan and zoom

    def go_home(self) -> None:
        """Show all of it where it can be read then; else the best connected name and what is around it."""
        self.fit()
        self._home = True
        if self._boxes and self._scale < _WHOLE_FROM:
            counts = [0] * len(self._boxes)
            for pair in self._edges:
                for end in pair:
                    counts[end] += 1
            self._scale = _READABLE
            middle = self._boxes[counts.index(max(counts))].center()
            self._shift = QPointF(self.width() / 2, self.height() / 2) - middle * self._scale
            self.update()

    def fit(self) -> None:
        """Show all of it, no larger than it is."""
        self._home = False
        whole = self._whole()
        if whole.isEmpty():
            return
        room = (max(1.0, self.width() - 2 * _MARGIN), max(1.0, self.height() - 2 * _MARGIN))
        self._scale = max(_LEAST, min(1.0, room[0] / whole.width(), room[1] / whole.height()))
        self._shift = QPointF(self.width() / 2, self.height() / 2) - whole.center() * self._scale
        self.update()

    def zoom_by(self, factor: float, around: QPointF | None = None) -> None:
        """Zoom; the point `around` stays where it is, the middle by default."""
        centre = around if around is not None else QPointF(self.width() / 2, self.height() / 2)
        scale = max(_LEAST, min(_MOST, self._scale * factor))
        self._shift = centre - (centre - self._shift) * (scale / self._scale)
        self._scale, self._home = scale, False
        self.update()

    def pan_by(self, x: float, y: float) -> None:
        """Move the picture by screen pixels."""
        self._shift += QPointF(x, y)
        self._home = False
        self.update()

    def wheelEvent(self, event: QWheelEvent) -> None:
        if event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            self.zoom_by(_ZOOM ** (event.angleDelta().y() / 120), event.position())
            event.accept()
        else:
            event.ignore()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        key = Qt.Key(event.key())
        moves = {Qt.Key.Key_Left: (1, 0), Qt.Key.Key_Right: (-1, 0), Qt.Key.Key_Up: (0, 1), Qt.Key.Key_Down: (0, -1)}
        if key in moves and event.modifiers() in (Qt.KeyboardModifier.NoModifier, Qt.KeyboardModifier.KeypadModifier):
            self.pan_by(moves[key][0] * _STEP_PX, moves[key][1] * _STEP_PX)
        elif key in (Qt.Key.Key_Plus, Qt.Key.Key_Equal):
            self.zoom_by(_ZOOM)
        elif key == Qt.Key.Key_Minus:
            self.zoom_by(1 / _ZOOM)
        elif key == Qt.Key.Key_0:
            self.fit()
        else:
            super().keyPressEvent(event)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        if event.button() == Qt.MouseButton.LeftButton:
            self._held = event.position()
            self.setCursor(Qt.CursorShape.ClosedHandCursor)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if self._held is not None:
            moved, self._held = event.position() - self._held, event.position()
            self.pan_by(moved.x(), moved.y())
            return
        point = (event.position() - self._shift) / self._scale
        over = next((i for i, box in enumerate(self._boxes) if box.contains(point)), -1)
        if over != self._over:
            self._over = over
            self.update()
            said = "\n".join(self.facts_of(self._names[over])) if over >= 0 else ""
            QToolTip.showText(event.globalPosition().toPoint(), said, self)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        self._held = None
        self.setCursor(Qt.CursorShape.OpenHandCursor)

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        self.fit()

    def leaveEvent(self, event: QEvent) -> None:
        self._over = -1
        self.update()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        if self._home:
            self.go_home()

    # ----------------------------------------------------------------------------------------------------- drawing

    def paintEvent(self, event: QPaintEvent) -> None:
        painter, c = QPainter(self), colours()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(QPen(QColor(c.accent if self.hasFocus() else c.border), 2 if self.hasFocus() else 1))
        painter.setBrush(QColor(c.surface))
        painter.drawRoundedRect(QRectF(self.rect()).adjusted(1, 1, -1, -1), 6, 6)
        painter.setClipRect(self.rect().adjusted(2, 2, -2, -2))
        self.draw(painter)

    def draw(self, painter: QPainter) -> None:
        """Draw the graph as it is panned and zoomed."""
        c = colours()
        painter.translate(self._shift)
        painter.scale(self._scale, self._scale)
        labels = [self._draw_edge(painter, pair) for pair in self._edges]
        painter.setFont(self._small())
        for pair, (middle, text) in zip(self._edges, labels, strict=True):
            metrics = QFontMetricsF(painter.font())
            text = metrics.elidedText(text, Qt.TextElideMode.ElideRight, _LONGEST_LABEL_PX)
            room = QRectF(0, 0, metrics.horizontalAdvance(text) + 6, metrics.height())
            room.moveCenter(middle)
            painter.fillRect(room, QColor(c.surface))
            painter.setPen(QColor(c.text if self._over in pair else c.muted))
            painter.drawText(room, Qt.AlignmentFlag.AlignCenter, text)
        painter.setFont(self.font())
        for index, (name, box) in enumerate(zip(self._names, self._boxes, strict=True)):
            lit = index == self._over
            painter.setPen(QPen(QColor(c.accent), 1.6 if lit else 1.0))
            painter.setBrush(QColor(c.accent_soft if lit else c.raised))
            painter.drawRoundedRect(box, 7, 7)
            painter.setPen(QColor(c.text))
            inner = box.adjusted(_PAD / 2, 0, -_PAD / 2, 0)
            shown = QFontMetricsF(self.font()).elidedText(name, Qt.TextElideMode.ElideRight, inner.width())
            painter.drawText(inner, Qt.AlignmentFlag.AlignCenter, shown)

    def _draw_edge(self, painter: QPainter, pair: tuple[int, int]) -> tuple[QPointF, str]:
        """Draw an arrow; where its label belongs, and the label."""
        c, (a, b) = colours(), pair
        start, end = self._boxes[a].center(), self._boxes[b].center()
        painter.setPen(QPen(QColor(c.accent if self._over in pair else c.muted), 1.6 if self._over in pair else 1.1))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        if a == b:
            top = self._boxes[a]
            path = QPainterPath(QPointF(top.center().x() - 16, top.top()))
            path.cubicTo(QPointF(top.center().x() - 40, top.top() - 44), QPointF(top.center().x() + 40, top.top() - 44),
                         QPointF(top.center().x() + 16, top.top()))
            painter.drawPath(path)
            return QPointF(top.center().x(), top.top() - 34), self._edges[pair]
        along = end - start
        both = (b, a) in self._edges
        control = (start + end) / 2 + QPointF(-along.y(), along.x()) * (_BEND if both else 0.0)
        tip, tail = _border(self._boxes[b], control), _border(self._boxes[a], control)
        path = QPainterPath(tail)
        path.quadTo(control, tip)
        painter.drawPath(path)
        angle = math.atan2(tip.y() - control.y(), tip.x() - control.x())
        wings = [tip - QPointF(math.cos(angle + turn), math.sin(angle + turn)) * _ARROW_PX for turn in (-0.4, 0.4)]
        painter.setBrush(painter.pen().color())
        painter.drawPolygon(QPolygonF([tip, *wings]))
        return path.pointAtPercent(0.5), self._edges[pair]

    def _lay_out(self) -> None:
        metrics = QFontMetricsF(self.font())
        height = metrics.height() + _PAD
        sizes = [(min(metrics.horizontalAdvance(name), _LONGEST_LABEL_PX) + 2 * _PAD, height) for name in self._names]
        middles = place(sizes, list(self._edges))
        self._boxes = [QRectF(x - w / 2, y - h / 2, w, h) for (x, y), (w, h) in zip(middles, sizes, strict=True)]
        self.go_home()

    def _whole(self) -> QRectF:
        whole = QRectF()
        for box in self._boxes:
            whole = whole.united(box)
        return whole.adjusted(-4, -44 if any(a == b for a, b in self._edges) else -4, 4, 4) if self._boxes else whole

    def _small(self) -> QFont:
        return small_font(self.font())

    def _restyle(self) -> None:
        self._lay_out()


def _border(box: QRectF, towards: QPointF) -> QPointF:
    """Where the line from the middle of a box to a point leaves the box."""
    centre, way = box.center(), towards - box.center()
    if way.isNull():
        return centre
    share = min(box.width() / 2 / abs(way.x()) if way.x() else math.inf,
                box.height() / 2 / abs(way.y()) if way.y() else math.inf)
    return centre + way * min(1.0, share)
