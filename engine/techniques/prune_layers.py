"""Structured pruning of whole layers: the blocks that change the stream least are left out.

Score: block influence, 1 - E[cos(stream in, stream out)] on a calibration text (Men et al., "ShortGPT", 2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from engine.techniques.base import Effect, Options, Steps, Technique, option, whole_parts

if TYPE_CHECKING:
    from engine.techniques.draft import Draft


@dataclass(frozen=True)
class PruneLayersOptions(Options):
    """amount: share of the blocks that are left out, at least one of them."""

    key: ClassVar[str] = "prune-layers"
    amount: float = option(0.1, "Amount", "Share of the layers that are left out, at least one: those that change the "
                           "stream least.", unit="share", low=0.0, high=0.75, step=0.05)


class PruneLayers(Technique):
    """Leaves out blocks: fewer bytes, less work, a smaller KV cache."""

    order = 8
    label = "Pruning, whole layers"
    group = "Pruning"
    summary = "Leave out the layers that change least: smaller, faster, and a smaller KV cache."
    options_type = PruneLayersOptions
    own_decoder = "Layers can be left out of GPT Dyno's own decoder only."

    def short(self, options: Options) -> str:
        assert isinstance(options, PruneLayersOptions)
        return f"layers -{100 * options.amount:.0f} %"

    def steps(self, options: Options, draft: Draft) -> Steps:
        assert isinstance(options, PruneLayersOptions)
        total = draft.config.n_layers
        count = layers_gone(total, options.amount)
        if not count:
            why = "Nothing to remove at this amount." if total > 1 else "A model of one layer has none to spare."
            return Effect((), why, engaged=False)
        influence = (yield from draft.calibrate()).influence
        gone = sorted(sorted(range(total), key=lambda i: influence[i])[:count])
        layers = [la for la in draft.inner() if int(la.name.split(".")[1]) in gone]
        draft.drop_blocks(set(gone))
        words = ", ".join(f"{i + 1} ({influence[i]:.3f})" for i in gone)
        return Effect(tuple(layer.name for layer in layers),
                      f"{count} of {total} layers left out, by block influence: {words}."
                      + whole_parts(options.amount, count / total))


def layers_gone(total: int, amount: float) -> int:
    """How many of `total` layers go: the rounded share, at least one unless the amount is zero, never all."""
    return min(total - 1, max(1, round(amount * total))) if amount > 0 else 0


TECHNIQUE = PruneLayers()
