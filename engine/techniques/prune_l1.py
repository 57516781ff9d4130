"""Unstructured pruning by magnitude: the smallest weights become zero, over the whole model or layer by layer.

The criterion of torch.nn.utils.prune with L1Unstructured, globally or for each layer: round(amount x n) weights with
the smallest absolute value. The threshold is found exactly in two counting passes over the weights' bit patterns
(non-negative floats sort like their bits), without sorting or joining them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from engine.techniques.base import Options, Steps, Technique, option
from engine.techniques.zeroing import UNSTRUCTURED, zero_lowest

if TYPE_CHECKING:
    from torch import Tensor

    from engine.techniques.draft import Draft


@dataclass(frozen=True)
class PruneL1Options(Options):
    """amount: share of weights set to zero. scope: compared over all layers together, or within each."""

    key: ClassVar[str] = "prune-l1"
    amount: float = option(0.5, "Amount", "Share of all block weights that become zero, the smallest first.",
                           unit="share", low=0.0, high=0.95, step=0.05)
    scope: str = option("global", "Scope", "global compares all layers together, so layers with small weights lose "
                        "more; layer takes the same share of each.", choices=("global", "layer"))


class PruneL1(Technique):
    """Zeros the smallest weights inside the blocks; embedding and head are left alone."""

    order = 20
    label = "Pruning, unstructured (L1)"
    group = "Pruning"
    summary = "Set the smallest weights to zero."
    exclusive = UNSTRUCTURED
    options_type = PruneL1Options

    def short(self, options: Options) -> str:
        assert isinstance(options, PruneL1Options)
        return f"L1 {100 * options.amount:.0f} %" + (" per layer" if options.scope == "layer" else "")

    def steps(self, options: Options, draft: Draft) -> Steps:
        assert isinstance(options, PruneL1Options)

        def scores(name: str, weight: Tensor) -> Tensor:
            return weight.abs()

        return (yield from zero_lowest(draft, self.key, options.amount, options.scope == "global", scores))


TECHNIQUE = PruneL1()
