"""Embeddings that are not a dense matrix of the model's dtype: rows of the model's file, or int8 codes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.kernels.linear import tensor_memory
from engine.kernels.rounding import round_rows


class RowsOnDemand(nn.Module):
    """Looks rows up in the master itself and casts them: the same numbers as a cast matrix, and no memory of its own.

    For a CPU, where the master is mapped from the file: a token touches one row of it.
    """

    def __init__(self, master: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.master, self.dtype = master, dtype  # not a buffer: the memory is the masters'

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.master).to(self.dtype)

    def memory(self) -> Iterator[tuple[object, int]]:
        """Nothing of its own."""
        return iter(())


class Int8Embedding(nn.Module):
    """int8 codes with one scale per row: w = code * scale."""

    codes: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, dtype: torch.dtype, device: str) -> None:
        super().__init__()
        codes, scale = round_rows(weight)
        self.dtype = dtype
        self.register_buffer("codes", codes.to(device))  # (V, D)
        self.register_buffer("scale", scale[:, None].to(device))  # (V, 1)

    def forward(self, ids: Tensor) -> Tensor:
        return (F.embedding(ids, self.codes).float() * F.embedding(ids, self.scale)).to(self.dtype)

    def memory(self) -> Iterator[tuple[object, int]]:
        """(identity, bytes) of codes and scales."""
        yield tensor_memory(self.codes)
        yield tensor_memory(self.scale)
