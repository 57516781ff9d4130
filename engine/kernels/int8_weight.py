"""int8 codes with one scale per row, activations left in floating point: the weight is read in a quarter of its
bytes and nothing but the weight is rounded."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.kernels import native
from engine.kernels.linear import LinearKernel, Weights
from engine.kernels.packing import INT8_WEIGHT_COLUMNS
from engine.kernels.rounding import round_rows
from engine.models.devices import DeviceFacts
from engine.native.library import Matrix

# torch's kernel is written for few rows; from here on casting the codes and one bf16 product is faster (measured).
_MANY_ROWS = 16


class Int8WeightLinear(LinearKernel):
    """y = (x codes^T) * scale. Codes up to 127 are exact in bf16, so the many-row path rounds nothing more."""

    codes: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weights: Weights, facts: DeviceFacts) -> None:
        super().__init__(weights.weight, "int8")
        device, self.on_cpu = facts.torch_name, facts.kind == "cpu"
        codes, scale = round_rows(weights.weight, torch.bfloat16 if self.on_cpu else torch.float32)
        # The CPU's kernel reads beyond the end of a row that is not whole vectors, so rows are filled up with zeros.
        self._fill = -self.shape[1] % INT8_WEIGHT_COLUMNS if self.on_cpu else 0
        if self._fill:
            codes = F.pad(codes, (0, self._fill))
        self.register_buffer("codes", codes.to(device))
        self.register_buffer("scale", scale.to(device, torch.bfloat16 if self.on_cpu else torch.float32))
        self.register_buffer("bias", weights.bias.to(device) if weights.bias is not None else None)
        self._run = torch.ops.aten._weight_int8pack_mm.default
        self._native = (native.int8(self.codes, self.scale, self.bias, self.shape[1], False) if facts.native else None)
        self.kernel = ("native int8, prompts cast to bf16" if self._native is not None else
                       "aten int8, bf16 activations" if self.on_cpu else "int8 codes cast at every call")

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        if self._native is not None and (run := native.for_few(rows)) is not None:
            return native.product(self._native, rows, run).view(*x.shape[:-1], -1)
        if self._fill:
            rows = F.pad(rows, (0, self._fill))
        if not self.on_cpu:
            y = F.linear(rows, self.codes.to(x.dtype)) * self.scale.to(x.dtype)
        elif rows.shape[0] < _MANY_ROWS:
            # Only its bf16 form is vectorized: fp32 and fp16 are 10 to 40 times slower (docs/design.md).
            y = self._run(rows.to(torch.bfloat16), self.codes, self.scale)
        else:
            y = F.linear(rows.to(torch.bfloat16), self.codes.to(torch.bfloat16)) * self.scale
        y = y.to(x.dtype).view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias.to(x.dtype)

    def dense(self) -> Tensor:
        return self.dense_rows(slice(None))

    def dense_rows(self, rows: slice) -> Tensor:
        """Some rows of dense()."""
        return self.codes[rows, :self.shape[1]].float().mul_(self.scale[rows].float()[:, None])

    def native(self) -> Matrix | None:
        return self._native
