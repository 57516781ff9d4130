"""What the native token step reads of a layer: a description of its weight where it lies, in engine.native's terms.

Nothing is copied. Whoever holds a description keeps the tensors behind it alive.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from engine.native.library import KINDS, MAX_ROWS, Library, Matrix, Vector, library

_NUMBERS = {torch.float32: KINDS["fp32"], torch.bfloat16: KINDS["bf16"], torch.float16: KINDS["fp16"]}
# A sum of 8-bit products stays below 2^31 up to this many columns.
_LONGEST_INT8 = 65_000


def vector(tensor: Tensor | None) -> Vector:
    """Numbers in a row, fp32, bf16 or fp16; empty for None."""
    return Vector() if tensor is None else Vector(tensor.data_ptr(), number_kind(tensor.dtype))


def number_kind(dtype: torch.dtype) -> int:
    """The native code for fp32, bf16 or fp16."""
    return _NUMBERS[dtype]


def dense(weight: Tensor, bias: Tensor | None) -> Matrix | None:
    """A dense weight (N, K), row after row; None where it does not lie so."""
    if weight.dtype not in _NUMBERS or weight.stride(1) != 1:
        return None
    return _matrix(weight, (weight.shape[0], weight.shape[1]), number_kind(weight.dtype), bias)


def int8(codes: Tensor, scale: Tensor, bias: Tensor | None, columns: int, dynamic: bool) -> Matrix | None:
    """int8 codes (N, K or more) with a scale for each row, the first `columns` of them used."""
    if columns > _LONGEST_INT8:
        return None
    kind = KINDS["int8-dynamic" if dynamic else "int8"]
    matrix = _matrix(codes, (codes.shape[0], columns), kind, bias)
    matrix.scale = vector(scale)
    return matrix


def int4(codes: Tensor, scale_and_zero: Tensor, bias: Tensor | None, shape: tuple[int, int], group: int) -> Matrix:
    """4-bit codes, scales and zeros as engine/native/src/dyno.h lays them out."""
    matrix = _matrix(codes, shape, KINDS["int4"], bias)
    matrix.stride = -(-shape[1] // group) * group // 2
    matrix.scale, matrix.group = vector(scale_and_zero), group
    return matrix


def product(matrix: Matrix, x: Tensor, run: Library) -> Tensor:
    """x (T, K) through a layer, for T up to MAX_ROWS: (T, N) in the dtype of x."""
    rows = x.to(torch.float32).contiguous()
    y = torch.empty(rows.shape[0], matrix.rows)
    failed = run.linear(ctypes.byref(matrix), rows.data_ptr(), rows.shape[0], y.data_ptr(), torch.get_num_threads(),
                      run.isa)
    if failed:
        raise MemoryError("The native product has no room for its activations.")
    return y.to(x.dtype)


def for_few(x: Tensor) -> Library | None:
    """The library, where `x` (..., K) has so few rows that it is the faster way."""
    return library() if x.numel() <= MAX_ROWS * x.shape[-1] and x.device.type == "cpu" else None


def _matrix(data: Tensor, shape: tuple[int, int], kind: int, bias: Tensor | None) -> Matrix:
    stride = data.stride(0) * data.element_size() if data.dim() == 2 else 0
    return Matrix(data.data_ptr(), Vector(), vector(bias), *shape, stride, kind, 0)
