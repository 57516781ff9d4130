"""What GGUF's metadata and tensor names mean, translated to a Hugging Face configuration and checkpoint names and back.

llama.cpp's "llama" also stands for Mistral. It stores the rows of q and k in another order (neighbours are rotated
together, not halves), and Llama 3's stretched frequencies as a tensor of factors. It knows nothing of files or types.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from engine.errors import DynoError
from engine.models.config import ModelConfig
from engine.models.gguf_header import AGAIN, GgufFile

ARCHITECTURES = {"gpt2": "gpt2", "llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""GGUF's name of an architecture -> model_type."""

ROPE_FACTORS = "rope_freqs.weight"
_FOR_EXPORT = {"gpt2": "gpt2", "llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
_LLAMA = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
          "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
          "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
          "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
_GPT2 = {"ln_1": "attn_norm", "ln_2": "ffn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
         "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
_OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
            "transformer.wte": "token_embd", "transformer.wpe": "position_embd", "transformer.ln_f": "output_norm"}
_LAYER = re.compile(r"(?:model\.layers|transformer\.h)\.(\d+)\.(.+)\.(weight|bias)")
# Llama 3.1 and later: the numbers of their published configurations.
_LOW, _HIGH, _ORIGINAL = 1.0, 4.0, 8192


def gguf_architecture(config: ModelConfig) -> str:
    """GGUF's name for a model's architecture. Raises DynoError where this version writes none."""
    found = _FOR_EXPORT.get(config.model_type)
    if found is None:
        raise DynoError(f"A {config.model_type} model cannot be exported as GGUF by this version.",
                        f"It exports {', '.join(_FOR_EXPORT)}; or export it as safetensors.")
    return found


def gguf_name(checkpoint_name: str) -> str:
    """GGUF's name of a checkpoint tensor."""
    inside = _LAYER.fullmatch(checkpoint_name)
    if inside is not None:
        layer, part, kind = inside.groups()
        return f"blk.{layer}.{(_LLAMA | _GPT2)[part]}.{kind}"
    stem, _, kind = checkpoint_name.rpartition(".")
    return f"{_OUTSIDE[stem]}.{kind}"


def rotates_neighbours(architecture: str, gguf_tensor: str) -> bool:
    """Whether llama.cpp keeps this tensor's rows in its own order."""
    return architecture == "llama" and re.fullmatch(r"blk\.\d+\.attn_[qk]\.(weight|bias)", gguf_tensor) is not None


def config_of(file: GgufFile) -> ModelConfig:
    """The model's shape from the metadata. Raises DynoError on what the decoder is not."""
    name = file.path.name
    if file.get("split.count", int, 1) > 1:
        raise DynoError(f"{name} is one of {file.get('split.count', int)} parts of a model.",
                        "Join the parts with llama.cpp's gguf-split --merge, and open the result.")
    architecture = file.get("general.architecture", str, "")
    if architecture not in ARCHITECTURES:
        raise DynoError(f"The architecture {architecture[:40]!r} of {name} is not one this version can run.",
                        f"From GGUF it runs {', '.join(ARCHITECTURES)}.")
    if "token_embd.weight" not in file.tensors:
        raise DynoError(f"{name} lacks the tensor token_embd.weight.", AGAIN)
    try:
        raw = _gpt2(file) if architecture == "gpt2" else _llama(file, architecture)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DynoError(f"{name} lacks a usable value: {error}.", AGAIN) from error
    common = {"model_type": ARCHITECTURES[architecture], "vocab_size": file.tensors["token_embd.weight"].shape[0],
              "bos_token_id": file.get("tokenizer.ggml.bos_token_id", int), "eos_token_id": _ends(file),
              "tie_word_embeddings": "output.weight" not in file.tensors}
    return ModelConfig.from_hf(common | raw)


def _ends(file: GgufFile) -> list[int]:
    keys = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
    found = (file.get(key, int) for key in keys)
    return list(dict.fromkeys(i for i in found if i is not None))


def _needed(file: GgufFile, key: str, kind: type) -> Any:
    value = file.get(key, kind)
    if value is None:
        raise ValueError(f"{key} is missing")
    return value


def _gpt2(file: GgufFile) -> dict[str, Any]:
    return {"n_embd": _needed(file, "gpt2.embedding_length", int), "n_layer": _needed(file, "gpt2.block_count", int),
            "n_head": _needed(file, "gpt2.attention.head_count", int),
            "n_inner": _needed(file, "gpt2.feed_forward_length", int),
            "n_positions": _needed(file, "gpt2.context_length", int),
            "layer_norm_epsilon": file.get("gpt2.attention.layer_norm_epsilon", float, 1e-5),
            "activation_function": "gelu_new"}


def _llama(file: GgufFile, a: str) -> dict[str, Any]:
    heads = _needed(file, f"{a}.attention.head_count", int)
    hidden = _needed(file, f"{a}.embedding_length", int)
    if file.get(f"{a}.expert_count", int, 0):
        raise DynoError(f"{file.path.name} is a mixture of experts, which this version cannot run.",
                        "Use a dense model.")
    raw = {"hidden_size": hidden, "num_hidden_layers": _needed(file, f"{a}.block_count", int),
           "num_attention_heads": heads, "num_key_value_heads": file.get(f"{a}.attention.head_count_kv", int, heads),
           "intermediate_size": _needed(file, f"{a}.feed_forward_length", int),
           "max_position_embeddings": _needed(file, f"{a}.context_length", int),
           "rms_norm_eps": file.get(f"{a}.attention.layer_norm_rms_epsilon", float, 1e-6), "hidden_act": "silu",
           "attention_bias": a == "llama" and "blk.0.attn_q.bias" in file.tensors,
           "mlp_bias": "blk.0.ffn_up.bias" in file.tensors,
           "rope_theta": file.get(f"{a}.rope.freq_base", float, 10000.0)}
    size = file.get(f"{a}.attention.key_length", int)
    if size is not None:
        raw["head_dim"] = size
    elif heads:
        raw["head_dim"] = hidden // heads
    rotated = file.get(f"{a}.rope.dimension_count", int, raw.get("head_dim"))
    if rotated != raw.get("head_dim"):
        raise DynoError(f"{file.path.name} rotates only a part of each head, which this version cannot run.",
                        "Use another model.")
    kind = file.get(f"{a}.rope.scaling.type", str, "none")
    if kind != "none":
        raw["rope_scaling"] = {"rope_type": kind, "factor": file.get(f"{a}.rope.scaling.factor", float, 1.0),
                               "original_max_position_embeddings":
                                   file.get(f"{a}.rope.scaling.original_context_length", int, _ORIGINAL)}
    elif ROPE_FACTORS in file.tensors:
        raw["rope_scaling"] = _llama3(file, raw)
    return raw


def _llama3(file: GgufFile, raw: dict[str, Any]) -> dict[str, Any]:
    """Llama 3's scaling, recognized by the factors it gives. Raises DynoError where they are others."""
    entry, half = file.tensors[ROPE_FACTORS], raw["head_dim"] // 2
    if entry.dtype != "F32" or entry.shape != (half,):
        raise ValueError(f"{ROPE_FACTORS} does not have a factor for each frequency")
    stored = np.fromfile(file.path, "<f4", half, offset=entry.begin)
    factor = float(stored.max())
    expected = rope_factors(raw["head_dim"], raw["rope_theta"], factor, _LOW, _HIGH, _ORIGINAL)
    if not np.allclose(stored, expected, rtol=1e-4):
        raise DynoError(f"{file.path.name} stretches its rotary frequencies in a way this version does not know.",
                        "Use the model's safetensors files.")
    return {"rope_type": "llama3", "factor": factor, "low_freq_factor": _LOW, "high_freq_factor": _HIGH,
            "original_max_position_embeddings": _ORIGINAL}


def rope_factors(head_dim: int, theta: float, factor: float, low: float, high: float,
                 original: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What each rotary frequency is divided by under Llama 3's scaling, (d/2,): `factor` for wavelengths longer than
    original / low, 1 below original / high, and the formula's blend between (Meta's Llama 3.1 code)."""
    half = head_dim // 2
    frequency = theta ** (-np.arange(half, dtype=np.float64) / half)
    blend = np.clip((original * frequency / (2 * math.pi) - low) / (high - low), 0, 1)
    return (1 / ((1 - blend) / factor + blend)).astype(np.float32)
