"""Pruning while training: the smallest weights of all block layers together are zero, and stay zero.

A mask is applied to a weight after every optimizer step and to its gradient before every one, so that masked weights
neither count in the gradient's norm nor move, whatever the optimizer remembers of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.techniques.zeroing import threshold
from engine.train_plan import TrainPlan
from engine.training.network import block_layers
from engine.training.schedule import Sparsity


class Masks:
    """The masks of a decoder's block layers, and the schedule by which they tighten (Zhu & Gupta, 2017)."""

    def __init__(self, decoder: torch.nn.Module, plan: TrainPlan) -> None:
        self._weights = {name: layer.weight for name, layer in block_layers(decoder).items()}  # type: ignore[arg-type]
        self._schedule = Sparsity(plan.sparsity, plan.prune_start, plan.prune_end, plan.prune_every)
        self._masks: dict[str, Tensor] = {}
        self._cut_at = 0.0

    @property
    def weights(self) -> int:
        """Weights that may be pruned."""
        return sum(w.numel() for w in self._weights.values())

    @property
    def zeros(self) -> int:
        """Weights that are masked."""
        return sum(m.numel() - int(m.count_nonzero()) for m in self._masks.values())

    def complete(self, step: int) -> bool:
        """Whether the last cut has been made."""
        return step >= self._schedule.end and self._cut_at == self._schedule.final

    @torch.no_grad()
    def tighten(self, step: int) -> bool:
        """Make the cut that is due in a step, if one is: exactly round(share x weights) zeros over all layers."""
        share = self._schedule.at(step)
        if share <= self._cut_at:
            return False
        layers = list(self._weights)

        def keys(name: str) -> Tensor:
            return self._weights[name].detach().float().abs().cpu().contiguous().view(torch.int32)

        search = threshold(layers, keys, round(share * self.weights))
        while True:
            try:
                next(search)
            except StopIteration as found:
                bits, ties = found.value
                break
        for name, allowed in zip(layers, ties, strict=True):
            key = keys(name)
            equal = (key == bits).reshape(-1)
            dropped = (key < bits) | (equal & (equal.cumsum(0) <= allowed)).view_as(key)
            self._masks[name] = ~dropped.to(self._weights[name].device)
        self._cut_at = share
        self.apply()
        return True

    @torch.no_grad()
    def apply(self) -> None:
        """Zero what is masked."""
        for name, mask in self._masks.items():
            self._weights[name].mul_(mask)

    @torch.no_grad()
    def apply_to_gradients(self) -> None:
        """Zero the gradients of what is masked."""
        for name, mask in self._masks.items():
            grad = self._weights[name].grad
            if grad is not None:
                grad.mul_(mask)

    def state(self) -> dict[str, object]:
        """What a checkpoint keeps."""
        return {"masks": dict(self._masks), "cut_at": self._cut_at}

    def load(self, state: dict[str, object]) -> None:
        """Go on from a checkpoint."""
        masks = state["masks"]
        assert isinstance(masks, dict) and isinstance(state["cut_at"], float)
        self._masks = {name: mask.to(self._weights[name].device) for name, mask in masks.items()}
        self._cut_at = state["cut_at"]
