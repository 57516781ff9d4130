"""4-bit codes by groups of columns, each with a scale and a zero. Activations stay in floating point, except in the
native products of a few rows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.kernels import native
from engine.kernels.linear import LinearKernel, in_slabs
from engine.kernels.packing import INT4_ROWS
from engine.kernels.rounding import Groups
from engine.native.library import INT4_BLOCK, INT4_PANEL, Matrix, library

_AT_ONCE = 1 << 20  # codes that are rearranged at once
_CUDA_TILES = 8  # k-tiles of 16 columns per block of the CUDA packing: the widest one that torch offers


class Int4PanelLinear(LinearKernel):
    """Codes in panels of rows, as the native token step streams them (engine/native/src/dyno.h). CPU.

    Few rows: integer products with activations rounded to 8 bits by blocks of 32. Many: the codes become bf16 for a
    moment, a part of the layer at a time, and PyTorch multiplies.
    """

    codes: Tensor
    scale_and_zero: Tensor
    bias: Tensor | None

    def __init__(self, groups: Groups, bias: Tensor | None) -> None:
        super().__init__(groups.codes, "int4")
        self.shape, self.size = (groups.codes.shape[0], groups.columns), groups.size
        self.kernel = f"native int4, groups of {groups.size}, 8-bit activations; prompts cast to bf16"
        missing = -groups.codes.shape[0] % INT4_PANEL
        blocks = groups.codes.shape[1] // INT4_BLOCK
        shape = ((groups.codes.shape[0] + missing) // INT4_PANEL, blocks, 4, INT4_PANEL, 4)
        panels = torch.empty(shape, dtype=torch.uint8)
        at_once = max(1, _AT_ONCE // (groups.codes.shape[1] * INT4_PANEL))
        for first in range(0, panels.shape[0], at_once):  # a few at a time: a large head need not be held thrice
            codes = groups.codes[first * INT4_PANEL:(first + at_once) * INT4_PANEL]
            codes = F.pad(codes, (0, 0, 0, -codes.shape[0] % INT4_PANEL)).view(-1, INT4_PANEL, blocks, 2, 4, 4)
            both = codes[:, :, :, 0] | codes[:, :, :, 1] << 4  # (panels, 16, blocks, 4, 4)
            panels[first:first + at_once] = both.permute(0, 2, 3, 1, 4)
        self.register_buffer("codes", panels)  # (panels, blocks, 4, 16, 4)
        numbers = torch.stack((groups.scale, groups.zero)).to(torch.bfloat16)  # (2, N, groups)
        numbers = F.pad(numbers, (0, 0, 0, missing)).view(2, -1, INT4_PANEL, numbers.shape[2])
        self.register_buffer("scale_and_zero", numbers.permute(1, 3, 0, 2).contiguous())  # (panels, groups, 2, 16)
        self.register_buffer("bias", bias)
        self._native = native.int4(self.codes, self.scale_and_zero, self.bias, self.shape, self.size)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        run = native.for_few(rows)
        if run is not None:
            return native.product(self._native, rows, run).view(*x.shape[:-1], -1)
        y = in_slabs(rows.to(torch.bfloat16), self.shape, self._bf16).to(x.dtype).view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias.to(x.dtype)

    def _bf16(self, first: int, out: Tensor) -> None:
        """Rows of the weight from `first` on into `out`, (rows, K)."""
        run = library()
        assert run is not None, "the layer was built for the native library"
        run.unpack(self._native, first, first + out.shape[0], out.data_ptr(), torch.get_num_threads())

    def dense(self) -> Tensor:
        codes = self.codes.permute(0, 3, 1, 2, 4)  # (panels, 16, blocks, 4, 4)
        both = torch.stack((codes & 15, codes >> 4), dim=3).float() - 8  # (panels, 16, blocks, 2, 4, 4)
        both = both.view(codes.shape[0] * INT4_PANEL, -1, self.size)
        scale, zero = self.scale_and_zero.float().permute(2, 0, 3, 1).reshape(2, both.shape[0], -1, 1)
        dense: Tensor = (both * scale + zero).view(both.shape[0], -1)[:self.shape[0], :self.shape[1]].contiguous()
        return dense

    def native(self) -> Matrix | None:
        return self._native


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
        missing = -groups.codes.shape[0] % INT4_ROWS
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

