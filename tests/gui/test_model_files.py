"""Models as files: what opens, what a drop means, and writing the loaded model from the menu."""

from __future__ import annotations

from pathlib import Path

import pytest
from PySide6.QtCore import QMimeData, QPoint, Qt, QUrl
from PySide6.QtGui import QDragEnterEvent
from PySide6.QtWidgets import QApplication, QFileDialog

from gui.app import Application
from gui.model_files import model_at
from tests.gui.conftest import until

pytest.importorskip("gguf", reason="the gguf library is not installed")


def loaded(app: Application) -> str:
    """The name of the model that is loaded, empty while there is none."""
    model = app.window._model
    return model.name if model is not None else ""


def test_a_path_means_a_folder_a_gguf_file_or_the_folder_around_a_models_file(tmp_path: Path) -> None:
    for name in ("x.gguf", "config.json", "model.safetensors", "holiday.jpg"):
        (tmp_path / name).write_bytes(b"")
    assert model_at(str(tmp_path)) == str(tmp_path)
    assert model_at(str(tmp_path / "x.gguf")) == str(tmp_path / "x.gguf")
    assert model_at(str(tmp_path / "config.json")) == model_at(str(tmp_path / "model.safetensors")) == str(tmp_path)
    assert model_at(str(tmp_path / "holiday.jpg")) == model_at(str(tmp_path / "gone.gguf")) == ""


def test_a_model_is_exported_from_the_menu_and_opened_again(qapp: QApplication, application: Application,
                                                            tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    window = application.window
    until(qapp, lambda: loaded(application), "the first model")
    target = tmp_path / "written.gguf"

    def save(*args: object) -> tuple[str, str]:
        return str(target), str(args[3]).split(";;")[1]

    monkeypatch.setattr(QFileDialog, "getSaveFileName", save)
    window.export_model.trigger()
    until(qapp, lambda: str(target) in window.notice.text(), "the message that it was written")
    assert target.is_file()
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *args: (str(target), ""))
    window.choose_model()
    until(qapp, lambda: loaded(application) == "written.gguf", "the written model")
    assert window._model is not None and window._model.stored_dtype in ("Q8_0", "fp16")
    assert application.settings.get("model", "") == str(target)


def test_a_place_that_cannot_be_written_is_told(qapp: QApplication, application: Application, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    until(qapp, lambda: loaded(application), "the first model")
    target = tmp_path / "nowhere" / "x.gguf"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *args: (str(target), ""))
    application.window.export_model.trigger()
    until(qapp, lambda: "could not be written" in application.window.notice.text(), "the problem")


def test_a_gguf_file_can_be_dropped_and_a_picture_cannot(qapp: QApplication, application: Application,
                                                         tmp_path: Path) -> None:
    for name, taken in (("x.gguf", True), ("holiday.jpg", False)):
        (tmp_path / name).write_bytes(b"")
        data = QMimeData()
        data.setUrls([QUrl.fromLocalFile(str(tmp_path / name))])
        event = QDragEnterEvent(QPoint(5, 5), Qt.DropAction.CopyAction, data, Qt.MouseButton.LeftButton,
                                Qt.KeyboardModifier.NoModifier)
        event.setAccepted(False)
        application.window.dragEnterEvent(event)
        assert event.isAccepted() is taken
