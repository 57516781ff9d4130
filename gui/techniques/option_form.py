"""The form of a technique's options, made from the metadata of its dataclass: label, help, unit, limits, choices.

A share (unit "share", 0 to 1) is a slider with a percent box. Moving a slider asks for nothing until it is let go or
has rested: each answer costs the engine a build. Choices are compact: name and box on one line, and, where there are
several and nothing else, what they mean behind a fold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from engine.errors import DynoError
from engine.techniques.base import Options
from gui.techniques.option_fields import BoolField, ChoiceField, Field, make_field
from gui.widgets.fold import FoldButton
from gui.widgets.labels import TextLabel, engine_text, quiet


class OptionForm(QWidget):
    """Shows one technique's options. `edited` gives new options when the user has settled on a value; `refused` gives
    the DynoError of a value that the options do not take."""

    edited = Signal(object)
    refused = Signal(object)

    def __init__(self, name: str, options: Options, case_field: str = "", parent: QWidget | None = None) -> None:
        """name: the technique's, for assistive technology. options: what to show at first. case_field: the option
        whose choices may be impossible on a device."""
        super().__init__(parent)
        self.options = options
        self._case_field = case_field
        self._column = QVBoxLayout(self)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._column.setSpacing(4)
        self.fields: dict[str, Field] = {}
        self._helps: list[TextLabel] = []
        fields = dataclasses.fields(options)
        folded = len(fields) > 1 and all(f.metadata["choices"] for f in fields)
        for field in fields:
            label, about = engine_text(field.metadata["label"]), engine_text(field.metadata["help"])
            editor = make_field(field, f"{name}: {label}")
            self._add(editor, label, about, folded)
            editor.settled.connect(lambda name=field.name: self._settle(name))
            self.fields[field.name] = editor
        if folded:
            self._add_fold(name)
        self.show_options(options)

    def show_options(self, options: Options) -> None:
        """Show these values; tells nobody. A value the user is changing right now is left to the user."""
        self.options = options
        for name, editor in self.fields.items():
            editor.show_value(getattr(options, name))

    def set_reasons(self, reasons: Mapping[str, str]) -> None:
        """choice of the case field -> why it cannot be had here."""
        editor = self.fields.get(self._case_field)
        if isinstance(editor, ChoiceField):
            editor.set_reasons(reasons)

    def _add(self, editor: Field, label: str, about: str, folded: bool) -> None:
        caption = quiet(label, self)
        caption.setBuddy(editor.controls[0])
        for control in editor.controls:
            control.setAccessibleDescription(about)
        for widget in (editor.widget, caption):
            widget.setToolTip(about)
        help_line = quiet(f"{label}: {about}" if folded else about, self)
        if isinstance(editor, ChoiceField):
            row = QHBoxLayout()
            row.setSpacing(8)
            row.addWidget(caption, 1)
            row.addWidget(editor.widget, 1)
            self._column.addLayout(row)
            self._column.addWidget(editor.reasons)
        else:
            caption.setHidden(isinstance(editor, BoolField))  # a switch has its words itself
            self._column.addWidget(caption)
            self._column.addWidget(editor.widget)
        if folded:
            self._helps.append(help_line)
        else:
            self._column.addWidget(help_line)

    def _add_fold(self, name: str) -> None:
        self.fold = FoldButton(self.tr("What these mean"))
        self.fold.setAccessibleName(self.tr("What the options of {technique} mean").format(technique=name))
        self.fold.setAccessibleDescription(self.tr("Show or hide a sentence about each option."))
        self.fold.toggled.connect(self._unfold)
        self._column.addWidget(self.fold)
        for help_line in self._helps:
            self._column.addWidget(help_line)
        self._unfold(False)

    def _unfold(self, unfolded: bool) -> None:
        for help_line in self._helps:
            help_line.setVisible(unfolded)

    def _settle(self, name: str) -> None:
        value = self.fields[name].value()
        if value == getattr(self.options, name):
            return
        try:
            self.edited.emit(dataclasses.replace(self.options, **{name: value}))
        except DynoError as error:
            self.refused.emit(error)
            self.show_options(self.options)
