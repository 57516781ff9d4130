"""A GGUF file as master weights: F32, F16 and BF16 where they lie in the mapped file, blocks of codes as fp32 numbers.

Codes become numbers anew whenever a layer is asked for, so a file costs no memory of its own; the embedding alone is
kept. They are not handed on to the int8 and int4 kernels as they are: those have one scale a row, or bf16 scales, where
GGUF has an fp16 scale for 32 weights, so no block could be carried over without rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from engine.errors import DynoError
from engine.models.checkpoint import Masters, Opening, check_finite, sources
from engine.models.config import ModelConfig
from engine.models.gguf_header import AGAIN, GgufFile, read_gguf
from engine.models.gguf_names import ROPE_FACTORS, config_of, gguf_name, rotates_neighbours
from engine.models.gguf_quants import dequantise
from engine.models.mapped import MappedFile
from engine.models.weight_files import Entry, refuse_unused

_KNOWN = (ROPE_FACTORS,)  # read with the metadata
_PLAIN = ("F32", "F16", "BF16")


def open_gguf(path: Path) -> Opening:
    """Open a .gguf file step by step. Raises DynoError saying what is wrong with it."""
    file = read_gguf(path)
    config = config_of(file)
    found = _entries(file, config)
    mapped = MappedFile(path)
    architecture = file.get("general.architecture", str, "")
    heads = {"q_proj": config.n_heads, "k_proj": config.n_kv_heads}
    tensors: dict[str, Callable[[], Tensor]] = {}
    spent: dict[str, Callable[[], None]] = {}
    unmapped = set()
    for ours, source in sources(config).items():
        for name in source.names:
            entry = found[name]
            turned = 0
            if rotates_neighbours(architecture, gguf_name(name)):
                turned = next(n for part, n in heads.items() if part in name)
            tensors[name] = _reader(mapped, entry, turned, source.transposed)
            spent[name] = lambda e=entry: mapped.release(e)  # type: ignore[misc]
            if entry.dtype not in _PLAIN:
                unmapped.add(ours)
    yield from check_finite(tensors, spent)
    kinds: dict[str, int] = {}
    for entry in found.values():
        kinds[entry.dtype] = kinds.get(entry.dtype, 0) + entry.end - entry.begin
    stored = max(kinds, key=lambda kind: kinds[kind])
    return Masters(config, tensors, path, spent, frozenset(unmapped), stored)


def _entries(file: GgufFile, config: ModelConfig) -> dict[str, Entry]:
    """Checkpoint name -> tensor of the file, shapes checked."""
    found: dict[str, Entry] = {}
    for source in sources(config).values():
        for name, shape in zip(source.names, source.stored_shapes(), strict=True):
            wanted = shape[::-1] if source.transposed else shape  # GGUF keeps GPT-2's matrices as everybody else's
            entry = file.tensors.get(gguf_name(name))
            if entry is None:
                raise DynoError(f"{file.path.name} lacks the tensor {gguf_name(name)}.", AGAIN)
            if entry.shape != wanted:
                raise DynoError(f"{gguf_name(name)} has the shape {entry.shape}; the metadata ask for {wanted}.", AGAIN)
            found[name] = entry
    used = {entry.begin for entry in found.values()}
    unused = [name for name, entry in file.tensors.items() if entry.begin not in used and name not in _KNOWN]
    refuse_unused(file.path.name, unused)
    return found


def _reader(mapped: MappedFile, entry: Entry, heads: int, transposed: bool) -> Callable[[], Tensor]:
    """Reads one tensor. heads: of a tensor whose rows stand in llama.cpp's order, 0 for others. transposed: as the
    checkpoint would store it."""
    def read() -> Tensor:
        weight = (mapped.tensor(entry) if entry.dtype in _PLAIN
                  else dequantise(mapped.raw(entry), entry.dtype, entry.shape))
        if heads:
            weight = halves_rotated(weight, heads)
        return weight.t() if transposed and weight.dim() == 2 else weight

    return read


def halves_rotated(weight: Tensor, heads: int) -> Tensor:
    """Rows of q or k from llama.cpp's order (neighbours are rotated together) to the one where halves are."""
    return weight.view(heads, -1, 2, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def neighbours_rotated(weight: Tensor, heads: int) -> Tensor:
    """The reverse of `halves_rotated`."""
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)
