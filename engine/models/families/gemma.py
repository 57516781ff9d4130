"""Gemma: norms that multiply by 1 + w, a scaled embedding that is also the head, GELU gates.

Gemma 2 norms what a layer adds as well, caps scores and logits and gives every second layer a window; Gemma 3 has norms
on queries and keys instead of caps, and turns layers with a window by a base of their own.
"""

from __future__ import annotations

from typing import Any, ClassVar

from engine.errors import DynoError
from engine.models.config import ModelConfig
from engine.models.families.base import (
    FULL,
    HF_ACTIVATION,
    SLIDING,
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


class Gemma(Family):
    """Gemma 1 and 2, and the text models of Gemma 3."""

    names: ClassVar = {"gemma": "GemmaForCausalLM", "gemma2": "Gemma2ForCausalLM", "gemma3_text": "Gemma3ForCausalLM"}
    order = 30

    def read(self, raw: dict[str, Any], kind: str) -> ModelConfig:
        if raw.get("use_bidirectional_attention"):
            raise DynoError("This Gemma looks at the tokens after each one too (use_bidirectional_attention): it is no "
                            "model that writes text.", "Use a Gemma that does.")
        first = kind == "gemma"
        hidden, layers = int(raw["hidden_size"]), int(raw["num_hidden_layers"])
        heads, head = int(raw["num_attention_heads"]), int(raw.get("head_dim", 256))
        sliding, local = self._sliding(raw, kind, layers), 0.0
        if kind == "gemma3_text" and sliding["sliding_window"]:
            block = rope_block(raw, SLIDING) if SLIDING in (raw.get("rope_parameters") or {}) else {}
            if str(block.get("rope_type") or "default") != "default":
                raise DynoError("This Gemma 3 scales the rotary positions of its layers with a window, which this "
                                "version cannot run.", "Use a Gemma 3 that does not.")
            local = float(block.get("rope_theta") or raw.get("rope_local_base_freq") or 1e4)
        bias = bool(raw.get("attention_bias", False))
        scalar = float(raw.get("query_pre_attn_scalar", 256))
        return ModelConfig(
            model_type=kind, vocab_size=int(raw["vocab_size"]), hidden_size=hidden, n_layers=layers, n_heads=heads,
            n_kv_heads=int(raw.get("num_key_value_heads") or heads), head_dim=head,
            intermediate_size=int(raw["intermediate_size"]), norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
            activation=activation(raw.get("hidden_act" if first else "hidden_activation") or "gelu_pytorch_tanh"),
            gated=True, layer_norm=False, learned_positions=False, tied=bool(raw.get("tie_word_embeddings", True)),
            qkv_bias=bias, out_bias=bias, qk_norm=kind == "gemma3_text", local_rope_theta=local,
            post_norms=not first, norm_offset=True, embed_scale=hidden ** 0.5,
            attention_scale=0.0 if first else scalar ** -0.5,
            attention_cap=float(raw.get("attn_logit_softcapping", 50.0) or 0) if kind == "gemma2" else 0.0,
            logit_cap=0.0 if first else
            float(raw.get("final_logit_softcapping", 30.0 if kind == "gemma2" else None) or 0),
            bos_id=raw.get("bos_token_id"), eos_ids=ids(raw.get("eos_token_id")), **sliding,
            **rope_fields(raw, rope_block(raw, FULL), int(raw.get("max_position_embeddings", 8192)), head,
                          1e6 if kind == "gemma3_text" else 1e4))

    def write(self, c: ModelConfig) -> dict[str, Any]:
        rope: dict[str, Any] = rope_written(c)
        written: dict[str, Any] = {
            "hidden_size": c.hidden_size, "num_hidden_layers": c.n_layers, "num_attention_heads": c.n_heads,
            "num_key_value_heads": c.n_kv_heads, "head_dim": c.head_dim, "intermediate_size": c.intermediate_size,
            "max_position_embeddings": context_written(c), "rms_norm_eps": c.norm_eps, "attention_bias": c.qkv_bias,
            "hidden_act" if c.model_type == "gemma" else "hidden_activation": HF_ACTIVATION[c.activation]}
        if c.model_type == "gemma":
            return written | {"rope_parameters": rope}
        if c.model_type == "gemma3_text":
            rope = {FULL: rope, SLIDING: {"rope_type": "default", "rope_theta": c.local_rope_theta or 1e4}}
        return written | {
            "rope_parameters": rope, "query_pre_attn_scalar": _whole(c.score_scale ** -2),
            "sliding_window": c.sliding_window or 4096, "layer_types": layer_types(c),
            "attn_logit_softcapping": c.attention_cap or None, "final_logit_softcapping": c.logit_cap or None}

    def sources(self, c: ModelConfig) -> dict[str, Source]:
        names, d = Names(), c.hidden_size
        names.tensor("embed.weight", "model.embed_tokens.weight", c.vocab_size, d)
        for ours, theirs in blocks(c, "model.layers.{}"):
            names.norm(f"{ours}.norm1", f"{theirs}.input_layernorm", d)
            if c.post_norms:
                names.norm(f"{ours}.post1", f"{theirs}.post_attention_layernorm", d)
                names.norm(f"{ours}.norm2", f"{theirs}.pre_feedforward_layernorm", d)
                names.norm(f"{ours}.post2", f"{theirs}.post_feedforward_layernorm", d)
            else:
                names.norm(f"{ours}.norm2", f"{theirs}.post_attention_layernorm", d)
            names.split_matrices(c, ours, theirs)
        names.norm("norm", "model.norm", d)
        if not c.tied:
            names.tensor("head.weight", "lm_head.weight", c.vocab_size, d)
        return names.found

    def _sliding(self, raw: dict[str, Any], kind: str, layers: int) -> dict[str, Any]:
        if kind == "gemma":
            return windows(None, ())
        if raw.get("layer_types") is not None:
            return windows(raw.get("sliding_window", 4096), sliding_layers(raw["layer_types"], layers))
        every = 2 if kind == "gemma2" else int(raw.get("sliding_window_pattern", 6))
        return windows(raw.get("sliding_window", 4096), [bool((i + 1) % every) for i in range(layers)])


def _whole(value: float) -> float:
    """A number that was a whole one before its root was taken."""
    return round(value) if abs(value - round(value)) < 1e-6 * value else value


FAMILY = Gemma()
