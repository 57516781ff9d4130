"""Quantization-aware training: layers that multiply by the weight the quantization techniques would make of theirs.

Codes and scales are those of engine.kernels.rounding, so the exported weights quantize to exactly what was trained.
The gradient passes the rounding as if it were not there (straight-through: Bengio et al., 2013).

int2 uses the codes 0, 5, 10 and 15 of an int4 group: four evenly spaced levels with int4's own scale and zero, so the
int4 technique runs them as they are. They take int4's bytes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.kernels.rounding import Groups, round_groups, round_rows
from engine.models.gpt import Decoder
from engine.train_plan import TrainPlan
from engine.training.network import block_layers, replace_layer

_INT2_STEP = 5  # between int4 codes: 0, 5, 10, 15
_LEAST_SCALE = 1e-30


@torch.no_grad()
def rounded(weight: Tensor, scheme: str, group: int, activations: bool = False) -> Tensor:
    """The fp32 weight (N, K) that the codes of a scheme stand for. scheme: "int8", "int4" or "int2".

    activations: they are rounded too, so that int8 is that of int8 dynamic; a CPU's int8 weight-only keeps its scales
    in bf16.
    """
    weight = weight.detach().float()
    if scheme == "int8":
        fine = activations or weight.device.type != "cpu"
        codes, scale = round_rows(weight, torch.float32 if fine else torch.bfloat16)
        return codes.float().mul_(scale[:, None])
    groups = round_groups(weight, group, torch.bfloat16)
    return (groups if scheme == "int4" else _int2(groups, weight)).dense()


def _int2(groups: Groups, weight: Tensor) -> Groups:
    filled = F.pad(weight, (0, groups.codes.shape[1] - weight.shape[1])).view(weight.shape[0], -1, groups.size)
    place = (filled - groups.zero.float()[..., None]) / groups.scale.float()[..., None] + 8  # 0..15 with fractions
    codes = (place / _INT2_STEP).round_().clamp_(0, 3).mul_(_INT2_STEP).to(torch.uint8)
    return Groups(codes.view(weight.shape[0], -1), groups.scale, groups.zero, groups.size, groups.columns)


class RoundedLinear(nn.Linear):
    """A linear layer whose weight is rounded in the forward pass, and its inputs too where asked."""

    def __init__(self, layer: nn.Linear, scheme: str, group: int, activations: bool) -> None:
        super().__init__(layer.in_features, layer.out_features, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.scheme, self.group, self.activations = scheme, group, activations
        self.active = True  # off: the layer as it is without rounding

    def forward(self, x: Tensor) -> Tensor:
        if not self.active:
            return F.linear(x, self.weight, self.bias)
        if self.activations:
            x = x + (_eight_bits(x) - x).detach()
        weight = self.weight + (rounded(self.weight, self.scheme, self.group, self.activations)
                                - self.weight).detach()
        return F.linear(x, weight, self.bias)


@torch.no_grad()
def _eight_bits(x: Tensor) -> Tensor:
    """Activations as int8 dynamic rounds them: one scale for each token, max|x| / 127."""
    rows = x.float()
    scale = rows.abs().amax(dim=-1, keepdim=True).mul_(1 / 127).clamp_min_(_LEAST_SCALE)
    return (rows / scale).round_().mul_(scale).to(x.dtype)


def round_in_training(decoder: Decoder, plan: TrainPlan) -> None:
    """Put rounding layers into the blocks; embedding, head and norms stay as they are, as the techniques leave them."""
    for name, layer in block_layers(decoder).items():
        replace_layer(decoder, name, RoundedLinear(layer, plan.qat, int(plan.qat_group), plan.qat_activations == "on"))


def export_weight(layer: nn.Linear) -> Tensor:
    """The fp32 weight to export: the trained one, which rounds to the trained codes; for int2 the rounded one, which
    the int4 technique keeps as it is."""
    if isinstance(layer, RoundedLinear) and layer.scheme == "int2":
        return rounded(layer.weight, "int2", layer.group)
    return layer.weight.detach()


def recipe_for(plan: TrainPlan) -> str:
    """The recipe, in the command line's words, that runs what was trained."""
    if plan.qat == "int8":
        return "int8" if plan.qat_activations == "on" else "int8-weight-only"
    return f"int4-weight:group={plan.qat_group}"
