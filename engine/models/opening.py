"""Which code opens a model folder: our own decoder where it knows the architecture, Transformers for any other."""

from __future__ import annotations

from pathlib import Path

from engine.models.checkpoint import Opening, open_masters
from engine.models.config import ModelConfig, read_hf
from engine.models.families import family_of


def open_model(folder: Path) -> Opening:
    """Open a model folder step by step. Raises DynoError saying what is wrong with it."""
    folder = Path(folder)
    kind = read_hf(folder).get("model_type")
    if family_of(kind) is not None:
        return (yield from open_masters(folder))
    if not isinstance(kind, str):
        ModelConfig.from_hf({"model_type": kind})  # raises: no name is no architecture of anybody's
    from engine.models.foreign import open_foreign

    return (yield from open_foreign(folder))
