"""The decoder: every family of models that GPT Dyno knows, in one readable file.

It knows tensors only: no files, no text, no techniques, no kernels, and of architectures only the features that
engine/models/config.py names. Whatever sits in a linear slot (`qkv`, `out`, `up`, `down`, `head`) is called with
(B, T, in) and returns (B, T, out); the kernel layer puts faster objects there.

Shapes: B batch, T new tokens, S tokens seen so far including the new ones, D hidden size, H query heads, K key/value
heads, d head size, r turned channels of a head, F feed-forward neurons, V vocabulary, C capacity of the cache.

Source of the attention formula, softmax(Q K^T / sqrt(d)) V: Vaswani et al., "Attention Is All You Need", 2017.
SwiGLU: Shazeer, "GLU Variants Improve Transformer", 2020. Capped scores and norms after a layer: Gemma team, "Gemma 2",
2024. Attention and feed-forward side by side: Wang and Komatsuzaki, "GPT-J-6B", 2021.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.models.cache import KVCache
from engine.models.config import ModelConfig
from engine.models.rope import Turn, Turns

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}


LinearFactory = Callable[[int, int, bool], nn.Module]
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None, bool, float | None, float], Tensor]


@dataclass(frozen=True)
class Place:
    """Where the new tokens of a pass stand: what all of its layers share.

    at: the position of the first, a (1,) tensor in a step of fixed shapes. turns: the rotary tables of these positions.
    full, windowed: (T, S) visibility for layers that see everything and for those with a window; None where plain
    causal masking, or none for one token, says it all.
    """

    at: int | Tensor
    turns: tuple[Turn, ...]
    full: Tensor | None = None
    windowed: Tensor | None = None


def place(config: ModelConfig, start: int, tokens: int, turns: tuple[Turn, ...], device: torch.device | str) -> Place:
    """The place of `tokens` tokens after `start` others."""
    window, every = config.sliding_window, not config.sliding_layers
    return Place(start, turns, None if window and every else _mask(None, start, tokens, device),
                 _mask(window, start, tokens, device) if window else None)


def _mask(window: int | None, start: int, tokens: int, device: torch.device | str) -> Tensor | None:
    end = start + tokens
    if tokens == 1 or (start == 0 and (window is None or end <= window)):
        return None
    rows = torch.arange(start, end, device=device)[:, None]
    columns = torch.arange(end, device=device)[None, :]
    visible = columns <= rows
    return visible & (columns > rows - window) if window else visible


class Norm(nn.Module):
    """LayerNorm (with bias) or RMSNorm, over the last dimension. offset: multiply by 1 + w, in fp32."""

    def __init__(self, size: int, eps: float, layer_norm: bool, offset: bool = False) -> None:
        super().__init__()
        self.shape, self.eps, self.offset = (size,), eps, offset
        self.weight = nn.Parameter(torch.zeros(size) if offset else torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size)) if layer_norm else None

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is not None:
            return F.layer_norm(x, self.shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)
        if self.offset:  # 1 + w has too few bits in bf16
            return F.rms_norm(x.float(), self.shape, 1 + self.weight.float(), self.eps).to(x.dtype)
        return F.rms_norm(x, self.shape, self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Causal self-attention with grouped queries, an optional q/k norm, rotary positions and an optional window."""

    def __init__(self, config: ModelConfig, layer: int, linear: LinearFactory) -> None:
        super().__init__()
        c = config
        self.layer, self.heads, self.kv_heads, self.head_dim = layer, c.n_heads, c.n_kv_heads, c.head_dim
        self.window, self.rope = c.window(layer), c.rope(layer)
        self.scale, self.cap = c.attention_scale or None, c.attention_cap
        self.qkv = linear(c.hidden_size, c.qkv_size, c.qkv_bias)
        self.out = linear(c.n_heads * c.head_dim, c.hidden_size, c.out_bias)
        self.q_norm = Norm(c.head_dim, c.norm_eps, False, c.norm_offset) if c.qk_norm else None
        self.k_norm = Norm(c.head_dim, c.norm_eps, False, c.norm_offset) if c.qk_norm else None
        self.attend: Attend = attend

    def forward(self, x: Tensor, place: Place, cache: KVCache | None) -> Tensor:
        batch, tokens, _ = x.shape
        heads = self.qkv(x).view(batch, tokens, -1, self.head_dim)  # (B, T, H+2K, d)
        qk, v = heads.split((self.heads + self.kv_heads, self.kv_heads), dim=2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = qk.split((self.heads, self.kv_heads), dim=2)
            qk = torch.cat((self.q_norm(q), self.k_norm(k)), dim=2)
        if self.rope is not None:
            qk = rotate(qk, *place.turns[self.rope])
        q, k = qk.split((self.heads, self.kv_heads), dim=2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H, T, d), (B, K, T, d) twice
        if cache is not None:
            k, v = cache.update(self.layer, k, v, place.at, self.window)  # (B, K, S, d)
        q, k = q.to(v.dtype), k.to(v.dtype)  # autocast leaves v in 16 bits and rotary q, k in 32
        mask = place.windowed if self.window else place.full
        y = self.attend(q, k, v, mask, tokens > 1 and mask is None, self.scale, self.cap)  # (B, H, T, d)
        return self.out(y.transpose(1, 2).reshape(batch, tokens, -1).to(x.dtype))  # type: ignore[no-any-return]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float | None = None,
           cap: float = 0.0) -> Tensor:
    """softmax(Q K^T scale) V. q (B, H, T, d); k, v (B, K, S, d); mask (T, S), true where visible. scale: None for
    1 / sqrt(d). Fused kernels know no capped scores, so those are written out.

    One new token needs no mask, so its query heads fold into rows over their shared key head: keys and values are
    then read once and never repeated.
    """
    if cap:
        return attend_plain(q, k, v, mask, causal, scale, cap)
    batch, heads, tokens, size = q.shape
    kv_heads = k.shape[1]
    if tokens == 1 and heads != kv_heads and mask is None:
        y = F.scaled_dot_product_attention(q.reshape(batch, kv_heads, heads // kv_heads, size), k, v, scale=scale)
        return y.reshape(batch, heads, 1, size)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=heads != kv_heads,
                                          scale=scale)


def attend_plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float | None = None,
                 cap: float = 0.0) -> Tensor:
    """The formula as it is written, softmax(cap tanh(Q K^T scale / cap)) V, with the whole score matrix: the reference
    of `attend`. Without a cap, softmax(Q K^T scale) V.

    The softmax is taken in fp32, as the fused kernels do. Query heads fold into rows over their shared key head.
    """
    batch, heads, tokens, size = q.shape
    rows = q.reshape(batch, k.shape[1], -1, size)  # (B, K, H/K T, d)
    scores = (rows @ k.transpose(-2, -1)).float() * (scale or 1 / math.sqrt(size))  # (B, K, H/K T, S)
    if cap:
        scores = cap * torch.tanh(scores / cap)
    scores = scores.view(batch, heads, tokens, -1)
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights = scores.softmax(dim=-1).to(v.dtype)  # (B, H, T, S)
    return (weights.view(batch, v.shape[1], -1, weights.shape[-1]) @ v).view(batch, heads, tokens, size)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions in the half-split convention. x (B, T, n, d); cos, sin (T, 1, r), sin signed by half. Channels
    from r on stay."""
    turned = cos.shape[-1]
    if turned < x.shape[-1]:
        return torch.cat((rotate(x[..., :turned], cos, sin), x[..., turned:]), dim=-1)
    return torch.addcmul(x * cos, x.roll(turned // 2, -1), sin)


class FeedForward(nn.Module):
    """activation(x W_up) W_down, or the gated form (activation(x W_gate) * x W_up) W_down."""

    def __init__(self, config: ModelConfig, linear: LinearFactory) -> None:
        super().__init__()
        c = config
        self.gated, self.activation = c.gated, ACTIVATIONS[c.activation]
        self.up = linear(c.hidden_size, c.intermediate_size * (2 if c.gated else 1), c.mlp_bias)
        self.down = linear(c.intermediate_size, c.hidden_size, c.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(x)  # (B, T, F), or (B, T, 2F) with the gate's half first
        if self.gated:
            gate, value = h.chunk(2, dim=-1)
            h = self.activation(gate) * value
        else:
            h = self.activation(h)
        return self.down(h)  # type: ignore[no-any-return]


class Block(nn.Module):
    """One layer: x + attention(norm(x)), then x + feed-forward(norm(x)); where they are parallel, both of the same x.
    Post-norms norm what is added."""

    def __init__(self, config: ModelConfig, layer: int, linear: LinearFactory) -> None:
        super().__init__()
        c = config

        def norm() -> Norm:
            return Norm(c.hidden_size, c.norm_eps, c.layer_norm, c.norm_offset)

        self.parallel = c.parallel
        self.norm1, self.attn = norm(), Attention(c, layer, linear)
        self.post1 = norm() if c.post_norms else None
        self.norm2, self.mlp = norm(), FeedForward(c, linear)
        self.post2 = norm() if c.post_norms else None

    def forward(self, x: Tensor, place: Place, cache: KVCache | None) -> Tensor:
        added = self.attn(self.norm1(x), place, cache)
        between = x + (added if self.post1 is None else self.post1(added))
        added = self.mlp(self.norm2(x if self.parallel else between))
        return between + (added if self.post2 is None else self.post2(added))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Token ids in, logits out.

    A tied head is the embedding's own matrix, the same Parameter object. Without a cache the whole sequence is given
    at once (training, scoring); with one, any number of tokens continues what the cache holds.

    skeleton: build the modules without weights, for a caller who puts its own in: empty linear slots and embeddings
    whose memory is never touched. (torch's "meta" device would do, but loads seconds' worth of modules.)
    """

    def __init__(self, config: ModelConfig, skeleton: bool = False) -> None:
        super().__init__()
        c = config
        self.config = c
        linear: LinearFactory = _empty_slot if skeleton else nn.Linear
        self.embed: nn.Module = _embedding(c.vocab_size, c.hidden_size, skeleton)
        self.positions = _embedding(c.context, c.hidden_size, skeleton) if c.learned_positions else None
        self.blocks = nn.ModuleList(Block(c, layer, linear) for layer in range(c.n_layers))
        self.norm = Norm(c.hidden_size, c.norm_eps, c.layer_norm, c.norm_offset)
        self.head = linear(c.hidden_size, c.vocab_size, False)
        if c.tied:
            self.head.weight = self.embed.weight
        self._turns = Turns(c)

    @property
    def dtype(self) -> torch.dtype:
        """Of the activations."""
        return self.norm.weight.dtype

    def forward(self, ids: Tensor, cache: KVCache | None = None, last_only: bool = False) -> Tensor:
        """Logits (B, T, V) for ids (B, T); (B, 1, V) with `last_only`.

        The caller keeps start + T within the context and the cache's capacity.
        """
        return self.logits(self.stream(ids, cache, last_only))

    def logits(self, stream: Tensor) -> Tensor:
        """Logits (..., V) of what `stream` gives, (..., D)."""
        return capped(self.head(stream), self.config.logit_cap)

    def stream(self, ids: Tensor, cache: KVCache | None = None, last_only: bool = False) -> Tensor:
        """What the head reads, (B, T, D) or (B, 1, D) with `last_only`: for a caller that wants logits of some rows."""
        tokens = ids.shape[1]
        start = cache.length if cache is not None else 0
        x = self.embedded(ids)  # (B, T, D)
        if self.positions is not None:
            x = x + self.positions.weight[start:start + tokens]
        here = place(self.config, start, tokens, self._turns.of(start, start + tokens, x), ids.device)
        for block in self.blocks:
            x = block(x, here, cache)
        if cache is not None:
            cache.length = start + tokens
        if last_only:
            x = x[:, -1:]
        return self.norm(x)  # type: ignore[no-any-return]

    def fixed_step(self, ids: Tensor, cache: KVCache, at: Tensor, turns: tuple[Turn, ...]) -> Tensor:
        """Logits (1, 1, V) of one token ids (1, 1) at position `at`, a (1,) tensor, over the cache's whole capacity.

        Every shape is the same at every position, which is what compilers and CUDA graphs need. turns: the tables of
        `rope_tables`. The caller counts the cache's length.
        """
        x = self.embedded(ids)  # (1, 1, D)
        if self.positions is not None:
            x = x + self.positions.weight[at]
        seen = torch.arange(cache.capacity, device=ids.device)
        full = (seen <= at)[None]  # (1, C)
        window = self.config.sliding_window
        here = Place(at, tuple((cos[at], sin[at]) for cos, sin in turns), full,
                     full & (seen > at - window) if window else None)
        for block in self.blocks:
            x = block(x, here, cache)
        return self.logits(self.norm(x))

    def embedded(self, ids: Tensor) -> Tensor:
        """Rows of the embedding (B, T, D), scaled where the model scales them."""
        x: Tensor = self.embed(ids)
        return x if self.config.embed_scale == 1.0 else x * rounded(self.config.embed_scale, x.dtype)

    def rope_tables(self, like: Tensor, positions: int) -> tuple[Turn, ...]:
        """Cosines and signed sines (C, 1, r), like `like`, of at least `positions` positions, each as the last token of
        a text: for every rotary table of the model, none where it has learned positions."""
        return self._turns.upto(positions, like)


def capped(x: Tensor, cap: float) -> Tensor:
    """cap tanh(x / cap); x itself without a cap."""
    return cap * torch.tanh(x / cap) if cap else x


def rounded(value: float, dtype: torch.dtype) -> float:
    """The nearest number that a dtype has: models are trained with their constants so."""
    bits = {torch.bfloat16: 8, torch.float16: 11}.get(dtype, 24)
    fraction, exponent = math.frexp(value)
    return math.ldexp(round(math.ldexp(fraction, bits)), exponent - bits)


def _empty_slot(columns: int, rows: int, bias: bool) -> nn.Module:
    return nn.Identity()


def _embedding(rows: int, columns: int, skeleton: bool) -> nn.Embedding:
    return nn.Embedding(rows, columns, _weight=torch.empty(rows, columns) if skeleton else None)
