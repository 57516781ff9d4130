"""Which kernel a linear slot gets, by device, dtype and size. The choice is a rule, never a race: the same recipe
gives the same bits in every run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.kernels.linear import Half16Linear, Int8DynamicLinear, LinearKernel, PackedLinear, PlainLinear
from engine.kernels.packing import fbgemm_bytes
from engine.models.devices import DeviceFacts, torch_dtype

# Below this size the packed fp32 kernel's call costs more than its faster reading saves (measured, docs/design.md).
_PACK_FP32_FROM_BYTES = 4 << 20


@dataclass(frozen=True)
class Weights:
    """A slot's fp32 weight (N, K) and bias (N,), edited by the recipe and ready to be laid out."""

    weight: Tensor
    bias: Tensor | None


def choose_kernel(weights: Weights, dtype: str, quantization: str, autocast: str | None,
                  device: DeviceFacts) -> LinearKernel:
    """The layer for a slot. dtype: of the activations. quantization: scheme, or empty for a dense weight."""
    layer = _layer(weights, dtype, quantization, autocast, device)
    layer.sparsity = 1 - int(weights.weight.count_nonzero()) / weights.weight.numel()
    return layer


def _layer(weights: Weights, dtype: str, quantization: str, autocast: str | None, device: DeviceFacts) -> LinearKernel:
    if quantization == "int8-dynamic":
        nbytes = fbgemm_bytes((weights.weight.shape[0], weights.weight.shape[1]), device)
        # Without VNNI, pairs of 8-bit products overflow 16 bits unless the activations keep to 7.
        return Int8DynamicLinear(weights.weight, weights.bias, reduce_range=not device.vnni, nbytes=nbytes)
    target = torch_dtype(dtype)
    weight = weights.weight.to(device.torch_name, target)
    bias = weights.bias.to(device.torch_name, target) if weights.bias is not None else None
    packs = device.kind == "cpu" and device.packed_linear and autocast is None
    if packs and (dtype == "bf16" or (dtype == "fp32" and weight.nbytes >= _PACK_FP32_FROM_BYTES)):
        return PackedLinear(weight, bias)
    if device.kind == "cpu" and dtype == "fp16":
        return Half16Linear(parameter(weight), parameter(bias) if bias is not None else None)
    note = f", autocast {autocast}" if autocast else ""
    return PlainLinear(parameter(weight), parameter(bias) if bias is not None else None, note)


def tied_kernel(embedding: nn.Parameter, autocast: str | None, device: DeviceFacts) -> LinearKernel:
    """The head of a tied model: the embedding's own tensor, so only kernels that read it as it lies."""
    if device.kind == "cpu" and embedding.dtype == torch.float16:
        return Half16Linear(embedding, None)
    return PlainLinear(embedding, None, f", autocast {autocast}" if autocast else ", tied with the embedding")


def parameter(tensor: Tensor) -> nn.Parameter:
    """A frozen parameter around a tensor."""
    return nn.Parameter(tensor.contiguous(), requires_grad=False)
