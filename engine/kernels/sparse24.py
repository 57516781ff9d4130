"""2:4 semi-structured sparsity: of every four weights in a row two are kept, and recent cards skip the others."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.kernels.linear import LinearKernel, parameter, tensor_memory

_FEW_ROWS = 8  # the sparse product takes whole blocks of rows


class Sparse24Linear(LinearKernel):
    """torch.sparse.to_sparse_semi_structured: kept values and two bits of position for each."""

    kernel = "2:4 sparse (cuSPARSELt or CUTLASS)"

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight)
        self.weight = nn.Parameter(torch.sparse.to_sparse_semi_structured(weight), requires_grad=False)
        self.bias = parameter(bias) if bias is not None else None

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        missing = -rows.shape[0] % _FEW_ROWS
        y = F.linear(F.pad(rows, (0, 0, 0, missing)) if missing else rows, self.weight, self.bias)
        return y[:rows.shape[0]].view(*x.shape[:-1], -1)

    def memory(self) -> Iterator[tuple[object, int]]:
        packed = self.weight.detach()
        for part in (getattr(packed, "packed", None), getattr(packed, "meta", None)):
            if part is not None:
                yield tensor_memory(part)
        if self.bias is not None:
            yield tensor_memory(self.bias)

    def dense(self) -> Tensor:
        return self.weight.detach().to_dense().float()
