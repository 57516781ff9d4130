"""Which kernel a linear slot gets, by device, dtype and size. The choice is a rule, never a race: the same recipe
gives the same bits in every run."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from engine.kernels.linear import (
    Half16Linear,
    LinearKernel,
    PackedLinear,
    PlainLinear,
    Rows,
    RowsLinear,
    Weights,
    parameter,
)
from engine.kernels.packing import packs
from engine.kernels.scheme import Scheme
from engine.models.devices import DeviceFacts, torch_dtype

_AT_ONCE = 1 << 20  # weights whose error is summed at once


def choose_kernel(weights: Weights, reference: Tensor, dtype: str, scheme: Scheme | None, autocast: str | None,
                  compiled: bool, device: DeviceFacts) -> LinearKernel:
    """The layer for a slot. reference: the master's weight, (N, K), fp32 or as stored. dtype: of the activations.

    scheme: how the weight is quantized, None for a dense one. compiled: torch.compile will trace the layer, so its
    weight must lie as it is.
    """
    if scheme is not None:
        layer, used = scheme.layer(weights, dtype, device)
    else:
        layer, used = _dense(weights, dtype, autocast, compiled, device)
    layer.sparsity, layer.error = _zeros(used), _relative(used, reference)
    return layer


def _dense(weights: Weights, dtype: str, autocast: str | None, compiled: bool,
           device: DeviceFacts) -> tuple[LinearKernel, Tensor]:
    target = torch_dtype(dtype)
    # 16-bit weights are the layer's own also where the file has them so: mapped pages are slower to read, being small.
    cast = weights.weight.to(target, copy=dtype != "fp32")
    weight = cast.to(device.torch_name)
    bias = weights.bias.to(device.torch_name, target) if weights.bias is not None else None
    used = weights.weight if dtype == "fp32" else cast
    if device.native:
        return RowsLinear(parameter(weight), parameter(bias) if bias is not None else None), used
    if packs((weight.shape[0], weight.shape[1]), dtype, autocast, compiled, device):
        return PackedLinear(weight, bias), used
    if device.kind == "cpu" and dtype == "fp16" and not compiled:
        return Half16Linear(parameter(weight), parameter(bias) if bias is not None else None), used
    note = f", autocast {autocast}" if autocast else ""
    return PlainLinear(parameter(weight), parameter(bias) if bias is not None else None, note), used


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    """A few rows at a time: whole copies of a large head would cost more than the rest of its building."""
    at_once = max(1, _AT_ONCE // columns)
    return (slice(start, start + at_once) for start in range(0, rows, at_once))


def _zeros(used: Tensor | Rows) -> float:
    """Share of exact zeros in the weight that is multiplied by: rounding moves pruned weights off zero, or others
    onto it."""
    return 1 - sum(int(used[rows].count_nonzero()) for rows in _blocks(*used.shape)) / used.numel()


def _relative(used: Tensor | Rows, reference: Tensor) -> float:
    """|used - reference| / |reference| in the Frobenius norm; 0 where both are the same object."""
    if used is reference:
        return 0.0
    changed = norm = 0.0
    for rows in _blocks(*reference.shape):
        part = reference[rows].float()
        changed += float(torch.linalg.vector_norm(used[rows].to(part.device, torch.float32) - part)) ** 2
        norm += float(torch.linalg.vector_norm(part)) ** 2
    return math.sqrt(changed / norm) if norm else 0.0


def tied_kernel(embedding: nn.Parameter, autocast: str | None, compiled: bool, device: DeviceFacts) -> LinearKernel:
    """The head of a tied model: the embedding's own tensor, so only kernels that read it as it lies."""
    if device.native:
        return RowsLinear(embedding, None)
    if device.kind == "cpu" and embedding.dtype == torch.float16 and not compiled:
        return Half16Linear(embedding, None)
    return PlainLinear(embedding, None, f", autocast {autocast}" if autocast else ", tied with the embedding")
