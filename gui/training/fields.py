"""The control of one setting of a plan, as its metadata asks: a choice, a number, a text, files or a folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from PySide6.QtCore import QObject, QSignalBlocker, Qt, Signal
from PySide6.QtWidgets import QFileDialog, QHBoxLayout, QLineEdit, QMenu, QToolButton, QWidget

from gui.theme import theme
from gui.widgets.controls import ChoiceBox
from gui.widgets.labels import engine_text, quiet, set_icon

_SEPARATOR = "; "


class Editor(QObject):
    """changed: the user changed `value()`. control: what takes the focus."""

    changed = Signal()
    widget: QWidget
    control: QWidget

    def value(self) -> Any:
        """What is on screen; a text where it is no value of the setting, so that the plan can say so."""
        raise NotImplementedError

    def show_value(self, value: Any) -> None:
        """Show a value without telling."""
        raise NotImplementedError


class ChoiceEditor(Editor):
    """One of a few words."""

    def __init__(self, field: dataclasses.Field[Any]) -> None:
        super().__init__()
        self._box = ChoiceBox(8)
        for choice in field.metadata["choices"]:
            self._box.addItem(engine_text(choice), choice)
        self._box.currentIndexChanged.connect(lambda _place: self.changed.emit())
        self.widget = self.control = self._box

    def value(self) -> Any:
        return str(self._box.currentData())

    def show_value(self, value: Any) -> None:
        with QSignalBlocker(self._box):
            self._box.setCurrentIndex(self._box.findData(value))


class NumberEditor(Editor):
    """A number with its unit behind it; written without an exponent."""

    def __init__(self, field: dataclasses.Field[Any]) -> None:
        super().__init__()
        self._whole = isinstance(field.default, int)
        self._edit = QLineEdit()
        self._edit.setAlignment(Qt.AlignmentFlag.AlignRight)
        self._edit.setMinimumWidth(80)
        self._edit.textEdited.connect(lambda _text: self.changed.emit())
        self.widget, self.control = QWidget(), self._edit
        row = QHBoxLayout(self.widget)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._edit, 1)
        if field.metadata["unit"]:
            unit = quiet(engine_text(field.metadata["unit"]))
            unit.setWordWrap(False)
            row.addWidget(unit)

    def value(self) -> Any:
        text = self._edit.text().strip().replace(",", "" if self._whole else ".").replace("\u00a0", "")
        try:
            return int(text) if self._whole else float(text)
        except ValueError:
            return self._edit.text()

    def show_value(self, value: Any) -> None:
        text = f"{value:d}" if self._whole else f"{value:.12f}".rstrip("0").rstrip(".")
        self._edit.setText(text)
        self._edit.setCursorPosition(0)


class TextEditor(Editor):
    """A line of text."""

    def __init__(self) -> None:
        super().__init__()
        self._edit = QLineEdit()
        self._edit.textEdited.connect(lambda _text: self.changed.emit())
        self.widget = self.control = self._edit

    def value(self) -> Any:
        return self._edit.text()

    def show_value(self, value: Any) -> None:
        self._edit.setText(str(value))
        self._edit.setCursorPosition(0)


class PathEditor(Editor):
    """Files or folders by name, and a button that finds them. several: files of data; else one model's folder."""

    def __init__(self, name: str, several: bool) -> None:
        super().__init__()
        self._several = several
        self._edit = QLineEdit()
        self._edit.setMinimumWidth(120)
        self._edit.setPlaceholderText(self.tr("a file, several, or a folder") if several else self.tr("a folder"))
        self._edit.textEdited.connect(lambda _text: self.changed.emit())
        self.browse = QToolButton()
        self.browse.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        about = self.tr("Choose: {name}").format(name=name)
        self.browse.setAccessibleName(about)
        self.browse.setAccessibleDescription(self.tr("Opens a dialog."))
        self.browse.setToolTip(about)
        if several:
            menu = QMenu(self.browse)
            menu.addAction(self.tr("Files…"), self._files)
            menu.addAction(self.tr("Folder…"), self._folder)
            self.browse.setMenu(menu)
            self.browse.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        else:
            self.browse.clicked.connect(lambda _=False: self._folder())
        self.widget, self.control = QWidget(), self._edit
        row = QHBoxLayout(self.widget)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(4)
        row.addWidget(self._edit, 1)
        row.addWidget(self.browse)
        theme().changed.connect(self._restyle)
        self._restyle()

    def value(self) -> Any:
        text = self._edit.text().strip()
        if not self._several:
            return text
        return tuple(part.strip() for part in text.split(";") if part.strip())

    def show_value(self, value: Any) -> None:
        self._edit.setText(value if isinstance(value, str) else _SEPARATOR.join(value))

    def _files(self) -> None:
        names, _ = QFileDialog.getOpenFileNames(self.widget, self.tr("Data to learn from"), self._start(), self.tr(
            "Data (*.txt *.md *.jsonl *.parquet *.npy *.xz *.gz *.bz2);;All files (*)"))
        self._take(names)

    def _folder(self) -> None:
        name = QFileDialog.getExistingDirectory(self.widget, self.tr("Choose a folder"), self._start())
        self._take([name] if name else [])

    def _start(self) -> str:
        first = self._edit.text().partition(";")[0].strip()
        return str(Path(first).parent) if first else ""

    def _take(self, names: list[str]) -> None:
        if names:
            self._edit.setText(_SEPARATOR.join(names))
            self.changed.emit()

    def _restyle(self) -> None:
        set_icon(self.browse, "folder")


def make_editor(field: dataclasses.Field[Any]) -> Editor:
    """The control of a setting, named and explained for everyone."""
    label, about = engine_text(field.metadata["label"]), engine_text(field.metadata["help"])
    editor: Editor
    if field.metadata["choices"]:
        editor = ChoiceEditor(field)
    elif isinstance(field.default, tuple) or field.name == "model":
        editor = PathEditor(label, isinstance(field.default, tuple))
    elif isinstance(field.default, str):
        editor = TextEditor()
    else:
        editor = NumberEditor(field)
    editor.control.setAccessibleName(label)
    editor.control.setAccessibleDescription(about)
    editor.widget.setToolTip(about)
    editor.setParent(editor.widget)  # so that the theme does not call one whose widgets are gone
    return editor
