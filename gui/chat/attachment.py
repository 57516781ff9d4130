"""A text from a file that goes with what is written: read once, shown as its name and length, taken off again."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QHBoxLayout, QToolButton, QWidget

from engine.errors import DynoError, reason
from gui.theme import theme
from gui.widgets.labels import ElidedLabel, IconLabel, set_icon

_LARGEST_BYTES = 8 << 20


def read_text_file(path: Path) -> str:
    """The text of a file, UTF-8 or UTF-16 with its mark. Raises DynoError."""
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise DynoError(f"{path.name} is larger than {_LARGEST_BYTES >> 20} MB.", "Choose a shorter text.")
        raw = path.read_bytes()
    except OSError as error:
        raise DynoError(f"{path.name} cannot be read: {reason(error)}.", "Choose another file.") from error
    encoding = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise DynoError(f"{path.name} is not a text file.", "Choose plain text: .txt, .md, source code.")
    if not text.strip():
        raise DynoError(f"{path.name} is empty.", "Choose another file.")
    return text.replace("\r\n", "\n")


class Attachment(QWidget):
    """One file's text, or none (then it is hidden)."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.name, self.text, self.path = "", "", ""
        self._label = ElidedLabel()
        self._remove = QToolButton()
        self._remove.setAccessibleName(self.tr("Remove the file"))
        self._remove.setToolTip(self._remove.accessibleName())
        self._remove.clicked.connect(self.clear)
        row = QHBoxLayout(self)
        row.setContentsMargins(2, 0, 2, 0)
        mark = IconLabel("attach", "muted")
        mark.setAlignment(Qt.AlignmentFlag.AlignCenter)
        row.addWidget(mark)
        row.addWidget(self._label, 1)
        row.addWidget(self._remove)
        theme().changed.connect(self.restyle)
        self.restyle()
        self.hide()

    def put(self, name: str, text: str, path: str = "") -> None:
        """Hold a text. path: where it can be read again, where it can."""
        self.name, self.text, self.path = name, text, path
        said = self.tr("{name}, {n} characters").format(name=name, n=f"{len(text):,}")
        self._label.setText(said)
        self._label.setAccessibleName(self.tr("File: {said}").format(said=said))
        self.setVisible(bool(text))
        self.changed.emit()

    def clear(self) -> None:
        """Hold nothing."""
        if self.text:
            self.put("", "")

    def restyle(self) -> None:
        """Draw again in the active colours."""
        set_icon(self._remove, "close")
