"""The decoder: the GPT-2 family and the Llama family in one readable file.

It knows tensors only: no files, no text, no techniques, no kernels. Whatever sits in a linear slot (`qkv`, `out`, `up`,
`down`, `head`) is called with (B, T, in) and returns (B, T, out); the kernel layer puts faster objects there.

Shapes: B batch, T new tokens, S tokens seen so far including the new ones, D hidden size, H query heads, K key/value
heads, d head size, F feed-forward neurons, V vocabulary, C capacity of the cache in tokens.

Source of the attention formula, softmax(Q K^T / sqrt(d)) V: Vaswani et al., "Attention Is All You Need", 2017.
Rotary positions: Su et al., "RoFormer", 2021. SwiGLU: Shazeer, "GLU Variants Improve Transformer", 2020.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.models.config import ModelConfig

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}


LinearFactory = Callable[[int, int, bool], nn.Module]
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None, bool], Tensor]


class KVCache:
    """Keys and values of every layer in one block of memory, allocated once for `capacity` tokens.

    data: (2L, B, K, C, d), the keys of a layer before its values. k, v: its parts, one (B, K, C, d) view per layer.
    `length` tokens are valid; writing past them extends it.
    """

    def __init__(self, config: ModelConfig, capacity: int, dtype: torch.dtype, device: torch.device | str = "cpu",
                 batch: int = 1) -> None:
        shape = (2 * config.n_layers, batch, config.n_kv_heads, capacity, config.head_dim)
        self.data = torch.empty(shape, dtype=dtype, device=device)
        parts = self.data.unbind(0)
        self.k, self.v = parts[0::2], parts[1::2]
        self.capacity = capacity
        self.length = 0

    def tensors(self) -> list[Tensor]:
        """Everything allocated; the last dimension but one of each is the position."""
        return [self.data]

    @property
    def nbytes(self) -> int:
        """Bytes allocated for keys and values."""
        return sum(t.nbytes for t in self.tensors())

    def update(self, layer: int, k: Tensor, v: Tensor, at: int | Tensor, window: int | None) -> tuple[Tensor, Tensor]:
        """Write new keys and values (B, K, T, d) from position `at` on; give back all that a query may look at.

        at: a number, and (B, K, S, d) up to the newest token comes back (for one token under a sliding `window`, its
        part). A (1,) tensor, for one token of a step of fixed shapes, and the whole capacity comes back.
        """
        if isinstance(at, Tensor):
            self._write_at(layer, k, v, at)
            return self._read(layer, 0, self.capacity)
        end = at + k.shape[2]
        self._write(layer, k, v, at, end)
        return self._read(layer, max(0, end - window) if window and k.shape[2] == 1 else 0, end)

    def _write(self, layer: int, k: Tensor, v: Tensor, start: int, end: int) -> None:
        self.k[layer][:, :, start:end] = k
        self.v[layer][:, :, start:end] = v

    def _write_at(self, layer: int, k: Tensor, v: Tensor, at: Tensor) -> None:
        self.k[layer].index_copy_(2, at, k.to(self.k[layer].dtype))
        self.v[layer].index_copy_(2, at, v.to(self.v[layer].dtype))

    def _read(self, layer: int, start: int, end: int) -> tuple[Tensor, Tensor]:
        return self.k[layer][:, :, start:end], self.v[layer][:, :, start:end]

    def take(self, other: KVCache, length: int) -> None:
        """Copy the first `length` tokens of a cache of the same format."""
        for mine, theirs in zip(self.tensors(), other.tensors(), strict=True):
            mine[..., :length, :] = theirs[..., :length, :]
        self.length = length

    def truncate(self, length: int) -> None:
        """Forget every token from position `length` on."""
        self.length = min(self.length, length)


class Int8KVCache(KVCache):
    """Keys and values as int8 codes with one fp32 scale for each head and token: x = code * max|x| / 127.

    data, k, v: codes. scale, k_scale, v_scale: one number instead of d. What is read comes back in `dtype`.
    """

    def __init__(self, config: ModelConfig, capacity: int, dtype: torch.dtype, device: torch.device | str = "cpu",
                 batch: int = 1) -> None:
        super().__init__(config, capacity, torch.int8, device, batch)
        self.dtype = dtype
        self.scale = torch.empty((*self.data.shape[:-1], 1), device=device)  # (2L, B, K, C, 1)
        parts = self.scale.unbind(0)
        self.k_scale, self.v_scale = parts[0::2], parts[1::2]

    def tensors(self) -> list[Tensor]:
        """Codes and scales."""
        return [self.data, self.scale]

    def _write(self, layer: int, k: Tensor, v: Tensor, start: int, end: int) -> None:
        for x, codes, scales in ((k, self.k, self.k_scale), (v, self.v, self.v_scale)):
            codes[layer][:, :, start:end], scales[layer][:, :, start:end] = _to_int8(x)

    def _write_at(self, layer: int, k: Tensor, v: Tensor, at: Tensor) -> None:
        for x, codes, scales in ((k, self.k, self.k_scale), (v, self.v, self.v_scale)):
            code, scale = _to_int8(x)
            codes[layer].index_copy_(2, at, code)
            scales[layer].index_copy_(2, at, scale)

    def _read(self, layer: int, start: int, end: int) -> tuple[Tensor, Tensor]:
        k = self.k[layer][:, :, start:end].to(self.dtype) * self.k_scale[layer][:, :, start:end].to(self.dtype)
        v = self.v[layer][:, :, start:end].to(self.dtype) * self.v_scale[layer][:, :, start:end].to(self.dtype)
        return k, v


def _to_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """int8 codes and fp32 scales (..., 1) of the last dimension."""
    x = x.float()
    scale = x.abs().amax(dim=-1, keepdim=True).mul(1 / 127).clamp_min(1e-30)
    return (x / scale).round().to(torch.int8), scale


class Norm(nn.Module):
    """LayerNorm (with bias) or RMSNorm, over the last dimension."""

    def __init__(self, size: int, eps: float, layer_norm: bool) -> None:
        super().__init__()
        self.shape, self.eps = (size,), eps
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size)) if layer_norm else None

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is not None:
            return F.layer_norm(x, self.shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)
        return F.rms_norm(x, self.shape, self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Causal self-attention with grouped queries, an optional q/k norm and rotary positions."""

    def __init__(self, config: ModelConfig, linear: LinearFactory) -> None:
        super().__init__()
        c = config
        self.heads, self.kv_heads, self.head_dim = c.n_heads, c.n_kv_heads, c.head_dim
        self.window = c.sliding_window
        self.qkv = linear(c.hidden_size, c.qkv_size, c.qkv_bias)
        self.out = linear(c.n_heads * c.head_dim, c.hidden_size, c.out_bias)
        self.q_norm = Norm(c.head_dim, c.norm_eps, False) if c.qk_norm else None
        self.k_norm = Norm(c.head_dim, c.norm_eps, False) if c.qk_norm else None
        self.attend: Attend = attend

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor] | None, mask: Tensor | None, cache: KVCache | None,
                layer: int, at: int | Tensor = 0) -> Tensor:
        batch, tokens, _ = x.shape
        heads = self.qkv(x).view(batch, tokens, -1, self.head_dim)  # (B, T, H+2K, d)
        qk, v = heads.split((self.heads + self.kv_heads, self.kv_heads), dim=2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = qk.split((self.heads, self.kv_heads), dim=2)
            qk = torch.cat((self.q_norm(q), self.k_norm(k)), dim=2)
        if rope is not None:
            qk = rotate(qk, *rope)
        q, k = qk.split((self.heads, self.kv_heads), dim=2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H, T, d), (B, K, T, d) twice
        if cache is not None:
            k, v = cache.update(layer, k, v, at, self.window)  # (B, K, S, d)
        q, k = q.to(v.dtype), k.to(v.dtype)  # autocast leaves v in 16 bits and rotary q, k in 32
        y = self.attend(q, k, v, mask, tokens > 1 and mask is None)  # (B, H, T, d)
        return self.out(y.transpose(1, 2).reshape(batch, tokens, -1).to(x.dtype))  # type: ignore[no-any-return]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V. q (B, H, T, d); k, v (B, K, S, d); mask (T, S), true where visible.

    One new token needs no mask, so its query heads fold into rows over their shared key head: keys and values are
    then read once and never repeated.
    """
    batch, heads, tokens, size = q.shape
    kv_heads = k.shape[1]
    if tokens == 1 and heads != kv_heads and mask is None:
        y = F.scaled_dot_product_attention(q.reshape(batch, kv_heads, heads // kv_heads, size), k, v)
        return y.reshape(batch, heads, 1, size)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=heads != kv_heads)


def attend_plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """The formula as it is written, softmax(Q K^T / sqrt(d)) V, with the whole score matrix: the reference of `attend`.

    The softmax is taken in fp32, as the fused kernels do.
    """
    repeats = q.shape[1] // k.shape[1]
    if repeats > 1:
        k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)  # (B, H, S, d)
    scores = (q @ k.transpose(-2, -1)).float() / math.sqrt(q.shape[-1])  # (B, H, T, S)
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(dim=-1).to(v.dtype) @ v


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions in the half-split convention. x (B, T, n, d); cos, sin (T, 1, d), sin signed by half."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


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
    """One layer: x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, config: ModelConfig, linear: LinearFactory) -> None:
        super().__init__()
        self.norm1 = Norm(config.hidden_size, config.norm_eps, config.layer_norm)
        self.attn = Attention(config, linear)
        self.norm2 = Norm(config.hidden_size, config.norm_eps, config.layer_norm)
        self.mlp = FeedForward(config, linear)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor] | None, mask: Tensor | None, cache: KVCache | None,
                layer: int, at: int | Tensor = 0) -> Tensor:
        x = x + self.attn(self.norm1(x), rope, mask, cache, layer, at)
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


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
        self.blocks = nn.ModuleList(Block(c, linear) for _ in range(c.n_layers))
        self.norm = Norm(c.hidden_size, c.norm_eps, c.layer_norm)
        self.head = linear(c.hidden_size, c.vocab_size, False)
        if c.tied:
            self.head.weight = self.embed.weight
        self._rope: tuple[Tensor, Tensor] | None = None

    def forward(self, ids: Tensor, cache: KVCache | None = None, last_only: bool = False) -> Tensor:
        """Logits (B, T, V) for ids (B, T); (B, 1, V) with `last_only`.

        The caller keeps start + T within the context and the cache's capacity.
        """
        return self.head(self.stream(ids, cache, last_only))  # type: ignore[no-any-return]

    def stream(self, ids: Tensor, cache: KVCache | None = None, last_only: bool = False) -> Tensor:
        """What the head reads, (B, T, D) or (B, 1, D) with `last_only`: for a caller that wants logits of some rows."""
        tokens = ids.shape[1]
        start = cache.length if cache is not None else 0
        x = self.embed(ids)  # (B, T, D)
        rope: tuple[Tensor, Tensor] | None = None
        if self.positions is not None:
            x = x + self.positions.weight[start:start + tokens]
        else:
            cos, sin = self.rope_tables(x, start + tokens)
            rope = cos[start:start + tokens], sin[start:start + tokens]
        mask = self._mask(start, tokens, ids.device)
        for layer, block in enumerate(self.blocks):
            x = block(x, rope, mask, cache, layer, start)
        if cache is not None:
            cache.length = start + tokens
        if last_only:
            x = x[:, -1:]
        return self.norm(x)  # type: ignore[no-any-return]

    def fixed_step(self, ids: Tensor, cache: KVCache, at: Tensor, rope: tuple[Tensor, Tensor] | None) -> Tensor:
        """Logits (1, 1, V) of one token ids (1, 1) at position `at`, a (1,) tensor, over the cache's whole capacity.

        Every shape is the same at every position, which is what compilers and CUDA graphs need. rope: the tables of
        `rope_tables`. The caller counts the cache's length.
        """
        x = self.embed(ids)  # (1, 1, D)
        if self.positions is not None:
            x = x + self.positions.weight[at]
        turn = None if rope is None else (rope[0][at], rope[1][at])
        seen = torch.arange(cache.capacity, device=ids.device)
        mask = (seen <= at)[None]  # (1, C)
        if self.config.sliding_window:
            mask = mask & (seen > at - self.config.sliding_window)
        for layer, block in enumerate(self.blocks):
            x = block(x, turn, mask, cache, layer, at)
        return self.head(self.norm(x))  # type: ignore[no-any-return]

    def _mask(self, start: int, tokens: int, device: torch.device) -> Tensor | None:
        """(T, S) visibility, or None where plain causal masking (or none, for one token) says it all."""
        window = self.config.sliding_window
        end = start + tokens
        if tokens == 1 or (start == 0 and (window is None or end <= window)):
            return None
        rows = torch.arange(start, end, device=device)[:, None]
        columns = torch.arange(end, device=device)[None, :]
        visible = columns <= rows
        return visible & (columns > rows - window) if window else visible

    def rope_tables(self, like: Tensor, positions: int) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines (C, 1, d) for at least `positions` positions, like `like`; grown by doubling, so
        that a model with a very long context pays for what it uses."""
        known = self._rope
        if known is None or known[0].dtype != like.dtype or known[0].device != like.device or (
                known[0].shape[0] < positions):
            length = min(self.config.context, max(1024, 1 << (positions - 1).bit_length()))
            cos, sin = rope_tables(self.config, length)
            self._rope = cos.to(like.device, like.dtype), sin.to(like.device, like.dtype)
            known = self._rope
        assert known is not None
        return known


def _empty_slot(columns: int, rows: int, bias: bool) -> nn.Module:
    return nn.Identity()


def _embedding(rows: int, columns: int, skeleton: bool) -> nn.Embedding:
    return nn.Embedding(rows, columns, _weight=torch.empty(rows, columns) if skeleton else None)


def rope_tables(config: ModelConfig, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines of the first `length` positions, (length, 1, d) fp32 twice, as `rotate` wants them."""
    angles = rope_angles(config, length)  # (length, d/2)
    cos = torch.cat((angles.cos(), angles.cos()), dim=-1)[:, None]
    return cos, torch.cat((-angles.sin(), angles.sin()), dim=-1)[:, None]


def rope_angles(config: ModelConfig, length: int) -> Tensor:
    """Angle of the first `length` positions at every frequency, (length, d/2) fp32.

    "llama3" stretches long wavelengths by `factor`, keeps short ones and blends between (Meta's Llama 3.1 code).
    """
    half = config.head_dim // 2
    scaling = config.rope_scaling
    freq = config.rope_theta ** (-torch.arange(half, dtype=torch.float32) / half)  # (d/2,)
    if scaling.kind == "linear":
        freq = freq / scaling.factor
    elif scaling.kind == "llama3":
        wavelength = 2 * math.pi / freq
        ratio = scaling.original_context / wavelength
        blend = ((ratio - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)).clamp(0, 1)
        freq = (1 - blend) * freq / scaling.factor + blend * freq
    return torch.outer(torch.arange(length, dtype=torch.float32), freq)
