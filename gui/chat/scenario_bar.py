"""What to have the model do with what is written: the choice of a scenario, its fields, and what speaks against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PySide6.QtCore import QCoreApplication, Qt, Signal
from PySide6.QtWidgets import QHBoxLayout, QLabel, QSizePolicy, QVBoxLayout, QWidget

from engine.messages import ModelInfo
from engine.scenarios import Field, Scenario
from engine.units import count
from gui.chat.turns import Way
from gui.widgets.controls import ChoiceBox
from gui.widgets.labels import marked_line


class ScenarioBar(QWidget):
    """`changed` comes when another scenario or another value has been chosen. `row` has room at its right."""

    changed = Signal()

    def __init__(self, scenarios: Sequence[Scenario], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._scenarios = {scenario.key: scenario for scenario in scenarios}
        self._model: ModelInfo | None = None
        self._choice = _narrowing(ChoiceBox(6))
        self._choice.setAccessibleName(self.tr("What the model is to do"))
        for scenario in scenarios:
            self._choice.addItem(words(scenario.title), scenario.key)
            self._choice.setItemData(self._choice.count() - 1, words(scenario.about), Qt.ItemDataRole.ToolTipRole)
        self._fields: dict[str, tuple[QLabel, ChoiceBox]] = {}
        self._field_row = QHBoxLayout()
        self.row = QHBoxLayout()
        self.row.addWidget(self._choice, 10)
        self.row.addLayout(self._field_row, 10)
        self.row.addStretch(1)
        self._note_line, self._note = marked_line("warning", "warning", muted=True)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addLayout(self.row)
        layout.addWidget(self._note_line)
        self._choice.currentIndexChanged.connect(self._chosen)
        self._chosen()

    @property
    def way(self) -> Way:
        """The scenario and the values of its fields."""
        return Way(self._scenarios[self._choice.currentData()],
                   {key: box.currentText().strip() if box.isEditable() else box.currentData()
                    for key, (_, box) in self._fields.items()})

    @property
    def problem(self) -> str:
        """Why the loaded model cannot do this at all; empty where it may try."""
        scenario, model = self.way.scenario, self._model
        if model is None or scenario.way != "text" or model.chat_template:
            return ""
        return self.tr("{name} has no chat template, so it can only continue a text. Ctrl+O opens an instruct model."
                       ).format(name=model.name)

    @property
    def doubt(self) -> str:
        """Why little is to be expected of the loaded model here; empty where nothing speaks against it."""
        scenario, model = self.way.scenario, self._model
        if model is None or self.problem:
            return ""
        if scenario.key == "chat" and not model.chat_template:
            return self.tr("{name} has no chat template: it continues your last message as a text, and sees neither "
                           "the turns before it nor a system prompt.").format(name=model.name)
        if model.parameters >= scenario.parameters:
            return ""
        return self.tr("{name} has {has} parameters; this takes about {needs}. It may try, but expect little.").format(
            name=model.name, has=count(model.parameters), needs=count(scenario.parameters))

    def set_model(self, model: ModelInfo | None) -> None:
        """Judge by this model from now on."""
        self._model = model
        self._judge()

    def choose(self, key: str, values: Mapping[str, str]) -> None:
        """Show a scenario with these values; the first one where it is not there."""
        self._choice.setCurrentIndex(max(0, self._choice.findData(key)))
        for field, (_, box) in self._fields.items():
            if values.get(field):
                at = box.findData(values[field])
                if at >= 0:
                    box.setCurrentIndex(at)
                elif box.isEditable():
                    box.setEditText(values[field])

    def _chosen(self) -> None:
        scenario = self._scenarios[self._choice.currentData()]
        self._choice.setToolTip(words(scenario.about))
        self._choice.setAccessibleDescription(words(scenario.about))
        for label, box in self._fields.values():
            for widget in (label, box):
                self._field_row.removeWidget(widget)
                widget.hide()
                widget.deleteLater()
        self._fields = {field.key: self._add_field(field) for field in scenario.fields}
        self._judge()
        self.changed.emit()

    def _add_field(self, field: Field) -> tuple[QLabel, ChoiceBox]:
        label, box = QLabel(words(field.title)), _narrowing(ChoiceBox(5))
        label.setProperty("muted", True)
        box.setAccessibleName(words(field.title))
        for choice in field.choices:
            box.addItem(words(choice), choice)
        box.setEditable(field.free)
        box.setToolTip(box.currentText())
        box.currentTextChanged.connect(box.setToolTip)
        box.currentTextChanged.connect(lambda _: self.changed.emit())
        self._field_row.addWidget(label)
        self._field_row.addWidget(box)
        return label, box

    def _judge(self) -> None:
        said = self.problem or self.doubt
        self._note.setText(said)
        self._note.setAccessibleName(said)
        self._note_line.setVisible(bool(said))


def _narrowing(box: ChoiceBox) -> ChoiceBox:
    """A box that gives room back where there is little."""
    box.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    box.setMaximumWidth(box.fontMetrics().horizontalAdvance("m" * 12) + 44)
    return box


def words(text: str) -> str:
    """A scenario's words in the app's language."""
    return QCoreApplication.translate("scenarios", text) if text else ""
