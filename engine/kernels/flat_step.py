"""One token through the decoder's operators without its modules.

The same operators on the same tensors as `Decoder.forward`, so the same bits; but a step of a small model costs more
in calls than in arithmetic, and here the cache is cut up once a step instead of four times a layer, new keys and values
are written in one copy, and no module is called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from engine.kernels.token_step import DecoderStep
from engine.models.cache import Int8KVCache, KVCache
from engine.models.gpt import Attend, Decoder, Norm, capped, rotate

Layer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Block:
    """The operators of one block. rope: the rotary table it turns by, None for none. scale, cap: as `attend` takes
    them."""

    norm1: Layer
    qkv: Layer
    q_norm: Layer | None
    k_norm: Layer | None
    rope: int | None
    window: int | None
    attend: Attend
    scale: float | None
    cap: float
    out: Layer
    post1: Layer | None
    parallel: bool
    norm2: Layer
    up: Layer
    activation: Layer
    gated: bool
    down: Layer
    post2: Layer | None


class FlatStep:
    """Runs one token over a dense cache; anything else goes through the decoder."""

    def __init__(self, decoder: Decoder) -> None:
        self._plain = DecoderStep(decoder)
        self._decoder, self._config = decoder, decoder.config
        self._blocks = [_flat(block) for block in decoder.blocks]
        self._windows = {block.window for block in self._blocks}
        self._norm, self._head = _norm(decoder.norm), decoder.head.forward

    def __call__(self, ids: Tensor, cache: KVCache) -> Tensor:
        """Logits (1, T, V) for ids (1, T)."""
        c, at = self._config, cache.length
        if ids.shape != (1, 1) or isinstance(cache, Int8KVCache):
            return self._plain(ids, cache)
        decoder, heads = self._decoder, c.n_heads
        x = decoder.embedded(ids)  # (1, 1, D)
        if decoder.positions is not None:
            x = x + decoder.positions.weight[at:at + 1]
        turns = [(cos[at], sin[at]) for cos, sin in decoder.rope_tables(x, at + 1)]  # (1, r) twice, each
        seen = {window: cache.data[:, :, :, max(0, at + 1 - window) if window else 0:at + 1].unbind(0)
                for window in self._windows}  # 2L of (1, K, S, d)
        fresh = cache.data.view(c.n_layers, 2 * c.n_kv_heads, cache.capacity, c.head_dim)[:, :, at].unbind(0)
        for layer, b in enumerate(self._blocks):
            qkv = b.qkv(b.norm1(x)).view(1, heads + 2 * c.n_kv_heads, 1, c.head_dim)
            q, kv = qkv[:, :heads], qkv[:, heads:]  # (1, H, 1, d), (1, 2K, 1, d)
            k = kv[:, :c.n_kv_heads]
            if b.q_norm is not None and b.k_norm is not None:
                q, k = b.q_norm(q), b.k_norm(k)
            if b.rope is not None:
                q, k = rotate(q, *turns[b.rope]), rotate(k, *turns[b.rope])
            if b.rope is None and b.k_norm is None:  # keys and values stay as the product gave them
                fresh[layer].copy_(kv.view(-1, c.head_dim))
            else:
                fresh[layer][:c.n_kv_heads].copy_(k.reshape(-1, c.head_dim))
                fresh[layer][c.n_kv_heads:].copy_(kv[0, c.n_kv_heads:, 0])
            keys, values = seen[b.window][2 * layer:2 * layer + 2]
            y = b.attend(q.to(cache.data.dtype), keys, values, None, False, b.scale, b.cap)  # (1, H, 1, d)
            y = b.out(y.reshape(1, 1, -1).to(x.dtype))
            between = (y if b.post1 is None else b.post1(y)).add_(x)  # in place on what the layer just made
            h = b.up(b.norm2(x if b.parallel else between))
            if b.gated:
                gate, value = h.chunk(2, dim=-1)
                h = b.activation(gate).mul_(value)
            else:
                h = b.activation(h)
            y = b.down(h)
            x = (y if b.post2 is None else b.post2(y)).add_(between)
        cache.length = at + 1
        return capped(self._head(self._norm(x)), c.logit_cap)


def _flat(block: object) -> _Block:
    attn, mlp = block.attn, block.mlp  # type: ignore[attr-defined]
    return _Block(
        norm1=_norm(block.norm1), qkv=attn.qkv.forward,  # type: ignore[attr-defined]
        q_norm=_maybe(attn.q_norm), k_norm=_maybe(attn.k_norm), rope=attn.rope, window=attn.window,
        attend=attn.attend, scale=attn.scale, cap=attn.cap, out=attn.out.forward,
        post1=_maybe(block.post1), parallel=block.parallel,  # type: ignore[attr-defined]
        norm2=_norm(block.norm2), up=mlp.up.forward, activation=mlp.activation,  # type: ignore[attr-defined]
        gated=mlp.gated, down=mlp.down.forward, post2=_maybe(block.post2))  # type: ignore[attr-defined]


def _maybe(norm: Norm | None) -> Layer | None:
    return None if norm is None else _norm(norm)


def _norm(norm: Norm) -> Layer:
    weight, bias, shape, eps = norm.weight, norm.bias, norm.shape, norm.eps
    if bias is not None:
        return lambda x: F.layer_norm(x, shape, weight, bias, eps)
    if norm.offset:
        return norm.forward
    return lambda x: F.rms_norm(x, shape, weight, eps)
