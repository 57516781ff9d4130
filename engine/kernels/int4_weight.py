"""4-bit codes by groups of columns, each with a scale and a zero; activations stay in floating point."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.kernels.linear import LinearKernel
from engine.kernels.rounding import Groups

_CPU_ROWS = 16  # the CPU's packing takes whole blocks of this many rows
_CUDA_TILES = 8  # k-tiles of 16 columns per block of the CUDA packing: the widest one that torch offers


class Int4WeightLinear(LinearKernel):
    """torch's 4-bit product (tinygemm on CUDA). Both want bf16 activations: other dtypes pass through it and back."""

    packed: Tensor
    scale_and_zero: Tensor
    bias: Tensor | None

    def __init__(self, groups: Groups, bias: Tensor | None, device: str) -> None:
        super().__init__(groups.codes, "int4")
        self.shape = (groups.codes.shape[0], groups.columns)
        self.size, self.on_cpu = groups.size, device == "cpu"
        self.kernel = f"{'aten' if self.on_cpu else 'tinygemm'} int4, groups of {groups.size}, bf16 activations"
        missing = -groups.codes.shape[0] % _CPU_ROWS
        codes = F.pad(groups.codes, (0, 0, 0, missing))
        both = torch.stack((groups.scale, groups.zero), dim=-1).to(torch.bfloat16)  # (N, G, 2)
        both = F.pad(both, (0, 0, 0, 0, 0, missing)).transpose(0, 1).contiguous()  # (G, N', 2)
        self.register_buffer("packed", _pack(codes, device))
        self.register_buffer("scale_and_zero", both.to(device))
        self.register_buffer("bias", bias.to(device) if bias is not None else None)
        self._fill = codes.shape[1] - groups.columns
        self._run = (torch.ops.aten._weight_int4pack_mm_for_cpu if self.on_cpu
                     else torch.ops.aten._weight_int4pack_mm).default

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).to(torch.bfloat16)
        if self._fill:
            rows = F.pad(rows, (0, self._fill))
        y: Tensor = self._run(rows, self.packed, self.size, self.scale_and_zero)
        if y.shape[1] != self.shape[0]:
            y = y[:, :self.shape[0]]
        y = y.to(x.dtype).reshape(*x.shape[:-1], self.shape[0])
        return y if self.bias is None else y + self.bias.to(x.dtype)

    def dense(self) -> Tensor:
        identity = torch.eye(self.shape[1], dtype=torch.bfloat16, device=self.packed.device)
        if self._fill:
            identity = F.pad(identity, (0, self._fill))
        y: Tensor = self._run(identity, self.packed, self.size, self.scale_and_zero)
        return y[:, :self.shape[0]].t().float()


def _pack(codes: Tensor, device: str) -> Tensor:
    """Codes (N, K) uint8 in the layout of the device's kernel."""
    if device == "cpu":
        return torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.to(torch.int32), 1)  # type: ignore[no-any-return]
    pairs = (codes[:, ::2] << 4 | codes[:, 1::2]).to(device)  # (N, K / 2)
    return torch.ops.aten._convert_weight_to_int4pack(pairs, _CUDA_TILES)  # type: ignore[no-any-return]

