"""Where an export goes: a suffix is given, a folder is remembered, and no file is written over unasked."""

from __future__ import annotations

from pathlib import Path

import pytest
from PySide6.QtWidgets import QFileDialog, QWidget
from pytestqt.qtbot import QtBot

from gui.widgets.export_button import ask_where


def test_a_suffix_is_added_where_there_is_none_and_never_over_another_file(
        themed: None, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = QWidget()
    qtbot.addWidget(parent)
    answers: list[tuple[str, str]] = []
    offered: list[str] = []

    def ask(_parent: QWidget, _title: str, start: str, _kinds: str) -> tuple[str, str]:
        offered.append(start)
        return answers.pop(0)

    monkeypatch.setattr(QFileDialog, "getSaveFileName", ask)
    (tmp_path / "there.png").write_bytes(b"mine")
    answers += [("", ""), (str(tmp_path / "chart"), "PNG (*.png)"), (str(tmp_path / "there"), "PNG (*.png)"),
                (str(tmp_path / "there.png"), "PNG (*.png)"), (str(tmp_path / "v1.2"), "SVG (*.svg)")]
    asked = [ask_where(parent, "Save", "chart.svg", "SVG (*.svg);;PNG (*.png)") for _ in range(5)]
    assert asked == [None, *(tmp_path / name for name in ("chart.png", "there 2.png", "there.png", "v1.2.svg"))]
    assert Path(offered[2]) == tmp_path / "chart.svg"  # the folder of the last time
