"""Setting the weights with the lowest scores to zero, over all layers together or in each: what the unstructured
pruning techniques share. They differ in the score alone."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from engine.errors import DynoError
from engine.techniques.base import Effect, Steps

if TYPE_CHECKING:
    from torch import Tensor

    from engine.techniques.draft import Draft, LayerDraft

T = TypeVar("T")
Scores = Callable[[str, "Tensor"], "Tensor"]
"""(layer, fp32 weight) -> a non-negative fp32 score for each weight, the same at every call."""

UNSTRUCTURED = "unstructured pruning"
NO_GAIN = "Zeros in a dense matrix make nothing smaller or faster."


def zero_lowest(draft: Draft, key: str, amount: float, across: bool, scores: Scores) -> Steps:
    """Zero round(amount x n) weights of the blocks: the lowest of all layers together (`across`), or of each."""
    layers = list(draft.inner())
    if across:
        counts = [round(amount * sum(layer.numel for layer in layers))]
        parts = [layers]
    else:
        counts = [round(amount * layer.numel) for layer in layers]
        parts = [[layer] for layer in layers]
    if not any(counts):
        return Effect((), "Nothing to prune at this amount.", engaged=False)
    if draft.sizes_only:
        return Effect(tuple(layer.name for layer in layers), NO_GAIN, zeros=sum(counts))
    done, total = 0, 3 * len(layers)

    def keys(layer: LayerDraft) -> Tensor:
        import torch

        return scores(layer.name, draft.weight(layer.name)).contiguous().view(torch.int32)

    for part, count in zip(parts, counts, strict=True):
        search = threshold(part, keys, count)
        while True:
            try:
                next(search)
            except StopIteration as found:
                bits, ties = found.value
                break
            done += 1
            yield "Scoring the weights", done, total
        for layer, allowed in zip(part, ties, strict=True):
            layer.edits.append((key, partial(_zeroed, layer.name, scores, bits, allowed)))
    return Effect(tuple(layer.name for layer in layers), NO_GAIN, zeros=sum(counts))


def threshold(layers: list[T], keys: Callable[[T], Tensor],
              count: int) -> Generator[None, None, tuple[int, list[int]]]:
    """The bit pattern of the count-th lowest key, and for each layer how many equal to it are pruned.

    Everything strictly below the pattern is pruned; of those equal to it, the first ones in order, until `count`.
    `keys` gives a layer's scores as int32 bit patterns, anew for each pass, so that they are never all in memory.
    Yields after each layer of its three passes.
    """
    import torch

    if count <= 0:
        return 0, [0] * len(layers)
    high = torch.zeros(1 << 16, dtype=torch.int64)
    for layer in layers:
        high += torch.bincount(keys(layer).reshape(-1) >> 16, minlength=1 << 16)
        yield
    bucket, below = _bucket(high, count)
    low = torch.zeros(1 << 16, dtype=torch.int64)
    for layer in layers:
        key = keys(layer).reshape(-1)
        low += torch.bincount(key[(key >> 16) == bucket] & 0xFFFF, minlength=1 << 16)
        yield
    fine, below_fine = _bucket(low, count - below)
    bits = (bucket << 16) | fine
    remaining = count - below - below_fine
    ties: list[int] = []
    for layer in layers:
        take = min(remaining, int((keys(layer) == bits).sum())) if remaining else 0
        ties.append(take)
        remaining -= take
        yield
    if remaining:
        raise DynoError("Pruning could not find a threshold.", "Check that the weights are finite.")
    return bits, ties


def _bucket(histogram: Tensor, count: int) -> tuple[int, int]:
    """The bucket holding the count-th smallest entry (count from 1), and how many lie before that bucket."""
    cumulative = histogram.cumsum(0)
    index = int((cumulative < count).sum())
    return index, int(cumulative[index] - histogram[index])


def _zeroed(name: str, scores: Scores, bits: int, ties: int, weight: Tensor) -> Tensor:
    import torch

    key = scores(name, weight).contiguous().view(torch.int32)
    drop = key < bits
    if ties:
        equal = (key == bits).reshape(-1)
        drop = drop | (equal & (equal.cumsum(0) <= ties)).view_as(drop)
    return weight.masked_fill(drop, 0.0)
