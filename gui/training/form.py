"""A training plan as a form, made from the metadata of TrainPlan's fields. Gives a plan, or the DynoError of one that
cannot be. Which settings are shown the task decides; those that are not have their defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QBoxLayout, QFormLayout, QFrame, QLabel, QScrollArea, QVBoxLayout, QWidget

from engine.train_plan import TrainPlan
from gui.training.fields import Editor, make_editor
from gui.training.preview import Preview
from gui.training.tasks import FOLDED, TASKS, Task, task_of
from gui.training.words import said
from gui.widgets.controls import ChoiceBox
from gui.widgets.fold import FoldButton
from gui.widgets.labels import TextLabel, engine_text, quiet

_LEFT = ("Data", "Model", "Prune and retrain", "Quantization-aware", "LoRA", "Records")
_WIDE_LETTERS = 105  # from this width on the groups stand in two columns
_SAMPLE = "Once upon a time"


class Group(QFrame):
    """The settings of one group: a heading, a line for each, and the rarer ones behind a fold."""

    def __init__(self, title: str, fields: list[dataclasses.Field[Any]], editors: Mapping[str, Editor]) -> None:
        super().__init__()
        self.setProperty("card", True)
        self._rows: dict[str, tuple[QWidget, QWidget]] = {}
        self._shown: set[str] = set()
        self.form = QFormLayout()
        self.form.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)
        self.form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self.form.setLabelAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        self.form.setVerticalSpacing(5)
        self.fold = FoldButton(self.tr("More"))
        self.fold.setAccessibleDescription(self.tr("Show the rarer settings of this group: {name}").format(name=title))
        self.fold.toggled.connect(lambda _open: self.refresh())
        column = QVBoxLayout(self)
        column.setContentsMargins(12, 8, 12, 8)
        column.setSpacing(6)
        column.addWidget(TextLabel(title, heading=True))
        column.addLayout(self.form)
        rows = sorted(fields, key=lambda f: f.name in FOLDED)
        for field in rows:
            label = QLabel(engine_text(field.metadata["label"]))
            label.setToolTip(engine_text(field.metadata["help"]))
            label.setBuddy(editors[field.name].control)
            self._rows[field.name] = (label, editors[field.name].widget)
            self.form.addRow(label, editors[field.name].widget)
        column.addWidget(self.fold)

    def show_fields(self, names: set[str]) -> None:
        """Show these of its settings; the group goes where it has none."""
        self._shown = names & set(self._rows)
        self.refresh()

    def reveal(self, name: str) -> None:
        """Bring a setting out from behind the fold."""
        if name in FOLDED and name in self._rows:
            self.fold.setChecked(True)

    def refresh(self) -> None:
        """Follow the fold."""
        self.setVisible(bool(self._shown))
        folded = self._shown & set(FOLDED)
        self.fold.setVisible(bool(folded))
        for name, (label, widget) in self._rows.items():
            shown = name in self._shown and (name not in FOLDED or self.fold.isChecked())
            label.setVisible(shown)
            widget.setVisible(shown)


class TrainForm(QScrollArea):
    """`changed` when anything was. preview: the view of the data's first tokens, beside the data."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWidgetResizable(True)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.task = TASKS[0]
        self.choice = ChoiceBox(14)
        self.choice.setAccessibleName(self.tr("Task"))
        self.choice.setAccessibleDescription(self.tr("What the training is for; decides which settings are shown."))
        for task in TASKS:
            self.choice.addItem(said(task.title), task.key)
        self.about = quiet()
        self.effective = quiet()
        self.preview = Preview()
        self.editors: dict[str, Editor] = {}
        groups: dict[str, list[dataclasses.Field[Any]]] = {}
        for field in dataclasses.fields(TrainPlan):
            editor = make_editor(field)
            editor.show_value(_SAMPLE if field.name == "sample" else field.default)
            editor.changed.connect(self._edited)
            self.editors[field.name] = editor
            groups.setdefault(field.metadata["group"], []).append(field)
        self.groups = {name: Group(engine_text(name), fields, self.editors) for name, fields in groups.items()}
        head = QFrame()
        head.setProperty("card", True)
        top = QVBoxLayout(head)
        top.setContentsMargins(12, 8, 12, 8)
        for widget in (TextLabel(self.tr("Task"), heading=True), self.choice, self.about):
            top.addWidget(widget)
        left, right = QVBoxLayout(), QVBoxLayout()
        left.addWidget(head)
        for name, group in self.groups.items():
            (left if name in _LEFT else right).addWidget(group)
            if name == "Data":
                left.addWidget(self.preview)
            if name == "Length":
                group.layout().addWidget(self.effective)
        content = QWidget()
        self._columns = QBoxLayout(QBoxLayout.Direction.LeftToRight, content)
        self._columns.setContentsMargins(2, 6, 10, 10)
        self._columns.setSpacing(10)
        for column in (left, right):
            column.setSpacing(8)
            column.addStretch(1)
            self._columns.addLayout(column, 1)
        self.setWidget(content)
        self.choice.activated.connect(lambda place: self.choose(TASKS[place]))
        self._show_task()

    def choose(self, task: Task) -> None:
        """Take up a task, with the values it begins with."""
        self.task = task
        for name, value in task.start.items():
            self.editors[name].show_value(value)
        self._show_task()
        self._edited()

    def plan(self) -> TrainPlan:
        """What is asked for. Raises DynoError."""
        return TrainPlan(**{field.name: self.editors[field.name].value() for field in self.task.fields()})

    def show_plan(self, plan: TrainPlan) -> None:
        """Show the settings of a plan."""
        self.task = task_of(plan)
        for name, editor in self.editors.items():
            editor.show_value(getattr(plan, name))
        self._show_task()
        self._edited()

    def apply(self, settings: Mapping[str, Any]) -> str:
        """Set some of the settings; gives them back in words."""
        words = []
        for name, value in settings.items():
            editor = self.editors[name]
            editor.show_value(value)
            for group in self.groups.values():
                group.reveal(name)
            words.append(f"{editor.control.accessibleName()} {_plain(value)}")
        self._edited()
        return ", ".join(words)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Two columns where there is room."""
        super().resizeEvent(event)
        wide = self.width() >= _WIDE_LETTERS * self.fontMetrics().averageCharWidth()
        self._columns.setDirection(QBoxLayout.Direction.LeftToRight if wide else QBoxLayout.Direction.TopToBottom)

    def _show_task(self) -> None:
        self.choice.setCurrentIndex(TASKS.index(self.task))
        self.about.setText(said(self.task.about))
        names = {field.name for field in self.task.fields()}
        for group in self.groups.values():
            group.show_fields(names)

    def _edited(self) -> None:
        sizes = [self.editors[name].value() for name in ("batch", "accumulate", "sequence")]
        whole = all(isinstance(size, int) for size in sizes)
        batch, times, length = sizes if whole else (0, 0, 0)
        self.effective.setText(self.tr("Effective batch: {sequences} sequences, {tokens} tokens a step.").format(
            sequences=f"{batch * times:,}", tokens=f"{batch * times * length:,}") if whole else "")
        self.changed.emit()


def _plain(value: Any) -> str:
    return f"{value:.12f}".rstrip("0").rstrip(".") if isinstance(value, float) else f"{value:,}" if isinstance(
        value, int) else engine_text(str(value))
