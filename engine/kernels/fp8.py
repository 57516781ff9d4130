"""fp8 (e4m3) weights with one scale per row, activations scaled per row at every call: tensor cores of recent cards."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.kernels.linear import LinearKernel, Weights

_LARGEST = 448.0  # of e4m3


class Fp8Linear(LinearKernel):
    """torch._scaled_mm in e4m3, summed in fp32; result in bf16."""

    codes: Tensor
    scale: Tensor
    bias: Tensor | None

    kernel = "fp8 e4m3, scaled per row"

    def __init__(self, weights: Weights, device: str) -> None:
        super().__init__(weights.weight, "fp8")
        scale = (weights.weight.abs().amax(dim=1, keepdim=True) / _LARGEST).clamp_min(1e-12)  # (N, 1)
        self.register_buffer("codes", (weights.weight / scale).to(torch.float8_e4m3fn).to(device))
        self.register_buffer("scale", scale.t().contiguous().to(device))  # (1, N)
        self.register_buffer("bias", weights.bias.to(device) if weights.bias is not None else None)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).float()
        scale = (rows.abs().amax(dim=1, keepdim=True) / _LARGEST).clamp_min(1e-12)  # (M, 1)
        y = torch._scaled_mm((rows / scale).to(torch.float8_e4m3fn), self.codes.t(), scale_a=scale, scale_b=self.scale,
                             out_dtype=torch.bfloat16)
        y = y.to(x.dtype).view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias.to(x.dtype)

    def dense(self) -> Tensor:
        return self.codes.float() * self.scale.t()

