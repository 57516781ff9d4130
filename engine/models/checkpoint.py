"""Hugging Face model folders in and out, and the read-only master weights.

A folder holds config.json and *.safetensors (one file, or shards with an index). Tensors stay memory-mapped; the fused
matrices the decoder uses (q+k+v, gate+up, GPT-2's transposed ones) are put together when they are asked for, so the
masters themselves cost no memory. Pickles are never opened here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from engine.errors import DynoError, reason
from engine.models.config import ModelConfig
from engine.models.families import family_of
from engine.models.families.base import Source
from engine.models.gpt import Decoder
from engine.words import agreed, counted

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_AGAIN = "Download the model again, or choose another folder."


def sources(config: ModelConfig) -> dict[str, Source]:
    """The decoder's tensor names, each with the checkpoint tensors that make it up. A tied head has no entry."""
    family = family_of(config.model_type)
    assert family is not None, config.model_type
    return family.sources(config)


class Masters(Mapping[str, Tensor]):
    """The checkpoint's weights under the decoder's names: read-only, never changed by any technique.

    A tensor is memory-mapped or put together on each access; callers never write into it. `config.tied` tells that
    the head is the embedding. unmapped: names of tensors that are no part of a file as it lies.
    """

    def __init__(self, config: ModelConfig, tensors: Mapping[str, Callable[[], Tensor]], path: Path | None = None,
                 unmapped: frozenset[str] = frozenset()):
        self.config = config
        self._unmapped = unmapped
        self.path = path
        self._sources = sources(config)
        self._tensors = tensors

    def __getitem__(self, name: str) -> Tensor:
        source = self._sources[name]
        return source.join([self._tensors[n]() for n in source.names])

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return self._sources[name].shape

    def mapped(self, name: str) -> bool:
        """Whether a tensor's rows can be read from the file where they lie, so that holding it takes no memory."""
        return name not in self._unmapped

    @property
    def parameters(self) -> int:
        """Number of weights; a tied head counts once."""
        return sum(_numel(s.shape) for s in self._sources.values())

    @property
    def stored_dtype(self) -> torch.dtype:
        """The dtype of the embedding as the checkpoint stores it."""
        return self["embed.weight"].dtype

    @classmethod
    def of(cls, decoder: Decoder) -> Masters:
        """Masters over a decoder's own parameters (tests, and models just trained): views, no copies."""
        named = dict(decoder.named_parameters())
        tensors: dict[str, Callable[[], Tensor]] = {}
        for name, source in sources(decoder.config).items():
            for hf, piece in zip(source.names, source.split(named[name].detach()), strict=True):
                tensors[hf] = lambda piece=piece: piece  # type: ignore[misc]
        return cls(decoder.config, tensors)


def _numel(shape: tuple[int, ...]) -> int:
    n = 1
    for size in shape:
        n *= size
    return n


def load_masters(folder: Path) -> Masters:
    """Open a model folder. Every name, shape and dtype is checked before any weight is read; then every weight is
    checked for NaN and infinity. Raises DynoError saying which file or tensor is wrong."""
    folder = Path(folder)
    config = ModelConfig.from_folder(folder)
    files = _weight_files(folder)
    where: dict[str, Any] = {}
    for file in files:
        try:
            handle = safe_open(str(file), framework="pt")
            where |= dict.fromkeys(handle.keys(), handle)  # type: ignore[no-untyped-call]
        except OSError as error:
            raise DynoError(f"{file.name} cannot be read: {reason(error)}.", _AGAIN) from error
        except (SafetensorError, ValueError) as error:
            raise DynoError(f"{file.name} is damaged or incomplete ({reason(error)}).", _AGAIN) from error
    names = _resolve_names(config, where)
    tensors: dict[str, Callable[[], Tensor]] = {}
    for hf, (stored, shape) in names.items():
        _check_header(where[stored], hf, stored, shape)
        tensors[hf] = lambda handle=where[stored], stored=stored: handle.get_tensor(stored)  # type: ignore[misc]
    for hf, read in tensors.items():
        _check_finite(hf, read())
    return Masters(config, tensors, folder)


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise DynoError(f"{index.name} cannot be read: {reason(error)}.", _AGAIN) from error
        files = [folder / str(name) for name in names]
        for file in files:
            if file.parent != folder or not file.is_file():
                raise DynoError(f"The weight file {file.name} named by {index.name} is missing.", _AGAIN)
        return files
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        if not file.is_file():  # a link into a download cache that has been emptied
            raise DynoError(f"The weight file {file.name} is missing.", _AGAIN)
    if files:
        return files
    pickles = [p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in folder.glob(pattern)]
    if pickles:
        raise DynoError(f"{pickles[0]} is a pickle, which can run code when it is opened, so it was not opened.",
                        "Use the same model in safetensors format.")
    raise DynoError(f"There are no weights in {folder}: no .safetensors file.",
                    "Choose a Hugging Face model folder: config.json, *.safetensors and tokenizer.json.")


def _resolve_names(config: ModelConfig, where: Mapping[str, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Checkpoint name -> (name as stored, expected shape). GPT-2's first release has no "transformer." prefix."""
    names: dict[str, tuple[str, tuple[int, ...]]] = {}
    missing: list[str] = []
    for source in sources(config).values():
        for hf, shape in zip(source.names, source.stored_shapes(), strict=True):
            candidates = (hf, hf.removeprefix("transformer."), hf.removeprefix("model."))
            stored = next((n for n in candidates if n in where), None)
            if stored is None:
                missing.append(hf)
            else:
                names[hf] = (stored, shape)
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DynoError(f"The checkpoint lacks the tensor {missing[0]}{more}.", _AGAIN)
    return names


def _check_header(handle: Any, hf: str, stored: str, shape: tuple[int, ...]) -> None:
    view = handle.get_slice(stored)
    found = tuple(view.get_shape())
    if found != shape:
        raise DynoError(f"{hf} has the shape {found}; config.json asks for {shape}.",
                        "config.json and the weights do not belong together. " + _AGAIN)
    if view.get_dtype() not in ("F32", "F16", "BF16"):
        raise DynoError(f"{hf} is stored as {view.get_dtype()}; only F32, F16 and BF16 are read.",
                        "Use the unquantized checkpoint; GPT Dyno quantizes it for you.")


def _check_finite(name: str, tensor: Tensor) -> None:
    # A sum carries any NaN or infinity along and allocates nothing the size of the tensor.
    if torch.isfinite(tensor.sum(dtype=torch.float64)):
        return
    bad = int((~torch.isfinite(tensor)).sum())
    if bad:
        what = agreed(bad, "is not a number", "are not numbers")
        raise DynoError(f"{name} holds {counted(bad, 'value')} that {what} (NaN or infinite).", _AGAIN)


def save_folder(folder: Path, config: ModelConfig, tensors: Mapping[str, Tensor], dtype: torch.dtype,
                shard_bytes: int = 2 << 30, metadata: dict[str, str] | None = None) -> None:
    """Write config.json and safetensors under Hugging Face names, as shards of at most `shard_bytes`. Raises DynoError
    where config.json cannot say what the model is.

    Each file is written under a temporary name, flushed, and renamed, so a crash leaves no half-written weights.
    """
    raw = config.to_hf() | {"dtype": str(dtype).removeprefix("torch.")}
    folder.mkdir(parents=True, exist_ok=True)
    flat: dict[str, Tensor] = {}
    for name, source in sources(config).items():
        pieces = source.split(tensors[name].detach().to("cpu", dtype))
        flat |= {hf: piece.contiguous().clone() for hf, piece in zip(source.names, pieces, strict=True)}
    shards: list[dict[str, Tensor]] = [{}]
    for hf, piece in flat.items():
        if shards[-1] and sum(t.nbytes for t in shards[-1].values()) + piece.nbytes > shard_bytes:
            shards.append({})
        shards[-1][hf] = piece
    stems = (["model.safetensors"] if len(shards) == 1 else
             [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))])
    for stem, shard in zip(stems, shards, strict=True):
        temporary = folder / f".{stem}.part"
        save_file(shard, temporary, metadata={"format": "pt"} | (metadata or {}))
        _commit(temporary, folder / stem)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(t.nbytes for t in flat.values())},
                 "weight_map": {hf: stem for stem, shard in zip(stems, shards, strict=True) for hf in shard}}
        write_text(folder / "model.safetensors.index.json", json.dumps(index, indent=1))
    else:
        # An older, sharded export in the same folder would otherwise be what loads next.
        (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    write_text(folder / "config.json", json.dumps(raw, indent=2))


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    _commit(temporary, path)


def _commit(temporary: Path, final: Path) -> None:
    with open(temporary, "rb+") as handle:
        os.fsync(handle.fileno())
    os.chmod(temporary, 0o644)  # safetensors writes files that only their owner can read
    os.replace(temporary, final)


def load_decoder(masters: Masters, dtype: torch.dtype = torch.float32) -> Decoder:
    """A trainable decoder with its own copy of the master weights, in `dtype`."""
    with torch.device("meta"):
        decoder = Decoder(masters.config)
    decoder.load_state_dict(
        {name: masters[name].to(dtype, copy=True).contiguous() for name in masters}
        | ({"head.weight": masters["embed.weight"].to(dtype)} if masters.config.tied else {}), assign=True)
    if masters.config.tied:
        decoder.head.weight = decoder.embed.weight
    return decoder
