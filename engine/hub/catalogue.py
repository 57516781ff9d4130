"""Models on the disk: found, described and judged ready or not, by reading configurations and file heads alone.

What stands in a folder is looked at again only when its files have changed, so a second look at hundreds of models
takes milliseconds. Nothing here is trusted to be whole: a file must be as long as its own head says.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.errors import DynoError, reason
from engine.fit import stored_type
from engine.hub.download import PART, source
from engine.hub.library import Library, cache_folder, models_folder
from engine.hub.records import ADDED, APP, BUNDLED, CACHE, RECENT, ModelOnDisk
from engine.models.config import ModelConfig, no_config
from engine.models.families import family_of
from engine.models.gguf_header import read_gguf
from engine.models.gguf_names import config_of
from engine.models.known import has_tokenizer, transformers_has
from engine.models.weight_files import Entry, read_folder
from engine.paths import bundled_model

_MAX_TEXT = 8 << 20
_MAX_FOLDERS = 4000
_LONGEST_CONTEXT = 1 << 31
_BUFFERS = (".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias", ".inv_freq")
_WRITES_TEXT = ("ForCausalLM", "LMHeadModel")
"""How Transformers calls what it runs for us, where our decoder does not know the architecture."""
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "n_ctx")
_LICENCE = re.compile(r"^license:[ \t]*[\"']?([\w.+-]+)", re.MULTILINE)
_LICENCE_NAME = re.compile(r"^license_name:[ \t]*[\"']?([\w.+-]+)", re.MULTILINE)
_Signature = tuple[tuple[str, int, int], ...]


class Catalogue:
    """What is on the disk. models, cache: where the app's own and Hugging Face's models lie, usual places for None."""

    def __init__(self, library: Library, models: Path | None = None, cache: Path | None = None) -> None:
        self.models = models or models_folder()
        self._library, self._cache = library, cache
        self._known: dict[str, tuple[_Signature, ModelOnDisk]] = {}

    def scan(self) -> tuple[ModelOnDisk, ...]:
        """Every model, those opened last first. A folder that holds no model's files is none; one that lacks some of
        them is listed with its problem."""
        recent = self._library.recent()
        found: dict[str, ModelOnDisk] = {}
        for place, path, repo, revision in self._candidates(recent):
            key = os.path.realpath(path)
            if key in found:
                continue
            model = self._described(path, place)
            if model is not None:
                repo, revision = repo or model.repo, revision or model.revision
                used_s = recent.get(str(path), 0.0)
                found[key] = replace(model, place=place, repo=repo, revision=revision, used_s=used_s,
                                     name=_name(path, place, repo))
        return tuple(sorted(found.values(), key=lambda m: (-m.used_s, m.name.casefold())))

    def describe(self, path: Path, place: str = ADDED) -> ModelOnDisk | None:
        """One model, None where there is none."""
        model = self._described(path, place)
        return None if model is None else replace(model, place=place, name=_name(path, place, model.repo),
                                                  used_s=self._library.recent().get(str(path), 0.0))

    def _candidates(self, recent: dict[str, float]) -> Iterator[tuple[str, Path, str, str]]:
        """(place, path, repository, revision) of what may be a model; the first place a folder is found in counts."""
        yield BUNDLED, bundled_model(), "", ""
        for path in _children(self.models):
            if not path.is_symlink():
                yield from ((APP, p, "", "") for p in _models_of(path))
        yield from self._cached()
        hidden = self._library.hidden()
        for folder in self._library.folders():
            for path in (folder, *(_children(folder) if folder.is_dir() else ())):
                yield from ((ADDED, p, "", "") for p in _models_of(path) if str(p) not in hidden)
        for name in recent:
            yield RECENT, Path(name), "", ""

    def _cached(self) -> Iterator[tuple[str, Path, str, str]]:
        from huggingface_hub import scan_cache_dir
        from huggingface_hub.errors import CacheNotFound

        try:
            info = scan_cache_dir(self._cache or cache_folder())
        except (CacheNotFound, OSError, ValueError):
            return
        for repo in info.repos:
            if repo.repo_type == "model":
                for revision in repo.revisions:
                    for path in _models_of(revision.snapshot_path):
                        yield CACHE, path, repo.repo_id, revision.commit_hash

    def _described(self, path: Path, place: str) -> ModelOnDisk | None:
        """What the files say, from memory where they are unchanged."""
        try:
            signature = _signature(path)
        except OSError:
            return None
        if not signature:
            return None
        known = self._known.get(str(path))
        if known is not None and known[0] == signature:
            return known[1]
        try:
            model = _gguf(path, place) if path.suffix == ".gguf" else _folder(path, place)
        except (OSError, ValueError, ArithmeticError, TypeError, RecursionError, MemoryError) as error:
            # Anybody can write such a folder, and it must not hide the others.
            model = ModelOnDisk(str(path), path.name, place,
                                problem=f"Its files cannot be read: {reason(error)[:100]}.")
        if model is not None:
            self._known[str(path)] = signature, model
        return model


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if not p.name.startswith(".") and not p.name.endswith(PART))[
            :_MAX_FOLDERS]
    except OSError:
        return []


def _models_of(path: Path) -> Iterator[Path]:
    """A folder that has a configuration or weights, and every GGUF file in it (or the file itself)."""
    if path.suffix == ".gguf":
        yield path
    elif path.is_dir():
        if (path / "config.json").is_file() or any(is_weights(p.name) for p in _children(path)):
            yield path
        yield from (p for p in _children(path) if p.suffix == ".gguf" and p.is_file())


def is_weights(name: str) -> bool:
    """Whether a folder of a file of this name means to be a model; adapters are none."""
    return (name.endswith(".safetensors") and not name.startswith("adapter_")) or (
        name.startswith("pytorch_model") and name.endswith(".bin"))


def _signature(path: Path) -> _Signature:
    """What changes when a model's files do."""
    files = [path] if path.suffix == ".gguf" else [
        p for p in path.iterdir() if p.suffix in (".json", ".safetensors", ".md", ".bin") or p.is_symlink()]
    out = []
    for file in sorted(files):
        with contextlib.suppress(FileNotFoundError):  # a link into a cache that was emptied
            facts = file.stat()
            out.append((file.name, facts.st_size, facts.st_mtime_ns))
    return tuple(out)


def _name(path: Path, place: str, repo: str) -> str:
    if path.suffix == ".gguf":
        return path.stem
    if place in (CACHE, APP) and repo:
        return repo
    return path.resolve().name


def _gguf(path: Path, place: str) -> ModelOnDisk | None:
    origin = source(path.parent)
    basic = ModelOnDisk(str(path), path.stem, place, "gguf", nbytes=_bytes(path), weight_bytes=_bytes(path),
                        repo=origin.repo if origin else "", revision=origin.revision if origin else "",
                        licence=(origin.licence if origin else "") or _licence(path.parent))
    try:
        file = read_gguf(path)
        kind = file.get("general.architecture", str, "")
        basic = replace(basic, architecture=kind[:60], context=file.get(f"{kind}.context_length", int, 0),
                        licence=basic.licence or file.get("general.license", str, "")[:60],
                        parameters=_count(file.tensors), dtype=stored_type(file.tensors))
        config_of(file)
    except DynoError as error:
        return replace(basic, problem=error.summary)
    return basic


def _folder(path: Path, place: str) -> ModelOnDisk | None:
    origin = source(path)
    basic = ModelOnDisk(str(path), path.name, place, repo=origin.repo if origin else "",
                        revision=origin.revision if origin else "", nbytes=_bytes(path),
                        licence=(origin.licence if origin else "") or _licence(path))
    if not (path / "config.json").is_file():
        ours = any(is_weights(file.name) for file in path.iterdir())
        return replace(basic, problem="config.json is missing." if ours else no_config(path).summary)
    try:
        raw = _json(path / "config.json")
    except (OSError, ValueError, RecursionError) as error:
        return replace(basic, problem=f"config.json cannot be read: {reason(error)}.")
    if "model_type" not in raw:
        return None  # some other program's configuration
    text = raw.get("text_config")
    blocks = (raw, text) if isinstance(text, dict) else (raw,)
    contexts = [block[key] for block in blocks for key in _CONTEXT_KEYS
                if isinstance(block.get(key), int) and 0 < block[key] <= _LONGEST_CONTEXT]
    model = replace(basic, architecture=str(raw["model_type"])[:60], context=contexts[0] if contexts else 0,
                    licence=basic.licence or str(raw.get("license") or "")[:60])
    try:
        entries = read_folder(path)
        files = {entry.file for entry in entries.values()}
        model = replace(model, parameters=_count(entries), dtype=stored_type(entries),
                        weight_bytes=sum(_bytes(file) for file in files))
        if not has_tokenizer(path):
            raise DynoError("tokenizer.json is missing.")
        if family_of(raw["model_type"]) is not None or not transformers_has(str(raw["model_type"])):
            ModelConfig.from_folder(path)
        elif not _writes_text(raw.get("architectures")):
            raise DynoError(f"A {model.architecture} is no model that writes text.")
    except DynoError as error:
        return replace(model, problem=error.summary)
    return model


def _writes_text(architectures: Any) -> bool:
    """Whether a configuration names a model that writes text, or none at all."""
    return not isinstance(architectures, list) or any(str(name).endswith(_WRITES_TEXT) for name in architectures)


def _count(entries: Mapping[str, Entry]) -> int:
    """How many weights; masks and tables that old checkpoints store beside them are none."""
    return sum(math.prod(entry.shape) for name, entry in entries.items() if not name.endswith(_BUFFERS))


def _bytes(path: Path) -> int:
    """Of a file, or of the files in a folder, where links lead to."""
    total = 0
    for file in [path] if path.suffix == ".gguf" or path.is_file() else path.iterdir():
        with contextlib.suppress(OSError):
            if file.is_file():
                total += file.stat().st_size
    return total


def _json(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        raw = json.loads(file.read(_MAX_TEXT))
    if not isinstance(raw, dict):
        raise ValueError("it does not hold a configuration")
    return raw


def _licence(path: Path) -> str:
    """The licence in the front matter of the model's card."""
    try:
        with (path / "README.md").open(encoding="utf-8", errors="replace") as file:
            text = file.read(1 << 16)
    except OSError:
        return ""
    front = text.split("\n---", 1)[0] if text.startswith("---") else ""
    named, plain = _LICENCE_NAME.search(front), _LICENCE.search(front)
    if plain is not None and plain.group(1) == "other" and named is not None:
        return named.group(1)
    return plain.group(1) if plain is not None else ""
