"""The decoder as it is trained: where its weights come from, and the one call a step makes, tokens in, loss out."""

from __future__ import annotations

import functools
import math
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from engine.models.cache import KVCache
from engine.models.config import ModelConfig
from engine.models.gpt import Decoder
from engine.train_plan import TrainPlan
from engine.training.loss import head_loss

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def fresh_decoder(config: ModelConfig, seed: int) -> Decoder:
    """A decoder with random weights, the same for a seed on every machine: normal with deviation 0.02, and matrices
    that write into the residual stream smaller by sqrt(2 L), as GPT-2 has it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):  # what the modules draw for themselves is overwritten
        decoder = Decoder(config)
    with torch.no_grad():
        for name, weight in decoder.named_parameters():
            if weight.ndim == 2:
                small = name.endswith(("attn.out.weight", "mlp.down.weight"))
                weight.normal_(std=0.02 / (math.sqrt(2 * config.n_layers) if small else 1.0), generator=generator)
            elif name.endswith(".bias"):
                weight.zero_()
    return decoder


class Network(nn.Module):
    """A decoder with what training adds: dropout, recomputed activations, autocast and the loss of the head."""

    def __init__(self, decoder: Decoder, plan: TrainPlan, device: torch.device) -> None:
        super().__init__()
        self.decoder = decoder.to(device)
        self.dtype = _DTYPES[plan.precision]
        self._smoothing = plan.label_smoothing
        self._kind = device.type
        if plan.dropout:
            hook = functools.partial(_dropped, plan.dropout)
            decoder.embed.register_forward_hook(hook)
            for block in decoder.blocks:
                for part in (block.attn, block.mlp):
                    part.register_forward_hook(hook)  # type: ignore[union-attr]
        if plan.activation_checkpointing == "on":
            for block in decoder.blocks:
                block.forward = functools.partial(_recomputed, block.forward)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Sum of the losses of a batch, in nats, fp32. ids, targets (B, T); in evaluation without label smoothing."""
        smoothing = self._smoothing if self.training else 0.0
        with torch.autocast(self._kind, self.dtype, enabled=self.dtype != torch.float32):
            stream = self.decoder.stream(ids)  # (B, T, D)
        return head_loss(stream.flatten(0, 1), self.decoder.head.weight, targets.flatten(),  # type: ignore[arg-type]
                         smoothing, self.dtype, self.decoder.config.logit_cap)

    @torch.no_grad()
    def write(self, ids: list[int], count: int, seed: int, end: int | None) -> list[int]:
        """Continue ids by up to `count` tokens drawn at temperature 0.8."""
        config, device = self.decoder.config, self.decoder.norm.weight.device
        ids = ids[-max(1, config.context - count):]
        generator = torch.Generator().manual_seed(seed)
        cache = KVCache(config, min(config.context, len(ids) + count), torch.float32, device)
        new: list[int] = []
        step = ids
        while len(new) < count and cache.length + len(step) <= cache.capacity:
            logits = self.decoder(torch.tensor([step], device=device), cache, True)[0, -1].float().cpu()
            token = int(torch.multinomial(torch.softmax(logits / 0.8, dim=0), 1, generator=generator))
            if token == end:
                break
            new.append(token)
            step = [token]
        return new

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that learn, by the decoder's names; a tied head once."""
        return {name: p for name, p in self.decoder.named_parameters() if p.requires_grad}


def block_layers(decoder: Decoder) -> dict[str, nn.Linear]:
    """The linear layers inside the blocks, by name: what is pruned and quantized; embedding, head and norms are not."""
    return {name: m for name, m in decoder.named_modules() if isinstance(m, nn.Linear) and name != "head"}


def replace_layer(decoder: Decoder, name: str, layer: nn.Module) -> None:
    """Put another module into a slot."""
    owner, _, leaf = name.rpartition(".")
    setattr(decoder.get_submodule(owner), leaf, layer)


def used_bytes(device: torch.device) -> int:
    """Memory that training takes: allocated on a card, else resident in this process."""
    return int(torch.cuda.memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss)


def _dropped(share: float, module: nn.Module, _: Any, output: Tensor) -> Tensor:
    return F.dropout(output, share, module.training)


def _recomputed(forward: Any, *arguments: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*arguments)
    return checkpoint(forward, *arguments, use_reentrant=False)
