"""A decoder whose blocks lie on several devices: what reaches a block is brought to its device first.

The decoder itself knows nothing of it. Activations move where a block's device is another than the last one's; masks
and rotary tables, which all blocks of a pass share, are copied once a pass and device. Keys and values stay where
their block is (engine/models/cache.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from engine.models.gpt import Decoder, Place
from engine.models.placement import Placement


def spread(decoder: Decoder, placement: Placement) -> None:
    """Have every block's input brought to its device, and the last one's output back to the first device."""
    bringers = [_Bringer(torch.device(device.torch_name)) for device in placement.devices]
    for block, at in zip(decoder.blocks, placement.blocks, strict=True):
        block.register_forward_pre_hook(bringers[at].block)
    decoder.norm.register_forward_pre_hook(bringers[0].stream)


class _Bringer:
    """Brings a pass to one device. The place of the newest pass is kept there, being asked for by each block."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._known: tuple[Place, Place] | None = None

    def block(self, _module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Of a block: x (B, T, D), its place, and the cache, which is everywhere."""
        x, place, *rest = inputs
        if self._known is None or self._known[0] is not place:
            self._known = place, self._brought(place)
        return x.to(self._device), self._known[1], *rest

    def stream(self, _module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        """Of the last norm: x (B, T, D)."""
        return (inputs[0].to(self._device),)

    def _brought(self, place: Place) -> Place:
        def here(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(self._device)

        turns = tuple((cos.to(self._device), sin.to(self._device)) for cos, sin in place.turns)
        at = place.at.to(self._device) if isinstance(place.at, Tensor) else place.at
        return Place(at, turns, here(place.full), here(place.windowed))
