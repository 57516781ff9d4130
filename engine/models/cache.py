"""The KV cache: keys and values of every layer, dense or as int8 codes, in one block of memory on each device.

It knows tensors only. Letters as in engine/models/gpt.py: B batch, T new tokens, S tokens seen so far, L layers, K
key/value heads, d head size, C capacity in tokens.
"""

from __future__ import annotations

from itertools import groupby

import torch
from torch import Tensor

from engine.models.config import ModelConfig


class KVCache:
    """Keys and values of every layer in one block of memory, allocated once for `capacity` tokens.

    data: (2L, B, K, C, d), the keys of a layer before its values. k, v: its parts, one (B, K, C, d) view per layer.
    device: of them all, or a name for each layer: there are several blocks then, and data is the first device's.
    `length` tokens are valid; writing past them extends it.
    """

    def __init__(self, config: ModelConfig, capacity: int, dtype: torch.dtype,
                 device: torch.device | str | tuple[str, ...] = "cpu", batch: int = 1) -> None:
        layers = device if isinstance(device, tuple) else (device,) * config.n_layers
        shape = (batch, config.n_kv_heads, capacity, config.head_dim)
        self.blocks = _blocks(layers, shape, dtype)
        self.data = self.blocks[0]
        parts = tuple(part for block in self.blocks for part in block.unbind(0))
        self.k, self.v = parts[0::2], parts[1::2]
        self.capacity = capacity
        self.length = 0

    def tensors(self) -> list[Tensor]:
        """Everything allocated; the last dimension but one of each is the position."""
        return [*self.blocks]

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

    def __init__(self, config: ModelConfig, capacity: int, dtype: torch.dtype,
                 device: torch.device | str | tuple[str, ...] = "cpu", batch: int = 1) -> None:
        super().__init__(config, capacity, torch.int8, device, batch)
        self.dtype = dtype
        self.scales = [torch.empty((*block.shape[:-1], 1), device=block.device) for block in self.blocks]
        self.scale = self.scales[0]  # (2L, B, K, C, 1)
        parts = tuple(part for scale in self.scales for part in scale.unbind(0))
        self.k_scale, self.v_scale = parts[0::2], parts[1::2]

    def tensors(self) -> list[Tensor]:
        """Codes and scales."""
        return [*self.blocks, *self.scales]

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


def _blocks(layers: tuple[torch.device | str, ...], shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """Uninitialized memory (2n, *shape) for each run of n layers on one device."""
    runs = [list(run) for _, run in groupby(layers)]
    return [torch.empty((2 * len(run), *shape), dtype=dtype, device=run[0]) for run in runs]


def _to_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """int8 codes and fp32 scales (..., 1) of the last dimension."""
    x = x.float()
    scale = x.abs().amax(dim=-1, keepdim=True).mul(1 / 127).clamp_min(1e-30)
    return (x / scale).round().to(torch.int8), scale
