"""Where things live: what ships with the app, and the user's own data folder."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from engine.errors import DynoError

RESOURCES = Path(__file__).resolve().parent.parent / "resources"
RECIPES = RESOURCES / "recipes"
PROBE_TEXT = RESOURCES / "evaluation" / "probe.txt"
CALIBRATION_TEXT = RESOURCES / "evaluation" / "calibration.txt"


def bundled_model() -> Path:
    """Folder of the model that ships with the app."""
    return RESOURCES / "models" / "dyno-small-2"


def user_data() -> Path:
    """The user's data folder, made when absent. GPT_DYNO_DATA overrides it (a second profile, tests)."""
    override = os.environ.get("GPT_DYNO_DATA")
    folder = Path(override) if override else Path(platformdirs.user_data_dir("gpt-dyno", appauthor=False))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        usable = os.access(folder, os.W_OK)
    except OSError:
        usable = False
    if not usable:
        raise DynoError(f"The data folder {folder} cannot be written.",
                        "Make it writable, or choose another one with GPT_DYNO_DATA.")
    return folder


def benchmark_history(folder: Path | None = None) -> Path:
    """The database of benchmark runs, in the user's data folder unless told another. Raises DynoError."""
    return (folder or user_data()) / "benchmarks.sqlite"
