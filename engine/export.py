"""The loaded model as a file that others read: GGUF for llama.cpp, or a Hugging Face folder.

What is written are the masters as a recipe prunes them: heads, neurons and layers that are gone are gone in the file,
and weights set to zero are zero. A recipe's rounding and casts are not written; the format chosen says how weights are
kept. Files appear whole or not at all.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.errors import DynoError, reason
from engine.models.checkpoint import Masters, save_folder, sources, write_text
from engine.models.config import ModelConfig
from engine.models.devices import DeviceFacts
from engine.models.gguf_model import neighbours_rotated
from engine.models.gguf_names import ROPE_FACTORS, gguf_architecture, gguf_name, rope_factors, rotates_neighbours
from engine.models.gguf_tokenizer import tokenizer_metadata
from engine.models.tokenizer import Tokenizer
from engine.recipe import Recipe
from engine.techniques.base import BuildStep
from engine.techniques.calibration import Calibrator
from engine.techniques.draft import Draft
from engine.variant import device_for, drafted

FORMATS = ("gguf-f16", "gguf-q8_0", "gguf-f32", "safetensors")
_MATRICES = {"gguf-f32": ("F32", 0), "gguf-f16": ("F16", 1), "gguf-q8_0": ("Q8_0", 7)}
"""Kinds of the matrices, and llama.cpp's numbers for files that consist mostly of them."""
_BLOCK = 32  # weights in a block of Q8_0
_MOST_F16 = 65504.0
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "chat_template.jinja",
                    "special_tokens_map.json", "generation_config.json")
ExportSteps = Generator[BuildStep, None, Path]


def export_model(masters: Masters, tokenizer: Tokenizer, recipe: Recipe, form: str, out: Path, device: DeviceFacts,
                 calibrator: Calibrator | None = None) -> ExportSteps:
    """Write a model step by step; the path written. out: a file for GGUF, a folder for safetensors. Raises DynoError
    where the model or its tokenizer cannot be written so, and where the disk refuses."""
    if form not in FORMATS:
        raise DynoError(f"There is no format {form!r}.", f"Choose one of: {', '.join(FORMATS)}.")
    _refuse_source(masters, out)
    draft, _ = yield from drafted(masters, recipe, device_for(device, recipe), calibrator)
    tensors = DraftTensors(draft)
    try:
        if form == "safetensors":
            yield "Writing the model", 0, 0
            _write_folder(draft.config, tensors, tokenizer, masters, out)
        else:
            yield from _write_gguf(draft.config, tensors, tokenizer, form, out)
    except OSError as error:
        raise DynoError(f"{out.name} could not be written: {reason(error)}.", "Choose another place.") from error
    return out


def _refuse_source(masters: Masters, out: Path) -> None:
    """Raises DynoError where the export would take the place of what it is made from."""
    source = masters.path.resolve() if masters.path is not None else None
    if source is not None and (out.resolve() == source or (
            source.is_dir() and out.suffix != ".gguf" and out.resolve() in source.iterdir())):
        raise DynoError(f"{out} holds the model itself, so it was not written over.", "Choose another place.")


class DraftTensors(Mapping[str, Tensor]):
    """The decoder's tensors as a draft leaves them, made when they are asked for."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        places = ((draft.place(name), name) for name in draft.masters)
        self._names = {place: name for place, name in places if place is not None}

    def __getitem__(self, place: str) -> Tensor:
        name, draft = self._names[place], self._draft
        stem, _, kind = name.rpartition(".")
        layer = draft.layers.get(stem)
        if layer is None or layer.source != f"{stem}.weight":  # norms, the embedding, and a tied head's
            return draft.masters[name]
        if kind == "bias":
            bias = draft.bias(stem)
            assert bias is not None
            return bias
        return draft.weight(stem) if layer.edits else draft.stored(stem)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _write_folder(config: ModelConfig, tensors: Mapping[str, Tensor], tokenizer: Tokenizer, masters: Masters,
                  out: Path) -> None:
    save_folder(out, config, tensors, masters.stored_dtype)
    here = masters.path if masters.path is not None and masters.path.is_dir() else None
    names = [n for n in _TOKENIZER_FILES if here is not None and (here / n).is_file()]
    for name in names:
        assert here is not None
        shutil.copyfile(here / name, out / f".{name}.part")
        (out / f".{name}.part").replace(out / name)
    if not names:
        write_text(out / "tokenizer.json", tokenizer.backend.to_str(pretty=True))
        write_text(out / "tokenizer_config.json", tokenizer.settings_text())


def _write_gguf(config: ModelConfig, tensors: Mapping[str, Tensor], tokenizer: Tokenizer, form: str,
                out: Path) -> Generator[BuildStep, None, None]:
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quantize

    architecture = gguf_architecture(config)
    metadata = _metadata(config, architecture)
    matrices, file_type = _MATRICES[form]
    words = tokenizer_metadata(tokenizer, config.vocab_size)
    temporary = out.with_name(f".{out.name}.part")
    writer = GGUFWriter(temporary, architecture)
    try:
        _add(writer, metadata | words)
        writer.add_file_type(file_type)
        writer.add_quantization_version(2)
        plan = list(_plan(config, architecture, tensors, matrices))
        for name, shape, kind, _ in plan:
            numel = torch.Size(shape).numel()
            if kind == "Q8_0":
                writer.add_tensor_info(name, (*shape[:-1], shape[-1] // _BLOCK * 34), _numpy_type("u1"),
                                       numel // _BLOCK * 34, GGMLQuantizationType.Q8_0)
            else:
                item = 2 if kind == "F16" else 4
                writer.add_tensor_info(name, shape, _numpy_type(f"f{item}"), numel * item)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for done, (name, _, kind, read) in enumerate(plan):
            yield "Writing the model", done, len(plan)
            weight = read().detach().to("cpu", torch.float32).contiguous().numpy()
            if kind == "F16" and abs(weight).max(initial=0.0) > _MOST_F16:
                raise DynoError(f"A weight of {name} is too large for F16.", "Export the model as gguf-f32, gguf-q8_0 "
                                "or safetensors.")
            if kind == "Q8_0":
                writer.write_tensor_data(quantize(weight, GGMLQuantizationType.Q8_0))
            else:
                writer.write_tensor_data(weight.astype("<f2" if kind == "F16" else "<f4"))
        writer.close()
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, out)
    finally:
        writer.close()
        temporary.unlink(missing_ok=True)


def _numpy_type(code: str) -> Any:
    """The NumPy type that the gguf library wants to be told."""
    import numpy as np

    return np.dtype(code)


def _plan(c: ModelConfig, architecture: str, tensors: Mapping[str, Tensor],
          matrices: str) -> Iterator[tuple[str, tuple[int, ...], str, Callable[[], Tensor]]]:
    """(GGUF's name, shape, type, how to read it) of every tensor: vectors and positions in F32, as llama.cpp's own
    converter keeps them; `matrices` in F32, F16 or Q8_0 (F16 where their rows are no whole blocks)."""
    for ours, source in sources(c).items():
        for at, (name, shape) in enumerate(zip(source.names, source.stored_shapes(), strict=True)):
            theirs = gguf_name(name)
            shape = shape[::-1] if source.transposed else shape
            plain = len(shape) == 1 or theirs.startswith("position_embd")
            kind = "F32" if plain else "F16" if matrices == "Q8_0" and shape[-1] % _BLOCK else matrices
            heads = 0
            if rotates_neighbours(architecture, theirs):
                heads = c.n_heads if ".attn_q." in theirs else c.n_kv_heads

            def read(ours: str = ours, at: int = at, heads: int = heads) -> Tensor:
                source = sources(c)[ours]
                weight = tensors[ours]
                piece = weight if source.transposed else source.split(weight)[at]
                return neighbours_rotated(piece, heads) if heads else piece

            yield theirs, shape, kind, read
    scaling = c.rope_scaling
    if scaling.kind == "llama3":
        factors = torch.from_numpy(rope_factors(c.head_dim, c.rope_theta, scaling.factor, scaling.low_freq_factor,
                                                scaling.high_freq_factor, scaling.original_context))
        yield ROPE_FACTORS, (c.head_dim // 2,), "F32", lambda: factors


def _metadata(c: ModelConfig, a: str) -> dict[str, Any]:
    """The model's shape in GGUF's words. Raises DynoError where they cannot say it."""
    c.to_hf()  # the same limits: heads of a GPT-2 fill the stream
    wanted = "gelu_tanh" if a == "gpt2" else "silu"
    if c.activation != wanted:
        raise DynoError(f"llama.cpp runs this architecture with another activation than {c.activation}.",
                        "Export the model as safetensors.")
    found: dict[str, Any] = {
        "general.name": f"{c.model_type} exported by GPT Dyno", f"{a}.context_length": c.context,
        f"{a}.embedding_length": c.hidden_size, f"{a}.block_count": c.n_layers,
        f"{a}.feed_forward_length": c.intermediate_size, f"{a}.attention.head_count": c.n_heads}
    for name, token in (("bos", c.bos_id), ("eos", next(iter(c.eos_ids), None))):
        if token is not None:
            found[f"tokenizer.ggml.{name}_token_id"] = token
    if len(c.eos_ids) > 3:
        raise DynoError(f"GGUF can name three tokens that end a text; this model has {len(c.eos_ids)}.",
                        "Export the model as safetensors.")
    for name, token in zip(("eot", "eom"), c.eos_ids[1:], strict=False):
        found[f"tokenizer.ggml.{name}_token_id"] = token
    if a == "gpt2":
        return found | {f"{a}.attention.layer_norm_epsilon": float(c.norm_eps)}
    if c.rope_scaling.kind not in ("default", "linear", "llama3") or c.rotary_dim not in (0, c.head_dim):
        raise DynoError(f"Rotary positions of the kind {c.rope_scaling.kind!r} cannot be written as GGUF by this "
                        "version.", "Export the model as safetensors.")
    if c.sliding_window and c.sliding_window < c.context:
        raise DynoError(f"llama.cpp runs this architecture without its window of {c.sliding_window:,} tokens, so it "
                        "would give other text.", "Export the model as safetensors.")
    found |= {f"{a}.vocab_size": c.vocab_size, f"{a}.attention.head_count_kv": c.n_kv_heads,
              f"{a}.attention.key_length": c.head_dim, f"{a}.attention.value_length": c.head_dim,
              f"{a}.rope.dimension_count": c.head_dim, f"{a}.attention.layer_norm_rms_epsilon": float(c.norm_eps),
              f"{a}.rope.freq_base": float(c.rope_theta)}
    if c.rope_scaling.kind == "linear":
        found |= {f"{a}.rope.scaling.type": "linear", f"{a}.rope.scaling.factor": float(c.rope_scaling.factor)}
    return found


def _add(writer: Any, metadata: Mapping[str, Any]) -> None:
    for key, value in metadata.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
