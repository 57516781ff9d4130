"""One technique in the panel: its switch (or its segments), what it does, its options, and why it cannot be had."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from PySide6.QtCore import QSignalBlocker, Qt, Signal
from PySide6.QtWidgets import QPushButton, QSizePolicy, QVBoxLayout, QWidget

from engine.errors import DynoError
from engine.recipe import make_options
from engine.techniques.base import Options, Technique, case_name
from gui.techniques.choices import is_on, is_segmented
from gui.techniques.option_fields import reason_text
from gui.techniques.option_form import OptionForm
from gui.widgets.labels import TextLabel, announce, engine_text, marked_line, quiet
from gui.widgets.segments import Segments
from gui.widgets.switch import PAD, Switch


class TechniqueRow(QWidget):
    """`wanted` gives the options the user wants, or None for off; the row shows them once `show_options` says so."""

    wanted = Signal(object)

    def __init__(self, technique: Technique, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.technique = technique
        self.label = engine_text(technique.label)
        self._last = technique.options_type()
        self._reasons: dict[str, str] = {}
        self._on = False
        self._column = QVBoxLayout(self)
        self._column.setContentsMargins(0, 2, 0, 6)
        self._column.setSpacing(2)
        self.control: Switch | Segments
        self.form: OptionForm | None = None
        self._about = quiet(engine_text(technique.summary))
        self._reason, self._reason_text = marked_line("unavailable", "muted", muted=True)
        self._refusal, self._refusal_text = marked_line("warning", "error", muted=False)
        self._note, self._note_text = marked_line("dash", "muted", muted=True)
        self._working, self._working_text = marked_line("dash", "muted", muted=True)
        self._undoing: Callable[[], None] = lambda: None
        self.undo_button = self._make_undo()
        if is_segmented(technique):
            self._make_segments()
        else:
            self._make_switch()

    @property
    def refusal(self) -> str:
        """Why the last wish was turned down, empty where it was not."""
        return self._refusal_text.text() if not self._refusal.isHidden() else ""

    @property
    def reason(self) -> str:
        """Why it, or some of its choices, cannot be had on this device; empty where all can."""
        return self._reason_text.text() if not self._reason.isHidden() else ""

    @property
    def note(self) -> str:
        """What the last wish changed besides, empty where it changed nothing else."""
        return self._note_text.text() if not self._note.isHidden() else ""

    @property
    def is_on(self) -> bool:
        """Whether what it shows changes the model."""
        return self._on

    def show_options(self, options: Options | None) -> None:
        """Show what is on; tells nobody."""
        self._on = is_on(options)
        if options is not None:
            self._last = options
        if isinstance(self.control, Segments):
            self.control.choose(case_name(self.technique, options) if options is not None else self.technique.neutral)
        else:
            with QSignalBlocker(self.control):
                self.control.setChecked(options is not None)
            self.control.update()
            if self.form is not None:
                self.form.show_options(self._last)
                self.form.setVisible(options is not None)
        self._show_reasons()

    def set_reasons(self, reasons: dict[str, str]) -> None:
        """"" or a choice -> why that cannot be had on this device."""
        self._reasons = reasons
        self._show_reasons()

    def refuse(self, error: DynoError) -> None:
        """Show why the last wish was turned down."""
        self._refusal_text.setText(f"{engine_text(error.summary)} {engine_text(error.hint)}".strip())
        self._refusal.show()
        announce(self, self._refusal_text.text())

    def tell(self, text: str, undo: Callable[[], None] | None = None) -> None:
        """Say quietly what the last wish changed besides. undo: takes the wish back."""
        self._note_text.setText(text)
        self._note.show()
        self._undoing = undo or (lambda: None)
        self.undo_button.setVisible(undo is not None)
        announce(self, text)

    def show_working(self, text: str) -> None:
        """Say what is still being made in the background; empty: nothing is."""
        self._working_text.setText(text)
        self._working.setVisible(bool(text))

    @property
    def working(self) -> str:
        """What is still being made, empty where nothing is."""
        return self._working_text.text() if not self._working.isHidden() else ""

    def clear_words(self) -> None:
        """Forget what was said about the last wish."""
        self._refusal.hide()
        self._note.hide()
        self.undo_button.hide()

    def _make_switch(self) -> None:
        self.control = Switch(self.label, self)
        self.control.toggled.connect(self._toggled)
        self._column.addWidget(self.control)
        body = QVBoxLayout()
        body.setContentsMargins(PAD, 0, PAD, 0)
        body.setSpacing(6)
        for widget in (self._about, self._working, self._reason, self._refusal, self._note, self.undo_button):
            body.addWidget(widget)
        if dataclasses.fields(self._last):
            self.form = OptionForm(self.label, self._last, self.technique.case_field, self)
            self.form.edited.connect(self.wanted)
            self.form.refused.connect(self.refuse)
            self.form.hide()
            body.addWidget(self.form)
        self._column.addLayout(body)

    def _make_segments(self) -> None:
        field = self._case_field()
        self.control = Segments(self.label, [(c, engine_text(c)) for c in field.metadata["choices"]], self)
        self.control.chosen.connect(self._chosen)
        self._column.setContentsMargins(PAD, 2, PAD, 6)
        self._column.setSpacing(6)
        if self.technique.label != self.technique.group:
            self._column.addWidget(TextLabel(self.label))
        self._column.addWidget(self.control)
        self._about.setText(engine_text(field.metadata["help"]))
        for widget in (self._about, self._working, self._reason, self._refusal, self._note, self.undo_button):
            self._column.addWidget(widget)

    def _make_undo(self) -> QPushButton:
        button = QPushButton(self.tr("Undo"))
        button.setProperty("link", True)
        button.setCursor(Qt.CursorShape.PointingHandCursor)
        button.setAccessibleName(self.tr("Undo: {technique}").format(technique=self.label))
        button.setAccessibleDescription(self.tr("Go back to the recipe as it was before this choice."))
        button.setToolTip(button.accessibleDescription())
        button.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
        button.clicked.connect(self._undo)
        button.hide()
        return button

    def _undo(self) -> None:
        (self.control.segment(self.control.value) if isinstance(self.control, Segments) else self.control).setFocus()
        self._undoing()

    def _case_field(self) -> dataclasses.Field[object]:
        return next(f for f in dataclasses.fields(self._last) if f.name == self.technique.case_field)

    def _toggled(self, on: bool) -> None:
        self.wanted.emit(self._first_possible() if on else None)

    def _chosen(self, case: str) -> None:
        self.wanted.emit(None if case == self.technique.neutral else self._with_case(case))

    def _with_case(self, case: str) -> Options:
        return make_options(self._last.key, dataclasses.asdict(self._last) | {self.technique.case_field: case})

    def _first_possible(self) -> Options:
        """The last options, with a choice that can be had where the last one cannot."""
        if not self.technique.case_field or case_name(self.technique, self._last) not in self._reasons:
            return self._last
        choices = self._case_field().metadata["choices"]
        possible = next((choice for choice in choices if choice not in self._reasons), None)
        return self._with_case(possible) if possible is not None else self._last

    def _show_reasons(self) -> None:
        whole = engine_text(self._reasons.get("", ""))
        if isinstance(self.control, Segments):
            self._show_reason(whole or "\n".join(
                reason_text(choice, reason) for choice, reason in self._reasons.items()))
            for choice in self._case_field().metadata["choices"]:
                reason = engine_text(self._reasons.get(choice, "")) or (
                    whole if choice != self.technique.neutral else "")
                self.control.describe(choice, reason or self._about.text())
                self.control.set_available(choice, not reason)
            return
        self._show_reason(whole)  # those of single choices stand in the form, beside the choice
        self.control.setEnabled(not whole or self.control.isChecked())
        self.control.setToolTip(whole or self._about.text())
        self.control.setAccessibleDescription(f"{self._about.text()} {whole}".strip())
        if self.form is not None:
            self.form.set_reasons({choice: why for choice, why in self._reasons.items() if choice})

    def _show_reason(self, text: str) -> None:
        self._reason_text.setText(text)
        self._reason.setVisible(bool(text))
