"""The first tokens of the training data, each set off from the next; those without loss look different in more than
their colour: italic, struck by a dotted line below, and counted in words."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtGui import QColor, QTextCharFormat, QTextCursor
from PySide6.QtWidgets import QFrame, QHBoxLayout, QPushButton, QTextEdit, QVBoxLayout, QWidget

from engine.messages import DataPreview
from gui.theme import code_font, colours, theme
from gui.widgets.labels import TextLabel, engine_text, quiet
from gui.widgets.words import percent_text, size_text


class Preview(QFrame):
    """wanted: the user asks for it."""

    wanted = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("card", True)
        self._shown: DataPreview | None = None
        self.button = QPushButton(self.tr("Preview tokens"))
        self.button.setAccessibleName(self.button.text())
        self.button.setAccessibleDescription(self.tr("Read the beginning of the data, and show what would be learned."))
        self.button.setToolTip(self.button.accessibleDescription())
        self.button.clicked.connect(lambda _=False: self.wanted.emit())
        self.facts = quiet(self.tr("Shows the first tokens, and which of them carry loss."))
        self.text = QTextEdit(readOnly=True)
        self.text.setAccessibleName(self.tr("First tokens of the data"))
        self.text.setAccessibleDescription(self.tr("Read-only. Nothing has been read yet."))
        self.text.setTabChangesFocus(True)
        self.text.setMinimumHeight(110)
        self.text.hide()
        head = QHBoxLayout()
        head.addWidget(TextLabel(self.tr("Preview"), heading=True), 1)
        head.addWidget(self.button)
        column = QVBoxLayout(self)
        column.setContentsMargins(12, 8, 12, 8)
        column.addLayout(head)
        column.addWidget(self.facts)
        column.addWidget(self.text)
        theme().changed.connect(self._draw)

    def wait(self) -> None:
        """It has been asked for."""
        self.button.setEnabled(False)
        self.facts.setText(self.tr("Reading the data…"))

    def show_problem(self, text: str) -> None:
        """There is none."""
        self.button.setEnabled(True)
        self.text.hide()
        self.facts.setText(text)

    def show_preview(self, shown: DataPreview) -> None:
        """Show tokens and facts."""
        self.button.setEnabled(True)
        self._shown = shown
        share = percent_text(shown.learned_tokens / max(1, shown.tokens))
        text = (self.tr("{tokens} tokens in {files} file(s), {size}; {share} of them carry loss.")
                if shown.complete else
                self.tr("The first {tokens} tokens of {files} file(s), {size}; {share} of them carry loss."))
        words = [text.format(tokens=f"{shown.tokens:,}", files=shown.files, size=size_text(shown.size_bytes),
                             share=share)]
        if not all(learned for _, learned in shown.pieces):
            words.append(self.tr("Without loss: grey, italic, dotted below."))
        self.facts.setText(" ".join([*words, *(engine_text(n) for n in shown.notices)]))
        self.text.setAccessibleDescription(self.tr("Read-only. With tokens without loss in brackets: {text}").format(
            text="".join(piece if learned else f"[{piece}]" for piece, learned in shown.pieces)))
        self._draw()
        self.text.show()

    def _draw(self) -> None:
        if self._shown is None:
            return
        c = colours()
        self.text.setFont(code_font(self.font()))
        self.text.clear()
        cursor = QTextCursor(self.text.document())
        for number, (piece, learned) in enumerate(self._shown.pieces):
            look = QTextCharFormat()
            if learned:
                look.setBackground(QColor(c.accent_soft if number % 2 else c.raised))
            else:
                look.setForeground(QColor(c.muted))
                look.setFontItalic(True)
                look.setUnderlineStyle(QTextCharFormat.UnderlineStyle.DotLine)
            cursor.insertText(piece, look)
        cursor.movePosition(QTextCursor.MoveOperation.Start)
        self.text.setTextCursor(cursor)
