"""Structured pruning of feed-forward neurons by magnitude: rows and columns leave the matrices for good.

A neuron is a row of the up matrix (and of the gate) together with its column of the down matrix. Its score is the
product of the Euclidean norms of what goes in and what comes out, so that a neuron counts by what it can contribute;
or, calibrated, by what it did contribute on a text: E[h_j^2] ||W_down[:, j]||^2. The weakest neurons of each layer go.
Rows left are a multiple of 8, which is what the kernels like.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from engine.techniques.base import Effect, Options, Steps, Technique, option
from engine.words import agreed

if TYPE_CHECKING:
    from torch import Tensor

    from engine.techniques.draft import Draft

_MULTIPLE = 8


@dataclass(frozen=True)
class PruneNeuronsOptions(Options):
    """amount: share of each layer's neurons removed. score: by the weights alone, or by use on a calibration text."""

    key: ClassVar[str] = "prune-neurons"
    amount: float = option(0.3, "Amount", "Share of each layer's feed-forward neurons that are removed.",
                           unit="share", low=0.0, high=0.9, step=0.05)
    score: str = option("magnitude", "Score", "magnitude looks at the weights alone; activation at what each neuron "
                        "contributed on a calibration text.", choices=("magnitude", "activation"))


class PruneNeurons(Technique):
    """Removes whole neurons, so the matrices really are smaller."""

    order = 10
    label = "Pruning, feed-forward neurons"
    group = "Pruning"
    summary = "Remove the weakest neurons: smaller matrices, fewer bytes, less work."
    options_type = PruneNeuronsOptions
    own_decoder = "Which rows of its matrices are neurons is known of GPT Dyno's own decoder only."

    def short(self, options: Options) -> str:
        assert isinstance(options, PruneNeuronsOptions)
        return f"neurons -{100 * options.amount:.0f} %"

    def steps(self, options: Options, draft: Draft) -> Steps:
        assert isinstance(options, PruneNeuronsOptions)
        c = draft.config
        keep = neurons_left(c.intermediate_size, options.amount)
        if keep == c.intermediate_size:
            return Effect((), "Nothing to remove at this amount.", engaged=False)
        if options.score == "activation":
            yield from draft.calibrate()
        names: list[str] = []
        for done, i in enumerate(draft.blocks):
            yield "Scoring the neurons", done, c.n_layers
            up, down = draft.layers[f"blocks.{i}.mlp.up"], draft.layers[f"blocks.{i}.mlp.down"]
            names += [up.name, down.name]
            with draft.clock(self.key):
                if draft.sizes_only:
                    scores = _equal(c.intermediate_size)
                elif options.score == "activation":
                    scores = draft.reference(down.name).square().sum(dim=0) * draft.importance(down.name)
                else:
                    scores = neuron_scores(draft.reference(up.name), draft.reference(down.name), c.gated)
                kept = scores.topk(keep).indices.sort().values  # (keep,)
            up.cut_rows(_with_gate(kept, c.intermediate_size) if c.gated else kept)
            down.cut_columns(kept)
        draft.reshape(intermediate_size=keep)
        return Effect(tuple(names), f"{c.intermediate_size - keep:,} of {c.intermediate_size:,} neurons removed in "
                      f"{agreed(c.n_layers, 'the one layer', f'each of {c.n_layers} layers')}.")


def neurons_left(size: int, amount: float) -> int:
    """How many of `size` neurons stay, rounded to a multiple of 8 where there are enough."""
    keep = round(size * (1 - amount))
    if keep >= _MULTIPLE and keep < size:
        keep = min(size, round(keep / _MULTIPLE) * _MULTIPLE)
    return max(1, keep)


def neuron_scores(up: Tensor, down: Tensor, gated: bool) -> Tensor:
    """Score of every neuron, (F,). up (F or 2F, D), down (D, F)."""
    into = up.norm(dim=1)
    if gated:
        gate, value = into.chunk(2)
        into = gate * value
    scores: Tensor = into * down.norm(dim=0)
    return scores


def _equal(neurons: int) -> Tensor:
    import torch

    return torch.zeros(neurons)


def _with_gate(kept: Tensor, size: int) -> Tensor:
    import torch

    return torch.cat((kept, kept + size))


TECHNIQUE = PruneNeurons()
