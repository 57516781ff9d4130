"""GPT-NeoX and Pythia: LayerNorm, a part of each head turned, attention and feed-forward beside each other, and a fused
matrix whose query, key and value rows lie together head after head."""

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
    head_size,
    ids,
    rope_block,
    rope_fields,
    rope_written,
    whole_heads,
)


class Neox(Family):
    """EleutherAI's."""

    names: ClassVar = {"gpt_neox": "GPTNeoXForCausalLM"}
    order = 50

    def read(self, raw: dict[str, Any], kind: str) -> ModelConfig:
        hidden, heads = int(raw["hidden_size"]), int(raw["num_attention_heads"])
        head, bias = head_size(hidden, heads), bool(raw.get("attention_bias", True))
        share = float(raw.get("rotary_pct", 0.25))
        return ModelConfig(
            model_type=kind, vocab_size=int(raw["vocab_size"]), hidden_size=hidden,
            n_layers=int(raw["num_hidden_layers"]), n_heads=heads, n_kv_heads=heads, head_dim=head,
            intermediate_size=int(raw["intermediate_size"]), norm_eps=float(raw.get("layer_norm_eps", 1e-5)),
            activation=activation(raw.get("hidden_act", "gelu")), gated=False, layer_norm=True,
            learned_positions=False, tied=bool(raw.get("tie_word_embeddings", False)), qkv_bias=bias, out_bias=bias,
            mlp_bias=True, parallel=bool(raw.get("use_parallel_residual", True)), bos_id=raw.get("bos_token_id"),
            eos_ids=ids(raw.get("eos_token_id")),
            **rope_fields(raw, rope_block(raw), int(raw.get("max_position_embeddings", 2048)), head,
                          float(raw.get("rotary_emb_base", 1e4)), share))

    def write(self, c: ModelConfig) -> dict[str, Any]:
        whole_heads(c)
        return {
            "hidden_size": c.hidden_size, "num_hidden_layers": c.n_layers, "num_attention_heads": c.n_heads,
            "intermediate_size": c.intermediate_size, "max_position_embeddings": context_written(c),
            "layer_norm_eps": c.norm_eps, "hidden_act": HF_ACTIVATION[c.activation],
            "rope_parameters": {"partial_rotary_factor": 1.0} | rope_written(c),
            "use_parallel_residual": c.parallel, "attention_bias": c.qkv_bias}

    def sources(self, c: ModelConfig) -> dict[str, Source]:
        names, d, f = Names(), c.hidden_size, c.intermediate_size
        names.tensor("embed.weight", "gpt_neox.embed_in.weight", c.vocab_size, d)
        for ours, theirs in blocks(c, "gpt_neox.layers.{}"):
            names.norm(f"{ours}.norm1", f"{theirs}.input_layernorm", d, bias=True)
            names.norm(f"{ours}.norm2", f"{theirs}.post_attention_layernorm", d, bias=True)
            names.linear(f"{ours}.attn.qkv", {f"{theirs}.attention.query_key_value": 3 * d}, d, c.qkv_bias,
                         interleaved=c.n_heads)
            names.linear(f"{ours}.attn.out", {f"{theirs}.attention.dense": d}, d, c.out_bias)
            names.linear(f"{ours}.mlp.up", {f"{theirs}.mlp.dense_h_to_4h": f}, d, True)
            names.linear(f"{ours}.mlp.down", {f"{theirs}.mlp.dense_4h_to_h": d}, f, True)
        names.norm("norm", "gpt_neox.final_layer_norm", d, bias=True)
        if not c.tied:
            names.tensor("head.weight", "embed_out.weight", c.vocab_size, d)
        return names.found


FAMILY = Neox()
