"""One technique in the panel: its switch (or its segments), what it does, its options, and why it cannot be had."""

from __future__ import annotations

import dataclasses

from PySide6.QtCore import QSignalBlocker, Qt, Signal
from PySide6.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from engine.errors import DynoError
from engine.recipe import make_options
from engine.techniques.base import Options, Technique
from gui.techniques.labels import IconLabel, TextLabel, announce, engine_text, quiet
from gui.techniques.option_form import OptionForm
from gui.techniques.segments import Segments
from gui.techniques.switch import PAD, Switch

NEUTRAL = "fp32"  # the dtype of a model without techniques: choosing it is switching off


def is_segmented(technique: Technique) -> bool:
    """Whether the technique is one choice of dtype of which one means "off"."""
    fields = dataclasses.fields(technique.options_type)
    return [f.name for f in fields] == ["dtype"] and NEUTRAL in fields[0].metadata["choices"]


class TechniqueRow(QWidget):
    """`wanted` gives the options the user wants, or None for off; the row shows them once `show_options` says so."""

    wanted = Signal(object)

    def __init__(self, technique: Technique, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.technique = technique
        self.label = engine_text(technique.label)
        self._last = technique.options_type()
        self._reasons: dict[str, str] = {}
        self._column = QVBoxLayout(self)
        self._column.setContentsMargins(0, 2, 0, 6)
        self._column.setSpacing(2)
        self.control: Switch | Segments
        self.form: OptionForm | None = None
        self._about = quiet(engine_text(technique.summary))
        self._reason, self._reason_text = _marked_line("unavailable", "muted", muted=True)
        self._refusal, self._refusal_text = _marked_line("warning", "error", muted=False)
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
        """Why it cannot be had on this device, empty where it can."""
        return self._reason_text.text() if not self._reason.isHidden() else ""

    def show_options(self, options: Options | None) -> None:
        """Show what is on; tells nobody."""
        if options is not None:
            self._last = options
        if isinstance(self.control, Segments):
            self.control.choose(getattr(options, "dtype", NEUTRAL))
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

    def clear_refusal(self) -> None:
        """Forget the last refusal."""
        self._refusal.hide()

    def _make_switch(self) -> None:
        self.control = Switch(self.label, self)
        self.control.toggled.connect(self._toggled)
        self._column.addWidget(self.control)
        body = QVBoxLayout()
        body.setContentsMargins(PAD, 0, PAD, 0)
        body.setSpacing(6)
        body.addWidget(self._about)
        body.addWidget(self._reason)
        body.addWidget(self._refusal)
        if dataclasses.fields(self._last):
            self.form = OptionForm(self.label, self._last, self)
            self.form.edited.connect(self.wanted)
            self.form.refused.connect(self.refuse)
            self.form.hide()
            body.addWidget(self.form)
        self._column.addLayout(body)

    def _make_segments(self) -> None:
        field = dataclasses.fields(self._last)[0]
        self.control = Segments(self.label, [(c, engine_text(c)) for c in field.metadata["choices"]], self)
        self.control.chosen.connect(self._chosen)
        self._column.setContentsMargins(PAD, 2, PAD, 6)
        self._column.setSpacing(6)
        if self.technique.label != self.technique.group:
            self._column.addWidget(TextLabel(self.label))
        self._column.addWidget(self.control)
        self._about.setText(engine_text(field.metadata["help"]))
        for widget in (self._about, self._reason, self._refusal):
            self._column.addWidget(widget)

    def _toggled(self, on: bool) -> None:
        self.wanted.emit(self._first_possible() if on else None)

    def _chosen(self, dtype: str) -> None:
        self.wanted.emit(None if dtype == NEUTRAL else make_options(self.technique.key, {"dtype": dtype}))

    def _first_possible(self) -> Options:
        """The last options, with a dtype that can be had where the last one cannot."""
        if getattr(self._last, "dtype", "") not in self._reasons:
            return self._last
        field = next(f for f in dataclasses.fields(self._last) if f.name == "dtype")
        possible = [choice for choice in field.metadata["choices"] if choice not in self._reasons]
        if not possible:
            return self._last
        return make_options(self._last.key, dataclasses.asdict(self._last) | {"dtype": possible[0]})

    def _show_reasons(self) -> None:
        whole = engine_text(self._reasons.get("", ""))
        lines = [whole] if whole else [f"{engine_text(choice)}: {engine_text(reason)}"
                                       for choice, reason in self._reasons.items()]
        text = "\n".join(lines)
        self._reason_text.setText(text)
        self._reason.setVisible(bool(text))
        about = self._about.text()
        if isinstance(self.control, Segments):
            for choice in dataclasses.fields(self._last)[0].metadata["choices"]:
                reason = engine_text(self._reasons.get(choice, "")) or (whole if choice != NEUTRAL else "")
                self.control.describe(choice, reason or about)
                self.control.set_available(choice, not reason)
            return
        self.control.setEnabled(not whole or self.control.isChecked())
        self.control.setToolTip(whole or about)
        self.control.setAccessibleDescription(f"{about} {text}".strip())
        if self.form is not None:
            self.form.set_reasons(self._reasons)


def _marked_line(icon_name: str, colour: str, muted: bool) -> tuple[QWidget, TextLabel]:
    line = QWidget()
    row = QHBoxLayout(line)
    row.setContentsMargins(0, 0, 0, 0)
    row.setSpacing(6)
    text = TextLabel(factor=0.88, muted=muted)
    row.addWidget(IconLabel(icon_name, colour), 0, Qt.AlignmentFlag.AlignTop)
    row.addWidget(text, 1)
    line.hide()
    return line, text
