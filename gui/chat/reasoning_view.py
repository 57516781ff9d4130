"""What a model wrote on the way to its answer, folded away under one line that says how much it is."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtWidgets import QVBoxLayout, QWidget

from engine.messages import TokenPiece
from gui.chat.text_view import TextView
from gui.widgets.fold import FoldButton

_INDENT_PX = 14


class FoldedText(QWidget):
    """Text under a fold, laid out only while it is open. Hidden until it has something."""

    def __init__(self, name: str, parent: QWidget | None = None) -> None:
        """name: of the text, for assistive technology."""
        super().__init__(parent)
        self._name = name
        self._text, self._pieces = "", tuple[TokenPiece, ...]()
        self._view: TextView | None = None
        self._fold = FoldButton()
        self._fold.toggled.connect(self._draw)
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.setSpacing(2)
        self._layout.addWidget(self._fold)
        self.hide()

    @property
    def shown_text(self) -> str:
        """What can be read at the moment; empty while it is folded."""
        return self._view.toPlainText() if self._view is not None and self._fold.isChecked() else ""

    def unfold(self) -> None:
        """Open it."""
        self._fold.setChecked(True)

    def show_text(self, title: str, text: str, pieces: Sequence[TokenPiece] = (), final: bool = True) -> None:
        """Say `title` and hold this text."""
        self._fold.say(title)
        changed = text != self._text
        self._text, self._pieces = text, tuple(pieces)
        if self._fold.isChecked() and (changed or final):
            self._draw(True, final)
        self.show()

    def _draw(self, opened: bool, final: bool = True) -> None:
        if self._view is None:
            self._view = TextView(markdown=True)
            self._view.setAccessibleName(self._name)
            self._view.setContentsMargins(_INDENT_PX, 0, 0, 0)
            self._view.setProperty("muted", True)
            self._layout.addWidget(self._view)
        self._view.setVisible(opened)
        if opened:
            self._view.set_text(self._text, self._pieces, final)
