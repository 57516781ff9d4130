"""Choosing a model on the disk, to open or to write: a folder, or a .gguf file. What is in it the engine finds out."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QCoreApplication, QObject
from PySide6.QtWidgets import QFileDialog, QWidget

from engine.messages import Cancelled, Event, ExportModel, Failed, Finished
from gui.context import AppContext
from gui.widgets.notice import Notice

_INSIDE = (".json", ".safetensors")


def model_at(path: str) -> str:
    """What is opened when somebody names this path: a folder, a .gguf file, or the folder around a model's other files;
    empty for anything else."""
    place = Path(path)
    if place.is_dir() or (place.suffix.lower() == ".gguf" and place.is_file()):
        return str(place)
    return str(place.parent) if place.suffix.lower() in _INSIDE and place.is_file() else ""


def choose_file(parent: QWidget, start: str) -> str:
    """Ask for a .gguf file, or any file of a model folder, and return what to open; empty where nothing was chosen."""
    title = QCoreApplication.translate("model files", "Open a model")
    kinds = QCoreApplication.translate("model files", "Models (*.gguf *.safetensors config.json)")
    path, _ = QFileDialog.getOpenFileName(parent, title, start, kinds)
    return model_at(path) if path else ""


class Exporter(QObject):
    """Asks where the loaded model is to be written, has the engine write it, and says how it ended."""

    def __init__(self, context: AppContext, notice: Notice, parent: QWidget) -> None:
        super().__init__(parent)
        self._bridge, self._notice, self._window = context.bridge, notice, parent
        self._job_id, self._path = 0, ""
        context.bridge.received.connect(self._on_event)

    def ask(self, model: str) -> None:
        """Ask for a place and a format. model: the name of the loaded one."""
        forms = {self.tr("GGUF for llama.cpp, 16 bits (*.gguf)"): "gguf-f16",
                 self.tr("GGUF for llama.cpp, 8 bits (*.gguf)"): "gguf-q8_0",
                 self.tr("GGUF for llama.cpp, 32 bits (*.gguf)"): "gguf-f32",
                 self.tr("Hugging Face folder, safetensors (*)"): "safetensors"}
        start = Path.home() / f"{Path(model).stem}.gguf"
        path, chosen = QFileDialog.getSaveFileName(self._window, self.tr("Export the model"), str(start),
                                                   ";;".join(forms))
        if path:
            self.write(path, forms.get(chosen, "gguf-f16"))

    def write(self, path: str, form: str) -> None:
        """Have the loaded model written; its recipe's pruning is in it, its rounding is not."""
        place = Path(path)
        if form == "safetensors" and place.suffix.lower() == ".gguf":
            place = place.with_suffix("")
        elif form != "safetensors" and place.suffix.lower() != ".gguf":
            place = place.with_name(f"{place.name}.gguf")
        self._job_id, self._path = self._bridge.next_id(), str(place)
        self._bridge.submit(ExportModel(self._job_id, self._path, form))

    def _on_event(self, event: Event) -> None:
        if not isinstance(event, (Finished, Cancelled, Failed)) or event.job_id != self._job_id:
            return
        if isinstance(event, Finished):
            self._notice.show_message(self.tr("The model was written to {path}.").format(path=self._path))
        elif isinstance(event, Failed):
            self._notice.show_problem(event.summary, event.hint, event.details)
