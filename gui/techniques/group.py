"""A group of techniques under a heading that folds it away and says how many of them are on."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtWidgets import QVBoxLayout, QWidget

from gui.settings import Settings
from gui.techniques.technique_row import TechniqueRow
from gui.widgets.fold import FoldButton
from gui.widgets.labels import engine_text
from gui.widgets.segments import Segments
from gui.widgets.words import NBSP

OPEN_AT_FIRST = ("Precision", "Quantization")


class TechniqueGroup(QWidget):
    """Open where something is on, else as it was left, else as `OPEN_AT_FIRST` says. Remembers what the user does."""

    def __init__(self, name: str, rows: Sequence[TechniqueRow], settings: Settings,
                 parent: QWidget | None = None) -> None:
        """name: the group's, as techniques write it."""
        super().__init__(parent)
        self._rows, self._settings = list(rows), settings
        self._title = engine_text(name)
        self._setting = f"techniques/open/{name.lower().replace(' ', '-')}"
        self.heading = FoldButton(self._title, factor=0.94, heading=True)
        self.heading.setAccessibleDescription(self.tr("Show or hide these techniques."))
        self.heading.clicked.connect(self._clicked)
        self._content = QWidget()
        inside = QVBoxLayout(self._content)
        inside.setContentsMargins(0, 0, 0, 0)
        inside.setSpacing(6)
        for row in self._rows:
            inside.addWidget(row)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addWidget(self.heading)
        column.addWidget(self._content)
        self.open(settings.get(self._setting, name in OPEN_AT_FIRST))

    @property
    def is_open(self) -> bool:
        """Whether its techniques show."""
        return self.heading.isChecked()

    @property
    def first_control(self) -> QWidget:
        """What the keyboard begins with."""
        control = self._rows[0].control
        return control.segment(control.value) if isinstance(control, Segments) else control

    def open(self, opened: bool) -> None:
        """Unfold or fold; remembers nothing."""
        self.heading.setChecked(opened)
        self._content.setVisible(opened)

    def count(self) -> int:
        """Say in the heading how many are on; returns it."""
        on = sum(row.is_on for row in self._rows)
        said = self.tr("{count} on").format(count=on).replace(" ", NBSP)
        self.heading.say(f"{self._title} ·{NBSP}{said}" if on else self._title)
        return on

    def _clicked(self, opened: bool) -> None:
        self._settings.set(self._setting, opened)
        self.open(opened)
