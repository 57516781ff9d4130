"""Whether Transformers has code for an architecture, from its name alone: lists of models must not import it."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def transformers_has(model_type: str) -> bool:
    """Whether the installed Transformers has a model of this name. What it can do is found out when it is opened."""
    found, name = importlib.util.find_spec("transformers"), model_type.replace("-", "_")
    if found is None or found.origin is None or not name.isidentifier():
        return False
    return (Path(found.origin).parent / "models" / name / f"modeling_{name}.py").is_file()


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer's files, of either kind that engine/models/tokenizer.py reads."""
    return (folder / "tokenizer.json").is_file() or all((folder / n).is_file() for n in ("vocab.json", "merges.txt"))
