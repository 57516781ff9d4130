"""How series look: a colour, and a dash that tells them apart without it."""

from __future__ import annotations

from PySide6.QtCore import QPointF, Qt
from PySide6.QtGui import QColor, QPen, QPolygonF

from gui.theme import colours

_DASHES: tuple[tuple[float, ...], ...] = (
    (), (6, 3), (2, 2), (9, 3, 2, 3), (12, 4), (2, 4), (9, 3, 2, 3, 2, 3), (4, 2))


def series_colour(number: int) -> QColor:
    """The colour of a chart's series `number`."""
    series = colours().series
    return QColor(series[number % len(series)])


def series_pen(number: int, ratio: float = 1.0) -> QPen:
    """The line of a chart's series `number`. ratio: device pixels per pixel.

    One device pixel wide, as wider lines cost several times as much; two on screens where one would hardly show.
    """
    pen = QPen(series_colour(number), 1 if ratio < 1.75 else 2)
    pen.setCosmetic(True)
    dashes = _DASHES[number % len(_DASHES)]
    if dashes:
        pen.setDashPattern(dashes)
        pen.setCapStyle(Qt.PenCapStyle.FlatCap)
    return pen


DIAMOND = QPolygonF([QPointF(0, -4), QPointF(4, 0), QPointF(0, 4), QPointF(-4, 0)])
"""The symbol of single measurements, around (0, 0)."""

SYMBOL = "\u2009◆"
"""The same in words, behind the labels of their axis."""
