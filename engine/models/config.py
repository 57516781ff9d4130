"""What a decoder is made of, read from and written to a Hugging Face `config.json`.

One dataclass describes both families; the decoder looks at these fields and never at an architecture's name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import DynoError, reason
from engine.words import counted

LLAMA_FAMILY = ("llama", "mistral", "qwen2", "qwen3")
SUPPORTED = ("gpt2", *LLAMA_FAMILY)
_ARCHITECTURE_CLASS = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
                "gelu": "gelu", "relu": "relu"}
_HF_ACTIVATION = {"silu": "silu", "gelu_tanh": "gelu_new", "gelu": "gelu", "relu": "relu"}
_MAX_DIMENSION = 1 << 24
_MAX_LAYERS = 1 << 12


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched for contexts longer than the model was trained on.

    kind: "default", "linear" or "llama3" (the formula of Llama 3.1's reference code).
    """

    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a decoder-only transformer.

    Sizes are counts of features, heads, layers or tokens. `gated` marks SwiGLU-style feed-forwards, whose first
    matrix holds gate and up rows one after the other. `learned_positions` and `rope_theta` exclude each other.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    intermediate_size: int
    context: int
    norm_eps: float
    activation: str
    gated: bool
    layer_norm: bool
    learned_positions: bool
    tied: bool
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling = field(default_factory=RopeScaling)
    sliding_window: int | None = None
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "n_layers", "n_heads", "n_kv_heads", "head_dim",
                     "intermediate_size", "context"):
            value = getattr(self, name)
            limit = _MAX_LAYERS if name == "n_layers" else _MAX_DIMENSION
            if not isinstance(value, int) or not 0 < value <= limit:
                raise DynoError(f"The model's configuration gives {name} = {value!r}, which cannot be right.",
                                "Check config.json, or download the model again.")
        if self.n_heads % self.n_kv_heads:
            raise DynoError(f"{counted(self.n_heads, 'attention head')} cannot share "
                            f"{counted(self.n_kv_heads, 'key/value head')} evenly.",
                            "Check num_attention_heads and num_key_value_heads in config.json.")
        if self.head_dim % 2 and not self.learned_positions:
            raise DynoError(f"Rotary positions need an even head size; config.json gives {self.head_dim}.",
                            "Check head_dim in config.json.")

    @property
    def qkv_size(self) -> int:
        """Rows of the fused query/key/value matrix."""
        return (self.n_heads + 2 * self.n_kv_heads) * self.head_dim

    def kv_elements_per_token(self) -> int:
        """Numbers stored in the KV cache for one position, all layers, keys and values together."""
        return 2 * self.n_layers * self.n_kv_heads * self.head_dim

    @classmethod
    def from_folder(cls, folder: Path) -> ModelConfig:
        """Read `config.json` (and the end-of-text ids of `generation_config.json`). Raises DynoError."""
        if not folder.is_dir():
            raise DynoError(f"There is no folder {folder}.", "Choose a Hugging Face model folder.")
        path = folder / "config.json"
        if not path.is_file():
            raise DynoError(f"There is no model in {folder}: config.json is missing.",
                            "Choose a Hugging Face model folder: config.json, *.safetensors and tokenizer.json.")
        raw = _read_json(path)
        generation = folder / "generation_config.json"
        extra = _read_json(generation) if generation.is_file() else {}
        if extra.get("eos_token_id") is not None:
            raw["eos_token_id"] = extra["eos_token_id"]
        return cls.from_hf(raw)

    @classmethod
    def from_hf(cls, raw: dict[str, Any]) -> ModelConfig:
        """Translate the dictionary of a Hugging Face configuration. Raises DynoError on what the decoder is not."""
        kind = raw.get("model_type")
        if kind not in SUPPORTED:
            raise DynoError(f"The architecture {kind!r} is not one this version can run.",
                            f"It runs {', '.join(SUPPORTED)}.")
        try:
            return _from_gpt2(raw) if kind == "gpt2" else _from_llama(raw, str(kind))
        except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            raise DynoError(f"config.json lacks a usable value: {error}.",
                            "Check config.json, or download the model again.") from error

    def to_hf(self) -> dict[str, Any]:
        """The Hugging Face configuration of this model, as `config.json` holds it."""
        common: dict[str, Any] = {
            "architectures": [_ARCHITECTURE_CLASS[self.model_type]],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "bos_token_id": self.bos_id,
            "eos_token_id": list(self.eos_ids) if len(self.eos_ids) > 1 else next(iter(self.eos_ids), None),
            "tie_word_embeddings": self.tied,
        }
        if self.model_type == "gpt2":
            return common | {
                "n_embd": self.hidden_size, "n_layer": self.n_layers, "n_head": self.n_heads,
                "n_positions": self.context, "n_inner": self.intermediate_size,
                "layer_norm_epsilon": self.norm_eps, "activation_function": _HF_ACTIVATION[self.activation],
            }
        rope: dict[str, Any] = {"rope_theta": self.rope_theta, "rope_type": self.rope_scaling.kind}
        if self.rope_scaling.kind != "default":
            rope["factor"] = self.rope_scaling.factor
        if self.rope_scaling.kind == "llama3":
            rope |= {"low_freq_factor": self.rope_scaling.low_freq_factor,
                     "high_freq_factor": self.rope_scaling.high_freq_factor,
                     "original_max_position_embeddings": self.rope_scaling.original_context}
        return common | {
            "hidden_size": self.hidden_size, "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads, "num_key_value_heads": self.n_kv_heads, "head_dim": self.head_dim,
            "intermediate_size": self.intermediate_size, "max_position_embeddings": self.context,
            "rms_norm_eps": self.norm_eps, "hidden_act": _HF_ACTIVATION[self.activation],
            "rope_theta": self.rope_theta, "rope_parameters": rope, "attention_bias": self.qkv_bias,
            "mlp_bias": self.mlp_bias, "sliding_window": self.sliding_window,
        }


def cache_bytes_per_token(config: ModelConfig, dtype: str) -> int:
    """Bytes of the KV cache for one position. int8 keeps an fp32 scale for every head, of keys and of values."""
    elements = config.kv_elements_per_token()
    if dtype == "int8":
        return elements + 4 * elements // config.head_dim
    return elements * (4 if dtype == "fp32" else 2)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DynoError(f"{path.name} cannot be read: {reason(error)}.", "Download the model again.") from error
    if not isinstance(raw, dict):
        raise DynoError(f"{path.name} does not hold a configuration.", "Download the model again.")
    return raw


def _ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(int(v) for v in value) if isinstance(value, list) else (int(value),)


def _activation(name: str) -> str:
    if name not in _ACTIVATIONS:
        raise DynoError(f"The activation function {name!r} is not one this version can run.",
                        f"It runs {', '.join(_ACTIVATIONS)}.")
    return _ACTIVATIONS[name]


def _from_gpt2(raw: dict[str, Any]) -> ModelConfig:
    for flag in ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention"):
        if raw.get(flag):
            raise DynoError(f"This GPT-2 variant sets {flag}, which this version cannot run.",
                            "Use a GPT-2 without it.")
    if not raw.get("scale_attn_weights", True):
        raise DynoError("This GPT-2 variant switches scale_attn_weights off, which this version cannot run.",
                        "Use a GPT-2 with it.")
    hidden, heads = int(raw.get("n_embd", 768)), int(raw.get("n_head", 12))
    if hidden % heads:
        raise DynoError(f"{counted(hidden, 'feature')} cannot be split over {counted(heads, 'head')}.",
                        "Check config.json.")
    return ModelConfig(
        model_type="gpt2", vocab_size=int(raw.get("vocab_size", 50257)), hidden_size=hidden,
        n_layers=int(raw.get("n_layer", 12)), n_heads=heads, n_kv_heads=heads, head_dim=hidden // heads,
        intermediate_size=int(raw.get("n_inner") or 4 * hidden), context=int(raw.get("n_positions", 1024)),
        norm_eps=float(raw.get("layer_norm_epsilon", 1e-5)),
        activation=_activation(str(raw.get("activation_function", "gelu_new"))), gated=False, layer_norm=True,
        learned_positions=True, tied=bool(raw.get("tie_word_embeddings", True)), qkv_bias=True, out_bias=True,
        mlp_bias=True, bos_id=raw.get("bos_token_id"), eos_ids=_ids(raw.get("eos_token_id")),
    )


def _from_llama(raw: dict[str, Any], kind: str) -> ModelConfig:
    hidden, heads = int(raw["hidden_size"]), int(raw["num_attention_heads"])
    window = raw.get("sliding_window")
    if kind in ("qwen2", "qwen3") and not raw.get("use_sliding_window", False):
        window = None
    elif kind in ("qwen2", "qwen3"):
        raise DynoError("This Qwen uses sliding windows in some of its layers, which this version cannot run.",
                        "Use a Qwen with use_sliding_window off.")
    theta, scaling = _rope(raw)
    attention_bias = bool(raw.get("attention_bias", False))
    return ModelConfig(
        model_type=kind, vocab_size=int(raw["vocab_size"]), hidden_size=hidden,
        n_layers=int(raw["num_hidden_layers"]), n_heads=heads,
        n_kv_heads=int(raw.get("num_key_value_heads") or heads), head_dim=int(raw.get("head_dim") or hidden // heads),
        intermediate_size=int(raw["intermediate_size"]), context=int(raw.get("max_position_embeddings", 2048)),
        norm_eps=float(raw.get("rms_norm_eps", 1e-6)), activation=_activation(str(raw.get("hidden_act", "silu"))),
        gated=True, layer_norm=False, learned_positions=False, tied=bool(raw.get("tie_word_embeddings", False)),
        qkv_bias=kind == "qwen2" or attention_bias, out_bias=kind in ("llama", "qwen3") and attention_bias,
        mlp_bias=bool(raw.get("mlp_bias", False)), qk_norm=kind == "qwen3", rope_theta=theta, rope_scaling=scaling,
        sliding_window=int(window) if window else None, bos_id=raw.get("bos_token_id"),
        eos_ids=_ids(raw.get("eos_token_id")),
    )


def _rope(raw: dict[str, Any]) -> tuple[float, RopeScaling]:
    """Rotary base and scaling, from either spelling (`rope_parameters`, or `rope_theta` with `rope_scaling`)."""
    block = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if float(raw.get("partial_rotary_factor") or block.get("partial_rotary_factor") or 1.0) != 1.0:
        raise DynoError("This model rotates only a part of each head, which this version cannot run.",
                        "Use a model without partial_rotary_factor.")
    theta = float(block.get("rope_theta") or raw.get("rope_theta") or 10000.0)
    kind = str(block.get("rope_type") or block.get("type") or "default")
    if kind not in ("default", "linear", "llama3"):
        raise DynoError(f"Rotary scaling of type {kind!r} is not one this version can run.",
                        "It runs default, linear and llama3.")
    return theta, RopeScaling(
        kind=kind, factor=float(block.get("factor", 1.0)),
        low_freq_factor=float(block.get("low_freq_factor", 1.0)),
        high_freq_factor=float(block.get("high_freq_factor", 4.0)),
        original_context=int(block.get("original_max_position_embeddings", 8192)),
    )
