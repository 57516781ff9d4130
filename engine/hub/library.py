"""Which folders the user has added, and which models were opened last: one small JSON file in the user's data folder.

Also where the app keeps its own models. It does not look into any of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from engine.errors import DynoError, reason
from engine.paths import user_data

_MAX_RECENT = 12
_MAX_BYTES = 1 << 20


def models_folder(data: Path | None = None) -> Path:
    """Where downloads go: GPT_DYNO_MODELS, or `models` in the user's data folder. It need not be there yet."""
    chosen = os.environ.get("GPT_DYNO_MODELS", "").strip()
    return Path(chosen).expanduser() if chosen else (data or user_data()) / "models"


def cache_folder() -> Path:
    """The Hugging Face cache that other programs share, wherever the environment puts it."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


class Library:
    """The file. Reads are forgiving (a damaged file is an empty one); a write replaces it whole."""

    def __init__(self, data: Path | None = None) -> None:
        self._path = (data or user_data()) / "models.json"
        self._lock = threading.Lock()

    def folders(self) -> tuple[Path, ...]:
        """Folders the user added, in the order of adding."""
        return tuple(Path(name) for name in self._read()["folders"])

    def recent(self) -> dict[str, float]:
        """Path of a model -> when it was last opened, seconds since the epoch."""
        return dict(self._read()["recent"])

    def add_folder(self, folder: Path) -> None:
        """Show a folder's models from now on. Raises DynoError."""
        folder = folder.expanduser().resolve()
        if not folder.exists():
            raise DynoError(f"There is no folder {folder}.", "Choose a folder that holds models, or one that is one.")
        self._change(lambda raw: raw["folders"].append(str(folder)) if str(folder) not in raw["folders"] else None)

    def forget(self, path: Path) -> None:
        """Show a folder no longer; nothing on the disk is touched. Raises DynoError."""
        def drop(raw: dict[str, Any]) -> None:
            raw["folders"] = [name for name in raw["folders"] if name != str(path)]
            raw["recent"].pop(str(path), None)

        self._change(drop)

    def opened(self, path: Path, now_s: float | None = None) -> None:
        """A model was opened. Raises DynoError."""
        def note(raw: dict[str, Any]) -> None:
            raw["recent"][str(path)] = time.time() if now_s is None else now_s
            newest = sorted(raw["recent"].items(), key=lambda item: -item[1])
            raw["recent"] = dict(newest[:_MAX_RECENT])

        self._change(note)

    def _read(self) -> dict[str, Any]:
        raw: Any = None
        with contextlib.suppress(OSError, ValueError, RecursionError), self._path.open("rb") as file:
            raw = json.loads(file.read(_MAX_BYTES))
        raw = raw if isinstance(raw, dict) else {}
        folders, recent = raw.get("folders"), raw.get("recent")
        return {"folders": [str(name) for name in folders] if isinstance(folders, list) else [],
                "recent": {str(path): float(when) for path, when in recent.items()
                           if isinstance(when, (int, float))} if isinstance(recent, dict) else {}}

    def _change(self, change: Any) -> None:
        with self._lock:
            raw = self._read()
            change(raw)
            temporary = self._path.with_name(f".{self._path.name}.new")
            try:
                temporary.write_text(json.dumps(raw, indent=1), encoding="utf-8")
                os.replace(temporary, self._path)
            except OSError as error:
                raise DynoError(f"{self._path.name} cannot be written: {reason(error)}.",
                                "Check the data folder and the space on the disk.") from error
