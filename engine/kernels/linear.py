"""The objects that stand in the decoder's linear slots at inference time.

Each maps (..., K) to (..., N), says which kernel runs, and lists the memory it holds. They are chosen by
`engine.kernels.choose`. Measured behind the choices: docs/design.md, "Kernels".
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# torch announces the end of its quantized tensor type; linear_prepack still takes nothing else, and docs/design.md
# names what replaces it.
warnings.filterwarnings("ignore", message="torch.quantize_per_tensor, torch.quantize_per_channel")

_FEW_ROWS = 4
_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


class LinearKernel(nn.Module):
    """y = x W^T + b. kernel: the name shown to the user. shape: (N, K). dtype_name: of the weight as stored.

    sparsity: share of exact zeros in the weight; set by whoever still has it dense.
    """

    kernel = ""
    sparsity = 0.0

    def __init__(self, weight: Tensor, dtype_name: str = "") -> None:
        super().__init__()
        self.shape = (weight.shape[0], weight.shape[1])
        self.dtype_name = dtype_name or _NAMES[weight.dtype]

    def memory(self) -> Iterator[tuple[object, int]]:
        """(identity, bytes) of every block of memory the layer keeps alive; shared blocks share their identity."""
        for tensor in (*self.parameters(), *self.buffers()):
            yield tensor_memory(tensor)

    def dense(self) -> Tensor:
        """The fp32 weight this layer really multiplies by, (N, K): for reports of error and for tests."""
        raise NotImplementedError


def tensor_memory(tensor: Tensor) -> tuple[object, int]:
    """Identity and bytes of a tensor. A view of a memory-mapped file counts its own part, not the file."""
    if tensor.layout == torch._mkldnn:  # type: ignore[attr-defined]
        return id(tensor), int(torch.ops.mkldnn._nbytes(tensor))
    return (tensor.data_ptr(), tensor.nbytes), tensor.nbytes


class PlainLinear(LinearKernel):
    """F.linear on the weight as it lies: the only kernel that can share the embedding's tensor or obey autocast."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None, note: str = "") -> None:
        super().__init__(weight)
        self.weight, self.bias = weight, bias
        self.kernel = f"F.linear{note}"

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def dense(self) -> Tensor:
        return self.weight.detach().float()


class PackedLinear(LinearKernel):
    """oneDNN on a weight reordered once into the layout its kernels read fastest. fp32 and bf16, CPU."""

    kernel = "oneDNN, packed weight"

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight)
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 1)
        self.register_buffer("bias", bias)
        self._run = torch.ops.mkldnn._linear_pointwise.default

    def forward(self, x: Tensor) -> Tensor:
        return self._run(x, self.packed, self.bias, "none", [], "")  # type: ignore[no-any-return]

    def memory(self) -> Iterator[tuple[object, int]]:
        yield tensor_memory(self.packed)
        yield from super().memory()

    def dense(self) -> Tensor:
        identity = torch.eye(self.shape[1], dtype=self.packed.dtype)
        return self._run(identity, self.packed, None, "none", [], "").t().float()  # type: ignore[no-any-return]


class Half16Linear(LinearKernel):
    """fp16 on a CPU: F.linear for a few rows (decode), fp32 arithmetic for many (prefill), where fp16 gemm is slow."""

    kernel = "F.linear fp16, prefill in fp32"

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None) -> None:
        super().__init__(weight)
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() // x.shape[-1] <= _FEW_ROWS:
            return F.linear(x, self.weight, self.bias)
        bias = self.bias.float() if self.bias is not None else None
        return F.linear(x.float(), self.weight.float(), bias).to(x.dtype)

    def dense(self) -> Tensor:
        return self.weight.detach().float()


class Int8DynamicLinear(LinearKernel):
    """int8 codes, one scale per row; activations quantized per call (torch.ops.quantized.linear_dynamic, FBGEMM).

    scale = max|row| / 127, code = round(w / scale). nbytes: what the packed weight takes (see packing.fbgemm_bytes).
    """

    kernel = "FBGEMM int8, dynamic activations"

    def __init__(self, weight: Tensor, bias: Tensor | None, reduce_range: bool, nbytes: int) -> None:
        super().__init__(weight, "int8")
        scale = (weight.abs().amax(dim=1) / 127).clamp_min(torch.finfo(torch.float32).tiny).double()
        zero = torch.zeros(weight.shape[0], dtype=torch.long)
        codes = torch.quantize_per_channel(weight.contiguous(), scale, zero, 0, torch.qint8)
        self._packed = torch.ops.quantized.linear_prepack(codes, bias)
        self._reduce_range = reduce_range
        self._bytes = nbytes + (bias.nbytes if bias is not None else 0)
        self._run = torch.ops.quantized.linear_dynamic

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float32:
            return self._run(x, self._packed, self._reduce_range)  # type: ignore[no-any-return]
        return self._run(x.float(), self._packed, self._reduce_range).to(x.dtype)  # type: ignore[no-any-return]

    def memory(self) -> Iterator[tuple[object, int]]:
        yield id(self._packed), self._bytes

    def dense(self) -> Tensor:
        return torch.ops.quantized.linear_unpack(self._packed)[0].dequantize()  # type: ignore[no-any-return]
