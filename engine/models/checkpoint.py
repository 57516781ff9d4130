"""Hugging Face model folders in and out, and the read-only master weights.

A folder holds config.json and *.safetensors (one file, or shards with an index). Tensors stay memory-mapped; the fused
matrices the decoder uses (q+k+v, gate+up, GPT-2's transposed ones) are put together when they are asked for, so the
masters themselves cost no memory. Pickles are never opened here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from engine.errors import DynoError, reason
from engine.models.config import ModelConfig
from engine.models.gpt import Decoder
from engine.words import agreed, counted

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_AGAIN = "Download the model again, or choose another folder."


@dataclass(frozen=True)
class Source:
    """Where one of the decoder's tensors comes from: checkpoint tensors stacked by rows, or one transposed."""

    names: tuple[str, ...]
    rows: tuple[int, ...]
    shape: tuple[int, ...]
    transposed: bool = False


def sources(config: ModelConfig) -> dict[str, Source]:
    """The decoder's tensor names, each with the checkpoint tensors that make it up. A tied head has no entry."""
    return _gpt2_sources(config) if config.model_type == "gpt2" else _llama_sources(config)


def _gpt2_sources(c: ModelConfig) -> dict[str, Source]:
    out: dict[str, Source] = {}

    def add(name: str, hf: str, *shape: int, transposed: bool = False) -> None:
        out[name] = Source((hf,), (shape[0],), shape, transposed)

    d, f = c.hidden_size, c.intermediate_size
    add("embed.weight", "transformer.wte.weight", c.vocab_size, d)
    add("positions.weight", "transformer.wpe.weight", c.context, d)
    for i in range(c.n_layers):
        ours, theirs = f"blocks.{i}", f"transformer.h.{i}"
        for norm, ln in (("norm1", "ln_1"), ("norm2", "ln_2")):
            add(f"{ours}.{norm}.weight", f"{theirs}.{ln}.weight", d)
            add(f"{ours}.{norm}.bias", f"{theirs}.{ln}.bias", d)
        for slot, hf, rows, columns in (("attn.qkv", "attn.c_attn", 3 * d, d), ("attn.out", "attn.c_proj", d, d),
                                        ("mlp.up", "mlp.c_fc", f, d), ("mlp.down", "mlp.c_proj", d, f)):
            add(f"{ours}.{slot}.weight", f"{theirs}.{hf}.weight", rows, columns, transposed=True)
            add(f"{ours}.{slot}.bias", f"{theirs}.{hf}.bias", rows)
    add("norm.weight", "transformer.ln_f.weight", d)
    add("norm.bias", "transformer.ln_f.bias", d)
    if not c.tied:
        add("head.weight", "lm_head.weight", c.vocab_size, d)
    return out


def _llama_sources(c: ModelConfig) -> dict[str, Source]:
    out: dict[str, Source] = {}
    d, f, q, kv = c.hidden_size, c.intermediate_size, c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim

    def add(name: str, parts: dict[str, int], columns: int | None) -> None:
        rows = tuple(parts.values())
        shape = (sum(rows),) if columns is None else (sum(rows), columns)
        out[name] = Source(tuple(parts), rows, shape)

    def linear(name: str, parts: dict[str, int], columns: int, bias: bool) -> None:
        add(f"{name}.weight", {f"{p}.weight": n for p, n in parts.items()}, columns)
        if bias:
            add(f"{name}.bias", {f"{p}.bias": n for p, n in parts.items()}, None)

    add("embed.weight", {"model.embed_tokens.weight": c.vocab_size}, d)
    for i in range(c.n_layers):
        ours, theirs = f"blocks.{i}", f"model.layers.{i}"
        add(f"{ours}.norm1.weight", {f"{theirs}.input_layernorm.weight": d}, None)
        add(f"{ours}.norm2.weight", {f"{theirs}.post_attention_layernorm.weight": d}, None)
        attn, mlp = f"{theirs}.self_attn", f"{theirs}.mlp"
        linear(f"{ours}.attn.qkv", {f"{attn}.q_proj": q, f"{attn}.k_proj": kv, f"{attn}.v_proj": kv}, d, c.qkv_bias)
        linear(f"{ours}.attn.out", {f"{attn}.o_proj": d}, q, c.out_bias)
        if c.qk_norm:
            add(f"{ours}.attn.q_norm.weight", {f"{attn}.q_norm.weight": c.head_dim}, None)
            add(f"{ours}.attn.k_norm.weight", {f"{attn}.k_norm.weight": c.head_dim}, None)
        linear(f"{ours}.mlp.up", {f"{mlp}.gate_proj": f, f"{mlp}.up_proj": f}, d, c.mlp_bias)
        linear(f"{ours}.mlp.down", {f"{mlp}.down_proj": d}, f, c.mlp_bias)
    add("norm.weight", {"model.norm.weight": d}, None)
    if not c.tied:
        add("head.weight", {"lm_head.weight": c.vocab_size}, d)
    return out


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
        parts = [self._tensors[n]() for n in source.names]
        if source.transposed:
            return parts[0].t()
        return parts[0] if len(parts) == 1 else torch.cat(parts)

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
            weight = named[name].detach()
            pieces = (weight.t(),) if source.transposed else torch.split(weight, list(source.rows))
            for hf, piece in zip(source.names, pieces, strict=True):
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
        for hf, rows in zip(source.names, source.rows, strict=True):
            shape = source.shape[::-1] if source.transposed else (rows, *source.shape[1:])
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
    """Write config.json and safetensors under Hugging Face names, as shards of at most `shard_bytes`.

    Each file is written under a temporary name, flushed, and renamed, so a crash leaves no half-written weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    flat: dict[str, Tensor] = {}
    for name, source in sources(config).items():
        weight = tensors[name].detach().to("cpu", dtype)
        pieces = (weight.t(),) if source.transposed else torch.split(weight, list(source.rows))
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
    raw = config.to_hf() | {"dtype": str(dtype).removeprefix("torch.")}
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
