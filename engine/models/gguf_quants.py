"""Blocks of GGUF's types as the fp32 numbers they stand for. Exact: a block names its numbers, nothing is rounded here.

The layouts are those of llama.cpp's ggml-common.h; the gguf library's NumPy forms are the reference in the tests. Rows
are taken some at a time, because what lies between is several times the result.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from engine.models.gguf_header import BLOCKS

_AT_ONCE = 1 << 19  # weights


def dequantise(raw: Tensor, kind: str, shape: tuple[int, ...]) -> Tensor:
    """fp32 weights of a shape from their bytes. raw: (n,) uint8, read-only. kind: one of BLOCKS."""
    weights, nbytes = BLOCKS[kind]
    blocks = raw.view(-1, nbytes)  # (B, bytes)
    out = torch.empty(blocks.shape[0], weights)
    read, at_once = _READERS[kind], max(1, _AT_ONCE // weights)
    for first in range(0, blocks.shape[0], at_once):
        out[first:first + at_once] = read(blocks[first:first + at_once])
    return out.view(shape)


def _half(blocks: Tensor, at: int) -> Tensor:
    """The fp16 number at a byte of each block, (B, 1) fp32."""
    return blocks[:, at:at + 2].clone().view(torch.float16).to(torch.float32)


def _nibbles(packed: Tensor) -> Tensor:
    """(..., n) bytes as (..., 2n) numbers: all the low halves, then all the high ones."""
    return torch.cat((packed & 15, packed >> 4), dim=-1)


def _fifth_bits(blocks: Tensor, at: int) -> Tensor:
    """32 bits, a bit for each weight, as (B, 32) numbers of 0 or 16."""
    places = torch.arange(8, dtype=torch.uint8)
    bits = blocks[:, at:at + 4, None] >> places & 1  # (B, 4, 8)
    return bits.flatten(1) << 4


def _q8_0(b: Tensor) -> Tensor:
    return _half(b, 0) * b[:, 2:].view(torch.int8).to(torch.float32)


def _q4_0(b: Tensor) -> Tensor:
    return _half(b, 0) * (_nibbles(b[:, 2:]).to(torch.float32) - 8)


def _q4_1(b: Tensor) -> Tensor:
    return _half(b, 0) * _nibbles(b[:, 4:]).to(torch.float32) + _half(b, 2)


def _q5_0(b: Tensor) -> Tensor:
    return _half(b, 0) * ((_nibbles(b[:, 6:]) | _fifth_bits(b, 2)).to(torch.float32) - 16)


def _q5_1(b: Tensor) -> Tensor:
    return _half(b, 0) * (_nibbles(b[:, 8:]) | _fifth_bits(b, 4)).to(torch.float32) + _half(b, 2)


def _scales_k(b: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and minimum of the 8 parts of a K block, (B, 8, 1) fp32 twice: 6 bits each, in 12 bytes."""
    low, high, both = b[:, 4:8], b[:, 8:12], b[:, 12:16]
    scale = torch.cat((low & 63, both & 15 | (low >> 6) << 4), dim=1).to(torch.float32)
    least = torch.cat((high & 63, both >> 4 | (high >> 6) << 4), dim=1).to(torch.float32)
    return (_half(b, 0) * scale)[..., None], (_half(b, 2) * least)[..., None]


def _q4_k(b: Tensor) -> Tensor:
    scale, least = _scales_k(b)
    codes = _nibbles(b[:, 16:].view(-1, 4, 32)).view(-1, 8, 32).to(torch.float32)
    return (scale * codes - least).flatten(1)


def _q5_k(b: Tensor) -> Tensor:
    scale, least = _scales_k(b)
    places = torch.arange(8, dtype=torch.uint8)[:, None]
    fifth = (b[:, None, 16:48] >> places & 1) << 4  # (B, 8, 32)
    codes = (_nibbles(b[:, 48:].view(-1, 4, 32)).view(-1, 8, 32) | fifth).to(torch.float32)
    return (scale * codes - least).flatten(1)


def _q6_k(b: Tensor) -> Tensor:
    low = _nibbles(b[:, :128].view(-1, 2, 64)).view(-1, 2, 4, 32)  # (B, half, part, 32)
    places = torch.arange(0, 8, 2, dtype=torch.uint8)[:, None]
    high = (b[:, 128:192].view(-1, 2, 1, 32) >> places & 3) << 4  # (B, half, part, 32)
    codes = ((low | high).to(torch.float32) - 32).view(-1, 16, 16)
    scale = _half(b, 208) * b[:, 192:208].view(torch.int8).to(torch.float32)  # (B, 16)
    return (scale[..., None] * codes).flatten(1)


_READERS: dict[str, Callable[[Tensor], Tensor]] = {
    "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0, "Q4_K": _q4_k, "Q5_K": _q5_k,
    "Q6_K": _q6_k}
