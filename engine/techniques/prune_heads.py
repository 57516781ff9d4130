"""Structured pruning of attention heads: their rows and columns leave the matrices for good.

A head's score is what it adds to the stream on a calibration text: the sum over its channels j of
E[y_j^2] ||W_out[:, j]||^2, with y the head's output. Under grouped queries a key/value head goes together with its
query heads; where whole groups would miss the amount by more, the same number of query heads leaves every group, so
that the groups stay even.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from engine.models.config import ModelConfig
from engine.techniques.base import Effect, Options, Steps, Technique, option, whole_parts
from engine.words import agreed, counted

if TYPE_CHECKING:
    from torch import Tensor

    from engine.techniques.draft import Draft


@dataclass(frozen=True)
class PruneHeadsOptions(Options):
    """amount: share of each layer's heads removed."""

    key: ClassVar[str] = "prune-heads"
    amount: float = option(0.25, "Amount", "Share of each layer's attention heads that are removed, those that add "
                           "least first.", unit="share", low=0.0, high=0.75, step=0.05)


@dataclass(frozen=True)
class HeadPlan:
    """groups: key/value heads removed with their queries. queries: query heads removed from every group left."""

    groups: int
    queries: int


class PruneHeads(Technique):
    """Removes whole heads, the same number in every layer."""

    order = 9
    label = "Pruning, attention heads"
    group = "Pruning"
    summary = "Remove the heads that add least: smaller matrices, and a smaller KV cache."
    options_type = PruneHeadsOptions
    own_decoder = "Which rows of its matrices belong to a head is known of GPT Dyno's own decoder only."

    def short(self, options: Options) -> str:
        assert isinstance(options, PruneHeadsOptions)
        return f"heads -{100 * options.amount:.0f} %"

    def steps(self, options: Options, draft: Draft) -> Steps:
        assert isinstance(options, PruneHeadsOptions)
        c = draft.config
        plan = plan_heads(c, options.amount)
        if not plan.groups and not plan.queries:
            return Effect((), "Nothing to remove at this amount: the model has "
                          f"{counted(c.n_heads, 'head')} in {counted(c.n_kv_heads, 'group')} a layer.", engaged=False)
        yield from draft.calibrate()
        names: list[str] = []
        for done, i in enumerate(draft.blocks):
            yield "Scoring the heads", done, c.n_layers
            qkv, out = draft.layers[f"blocks.{i}.attn.qkv"], draft.layers[f"blocks.{i}.attn.out"]
            names += [qkv.name, out.name]
            with draft.clock(self.key):
                scores = (_equal(c.n_heads) if draft.sizes_only else
                          head_scores(draft.reference(out.name), draft.importance(out.name), c.n_heads))
                queries, keys = kept_heads(scores, plan, c)
            q, kv = channels(queries, c.head_dim), channels(keys, c.head_dim)
            out.cut_columns(q)
            qkv.cut_rows(_fused(q, kv, c))
        draft.reshape(n_heads=len(queries), n_kv_heads=len(keys))
        return Effect(tuple(names), f"{c.n_heads - len(queries)} of {counted(c.n_heads, 'query head')} and "
                      f"{c.n_kv_heads - len(keys)} of {counted(c.n_kv_heads, 'key/value head')} removed in "
                      f"{agreed(c.n_layers, 'the one layer', f'each of {c.n_layers} layers')}."
                      + whole_parts(options.amount, 1 - len(queries) / c.n_heads))


def plan_heads(c: ModelConfig, amount: float) -> HeadPlan:
    """Whole groups, or the same number of queries from every group: whichever comes closer to the amount."""
    per_group = c.n_heads // c.n_kv_heads
    groups = min(c.n_kv_heads - 1, int(amount * c.n_kv_heads + 0.5))
    queries = min(per_group - 1, int(amount * per_group + 0.5))
    if abs(groups / c.n_kv_heads - amount) <= abs(queries / per_group - amount):
        return HeadPlan(groups, 0)
    return HeadPlan(0, queries)


def head_scores(out: Tensor, mean_square: Tensor, heads: int) -> Tensor:
    """What each query head adds, (H,). out (D, H d): the output matrix; mean_square (H d,): of its inputs."""
    return (out.square().sum(dim=0) * mean_square).view(heads, -1).sum(dim=1)


def kept_heads(scores: Tensor, plan: HeadPlan, c: ModelConfig) -> tuple[Tensor, Tensor]:
    """(query heads, key/value heads) that stay, in order. scores (H,)."""
    by_group = scores.view(c.n_kv_heads, -1)  # (K, H / K)
    per_group = by_group.shape[1]
    keys = by_group.sum(dim=1).topk(c.n_kv_heads - plan.groups).indices.sort().values  # (K',)
    best = by_group[keys].topk(per_group - plan.queries, dim=1).indices.sort(dim=1).values  # (K', H' / K')
    return (best + keys[:, None] * per_group).flatten(), keys


def _equal(heads: int) -> Tensor:
    import torch

    return torch.zeros(heads)


def channels(heads: Tensor, size: int) -> Tensor:
    """Indices of the heads' channels, (n size,)."""
    import torch

    return (heads[:, None] * size + torch.arange(size)).flatten()


def _fused(q: Tensor, kv: Tensor, c: ModelConfig) -> Tensor:
    """Rows of the fused query/key/value matrix."""
    import torch

    keys, values = c.n_heads * c.head_dim, (c.n_heads + c.n_kv_heads) * c.head_dim
    return torch.cat((q, kv + keys, kv + values))


TECHNIQUE = PruneHeads()
