"""One turn in the transcript with its actions, and the way to the other branches at it; a prompt of the user."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QToolButton, QVBoxLayout, QWidget

from gui.chat.text_view import TextView
from gui.theme import icon, small_font
from gui.widgets.fold import FoldButton
from gui.widgets.notice import Notice

_LONG_CHARACTERS, _SHOWN_CHARACTERS = 1500, 600


class MessageView(QFrame):
    """A turn with its actions. The page listens to the signals."""

    copy_requested = Signal()
    edit_requested = Signal()
    retry_requested = Signal()
    branch_requested = Signal(int)  # -1: the branch before this one, 1: the one after

    def __init__(self, role: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.role = role
        self._who = QLabel(self.tr("You") if role == "user" else self.tr("Model"))
        self._who.setProperty("heading", True)
        self._who.setWordWrap(True)
        self._body = QVBoxLayout()
        self._body.setSpacing(4)
        self._foot = QLabel()
        self._foot.setProperty("muted", True)
        self._foot.setWordWrap(True)
        self.notice = Notice()
        self._buttons: list[tuple[QToolButton, str]] = []
        head, actions = QHBoxLayout(), QHBoxLayout()
        self._actions = actions
        self._branches: QLabel | None = None
        actions.setSpacing(0)
        actions.addWidget(self._foot, 1)
        head.addWidget(self._who, 1)
        self._add_button(actions, "copy", self.tr("Copy"), self.copy_requested.emit)
        if role == "user":
            head.addLayout(actions)
            self._add_button(actions, "edit", self.tr("Edit and send again"), self.edit_requested.emit)
        else:
            self._add_button(actions, "retry", self.tr("Regenerate"), self.retry_requested.emit)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(14, 10, 14, 6)
        layout.setSpacing(4)
        layout.addLayout(head)
        layout.addLayout(self._body)
        layout.addWidget(self.notice)
        if role != "user":
            layout.addLayout(actions)
        self.setProperty("card", role == "user")
        self.setAccessibleName(self._who.text())
        self.restyle()

    def restyle(self) -> None:
        """Draw again in the active colours and font."""
        small = small_font(self.font())
        self._foot.setFont(small)
        small.setBold(True)
        self._who.setFont(small)
        for button, name in self._buttons:
            button.setIcon(icon(name, size=16))
        for view in self.findChildren(TextView):
            view.restyle()

    def show_branches(self, place: int, count: int) -> None:
        """Say that this is branch `place` of `count` (from 1) that go on from the turn before; 1 of 1 says nothing."""
        if self._branches is None and count > 1:
            row = QHBoxLayout()
            row.setSpacing(0)
            before = self._add_button(row, "chevron-left", self.tr("Branch before (Alt+Left)"), lambda: self._walk(-1))
            self._branches = QLabel()
            self._branches.setProperty("muted", True)
            self._branches.setFont(small_font(self.font()))
            row.addWidget(self._branches, 0, Qt.AlignmentFlag.AlignVCenter)
            after = self._add_button(row, "chevron-right", self.tr("Branch after (Alt+Right)"), lambda: self._walk(1))
            self._ends = (before, after)
            self._actions.insertLayout(1, row)
            for button, name in self._buttons[-2:]:
                button.setIcon(icon(name, size=16))
        if self._branches is not None:
            self._branches.setText(f"{place}/{count}")
            self._branches.setAccessibleName(self.tr("Branch {place} of {count}").format(place=place, count=count))
            self._ends[0].setEnabled(place > 1)
            self._ends[1].setEnabled(place < count)

    def focus_branches(self, step: int) -> None:
        """Put the focus on the arrow that leads on in this direction, or back where there is none."""
        if self._branches is not None:
            first, other = self._ends if step < 0 else reversed(self._ends)
            (first if first.isEnabled() else other).setFocus()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Alt+Left and Alt+Right walk from branch to branch."""
        step = {Qt.Key.Key_Left: 0, Qt.Key.Key_Right: 1}.get(Qt.Key(event.key()))
        if (step is not None and self._branches is not None and event.modifiers() & Qt.KeyboardModifier.AltModifier
                and self._ends[step].isEnabled()):
            self._walk(2 * step - 1)
            return
        super().keyPressEvent(event)

    def _walk(self, step: int) -> None:
        self.branch_requested.emit(step)

    def _add_button(self, row: QHBoxLayout, name: str, title: str, act: Callable[[], None]) -> QToolButton:
        button = QToolButton()
        button.setAccessibleName(title)
        button.setToolTip(title)
        button.clicked.connect(lambda _=False: act())
        row.addWidget(button, 0, Qt.AlignmentFlag.AlignBottom)
        self._buttons.append((button, name))
        return button


class PromptView(MessageView):
    """What the user wrote, as plain text; of a long one the beginning. task: what the model is to do with it."""

    def __init__(self, text: str, task: str = "", parent: QWidget | None = None) -> None:
        super().__init__("user", parent)
        self._text = text
        if task:
            self._who.setText(self.tr("You: {task}").format(task=task))
            self.setAccessibleName(self._who.text())
        self._view = TextView(markdown=False)
        self._view.setAccessibleName(self.tr("Your message"))
        self._body.addWidget(self._view)
        if len(text) > _LONG_CHARACTERS:
            self._fold = FoldButton(self.tr("Show all {n} characters").format(n=f"{len(text):,}"))
            self._fold.toggled.connect(self._show_text)
            self._body.addWidget(self._fold)
        self._show_text(False)

    def _show_text(self, whole: bool) -> None:
        short = len(self._text) > _LONG_CHARACTERS and not whole
        self._view.set_text(self._text[:_SHOWN_CHARACTERS].rstrip() + " …" if short else self._text)
