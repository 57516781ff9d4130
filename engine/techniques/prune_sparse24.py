"""2:4 semi-structured sparsity: of every four neighbours in a row the two smaller ones become zero.

The pattern is the one that sparse tensor cores skip (Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021).
Where the card has them the layer really runs sparse; elsewhere it stays a dense matrix with zeros, and says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from engine.kernels.packing import ITEM_BYTES
from engine.kernels.scheme import Scheme
from engine.models.devices import DeviceFacts
from engine.techniques.base import Effect, Options, Technique
from engine.techniques.zeroing import NO_GAIN, UNSTRUCTURED
from engine.words import agreed, counted

if TYPE_CHECKING:
    from torch import Tensor

    from engine.kernels.linear import LinearKernel, Weights
    from engine.techniques.draft import Draft

_SHORTEST = 64  # rows and columns that the sparse product needs


@dataclass(frozen=True)
class Sparse24Scheme(Scheme):
    """Kept values and two bits of position for each of them: 9/16 of the dense bytes in 16 bits."""

    name = "2:4"
    exact_bias = False
    rounds = False

    def nbytes(self, shape: tuple[int, int], dtype: str, device: DeviceFacts) -> int:
        # Before Precision has cast the model its values count as fp32, so that each is credited with its own saving.
        numel = shape[0] * shape[1]
        return numel // 2 * ITEM_BYTES[dtype] + numel // 8

    def layer(self, weights: Weights, dtype: str, device: DeviceFacts) -> tuple[LinearKernel, Tensor]:
        from engine.kernels.sparse24 import Sparse24Linear
        from engine.models.devices import torch_dtype

        cast = weights.weight.to(torch_dtype(dtype))
        bias = weights.bias.to(device.torch_name, cast.dtype) if weights.bias is not None else None
        return Sparse24Linear(cast.to(device.torch_name), bias), cast


@dataclass(frozen=True)
class PruneSparse24Options(Options):
    """No options: the pattern is fixed."""

    key: ClassVar[str] = "prune-2-4"


class PruneSparse24(Technique):
    """Zeros two of every four weights, and runs sparse where the card can."""

    order = 23
    label = "Pruning, 2:4 sparse"
    group = "Pruning"
    summary = "Zero two of every four weights: the pattern that recent NVIDIA cards can skip."
    exclusive = UNSTRUCTURED
    options_type = PruneSparse24Options

    def short(self, options: Options) -> str:
        return "2:4"

    def apply(self, options: Options, draft: Draft) -> Effect:
        layers = [layer for layer in draft.inner() if layer.shape[1] % 4 == 0]
        for layer in layers:
            layer.edits.append((self.key, zero_two_of_four))
        fast = [la for la in layers if min(la.shape) >= _SHORTEST and la.shape[0] % 32 == 0 and la.shape[1] % 32 == 0]
        names = tuple(layer.name for layer in layers)
        # The product is 16 bits wide, and codes take its place: what the recipe casts and quantizes is decided only
        # after this technique.
        if draft.device.sparse24 and fast and draft.wants_16_bits and not draft.wants_codes:
            draft.quantize(self.key, fast, Sparse24Scheme())
            rest = len(layers) - len(fast)
            others = (f" {counted(rest, 'other layer')} {agreed(rest, 'is', 'are')} too small or uneven for that and "
                      f"{agreed(rest, 'holds its', 'hold their')} zeros in a dense matrix." if rest else "")
            return Effect(names, f"{counted(len(fast), 'layer')} {agreed(len(fast), 'keeps', 'keep')} "
                          f"two of every four weights and {agreed(len(fast), 'runs', 'run')} sparse.{others}")
        return Effect(names, f"Two of every four were chosen in {counted(len(layers), 'layer')}. {_why_dense(draft)} "
                      f"{NO_GAIN}", engaged=bool(layers), zeros=sum(layer.numel // 2 for layer in layers))


def _why_dense(draft: Draft) -> str:
    """Why no layer runs sparse."""
    if not draft.device.sparse24:
        return f"{draft.device.name} has no sparse tensor cores."
    if draft.wants_codes:
        return "Quantization rounds these layers to codes, which sparse tensor cores do not read."
    if not draft.wants_16_bits:
        return "Sparse tensor cores want bf16 or fp16 weights: set Precision to one of them."
    return "The layers are too small or uneven for sparse tensor cores."


def zero_two_of_four(weight: Tensor) -> Tensor:
    """Zero the two smaller of every four neighbours in a row; K must be a multiple of 4."""
    fours = weight.reshape(weight.shape[0], -1, 4)  # (N, K / 4, 4)
    smaller = fours.abs().topk(2, dim=-1, largest=False).indices
    return fours.scatter(-1, smaller, 0.0).view_as(weight)


TECHNIQUE = PruneSparse24()
