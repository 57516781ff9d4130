"""Writes runs and charts to files the user names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PySide6.QtGui import QPixmap

from engine.bench.report import to_html
from engine.bench.results import render
from engine.errors import DynoError
from engine.measurements import BenchRow
from gui.benchmark.chart_view import ChartView
from gui.monitor.files import png_bytes, write_whole

RUN_SUFFIXES = (".csv", ".json", ".md", ".html")


def write_run(path: Path, rows: Sequence[BenchRow], title: str) -> None:
    """The rows in the format of the file's suffix. Raises DynoError."""
    if path.suffix not in RUN_SUFFIXES:
        raise DynoError(f"A run cannot be written as {path.suffix or 'a file without a suffix'}.",
                        f"Choose one of {', '.join(RUN_SUFFIXES)}.")
    _write(path, (to_html(rows, title) if path.suffix == ".html" else render(rows, path.suffix[1:])).encode())


def write_chart(path: Path, view: ChartView) -> None:
    """A chart as .svg, or as a picture. Raises DynoError."""
    _write(path, view.svg().encode() if path.suffix == ".svg" else png_bytes(QPixmap.fromImage(view.picture())))


def _write(path: Path, content: bytes) -> None:
    try:
        write_whole(path, content)
    except OSError as error:
        raise DynoError(f"{path.name} cannot be written: {error.strerror or error}.",
                        "Choose another folder.") from error
