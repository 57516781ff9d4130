"""Which folders the user has added, which of their models are not shown, and which models were opened last: one small
JSON file in the user's data folder, which a window and the command line may write at the same time.

Also where the app keeps its own models. It does not look into any of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from engine.errors import DynoError, reason
from engine.paths import user_data

_MAX_RECENT = 12
_MAX_BYTES = 1 << 20
_PATIENCE_S = 10.0


def models_folder(data: Path | None = None) -> Path:
    """Where downloads go: GPT_DYNO_MODELS, or `models` in the user's data folder. It need not be there yet."""
    chosen = os.environ.get("GPT_DYNO_MODELS", "").strip()
    return Path(chosen).expanduser() if chosen else (data or user_data()) / "models"


def cache_folder() -> Path:
    """The Hugging Face cache that other programs share, wherever the environment puts it."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


class Library:
    """The file. Reads are forgiving (a damaged file is an empty one); a write replaces it whole, and sets a damaged one
    aside first."""

    def __init__(self, data: Path | None = None) -> None:
        self._path = (data or user_data()) / "models.json"
        self._lock = FileLock(self._path.with_name(f".{self._path.name}.lock"), timeout=_PATIENCE_S)

    def folders(self) -> tuple[Path, ...]:
        """Folders the user added, in the order of adding."""
        return tuple(Path(name) for name in self._read()["folders"])

    def hidden(self) -> frozenset[str]:
        """Paths of models in added folders that the user has taken off the list."""
        return frozenset(self._read()["hidden"])

    def recent(self) -> dict[str, float]:
        """Path of a model -> when it was last opened, seconds since the epoch."""
        return dict(self._read()["recent"])

    def add_folder(self, folder: Path) -> None:
        """Show a folder's models from now on. Raises DynoError."""
        folder = folder.expanduser().resolve()
        if not folder.exists():
            raise DynoError(f"There is no folder {folder}.", "Choose a folder that holds models, or one that is one.")

        def add(raw: dict[str, Any]) -> None:
            if str(folder) not in raw["folders"]:
                raw["folders"].append(str(folder))
            raw["hidden"] = [name for name in raw["hidden"] if not Path(name).is_relative_to(folder)]

        self._change(add)

    def forget(self, path: Path) -> None:
        """Show a folder, or a model in one, no longer; nothing on the disk is touched. Raises DynoError."""
        def drop(raw: dict[str, Any]) -> None:
            raw["folders"] = [name for name in raw["folders"] if name != str(path)]
            raw["recent"].pop(str(path), None)
            if any(path.is_relative_to(name) for name in raw["folders"]) and str(path) not in raw["hidden"]:
                raw["hidden"].append(str(path))

        self._change(drop)

    def opened(self, path: Path, now_s: float | None = None) -> None:
        """A model was opened. Raises DynoError."""
        def note(raw: dict[str, Any]) -> None:
            raw["recent"][str(path)] = time.time() if now_s is None else now_s
            newest = sorted(raw["recent"].items(), key=lambda item: -item[1])
            raw["recent"] = dict(newest[:_MAX_RECENT])

        self._change(note)

    def _read(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError, RecursionError):
            return self._parsed()
        return {"folders": [], "hidden": [], "recent": {}}

    def _parsed(self) -> dict[str, Any]:
        """What the file says. Raises OSError, and ValueError or RecursionError where it is damaged."""
        with self._path.open("rb") as file:
            raw = json.loads(file.read(_MAX_BYTES))
        if not isinstance(raw, dict):
            raise ValueError("it holds no object")
        folders, hidden, recent = (raw.get(key) for key in ("folders", "hidden", "recent"))
        return {"folders": [str(name) for name in folders] if isinstance(folders, list) else [],
                "hidden": [str(name) for name in hidden] if isinstance(hidden, list) else [],
                "recent": {str(path): float(when) for path, when in recent.items()
                           if isinstance(when, (int, float))} if isinstance(recent, dict) else {}}

    def _change(self, change: Any) -> None:
        temporary = self._path.with_name(f".{self._path.name}.new")
        try:
            with self._lock:
                raw = self._to_change()
                change(raw)
                temporary.write_text(json.dumps(raw, indent=1), encoding="utf-8")
                os.replace(temporary, self._path)
        except (OSError, Timeout) as error:
            raise DynoError(f"{self._path.name} cannot be written: {reason(error)}.",
                            "Check the data folder and the space on the disk.") from error

    def _to_change(self) -> dict[str, Any]:
        """What the file says, to be written back. Raises OSError rather than to write over what could not be read."""
        try:
            return self._parsed()
        except FileNotFoundError:
            pass
        except (ValueError, RecursionError):
            os.replace(self._path, self._path.with_name(f"{self._path.name}.damaged-{time.time_ns()}"))
        return {"folders": [], "hidden": [], "recent": {}}
