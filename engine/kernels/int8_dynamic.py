"""int8 codes with one scale per row, and activations rounded to 8 bits at every call with one scale per token.

Both sides are whole numbers, so sums are exact and a token's result does not depend on the tokens beside it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.kernels import native
from engine.kernels.linear import LinearKernel
from engine.models.devices import DeviceFacts
from engine.native.library import Matrix

_LEAST_SCALE = 1e-30  # of a token whose activations are all zero


class Int8DynamicLinear(LinearKernel):
    """y = (round(x / s) codes^T) s scale, s = max|x| / 127 of each token."""

    codes: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, codes: Tensor, scale: Tensor, bias: Tensor | None, device: DeviceFacts) -> None:
        super().__init__(codes, "int8")
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)
        self._integers = device.int8_kernels and codes.shape[1] > 1  # torch takes one column for one row
        self._native = native.int8(codes, scale, bias, codes.shape[1], True) if device.native else None
        self.kernel = ("native int8, prompts " if self._native is not None else "") + (
            "oneDNN int8" if device.int8_kernels else "fp32 arithmetic on int8 codes")

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        if self._native is not None and (run := native.for_few(rows)) is not None:
            return native.product(self._native, rows, run).view(*x.shape[:-1], -1)
        rows = rows.float()
        scale = rows.abs().amax(dim=1, keepdim=True).mul_(1 / 127).clamp_min_(_LEAST_SCALE)  # (M, 1)
        rounded = torch.div(rows, scale).round_()
        if self._integers:
            sums = torch._int_mm(rounded.to(torch.int8), self.codes.t()).float()  # (M, N)
        else:
            sums = rounded @ self.codes.float().t()
        y = sums.mul_(scale).mul_(self.scale)
        if self.bias is not None:
            y.add_(self.bias)
        return y.to(x.dtype).view(*x.shape[:-1], -1)

    def dense(self) -> Tensor:
        return self.codes.float() * self.scale[:, None]

    def native(self) -> Matrix | None:
        return self._native
