"""A model wherever it lies, and which code opens it: a Hugging Face folder by our own decoder where it knows the
architecture and by Transformers for any other; or a .gguf file."""

from __future__ import annotations

from pathlib import Path

from engine.models.checkpoint import Masters, Opening, open_masters, run_opening
from engine.models.config import ModelConfig, read_hf
from engine.models.families import family_of
from engine.models.gguf_header import is_gguf, read_gguf
from engine.models.gguf_model import open_gguf
from engine.models.gguf_names import config_of
from engine.models.gguf_tokenizer import tokenizer_of
from engine.models.tokenizer import Tokenizer

_LONGEST_NAME = 60  # characters of an architecture's name


def open_model(path: Path) -> Opening:
    """The master weights of a folder or .gguf file, step by step. Raises DynoError saying what is wrong."""
    path = Path(path)
    if is_gguf(path):
        return (yield from open_gguf(path))
    kind = read_hf(path).get("model_type")
    if family_of(kind) is not None:
        return (yield from open_masters(path))
    if not isinstance(kind, str) or len(kind) > _LONGEST_NAME:
        ModelConfig.from_hf({"model_type": str(kind)[:_LONGEST_NAME] if kind is not None else None})  # raises
    from engine.models.foreign import open_foreign

    return (yield from open_foreign(path))


def load_model(path: Path) -> Masters:
    """The master weights in one go. Raises DynoError."""
    return run_opening(open_model(path))


def open_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer and chat template. Raises DynoError."""
    return tokenizer_of(read_gguf(path)) if is_gguf(path) else Tokenizer.from_folder(path)


def model_config(path: Path) -> ModelConfig:
    """The shape of a model that our decoder runs, no weight being read. Raises DynoError."""
    return config_of(read_gguf(path)) if is_gguf(path) else ModelConfig.from_folder(path)


def model_context(path: Path) -> int:
    """Tokens that a model can hold, no weight being read. Raises DynoError."""
    path = Path(path)
    kind = None if is_gguf(path) else read_hf(path).get("model_type")
    if is_gguf(path) or family_of(kind) is not None or not isinstance(kind, str):
        return model_config(path).context
    from engine.models.foreign import foreign_context

    return foreign_context(path)


def weight_paths(path: Path) -> list[Path]:
    """The files that hold the weights."""
    return [path] if is_gguf(path) else sorted(path.glob("*.safetensors"))
