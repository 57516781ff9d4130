"""One lane: its recipe, what it writes, and a line about it."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QHBoxLayout, QToolButton, QVBoxLayout, QWidget

from engine.bench.compared import letter
from engine.comparing import LaneEvent, LaneReady, LaneResult, LaneToken
from engine.units import rate
from gui.compare.lane_text import LaneText
from gui.compare.recipe_box import Offers, RecipeBox
from gui.theme import theme
from gui.widgets.labels import ElidedLabel, TextLabel, engine_text, set_icon

_WORDS_FROM_EM = 16
_SPEED_TOKENS = 16  # the running tokens/s is that of the last few


class Lane(QWidget):
    """`changed`: another recipe stands here. `applied`: its recipe is wanted for the loaded model. `removed`: it is
    not wanted any more."""

    changed = Signal()
    applied = Signal()
    removed = Signal()

    def __init__(self, key: str, offers: Offers, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.number = 0
        self.result: LaneResult | None = None
        self.ready: LaneReady | None = None
        self.name = TextLabel(bold=True)
        self.name.setWordWrap(False)
        self.recipe = RecipeBox(key, offers)
        self.apply, self.remove = QToolButton(), QToolButton()
        self.apply.setText(self.tr("Apply"))
        for button, signal in ((self.apply, self.applied), (self.remove, self.removed)):
            button.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
            button.clicked.connect(lambda _=False, told=signal: told.emit())
        self.text = LaneText()
        self.text.setPlaceholderText(self.tr("What this recipe writes will stand here."))
        self.line = ElidedLabel()
        self.line.setProperty("muted", True)
        head, foot, column = QHBoxLayout(), QHBoxLayout(), QVBoxLayout(self)
        for row in (head, foot):
            row.setSpacing(4)
        head.addWidget(self.name)
        head.addWidget(self.recipe, 1)
        head.addWidget(self.remove)
        foot.addWidget(self.line, 1)
        foot.addWidget(self.apply)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addLayout(head)
        column.addWidget(self.text, 1)
        column.addLayout(foot)
        self.recipe.changed.connect(self.changed)
        theme().changed.connect(self._restyle)
        self._restyle()

    def place(self, number: int, removable: bool) -> None:
        """Which lane it is; the first one is the base."""
        self.number = number
        name = letter(number)
        self.name.setText(name)
        self.name.setToolTip(self.tr("The base of all ratios") if number == 0 else "")
        self.remove.setVisible(removable)
        for widget, title, about in (
                (self.recipe.box, self.tr("Recipe of lane {lane}"), self.tr(
                    "A preset, one of your own, or the panel’s. Lane A is the base of all ratios.")),
                (self.apply, self.tr("Apply lane {lane}"), self.tr("Give the loaded model this lane’s recipe.")),
                (self.remove, self.tr("Remove lane {lane}"), self.tr("Compare without this lane.")),
                (self.text, self.tr("Text of lane {lane}"), self.tr(
                    "Left and Right walk through its tokens with their probabilities and KL.")),
                (self.line, self.tr("State of lane {lane}"), "")):
            widget.setAccessibleName(title.format(lane=name))
            widget.setAccessibleDescription(about)
        self.apply.setToolTip(self.apply.accessibleDescription())
        self.remove.setToolTip(self.remove.accessibleName())

    @property
    def stops(self) -> tuple[QWidget, ...]:
        """What Tab goes through, in order."""
        return self.recipe.box, self.remove, self.text, self.apply

    def reset(self) -> None:
        """Nothing is known of it."""
        self.result = self.ready = None
        self.text.reset()
        self.line.setText("")

    def take(self, events: Sequence[LaneEvent]) -> None:
        """What the engine says of this lane."""
        self.text.add(event for event in events if isinstance(event, LaneToken))
        for event in events:
            if isinstance(event, LaneReady):
                self.ready = event
            elif isinstance(event, LaneResult):
                self.finish(event)
        if self.result is None:
            self._show_progress()

    def finish(self, result: LaneResult) -> None:
        """It has ended."""
        if self.result is not None:
            return
        self.result = result
        if result.error:
            self.text.show_error(f"{engine_text(result.error)} {engine_text(result.hint)}".strip())
        ends = {"end": self.tr("ended"), "length": self.tr("length reached"), "context": self.tr("context full"),
                "stopped": self.tr("stopped"), "failed": self.tr("failed")}
        self._show(ends[result.finish])

    def _show_progress(self) -> None:
        if self.text.tokens:
            self._show("")
        elif self.ready is not None:
            self.line.setText(self.tr("ready"))

    def _show(self, end: str) -> None:
        """Where it departed comes first: it is what the eye looks for, and the rest may be cut."""
        tokens = self.text.tokens
        gone = next((token.number for token in tokens if token.departs), 0)
        parts = []
        if gone:
            parts.append(self.tr("departs at token {number}").format(number=gone))
        elif self.number and tokens and tokens[-1].kl is not None:
            parts.append(self.tr("as the base so far") if not end else self.tr("as the base"))
        parts.append(self.tr("{count} tokens").format(count=len(tokens)))
        last = [token.own_s for token in tokens[1:]][-_SPEED_TOKENS:]
        if self.result is not None and self.result.tokens_per_s:
            parts.append(rate(self.result.tokens_per_s))
        elif last and sum(last) > 0:
            parts.append(rate(len(last) / sum(last)))
        self.line.setText(" · ".join([*parts, end] if end else parts))

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Words on the button where there is room for them."""
        super().resizeEvent(event)
        wide = event.size().width() > _WORDS_FROM_EM * self.fontMetrics().height()
        self.apply.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon if wide
                                      else Qt.ToolButtonStyle.ToolButtonIconOnly)

    def _restyle(self) -> None:
        set_icon(self.apply, "check")
        set_icon(self.remove, "close")
