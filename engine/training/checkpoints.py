"""A run's state on disk: written under another name, flushed, then renamed, so that the one before survives anything.

The file is torch's zip format; its checksums are verified before it is read, and it is never unpickled into anything
but tensors and plain data.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from engine.errors import DynoError

VERSION = 1
_NAME = "checkpoint.pt"


def save_state(folder: Path, state: dict[str, Any]) -> Path:
    """Write the newest checkpoint. Raises DynoError where the disk refuses; the one before is then still there."""
    final = folder / _NAME
    temporary = folder / f".{_NAME}.part"
    try:
        torch.save(state | {"version": VERSION}, temporary)
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, final)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        first = str(error).splitlines()[0]
        raise DynoError(f"The checkpoint could not be written ({first}); the one before it is untouched.",
                        "Make room on the disk, then resume the run.") from error
    return final


def has_state(folder: Path) -> bool:
    """Whether there is a checkpoint to resume from."""
    return (folder / _NAME).is_file()


def load_state(folder: Path) -> dict[str, Any]:
    """The newest checkpoint. Raises DynoError where there is none, or it is damaged."""
    path = folder / _NAME
    if not path.is_file():
        raise DynoError(f"There is no checkpoint in {folder}.", "Start the run anew.")
    damaged = DynoError(f"The checkpoint {path} is damaged.", f"Delete it to start anew, or train on from the best "
                        f"weights in {folder / 'model'}.")
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                raise damaged
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        raise damaged from error
    if not isinstance(state, dict) or state.get("version") != VERSION:
        raise DynoError(f"The checkpoint {path} was written by another version of GPT Dyno.",
                        f"Train on from the best weights in {folder / 'model'}.")
    return state
