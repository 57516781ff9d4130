"""One run of text in the transcript: Markdown, as tall as its content, whose tokens tell their probabilities."""

from __future__ import annotations

import html
from collections.abc import Sequence

from PySide6.QtCore import QEvent, QPoint, QSize, Qt, QUrl
from PySide6.QtGui import QColor, QGuiApplication, QKeyEvent, QMouseEvent, QResizeEvent, QTextCursor, QWheelEvent
from PySide6.QtWidgets import QFrame, QSizePolicy, QTextBrowser, QTextEdit, QToolButton, QToolTip, QWidget

from engine.messages import TokenPiece
from gui.chat.markdown import code_blocks, code_text, set_markdown
from gui.theme import colours, icon


class TextView(QTextBrowser):
    """Read-only text. set_text() replaces all of it; pieces, if given, are what the text was made of, in order."""

    def __init__(self, markdown: bool, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._markdown = markdown
        self._text = ""
        self._pieces: Sequence[TokenPiece] = ()
        self._spans: list[tuple[int, int]] | None = None
        self._token = -1
        self._copy_buttons: list[QToolButton] = []
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setOpenLinks(False)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse
                                     | Qt.TextInteractionFlag.TextSelectableByKeyboard)
        self.document().setDocumentMargin(0)
        self.viewport().setAutoFillBackground(False)
        self.viewport().setMouseTracking(True)
        self.setStyleSheet("QTextBrowser { background: transparent; }")
        self._fixed_height = -1

    def set_text(self, text: str, pieces: Sequence[TokenPiece] = (), final: bool = True) -> None:
        """Show `text`. `final` off leaves code uncoloured: the reply is still growing."""
        self._text, self._pieces, self._spans = text, tuple(pieces), None
        if self._markdown:
            set_markdown(self.document(), text, colours(), highlight=final)
        else:
            self.setPlainText(text)
        self._fit()
        if final:
            self._place_copy_buttons()

    def restyle(self) -> None:
        """Draw again in the active colours."""
        self.set_text(self._text, self._pieces)

    def loadResource(self, kind: int, name: QUrl | str) -> object:
        """Nothing is fetched: a reply may name files and addresses, the window opens none of them."""
        return None

    def wheelEvent(self, event: QWheelEvent) -> None:
        """The transcript scrolls, never a single text in it."""
        event.ignore()

    # ------------------------------------------------------------------------------------------------------ layout

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        if event.size().width() != event.oldSize().width():
            self._fit()
            self._place_copy_buttons()

    def sizeHint(self) -> QSize:
        return QSize(200, max(self._fixed_height, 16))

    def minimumSizeHint(self) -> QSize:
        return QSize(80, max(self._fixed_height, 16))

    def _fit(self) -> None:
        document = self.document()
        document.setTextWidth(max(self.viewport().width(), 80))
        height = int(document.size().height()) + 1
        if height != self._fixed_height:
            self._fixed_height = height
            self.setFixedHeight(height)

    def _place_copy_buttons(self) -> None:
        for button in self._copy_buttons:
            button.deleteLater()
        self._copy_buttons = []
        if not self._markdown or "```" not in self._text:
            return
        for first, last in code_blocks(self.document()):
            code = code_text(first, last)
            button = QToolButton(self.viewport())
            button.setIcon(icon("copy", size=16))
            button.setAccessibleName(self.tr("Copy code"))
            button.setToolTip(self.tr("Copy code"))
            button.clicked.connect(lambda _=False, text=code: QGuiApplication.clipboard().setText(text))
            top = self.document().documentLayout().blockBoundingRect(first).top()
            button.move(self.viewport().width() - button.sizeHint().width() - 2, int(top))
            button.show()
            self._copy_buttons.append(button)

    # ------------------------------------------------------------------------------------------------------ tokens

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        super().mouseMoveEvent(event)
        if self._pieces and not event.buttons():
            position = self.cursorForPosition(event.position().toPoint()).position()
            self._show_token(self._token_at(position), event.globalPosition().toPoint())

    def leaveEvent(self, event: QEvent) -> None:
        super().leaveEvent(event)
        self._show_token(-1, QPoint())

    def keyPressEvent(self, event: QKeyEvent) -> None:
        step = {Qt.Key.Key_Right: 1, Qt.Key.Key_Left: -1}.get(Qt.Key(event.key()))
        if step and self._pieces and event.modifiers() == Qt.KeyboardModifier.NoModifier:
            index = self._token + step
            while 0 <= index < len(self._pieces) and self._span(index)[0] == self._span(index)[1]:
                index += step
            if 0 <= index < len(self._pieces):
                cursor = QTextCursor(self.document())
                cursor.setPosition(self._span(index)[0])
                self._show_token(index, self.viewport().mapToGlobal(self.cursorRect(cursor).bottomLeft()))
            return
        if event.modifiers() & Qt.KeyboardModifier.AltModifier:
            event.ignore()  # the turn's affair; a text browser would look for pages it has shown before
            return
        if event.key() == Qt.Key.Key_Escape and self._token >= 0:
            self._show_token(-1, QPoint())
            return
        super().keyPressEvent(event)

    def focusOutEvent(self, event) -> None:  # type: ignore[no-untyped-def]
        super().focusOutEvent(event)
        self._show_token(-1, QPoint())

    def token_tip(self, index: int) -> str:
        """What hovering the token at `index` shows, as rich text."""
        piece = self._pieces[index]
        rows = "".join(
            f"<tr><td>{_visible(text)}</td><td align='right'>&nbsp;&nbsp;{100 * p:.1f} %</td></tr>"
            for text, p in piece.alternatives)
        chosen = self.tr("{token}: {percent} % likely").format(
            token=f"<b>{_visible(piece.text)}</b>", percent=f"{100 * piece.probability:.1f}")
        others = f"<br>{self.tr('The likeliest tokens here:')}<table>{rows}</table>" if rows else ""
        return f"<qt>{chosen}{others}</qt>"

    def _show_token(self, index: int, where: QPoint) -> None:
        if index == self._token:
            return
        self._token = index
        if index < 0:
            self.setExtraSelections([])
            QToolTip.hideText()
            return
        start, end = self._span(index)
        mark = QTextEdit.ExtraSelection()
        cursor = QTextCursor(self.document())
        cursor.setPosition(start)
        cursor.setPosition(end, QTextCursor.MoveMode.KeepAnchor)
        mark.cursor = cursor
        mark.format.setBackground(QColor(colours().accent_soft))
        self.setExtraSelections([mark])
        QToolTip.showText(where + QPoint(8, 12), self.token_tip(index), self)
        piece = self._pieces[index]
        self.setAccessibleDescription(self.tr("Token {token}, {percent} percent likely").format(
            token=piece.text.strip(), percent=f"{100 * piece.probability:.0f}"))

    def _token_at(self, position: int) -> int:
        self._span(0)
        assert self._spans is not None
        return next((i for i, (start, end) in enumerate(self._spans) if start <= position < end), -1)

    def _span(self, index: int) -> tuple[int, int]:
        if self._spans is None:
            self._spans = align(self.document().toPlainText(), [piece.text for piece in self._pieces])
        return self._spans[index]


def align(shown: str, pieces: Sequence[str]) -> list[tuple[int, int]]:
    """Where each piece of the source stands in the shown text, as (start, end) in UTF-16 units.

    Markdown only takes characters away (marks, line ends), so each visible character of the source is the next equal
    one of the shown text, within a few characters.
    """
    spans, at, units = [], 0, 0
    for piece in pieces:
        start = None
        for character in piece:
            if character.isspace():
                continue
            found = shown.find(character, at, at + 12)
            if found < 0:
                continue
            units += _utf16(shown[at:found])
            start = units if start is None else start
            at = found + 1
            units += _utf16(character)
        spans.append((units, units) if start is None else (start, units))
    return spans


def _utf16(text: str) -> int:
    return len(text) + sum(1 for c in text if ord(c) > 0xFFFF)


def _visible(token: str) -> str:
    """A token's text with its spaces and line ends made visible."""
    return html.escape(token.replace("\n", "⏎").replace(" ", "␣") or "∅")
