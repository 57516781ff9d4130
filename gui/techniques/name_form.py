"""A line that asks for a name: what it is for, the field, and what stands in the way."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QEvent, Qt, Signal
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QApplication, QFrame, QHBoxLayout, QLineEdit, QPushButton, QVBoxLayout, QWidget

from engine.errors import DynoError
from engine.recipe_files import NAME_LENGTH
from gui.widgets.labels import TextLabel, announce, engine_text, quiet

Save = Callable[[str, bool], None]
"""(name, replace) -> None. Raises DynoError where the name cannot be."""


class NameForm(QFrame):
    """Hidden until `ask()`. Enter saves, Esc gives up; a taken name can be replaced by pressing once more. closed: it
    is about to go, and had the keyboard's focus."""

    closed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("card", True)
        self._save: Save = lambda name, replace: None
        self._taken: Callable[[str], bool] = lambda name: False
        self._asked_for = ""  # the name for which replacing has been offered
        self._verb = ""
        self._caption = TextLabel(factor=0.94)
        self.field = _Field()
        self.field.setAccessibleName(self.tr("Name of the preset"))
        self.field.setAccessibleDescription(self.tr("Enter saves, Esc gives up."))
        self._caption.setBuddy(self.field)
        self._problem = quiet()
        self.save_button = QPushButton()
        self.save_button.setAccessibleDescription(self.tr("Keep the preset under this name."))
        self.cancel_button = QPushButton(self.tr("Cancel"))
        self.cancel_button.setAccessibleName(self.tr("Cancel"))
        self.cancel_button.setAccessibleDescription(self.tr("Close without saving."))
        buttons = QHBoxLayout()
        buttons.addStretch()
        buttons.addWidget(self.cancel_button)
        buttons.addWidget(self.save_button)
        column = QVBoxLayout(self)
        column.setContentsMargins(8, 8, 8, 8)
        column.setSpacing(6)
        for widget in (self._caption, self.field, self._problem):
            column.addWidget(widget)
        column.addLayout(buttons)
        self.field.textEdited.connect(lambda text: self._tell(self._too_long(text)))
        self.field.returnPressed.connect(self._accept)
        self.field.gave_up = self._give_up
        self.save_button.clicked.connect(self._accept)
        self.cancel_button.clicked.connect(self._give_up)
        self.hide()

    @property
    def problem(self) -> str:
        """What stands in the way, empty where nothing does."""
        return self._problem.text()

    def ask(self, caption: str, name: str, verb: str, save: Save,
            taken: Callable[[str], bool] = lambda name: False) -> None:
        """Ask for a name. verb: on the button. taken: whether saving under a name would replace something."""
        self._save, self._taken, self._verb = save, taken, verb
        self._caption.setText(caption)
        self.field.setText(name)
        self._tell("")
        self.show()
        self.field.selectAll()
        self.field.setFocus(Qt.FocusReason.PopupFocusReason)

    def _accept(self) -> None:
        name = " ".join(self.field.text().split())
        replace = name == self._asked_for
        if self._too_long(name):
            self._tell(self._too_long(name))
            return
        if name and not replace and self._taken(name):
            self._tell(self.tr("You have a preset “{name}” already. Replace it?").format(name=name), offered=name)
            return
        try:
            self._save(name, replace)
        except DynoError as error:
            self._tell(f"{engine_text(error.summary)} {engine_text(error.hint)}".strip())
            return
        self._give_up()

    def _tell(self, text: str, offered: str = "") -> None:
        self._asked_for = offered
        self._problem.setText(text)
        self._problem.setVisible(bool(text))
        self.save_button.setText(self.tr("Replace") if offered else self._verb)
        self.save_button.setAccessibleName(self.save_button.text())
        if text:
            announce(self, text)

    def _too_long(self, text: str) -> str:
        """Said while typing too: a name that is cut off unseen is not the one that was chosen."""
        count = len(" ".join(text.split()))
        return self.tr("A name has at most {most} letters; this one has {count}.").format(
            most=NAME_LENGTH, count=count) if count > NAME_LENGTH else ""

    def _give_up(self) -> None:
        focus: QWidget | None = QApplication.focusWidget()
        if focus is not None and self.isAncestorOf(focus):
            self.closed.emit()  # before it goes, or the focus would pass to whatever comes next
        self.hide()


class _Field(QLineEdit):
    """Esc is its own while it has the focus; the window's Esc would stop a job."""

    gave_up: Callable[[], None]

    def event(self, event: QEvent) -> bool:
        """Claim Esc before the window's shortcut sees it."""
        if event.type() == QEvent.Type.ShortcutOverride and isinstance(event, QKeyEvent) \
                and event.key() == Qt.Key.Key_Escape:
            event.accept()
            return True
        return super().event(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Esc gives up."""
        if event.key() == Qt.Key.Key_Escape:
            self.gave_up()
        else:
            super().keyPressEvent(event)
