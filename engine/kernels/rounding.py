"""Rounding weights to codes: the arithmetic of the quantization schemes, apart from the kernels that run them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_TINY = torch.finfo(torch.float32).tiny
_AT_ONCE = 1 << 20  # weights rounded at once, so that what lies between stays in the processor's caches
_LEVELS = 15  # steps of a 4-bit code
_MIDDLE = 8  # the code that stands for a group's zero value
# Shares of a group's range that the fit tries: leaving the outermost weights outside makes the steps finer.
_RANGES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.62)
_REFITS = 3
_ROWS_AT_ONCE = 512  # the fit's intermediate results then stay in the processor's caches


def round_rows(weight: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Symmetric int8, to the nearest code: codes (N, K) int8 and scale (N,) fp32 with w = code * scale. weight: of any
    float type.

    scale = max|row| / 127, the scheme of torch.ao's per-channel symmetric observer, as `dtype` can hold it.
    """
    low, high = torch.aminmax(weight, dim=1)
    scale = (torch.maximum(-low, high).float() / 127).to(dtype).float().clamp_min(_TINY)  # (N,)
    codes = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)  # (N, K)
    rows = max(1, _AT_ONCE // weight.shape[1])
    for first in range(0, weight.shape[0], rows):
        part = torch.div(weight[first:first + rows], scale[first:first + rows, None]).round_()
        if dtype != torch.float32:  # a scale rounded down would give a 128
            part.clamp_(-127, 127)
        codes[first:first + rows] = part
    return codes, scale


@dataclass(frozen=True)
class Groups:
    """4-bit codes of a (N, K) weight by groups of `size` columns: w = (code - 8) * scale + zero.

    codes (N, K') uint8 in 0..15; scale, zero (N, K' / size); K' is K filled up to whole groups.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor
    size: int
    columns: int

    def dense(self, rows: slice = slice(None)) -> Tensor:
        """The fp32 weight that the codes stand for, (N, K), or some of its rows."""
        picked = self.codes[rows]
        n, k = picked.shape
        codes = picked.view(n, -1, self.size).to(torch.float32).sub_(_MIDDLE)
        weight = codes.mul_(self.scale[rows].float()[..., None]).add_(self.zero[rows].float()[..., None])
        return weight.view(n, k)[:, :self.columns]


def round_groups(weight: Tensor, size: int, dtype: torch.dtype) -> Groups:
    """Round to the nearest of 16 levels spread over each group's range; scale and zero are kept in `dtype`. weight: of
    any float type."""
    n, groups = weight.shape[0], -(-weight.shape[1] // size)
    codes = torch.empty(n, groups, size, dtype=torch.uint8, device=weight.device)
    scale, zero = (torch.empty(n, groups, device=weight.device) for _ in range(2))
    at_once = max(1, _AT_ONCE // weight.shape[1])
    for rows in (slice(first, first + at_once) for first in range(0, n, at_once)):
        grouped = _grouped(weight[rows], size)  # (n, G, size)
        scale[rows], zero[rows] = _spread(*torch.aminmax(grouped, dim=-1), dtype)
        codes[rows] = _codes(grouped, scale[rows, :, None], zero[rows, :, None])
    return _groups(codes, scale, zero, size, weight, dtype)


def fit_groups(weight: Tensor, size: int, dtype: torch.dtype, importance: Tensor | None) -> Groups:
    """Choose each group's range, scale and zero so that the error that matters is least.

    The error is sum_j h_j (w_j - q_j)^2 with h_j the mean square of input j: the diagonal of the layer's output error
    (the Hessian of Frantar et al., "GPTQ", 2022). From several ranges, codes and the best line through them are found
    in turn, as in half-quadratic quantization (Badri and Shaji, 2023); the best candidate of each group stays, so no
    group is worse than rounding to nearest.
    """
    columns = weight.shape[1]
    h = torch.ones(columns, device=weight.device) if importance is None else importance.to(weight.device, torch.float32)
    h = _grouped(h[None], size)[0] + 1e-6 * h.mean().clamp_min(_TINY)  # (G, size)
    h = h / h.sum(dim=1, keepdim=True)
    parts = [_fitted(_grouped(weight[first:first + _ROWS_AT_ONCE], size), h[:, None], dtype)
             for first in range(0, weight.shape[0], _ROWS_AT_ONCE)]
    codes, scale, zero = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return _groups(codes, scale, zero, size, weight, dtype)


def _fitted(grouped: Tensor, h: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (N, G, size), scale and zero (N, G) of the candidate with the least weighted error. h (G, 1, size).

    Worked as (G, size, N), so that every step runs along rows that lie together, and sums are products with h. With the
    sums of codes and weights at hand, a candidate's error needs no pass of its own:
    sum h (w - s c - z)^2 = sum hw^2 - 2s sum hwc - 2z sum hw + s^2 sum hc^2 + 2sz sum hc + z^2, as h sums to 1.
    Weights and zeros are taken from the middle of their group: far from zero for its width, the sum would cancel.
    """
    weight = grouped.permute(1, 2, 0).contiguous()  # (G, size, N)
    low, high = torch.aminmax(weight, dim=1, keepdim=True)  # (G, 1, N)
    middle, half = low / 2 + high / 2, high / 2 - low / 2
    weight = weight - middle
    sum_w, sum_ww = torch.bmm(h, weight), torch.bmm(h, weight.square())  # (G, 1, N)
    best_error = torch.full_like(low, torch.inf)
    best_scale, best_zero = _spread(low, high, dtype)  # stays where weights are so large that errors overflow
    for share in _RANGES:
        scale, zero = _spread(low + (1 - share) * half, high - (1 - share) * half, dtype)
        for _ in range(_REFITS):
            offset = zero - middle
            codes = _codes(weight, scale, offset).sub_(_MIDDLE)  # (G, size, N), -8..7
            sum_c = torch.bmm(h, codes)
            sum_cw = torch.bmm(h, codes * weight)
            sum_cc = torch.bmm(h, codes.square_())
            error = (sum_ww - 2 * scale * sum_cw - 2 * offset * sum_w + scale * scale * sum_cc
                     + 2 * scale * offset * sum_c + offset * offset)  # (G, 1, N)
            better = error < best_error
            best_error = torch.where(better, error, best_error)
            best_scale, best_zero = torch.where(better, scale, best_scale), torch.where(better, zero, best_zero)
            # The weighted least-squares line w = scale * code + zero through each group.
            spread = sum_cc - sum_c * sum_c
            slope = (sum_cw - sum_c * sum_w) / spread.clamp_min(1e-12)
            scale = torch.where((spread > 1e-6) & (slope > 0), slope, scale).to(dtype).float().clamp_min(_TINY)
            zero = (middle + (sum_w - scale * sum_c)).to(dtype).float()
    codes = _codes(weight, best_scale, best_zero - middle).to(torch.uint8)
    return codes.permute(2, 0, 1).contiguous(), best_scale[:, 0].t(), best_zero[:, 0].t()


def _spread(low: Tensor, high: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Scale and zero of 16 levels from low to high, as `dtype` can hold them, in fp32."""
    scale = ((high - low) / _LEVELS).to(dtype).float().clamp_min(_TINY)
    return scale, (low + _MIDDLE * scale).to(dtype).float()


def _codes(weight: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """The nearest codes, fp32 integers from 0 to 15, in the shape of the weight."""
    return weight.sub(zero).div_(scale).round_().add_(_MIDDLE).clamp_(0, _LEVELS)


def _grouped(weight: Tensor, size: int) -> Tensor:
    """(N, K) of any float type as fp32, filled up with zeros to whole groups, (N, G, size)."""
    weight = weight.to(torch.float32)
    missing = -weight.shape[1] % size
    if missing:
        weight = torch.nn.functional.pad(weight, (0, missing))
    return weight.reshape(weight.shape[0], -1, size)


def _groups(codes: Tensor, scale: Tensor, zero: Tensor, size: int, weight: Tensor, dtype: torch.dtype) -> Groups:
    flat = codes.to(torch.uint8).view(codes.shape[0], -1)
    return Groups(flat, scale.to(dtype).contiguous(), zero.to(dtype).contiguous(), size, weight.shape[1])
