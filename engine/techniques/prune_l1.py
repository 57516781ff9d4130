"""Global unstructured pruning by magnitude: the smallest weights of all layers together become zero.

The criterion of torch.nn.utils.prune.global_unstructured with L1Unstructured: round(amount x n) weights with the
smallest absolute value over all chosen tensors. The threshold is found exactly in two counting passes over the
weights' bit patterns (non-negative floats sort like their bits), without sorting or joining them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from engine.errors import DynoError
from engine.techniques.base import Effect, Options, Technique, option

if TYPE_CHECKING:
    from torch import Tensor

    from engine.techniques.draft import Draft, Edit


@dataclass(frozen=True)
class PruneL1Options(Options):
    """amount: share of weights set to zero."""

    key: ClassVar[str] = "prune-l1"
    amount: float = option(0.5, "Amount", "Share of all block weights that become zero, the smallest first.",
                           unit="share", low=0.0, high=0.95, step=0.05)


class PruneL1(Technique):
    """Zeros the smallest weights inside the blocks; embedding and head are left alone."""

    order = 20
    label = "Pruning, unstructured (L1)"
    group = "Pruning"
    summary = "Set the smallest weights of the whole model to zero."
    options_type = PruneL1Options

    def short(self, options: Options) -> str:
        assert isinstance(options, PruneL1Options)
        return f"L1 {100 * options.amount:.0f} %"

    def apply(self, options: Options, draft: Draft) -> Effect:
        assert isinstance(options, PruneL1Options)
        layers = list(draft.inner())
        total = sum(layer.numel for layer in layers)
        count = round(options.amount * total)
        if not layers or not count:
            return Effect(0, 0, 0, "Nothing to prune at this amount.", engaged=False)
        bits, ties = threshold(lambda: (draft.weight(layer.name) for layer in layers), count)
        size = sum(draft.layer_bytes(layer) for layer in layers)
        for layer, allowed in zip(layers, ties, strict=True):
            layer.weight_edits.append(_zeroing(bits, allowed))
        return Effect(len(layers), size, size,
                      f"{count:,} of {total:,} weights are zero. Zeros in a dense matrix make nothing smaller or "
                      "faster.")


def threshold(weights: Callable[[], Iterator[Tensor]], count: int) -> tuple[int, list[int]]:
    """The bit pattern of the count-th smallest absolute value, and per tensor how many equal to it are pruned.

    Everything strictly below the pattern is pruned; of those equal to it, the first ones in order, until `count`.
    `weights()` gives the tensors anew for each pass, one at a time, so that they are never all in memory.
    """
    import torch

    def keys(weight: Tensor) -> Tensor:
        return weight.abs().contiguous().view(torch.int32).reshape(-1)

    high = torch.zeros(1 << 16, dtype=torch.int64)
    for weight in weights():
        high += torch.bincount(keys(weight) >> 16, minlength=1 << 16)
    bucket, below = _bucket(high, count)
    low = torch.zeros(1 << 16, dtype=torch.int64)
    for weight in weights():
        key = keys(weight)
        low += torch.bincount(key[(key >> 16) == bucket] & 0xFFFF, minlength=1 << 16)
    fine, below_fine = _bucket(low, count - below)
    bits = (bucket << 16) | fine
    remaining = count - below - below_fine
    ties: list[int] = []
    for weight in weights():
        take = min(remaining, int((keys(weight) == bits).sum()))
        ties.append(take)
        remaining -= take
    if remaining:
        raise DynoError("Pruning could not find a threshold.", "Check that the weights are finite.")
    return bits, ties


def _bucket(histogram: Tensor, count: int) -> tuple[int, int]:
    """The bucket holding the count-th smallest entry (count from 1), and how many lie before that bucket."""
    cumulative = histogram.cumsum(0)
    index = int((cumulative < count).sum())
    return index, int(cumulative[index] - histogram[index])


def _zeroing(bits: int, ties: int) -> Edit:
    def edit(weight: Tensor) -> Tensor:
        import torch

        key = weight.abs().contiguous().view(torch.int32)
        drop = key < bits
        if ties:
            equal = (key == bits).reshape(-1)
            drop = drop | (equal & (equal.cumsum(0) <= ties)).view_as(drop)
        return weight.masked_fill(drop, 0.0)

    return edit


TECHNIQUE = PruneL1()
