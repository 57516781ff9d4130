"""The top of the panel: which model this is, how large, on which device; or what to do where there is none."""

from __future__ import annotations

from PySide6.QtWidgets import QFrame, QVBoxLayout, QWidget

from engine.messages import ModelInfo
from gui.widgets.labels import TextLabel, quiet
from gui.widgets.words import NBSP, count_text, size_text


class ModelHead(QFrame):
    """A card with the model's name, size and device."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("card", True)
        self._name = TextLabel(bold=True, factor=1.08)
        self._size, self._device = quiet(), quiet()
        self._info: ModelInfo | None = None
        column = QVBoxLayout(self)
        column.setContentsMargins(10, 8, 10, 8)
        column.setSpacing(2)
        for label in (self._name, self._size, self._device):
            column.addWidget(label)
        self.show_model(None)

    def show_model(self, info: ModelInfo | None) -> None:
        """Show a loaded model, or that there is none."""
        self._info = info
        if info is None:
            self._tell(self.tr("No model is open"), self.tr("Open one with Ctrl+O. Techniques chosen now apply to it."))
            return
        size = self.tr("{count} parameters · {size} as {dtype} on disk").format(
            count=count_text(info.parameters), size=size_text(info.file_bytes), dtype=info.stored_dtype)
        self._tell(_breakable(info.name), size, f"{info.device_name} · {info.device}")
        self.setToolTip(info.folder)

    def show_loading(self) -> None:
        """Say that a model is on its way."""
        self._tell(self.tr("Loading the model…"), self.tr("Techniques chosen now apply as soon as it is ready."))

    def show_again(self) -> None:
        """Go back to what stood here before a load that came to nothing."""
        self.show_model(self._info)

    def _tell(self, name: str, size: str, device: str = "") -> None:
        self._name.setText(name)
        self._size.setText(size)
        self._device.setText(device)
        self._device.setVisible(bool(device))
        self.setAccessibleName(self.tr("Model"))
        self.setAccessibleDescription(", ".join(p for p in (name, size, device) if p).replace(NBSP, " "))


def _breakable(name: str) -> str:
    """A long file name may wrap at its hyphens, underscores and dots."""
    for mark in "-_.":
        name = name.replace(mark, f"{mark}\u200b")
    return name
