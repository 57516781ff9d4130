"""The Llama family: rotary positions, RMSNorm, gated feed-forwards, grouped queries.

Mistral adds a window, Qwen2 biases on queries, keys and values, Qwen3 norms on queries and keys, SmolLM3 layers without
positions.
"""

from __future__ import annotations

from typing import Any, ClassVar

from engine.models.config import ModelConfig
from engine.models.families.base import (
    HF_ACTIVATION,
    Family,
    Names,
    Source,
    activation,
    blocks,
    context_written,
    ids,
    layer_types,
    rope_block,
    rope_fields,
    rope_written,
    sliding_layers,
    windows,
)

_QWEN = ("qwen2", "qwen3")


class Llama(Family):
    """Llama 1 to 3, Mistral, Qwen2 to 3, SmolLM 1 to 3."""

    names: ClassVar = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM",
             "qwen3": "Qwen3ForCausalLM", "smollm3": "SmolLM3ForCausalLM"}
    order = 20

    def read(self, raw: dict[str, Any], kind: str) -> ModelConfig:
        hidden, heads, layers = int(raw["hidden_size"]), int(raw["num_attention_heads"]), int(raw["num_hidden_layers"])
        head = int(raw.get("head_dim") or hidden // heads)
        context = int(raw.get("max_position_embeddings", 2048))
        bias = bool(raw.get("attention_bias", False))
        return ModelConfig(
            model_type=kind, vocab_size=int(raw["vocab_size"]), hidden_size=hidden, n_layers=layers, n_heads=heads,
            n_kv_heads=int(raw.get("num_key_value_heads") or heads), head_dim=head,
            intermediate_size=int(raw["intermediate_size"]), norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
            activation=activation(raw.get("hidden_act", "silu")), gated=True, layer_norm=False,
            learned_positions=False, tied=bool(raw.get("tie_word_embeddings", kind == "smollm3")),
            qkv_bias=kind == "qwen2" or bias, out_bias=kind in ("llama", "qwen3", "smollm3") and bias,
            mlp_bias=bool(raw.get("mlp_bias", False)), qk_norm=kind == "qwen3", bos_id=raw.get("bos_token_id"),
            eos_ids=ids(raw.get("eos_token_id")), rotary_layers=_rotary(raw, layers) if kind == "smollm3" else (),
            **_windows(raw, kind, layers),
            **rope_fields(raw, rope_block(raw), context, head, 2e6 if kind == "smollm3" else 1e4))

    def write(self, c: ModelConfig) -> dict[str, Any]:
        written: dict[str, Any] = {
            "hidden_size": c.hidden_size, "num_hidden_layers": c.n_layers, "num_attention_heads": c.n_heads,
            "num_key_value_heads": c.n_kv_heads, "head_dim": c.head_dim, "intermediate_size": c.intermediate_size,
            "max_position_embeddings": context_written(c), "rms_norm_eps": c.norm_eps,
            "hidden_act": HF_ACTIVATION[c.activation], "rope_theta": c.rope_theta, "rope_parameters": rope_written(c),
            "attention_bias": c.qkv_bias, "mlp_bias": c.mlp_bias, "sliding_window": c.sliding_window}
        if c.model_type in (*_QWEN, "smollm3"):
            written |= {"use_sliding_window": c.sliding_window is not None, "layer_types": layer_types(c)}
        if c.model_type == "smollm3":
            written["no_rope_layers"] = [int(c.rope(i) is not None) for i in range(c.n_layers)]
        return written

    def sources(self, c: ModelConfig) -> dict[str, Source]:
        names, d = Names(), c.hidden_size
        names.tensor("embed.weight", "model.embed_tokens.weight", c.vocab_size, d)
        for ours, theirs in blocks(c, "model.layers.{}"):
            names.norm(f"{ours}.norm1", f"{theirs}.input_layernorm", d)
            names.norm(f"{ours}.norm2", f"{theirs}.post_attention_layernorm", d)
            names.split_matrices(c, ours, theirs)
        names.norm("norm", "model.norm", d)
        if not c.tied:
            names.tensor("head.weight", "lm_head.weight", c.vocab_size, d)
        return names.found


def _windows(raw: dict[str, Any], kind: str, layers: int) -> dict[str, Any]:
    if kind == "mistral":
        return windows(raw.get("sliding_window", 4096), [True] * layers)
    if kind == "llama" or not raw.get("use_sliding_window", False):
        return windows(None, ())
    if raw.get("layer_types") is not None:
        return windows(raw.get("sliding_window", 4096), sliding_layers(raw["layer_types"], layers))
    if kind == "smollm3":
        return windows(raw.get("sliding_window"), [not rotary for rotary in _rotary(raw, layers) or [True] * layers])
    first = int(raw.get("max_window_layers", 28))
    return windows(raw.get("sliding_window", 4096), [i >= first for i in range(layers)])


def _rotary(raw: dict[str, Any], layers: int) -> tuple[bool, ...]:
    """Which layers are rotary, empty where all are; by default every fourth is not."""
    given, interval = raw.get("no_rope_layers"), int(raw.get("no_rope_layer_interval", 4))
    rotary = (tuple(bool(flag) for flag in given[:layers]) if given is not None
              else tuple((i + 1) % interval != 0 for i in range(layers)))
    return () if all(rotary) else rotary


FAMILY = Llama()
