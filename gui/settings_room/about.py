"""Versions of what this window runs on, read from the packages' metadata: nothing is imported for it."""

from __future__ import annotations

import platform
import sys
from importlib import metadata

from PySide6.QtCore import qVersion

_PACKAGES = (("PyTorch", "torch"), ("Tokenizers", "tokenizers"), ("Safetensors", "safetensors"), ("NumPy", "numpy"))


def about_lines() -> tuple[str, ...]:
    """The app's line first, then one line each for what it stands on."""
    python = ".".join(str(part) for part in sys.version_info[:3])
    lines = [f"GPT Dyno {_version('gpt-dyno')}".strip(), f"Python {python}, Qt {qVersion()}"]
    lines.append(", ".join(f"{title} {version}" for title, name in _PACKAGES if (version := _version(name))))
    lines.append(f"{platform.system()} {platform.release()}, {platform.machine()}")
    return tuple(lines)


def _version(package: str) -> str:
    """The installed version, empty where it is run from a checkout or not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
