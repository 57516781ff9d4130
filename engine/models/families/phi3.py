"""Phi-3 and Phi-4-mini: Llama's shape with fused matrices, a window, and longrope beyond the first context."""

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
    rope_block,
    rope_fields,
    rope_written,
    windows,
)


class Phi3(Family):
    """Microsoft's, from Phi-3 on."""

    names: ClassVar = {"phi3": "Phi3ForCausalLM"}
    order = 40

    def read(self, raw: dict[str, Any], kind: str) -> ModelConfig:
        hidden, heads, layers = int(raw["hidden_size"]), int(raw["num_attention_heads"]), int(raw["num_hidden_layers"])
        head, block = int(raw.get("head_dim") or hidden // heads), rope_block(raw)
        if str(block.get("rope_type") or block.get("type")) == "yarn":
            block |= {"rope_type": "longrope"}  # early files called it so
        return ModelConfig(
            model_type=kind, vocab_size=int(raw["vocab_size"]), hidden_size=hidden, n_layers=layers, n_heads=heads,
            n_kv_heads=int(raw.get("num_key_value_heads") or heads), head_dim=head,
            intermediate_size=int(raw["intermediate_size"]), norm_eps=float(raw.get("rms_norm_eps", 1e-5)),
            activation=activation(raw.get("hidden_act", "silu")), gated=True, layer_norm=False,
            learned_positions=False, tied=bool(raw.get("tie_word_embeddings", False)), bos_id=raw.get("bos_token_id"),
            eos_ids=ids(raw.get("eos_token_id")), **windows(raw.get("sliding_window"), [True] * layers),
            **rope_fields(raw, block, int(raw.get("max_position_embeddings", 4096)), head, 1e4))

    def write(self, c: ModelConfig) -> dict[str, Any]:
        written = {
            "hidden_size": c.hidden_size, "num_hidden_layers": c.n_layers, "num_attention_heads": c.n_heads,
            "num_key_value_heads": c.n_kv_heads, "intermediate_size": c.intermediate_size,
            "max_position_embeddings": context_written(c), "rms_norm_eps": c.norm_eps,
            "hidden_act": HF_ACTIVATION[c.activation], "rope_parameters": rope_written(c),
            "sliding_window": c.sliding_window}
        if c.n_heads * c.head_dim != c.hidden_size:
            written["head_dim"] = c.head_dim
        if c.rope_scaling.kind == "longrope":
            written["original_max_position_embeddings"] = c.rope_scaling.original_context
        return written

    def sources(self, c: ModelConfig) -> dict[str, Source]:
        names, d, f, q = Names(), c.hidden_size, c.intermediate_size, c.n_heads * c.head_dim
        names.tensor("embed.weight", "model.embed_tokens.weight", c.vocab_size, d)
        for ours, theirs in blocks(c, "model.layers.{}"):
            names.norm(f"{ours}.norm1", f"{theirs}.input_layernorm", d)
            names.norm(f"{ours}.norm2", f"{theirs}.post_attention_layernorm", d)
            names.linear(f"{ours}.attn.qkv", {f"{theirs}.self_attn.qkv_proj": c.qkv_size}, d, False)
            names.linear(f"{ours}.attn.out", {f"{theirs}.self_attn.o_proj": d}, q, False)
            names.linear(f"{ours}.mlp.up", {f"{theirs}.mlp.gate_up_proj": 2 * f}, d, False)
            names.linear(f"{ours}.mlp.down", {f"{theirs}.mlp.down_proj": d}, f, False)
        names.norm("norm", "model.norm", d)
        if not c.tied:
            names.tensor("head.weight", "lm_head.weight", c.vocab_size, d)
        return names.found


FAMILY = Phi3()
