"""The objects that stand in the decoder's linear slots at inference time.

Each maps (..., K) to (..., N), says which kernel runs, and lists the memory it holds. They are chosen by
`engine.kernels.choose`. Measured behind the choices: docs/design.md, "Kernels".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.kernels import native
from engine.native.library import Matrix

_FEW_ROWS = 4
_SLAB = 1 << 20  # weights
_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class Weights:
    """A slot's weight (N, K) and fp32 bias (N,), edited by the recipe and ready to be laid out. The weight is fp32, or
    as the checkpoint stores it where the layer's scheme takes any.

    importance: mean square of each input, (K,), where the recipe was calibrated: the weight of an error in a column.
    """

    weight: Tensor
    bias: Tensor | None = None
    importance: Tensor | None = None


@dataclass(frozen=True)
class Rows:
    """A weight (N, K) that is made as fp32 some rows at a time: whole, it would cost more than what it describes."""

    shape: tuple[int, int]
    make: Callable[[slice], Tensor]

    def __getitem__(self, rows: slice) -> Tensor:
        return self.make(rows)

    def numel(self) -> int:
        """Number of weights."""
        return self.shape[0] * self.shape[1]


class LinearKernel(nn.Module):
    """y = x W^T + b. kernel: the name shown to the user. shape: (N, K). dtype_name: of the weight as stored.

    sparsity: share of exact zeros in the weight. error: Frobenius norm of the change against the master, over the
    master's. Both are set by whoever still has the weight dense.
    """

    kernel = ""
    sparsity = 0.0
    error = 0.0

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

    def native(self) -> Matrix | None:
        """The weight as the native token step reads it, valid while the layer lives; None where it cannot."""
        return None


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


class RowsLinear(LinearKernel):
    """A dense weight row after row, as the native token step streams it: native products for a few rows, oneDNN's or
    PyTorch's for many. CPU."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None) -> None:
        super().__init__(weight)
        self.weight, self.bias = weight, bias
        many = {torch.float32: "oneDNN", torch.bfloat16: "F.linear", torch.float16: "fp32 arithmetic"}[weight.dtype]
        self.kernel = f"native {self.dtype_name}, prompts {many}"
        self._native = native.dense(weight, bias)

    def forward(self, x: Tensor) -> Tensor:
        if self._native is not None and (run := native.for_few(x)) is not None:
            return native.product(self._native, x.reshape(-1, x.shape[-1]), run).view(*x.shape[:-1], -1)
        if x.dtype == torch.float16:  # the processor's many-row fp16 product is several times slower than fp32's
            rows = x.reshape(-1, x.shape[-1]).float()
            y = in_slabs(rows, self.shape, lambda first, out: out.copy_(self.weight[first:first + out.shape[0]]))
            y = y if self.bias is None else y + self.bias
            return y.to(x.dtype).view(*x.shape[:-1], -1)
        return _many_rows(x, self.weight, self.bias)

    def dense(self) -> Tensor:
        return self.weight.detach().float()

    def native(self) -> Matrix | None:
        return self._native


def _many_rows(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b for a weight that lies row after row."""
    if x.dtype == torch.float32:  # F.linear goes to a library that is slower at fp32 here (docs/design.md)
        return torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")  # type: ignore[no-any-return]
    return F.linear(x, weight, bias)


def in_slabs(x: Tensor, shape: tuple[int, int], fill: Callable[[int, Tensor], object]) -> Tensor:
    """x (T, K) W^T for a weight (N, K) that lies in another form: (T, N) in the dtype of x.

    fill(first, out) writes the rows of the weight from `first` on into `out`. Slabs are small enough to stay in the
    cache between being written and being multiplied by.
    """
    rows = min(shape[0], max(16, _SLAB // shape[1] // 16 * 16))
    slab = torch.empty(rows, shape[1], dtype=x.dtype)
    y = torch.empty(x.shape[0], shape[0], dtype=x.dtype)
    for first in range(0, shape[0], rows):
        part = slab[:shape[0] - first]
        fill(first, part)
        y[:, first:first + rows] = _many_rows(x, part, None)
    return y


def parameter(tensor: Tensor) -> nn.Parameter:
    """A frozen parameter around a tensor."""
    return nn.Parameter(tensor.contiguous(), requires_grad=False)
