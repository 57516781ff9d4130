"""int8 codes with one scale per row and activations quantized per call: FBGEMM's dynamic kernel, on a CPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from engine.kernels.linear import LinearKernel
from engine.kernels.packing import fbgemm_bytes
from engine.models.devices import DeviceFacts

# torch announces the end of its quantized tensor type; linear_prepack still takes nothing else, and docs/design.md
# names what replaces it.
warnings.filterwarnings("ignore", message="torch.quantize_per_tensor, torch.quantize_per_channel")


class Int8DynamicLinear(LinearKernel):
    """int8 codes, one scale per row; activations quantized per call (torch.ops.quantized.linear_dynamic, FBGEMM)."""

    kernel = "FBGEMM int8, dynamic activations"

    def __init__(self, codes: Tensor, scale: Tensor, bias: Tensor | None, device: DeviceFacts) -> None:
        super().__init__(codes, "int8")
        zero = torch.zeros(codes.shape[0], dtype=torch.long)
        quantized = torch._make_per_channel_quantized_tensor(codes, scale.double(), zero, 0)
        self._packed = torch.ops.quantized.linear_prepack(quantized, bias)
        # Without VNNI, pairs of 8-bit products overflow 16 bits unless the activations keep to 7.
        self._reduce_range = not device.vnni
        self._bytes = fbgemm_bytes(self.shape, device) + (bias.nbytes if bias is not None else 0)
        self._run = torch.ops.quantized.linear_dynamic

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float32:
            return self._run(x, self._packed, self._reduce_range)  # type: ignore[no-any-return]
        return self._run(x.float(), self._packed, self._reduce_range).to(x.dtype)  # type: ignore[no-any-return]

    def memory(self) -> Iterator[tuple[object, int]]:
        yield id(self._packed), self._bytes

    def dense(self) -> Tensor:
        return torch.ops.quantized.linear_unpack(self._packed)[0].dequantize()  # type: ignore[no-any-return]
