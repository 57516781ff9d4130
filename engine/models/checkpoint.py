"""Hugging Face model folders in and out, and the read-only master weights.

A folder holds config.json and *.safetensors (one file, or shards with an index). Tensors stay memory-mapped; the fused
matrices the decoder uses (q+k+v, gate+up, GPT-2's transposed ones) are put together when they are asked for, so the
masters themselves cost no memory. Pickles are never opened here.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.errors import DynoError
from engine.models.config import ModelConfig
from engine.models.families import family_of
from engine.models.families.base import Source
from engine.models.gpt import Decoder
from engine.models.mapped import MappedFile
from engine.models.weight_files import AGAIN, Entry, read_folder, refuse_unused
from engine.words import agreed, counted

_LAYERS = re.compile(r"(?:.*?\.)?(?:h|layers)\.(?=\d+\.)")
# Masks and rotations, which older releases store beside the weights.
_CONSTANTS = (".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq")
_CHECKED_AT_ONCE = 4 << 20  # weights: the sum in fp64 makes a copy of them
Opening = Generator[tuple[str, int, int], None, "Masters"]
"""Steps of opening a model: (what is being done, done, total)."""


def sources(config: ModelConfig) -> dict[str, Source]:
    """The decoder's tensor names, each with the checkpoint tensors that make it up. A tied head has no entry."""
    family = family_of(config.model_type)
    assert family is not None, config.model_type
    return family.sources(config)


@dataclass(frozen=True)
class LinearSlot:
    """A linear layer: its name among the masters, (rows out, columns in), and where its weight is. tied: it is the
    embedding's."""

    name: str
    shape: tuple[int, int]
    source: str
    has_bias: bool
    tied: bool = False


class Masters(Mapping[str, Tensor]):
    """The checkpoint's weights under the decoder's names: read-only, never changed by any technique.

    A tensor is memory-mapped or put together on each access; callers never write into it. `config.tied` tells that
    the head is the embedding. spent: gives a checkpoint tensor's pages back to the system. unmapped: names of tensors
    that are no part of a file as it lies. stored: how GGUF stores most of them, where it does. slots: the linear layers
    of a model that our decoder does not run (engine/models/foreign.py).
    """

    slots: tuple[LinearSlot, ...] = ()
    _stored = ""

    def __init__(self, config: ModelConfig, tensors: Mapping[str, Callable[[], Tensor]], path: Path | None = None,
                 spent: Mapping[str, Callable[[], None]] | None = None, unmapped: frozenset[str] = frozenset(),
                 stored: str = "") -> None:
        self.config = config
        self._spent = spent or {}
        self._unmapped = unmapped
        self._stored = stored
        self.path = path
        self._sources = sources(config)
        self._tensors = tensors

    def __getitem__(self, name: str) -> Tensor:
        source = self._sources[name]
        parts = [self._tensors[n]() for n in source.names]
        whole = source.join(parts)
        if whole.data_ptr() != parts[0].data_ptr():
            self.release(name)  # a copy, so that the file's pages have done their part
        return whole

    def release(self, name: str) -> None:
        """Give the pages of a tensor's file back to the system, where there is one: whoever has read it calls this, and
        reads it again whenever it is needed again."""
        for part in self._sources[name].names:
            if part in self._spent:
                self._spent[part]()

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
    def stored_name(self) -> str:
        """How the weights are stored: fp32, bf16, fp16, or one of GGUF's types."""
        names = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
        return self._stored if self._stored not in ("", "F32", "F16", "BF16") else names[self.stored_dtype]

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


def open_masters(folder: Path) -> Opening:
    """Open a model folder step by step. Every name, shape and dtype is checked before any weight is read; then every
    weight is checked for NaN and infinity, a part of a tensor a step, and its pages are given back. Raises DynoError
    saying which file or tensor is wrong."""
    folder = Path(folder)
    config = ModelConfig.from_folder(folder)
    entries = read_folder(folder)
    names = _resolve_names(config, entries)
    for hf, (stored, shape) in names.items():
        _check_entry(hf, entries[stored], shape)
    files = {file: MappedFile(file) for file in {entry.file for entry in entries.values()}}
    tensors: dict[str, Callable[[], Tensor]] = {}
    spent: dict[str, Callable[[], None]] = {}
    for hf, (stored, _) in names.items():
        entry = entries[stored]
        tensors[hf] = lambda e=entry: files[e.file].tensor(e)  # type: ignore[misc]
        spent[hf] = lambda e=entry: files[e.file].release(e)  # type: ignore[misc]
    yield from check_finite(tensors, spent)
    return Masters(config, tensors, folder, spent)


def load_masters(folder: Path) -> Masters:
    """Open a model folder in one go. Raises DynoError saying which file or tensor is wrong."""
    return run_opening(open_masters(folder))


def run_opening(steps: Opening) -> Masters:
    """All the steps of an opening at once."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            masters: Masters = done.value
            return masters


def check_finite(tensors: Mapping[str, Callable[[], Tensor]],
                 spent: Mapping[str, Callable[[], None]]) -> Generator[tuple[str, int, int], None, None]:
    """Read every tensor once, a part a step, and raise DynoError at a NaN or infinity."""
    for done, (name, read) in enumerate(tensors.items()):
        flat = (weight := read()).as_strided((weight.numel(),), (1,))  # in whatever order it lies
        for first in range(0, flat.numel(), _CHECKED_AT_ONCE):
            yield "Checking the weights", done, len(tensors)
            _check_finite(name, flat[first:first + _CHECKED_AT_ONCE])
        if name in spent:
            spent[name]()


def _resolve_names(config: ModelConfig, where: Mapping[str, Entry]) -> dict[str, tuple[str, tuple[int, ...]]]:
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
        raise DynoError(f"The checkpoint lacks the tensor {missing[0]}{more}.", AGAIN)
    refuse_unused("The checkpoint", _unused(where, {stored for stored, _ in names.values()}))
    return names


def _unused(where: Mapping[str, Entry], used: set[str]) -> list[str]:
    """Weights that stand in the decoder's layers and are not read. What stands elsewhere, another head or the part that
    sees pictures, changes nothing in what the decoder says."""
    layers = {found.group() for name in used if (found := _LAYERS.match(name))}
    return [name for name in where
            if name not in used and name.startswith(tuple(layers)) and not name.endswith(_CONSTANTS)]


def _check_entry(hf: str, entry: Entry, shape: tuple[int, ...]) -> None:
    if entry.shape != shape:
        raise DynoError(f"{hf} has the shape {_short(entry.shape)}; config.json asks for {shape}.",
                        "config.json and the weights do not belong together. " + AGAIN)
    if entry.dtype not in ("F32", "F16", "BF16"):
        raise DynoError(f"{hf} is stored as {entry.dtype[:20]}; only F32, F16 and BF16 are read.",
                        "Use the unquantized checkpoint; GPT Dyno quantizes it for you.")


def _short(shape: tuple[int, ...]) -> str:
    return str(shape) if len(shape) <= 8 else f"({', '.join(map(str, shape[:8]))}, ...)"


def _check_finite(name: str, tensor: Tensor) -> None:
    # A sum carries any NaN or infinity along and allocates nothing the size of the tensor.
    if torch.isfinite(tensor.sum(dtype=torch.float64)):
        return
    bad = int((~torch.isfinite(tensor)).sum())
    if bad:
        what = agreed(bad, "is not a number", "are not numbers")
        raise DynoError(f"{name} holds {counted(bad, 'value')} that {what} (NaN or infinite).", AGAIN)


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
