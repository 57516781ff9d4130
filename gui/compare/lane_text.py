"""What a lane has written: the first token that is not the base's marked, every token shaded by its KL from the base.

The mark is a sign in the text and bold letters, not a colour; the shade has its number under the mouse, and under the
arrow keys, which walk from token to token.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable

from PySide6.QtCore import QEvent, QPoint, QSize, Qt
from PySide6.QtGui import QColor, QFont, QKeyEvent, QMouseEvent, QTextCharFormat, QTextCursor
from PySide6.QtWidgets import QTextEdit, QToolTip, QWidget

from engine.comparing import LaneToken
from gui.theme import colours, theme
from gui.widgets.labels import announce

MARK = "◆"
_DARKEST = 0.5  # of the warning colour, so that letters on it stay readable
_LIGHTEST = 0.06  # of it: what the eye can just tell from nothing
_SMALLEST_KL = 1e-4  # nats that are shaded at all: below, it is the rounding of the arithmetic
_LINES = 5  # that are always seen
_AT_END_PX = 6


def shade(kl: float) -> float:
    """Strength of a token's background for its KL in nats: 0 below 0.0001, from there on what can be seen, towards 0.5
    from a few nats on."""
    if kl < _SMALLEST_KL:
        return 0.0
    return _LIGHTEST + (_DARKEST - _LIGHTEST) * (1.0 - math.exp(-kl))


class LaneText(QTextEdit):
    """Read-only; tokens are added at the end, and the view follows unless it was scrolled up."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._tokens: list[LaneToken] = []
        self._ends: list[int] = []  # where each token ends in the document
        self._error = ""
        self._current = -1
        self.setReadOnly(True)
        self.setTabChangesFocus(True)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse
                                     | Qt.TextInteractionFlag.TextSelectableByKeyboard)
        self.setUndoRedoEnabled(False)
        self.viewport().setMouseTracking(True)
        theme().changed.connect(self._restyle)
        self._restyle()

    @property
    def text(self) -> str:
        """What was written, without the mark."""
        return "".join(token.text for token in self._tokens)

    @property
    def tokens(self) -> tuple[LaneToken, ...]:
        """The tokens, in order."""
        return tuple(self._tokens)

    def sizeHint(self) -> QSize:
        """No more than is always seen: the page gives it what is left."""
        return QSize(120, self.minimumHeight())

    def reset(self) -> None:
        """Nothing is written yet."""
        self._tokens, self._ends, self._error, self._current = [], [], "", -1
        self.setExtraSelections([])
        self.clear()

    def add(self, tokens: Iterable[LaneToken]) -> None:
        """Tokens that follow."""
        bar = self.verticalScrollBar()
        follows = bar.value() >= bar.maximum() - _AT_END_PX
        cursor = QTextCursor(self.document())
        cursor.movePosition(QTextCursor.MoveOperation.End)
        cursor.beginEditBlock()
        for token in tokens:
            self._tokens.append(token)
            self._write(cursor, token)
        cursor.endEditBlock()
        if follows:
            bar.setValue(bar.maximum())

    def show_error(self, text: str) -> None:
        """Why there is nothing more."""
        self._error = text
        self._write_error()

    def words(self, place: int) -> str:
        """A token in words: its text, probabilities, KL."""
        token = self._tokens[place]
        shown = token.text.replace("\n", "⏎").replace(" ", "␣") or self.tr("(no text)")
        parts = [self.tr("Token {number}, {text}: {percent} % likely here").format(
            number=token.number, text=shown, percent=f"{100 * token.probability:.1f}")]
        if token.base_probability is not None and token.kl is not None:
            parts.append(self.tr("{percent} % for the base after the same words; KL {kl} nats").format(
                percent=f"{100 * token.base_probability:.1f}", kl=f"{token.kl:.4f}"))
        if token.departs:
            parts.append(self.tr("the first token that is not the base’s"))
        return "; ".join(parts) + "."

    # ------------------------------------------------------------------------------------------------------- drawing

    def _write(self, cursor: QTextCursor, token: LaneToken) -> None:
        plain = QTextCharFormat()
        plain.setForeground(QColor(colours().text))
        if token.departs:
            plain.setFontWeight(QFont.Weight.Bold)
            mark = QTextCharFormat(plain)
            mark.setForeground(QColor(colours().accent))
            cursor.insertText(MARK, mark)
            plain.setFontUnderline(True)
        strength = shade(token.kl or 0.0)
        if strength:
            colour = QColor(colours().warning)
            colour.setAlphaF(strength)
            plain.setBackground(colour)
        cursor.insertText(token.text, plain)
        self._ends.append(cursor.position())

    def _write_error(self) -> None:
        cursor = QTextCursor(self.document())
        cursor.movePosition(QTextCursor.MoveOperation.End)
        red = QTextCharFormat()
        red.setForeground(QColor(colours().error))
        cursor.insertText(("\n\n" if self._tokens else "") + self._error, red)

    def _restyle(self) -> None:
        self.setMinimumHeight(_LINES * self.fontMetrics().lineSpacing() + 14)
        tokens, error = self._tokens, self._error
        self._tokens, self._ends = [], []
        self.clear()
        self.setStyleSheet(f"QTextEdit {{ background: {colours().surface}; border: 1px solid {colours().border};"
                           f" border-radius: 6px; padding: 2px; }}"
                           f"QTextEdit:focus {{ border-color: {colours().accent}; }}")
        self.add(tokens)
        if error:
            self._write_error()

    # ------------------------------------------------------------------------------------------------------- walking

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Left and Right walk from token to token."""
        step = {Qt.Key.Key_Right: 1, Qt.Key.Key_Left: -1}.get(Qt.Key(event.key()))
        if step and self._tokens and event.modifiers() == Qt.KeyboardModifier.NoModifier:
            place = max(0, min(len(self._tokens) - 1, self._current + step))
            cursor = QTextCursor(self.document())
            cursor.setPosition(self._ends[place])
            self.setTextCursor(cursor)
            self._point(place, self.viewport().mapToGlobal(self.cursorRect(cursor).bottomLeft()))
            announce(self, self.words(place))
            return
        super().keyPressEvent(event)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Say what lies under the pointer."""
        super().mouseMoveEvent(event)
        if not event.buttons():
            at = self.cursorForPosition(event.position().toPoint()).position()
            place = bisect.bisect_right(self._ends, at)
            self._point(place if place < len(self._tokens) else -1, event.globalPosition().toPoint())

    def leaveEvent(self, event: QEvent) -> None:
        """Point at nothing."""
        super().leaveEvent(event)
        self._point(-1, QPoint())

    def focusOutEvent(self, event) -> None:  # type: ignore[no-untyped-def]
        """Point at nothing."""
        super().focusOutEvent(event)
        self._point(-1, QPoint())

    def _point(self, place: int, where: QPoint) -> None:
        if place == self._current:
            return
        self._current = place
        if place < 0:
            self.setExtraSelections([])
            QToolTip.hideText()
            return
        found = QTextEdit.ExtraSelection()
        cursor = QTextCursor(self.document())
        cursor.setPosition(self._ends[place - 1] if place else 0)
        cursor.setPosition(self._ends[place], QTextCursor.MoveMode.KeepAnchor)
        found.cursor = cursor
        found.format.setBackground(QColor(colours().accent_soft))
        self.setExtraSelections([found])
        QToolTip.showText(where + QPoint(8, 12), self.words(place), self)
