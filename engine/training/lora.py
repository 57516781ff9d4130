"""Low-rank adaptation (Hu et al., 2021): y = x W^T + (x A^T) B^T alpha / r, with W frozen and A, B trained.

Own layers rather than the peft package: the decoder's fused matrices are slots that peft does not know, and the merge
that an export needs is one line.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.models.gpt import Decoder
from engine.training.network import block_layers, replace_layer


class LoraLinear(nn.Linear):
    """A frozen linear layer and its low-rank update, which starts at zero."""

    def __init__(self, layer: nn.Linear, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__(layer.in_features, layer.out_features, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        bound = 1 / math.sqrt(layer.in_features)
        down = torch.empty(rank, layer.in_features).uniform_(-bound, bound, generator=generator)
        self.lora_a = nn.Parameter(down.to(layer.weight.device))  # (r, K)
        self.lora_b = nn.Parameter(torch.zeros(layer.out_features, rank, device=layer.weight.device))  # (N, r)
        self.scaling = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        low = F.linear(F.linear(x, self.lora_a), self.lora_b)
        return F.linear(x, self.weight, self.bias) + low * self.scaling

    def merged(self) -> Tensor:
        """The fp32 weight that does both, (N, K)."""
        return self.weight.detach().float() + self.scaling * (self.lora_b.detach() @ self.lora_a.detach())


def adapt(decoder: Decoder, rank: int, alpha: float, seed: int) -> None:
    """Freeze everything, and put low-rank updates beside the block layers."""
    decoder.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, layer in block_layers(decoder).items():
        replace_layer(decoder, name, LoraLinear(layer, rank, alpha, generator))
