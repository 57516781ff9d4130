"""Wanda: prune by weight times activation. A small weight on a strong input matters more than a larger one on a weak.

Score |W_ij| * ||x_j||_2, compared within each output row (Sun et al., "A Simple and Effective Pruning Approach for
Large Language Models", 2023). The inputs' strengths come from a calibration text.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from engine.techniques.base import Effect, Options, Steps, Technique, option
from engine.techniques.zeroing import NO_GAIN, UNSTRUCTURED
from engine.words import counted

if TYPE_CHECKING:
    from torch import Tensor

    from engine.techniques.draft import Draft


@dataclass(frozen=True)
class PruneWandaOptions(Options):
    """amount: share of each row's weights set to zero."""

    key: ClassVar[str] = "prune-wanda"
    amount: float = option(0.5, "Amount", "Share of every row's weights that become zero: those that move the row's "
                           "output least on a calibration text.", unit="share", low=0.0, high=0.95, step=0.05)


class PruneWanda(Technique):
    """Zeros, in every row, the weights whose product with their input is weakest."""

    order = 21
    label = "Pruning, Wanda"
    group = "Pruning"
    summary = "Set weights to zero by their use on a calibration text, row by row."
    exclusive = UNSTRUCTURED
    options_type = PruneWandaOptions

    def short(self, options: Options) -> str:
        assert isinstance(options, PruneWandaOptions)
        return f"Wanda {100 * options.amount:.0f} %"

    def steps(self, options: Options, draft: Draft) -> Steps:
        assert isinstance(options, PruneWandaOptions)
        layers = list(draft.inner())
        counts = {layer.name: round(options.amount * layer.shape[1]) for layer in layers}
        if not any(counts.values()):
            return Effect((), "Nothing to prune at this amount.", engaged=False)
        calibration = yield from draft.calibrate()
        for layer in layers:
            strength = draft.importance(layer.name).sqrt()  # (K,)
            layer.edits.append((self.key, partial(zero_weakest, strength, counts[layer.name])))
        zeros = sum(counts[layer.name] * layer.shape[0] for layer in layers)
        return Effect(tuple(layer.name for layer in layers),
                      f"Chosen on {counted(calibration.tokens, 'token')} of text. {NO_GAIN}", zeros=zeros)


def zero_weakest(strength: Tensor, count: int, weight: Tensor) -> Tensor:
    """Zero the `count` weights of every row with the lowest |w| * strength. weight (N, K), strength (K,)."""
    weakest = (weight.abs() * strength).topk(count, dim=1, largest=False).indices  # (N, count)
    return weight.scatter(1, weakest, 0.0)


TECHNIQUE = PruneWanda()
