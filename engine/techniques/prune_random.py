"""Unstructured pruning at random: the yardstick for every other criterion. Whoever cannot beat it chose badly.

As torch.nn.utils.prune.RandomUnstructured, over all layers together or in each, and repeatable by its seed.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from engine.techniques.base import Options, Steps, Technique, option
from engine.techniques.zeroing import UNSTRUCTURED, zero_lowest

if TYPE_CHECKING:
    from torch import Tensor

    from engine.techniques.draft import Draft


@dataclass(frozen=True)
class PruneRandomOptions(Options):
    """amount: share of weights set to zero. scope: drawn from all layers together, or the same share of each."""

    key: ClassVar[str] = "prune-random"
    amount: float = option(0.3, "Amount", "Share of all block weights that become zero, drawn at random.",
                           unit="share", low=0.0, high=0.95, step=0.05)
    scope: str = option("layer", "Scope", "global draws from all layers together; layer takes the same share of each.",
                        choices=("global", "layer"))
    seed: int = option(0, "Seed", "The same seed prunes the same weights.", low=0, high=9999, step=1)


class PruneRandom(Technique):
    """Zeros weights inside the blocks at random."""

    order = 22
    label = "Pruning, random"
    group = "Pruning"
    summary = "Set weights to zero at random, to see what a criterion is worth."
    exclusive = UNSTRUCTURED
    options_type = PruneRandomOptions

    def short(self, options: Options) -> str:
        assert isinstance(options, PruneRandomOptions)
        return f"random {100 * options.amount:.0f} %"

    def steps(self, options: Options, draft: Draft) -> Steps:
        assert isinstance(options, PruneRandomOptions)

        def scores(name: str, weight: Tensor) -> Tensor:
            import torch

            draw = torch.Generator().manual_seed(zlib.crc32(f"{options.seed} {name}".encode()))
            return torch.rand(weight.shape, generator=draw)

        return (yield from zero_lowest(draft, self.key, options.amount, options.scope == "global", scores))


TECHNIQUE = PruneRandom()
