"""GPT-2: learned positions, LayerNorm, biases everywhere, matrices stored transposed."""

from __future__ import annotations

from typing import Any, ClassVar

from engine.errors import DynoError
from engine.models.config import ModelConfig
from engine.models.families.base import (
    HF_ACTIVATION,
    Family,
    Names,
    Source,
    activation,
    blocks,
    head_size,
    ids,
    whole_heads,
)


class Gpt2(Family):
    """OpenAI's, and what shares its code."""

    names: ClassVar = {"gpt2": "GPT2LMHeadModel"}
    order = 10

    def read(self, raw: dict[str, Any], kind: str) -> ModelConfig:
        for flag in ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention"):
            if raw.get(flag):
                raise DynoError(f"This GPT-2 variant sets {flag}, which this version cannot run.",
                                "Use a GPT-2 without it.")
        if not raw.get("scale_attn_weights", True):
            raise DynoError("This GPT-2 variant switches scale_attn_weights off, which this version cannot run.",
                            "Use a GPT-2 with it.")
        hidden, heads = int(raw.get("n_embd", 768)), int(raw.get("n_head", 12))
        return ModelConfig(
            model_type=kind, vocab_size=int(raw.get("vocab_size", 50257)), hidden_size=hidden,
            n_layers=int(raw.get("n_layer", 12)), n_heads=heads, n_kv_heads=heads, head_dim=head_size(hidden, heads),
            intermediate_size=int(raw.get("n_inner") or 4 * hidden), context=int(raw.get("n_positions", 1024)),
            norm_eps=float(raw.get("layer_norm_epsilon", 1e-5)),
            activation=activation(raw.get("activation_function", "gelu_new")), gated=False, layer_norm=True,
            learned_positions=True, tied=bool(raw.get("tie_word_embeddings", True)), qkv_bias=True, out_bias=True,
            mlp_bias=True, bos_id=raw.get("bos_token_id"), eos_ids=ids(raw.get("eos_token_id")))

    def write(self, c: ModelConfig) -> dict[str, Any]:
        whole_heads(c)
        return {
            "n_embd": c.hidden_size, "n_layer": c.n_layers, "n_head": c.n_heads, "n_positions": c.context,
            "n_inner": c.intermediate_size, "layer_norm_epsilon": c.norm_eps,
            "activation_function": "gelu_new" if c.activation == "gelu_tanh" else HF_ACTIVATION[c.activation]}

    def sources(self, c: ModelConfig) -> dict[str, Source]:
        names, d, f = Names(), c.hidden_size, c.intermediate_size
        names.tensor("embed.weight", "transformer.wte.weight", c.vocab_size, d)
        names.tensor("positions.weight", "transformer.wpe.weight", c.context, d)
        for ours, theirs in blocks(c, "transformer.h.{}"):
            names.norm(f"{ours}.norm1", f"{theirs}.ln_1", d, bias=True)
            names.norm(f"{ours}.norm2", f"{theirs}.ln_2", d, bias=True)
            for slot, stored, rows, columns in (("attn.qkv", "attn.c_attn", 3 * d, d),
                                                ("attn.out", "attn.c_proj", d, d),
                                                ("mlp.up", "mlp.c_fc", f, d), ("mlp.down", "mlp.c_proj", d, f)):
                names.linear(f"{ours}.{slot}", {f"{theirs}.{stored}": rows}, columns, True, transposed=True)
        names.norm("norm", "transformer.ln_f", d, bias=True)
        if not c.tied:
            names.tensor("head.weight", "lm_head.weight", c.vocab_size, d)
        return names.found


FAMILY = Gpt2()
