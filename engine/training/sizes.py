"""Shapes of models trained from scratch: Llama's architecture, so that they load everywhere. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from engine.models.config import ModelConfig
from engine.train_plan import SIZES


@dataclass(frozen=True)
class _Shape:
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int


# Hidden sizes are multiples of 32 (int4 groups) and heads of 32 or 64 (what attention kernels like).
_SHAPES = dict(zip(SIZES, (
    _Shape(128, 4, 4, 2, 352), _Shape(192, 6, 6, 2, 512), _Shape(320, 8, 5, 5, 864), _Shape(512, 8, 8, 4, 1408),
    _Shape(768, 12, 12, 4, 2048)), strict=True))


def config_for(size: str, vocabulary: int, context: int, eos_id: int | None) -> ModelConfig:
    """The configuration of a new model. size: one of SIZES; vocabulary, context: in tokens."""
    shape = _SHAPES[size]
    return ModelConfig(
        model_type="llama", vocab_size=vocabulary, hidden_size=shape.hidden, n_layers=shape.layers,
        n_heads=shape.heads, n_kv_heads=shape.kv_heads, head_dim=shape.hidden // shape.heads,
        intermediate_size=shape.feed_forward, context=context, norm_eps=1e-5, activation="silu", gated=True,
        layer_norm=False, learned_positions=False, tied=True, eos_ids=() if eos_id is None else (eos_id,))
