"""Which device holds which block of a model that one device has no room for.

What surrounds the blocks (embedding, last norm, head) stays on the first device, where token ids come in and logits
come out. Blocks go in order to the first device that still has room, and never back to an earlier one, so that a
token's activations cross each border once. It knows bytes only: no tensors, no recipes.

Not accelerate's device maps: they count a module as it stands in the file, and here a recipe decides what a block
weighs on each device, with the room for its keys and values beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.models.devices import DeviceFacts

SHARE = 0.92
"""Of what is free on a device, that weights may take."""
_ALONE = "Its layers lie on several devices, so PyTorch computes each step."


@dataclass(frozen=True)
class Placement:
    """devices: those that hold something, the first one first. blocks: for every block of the decoder the index of its
    device; never decreasing."""

    devices: tuple[DeviceFacts, ...]
    blocks: tuple[int, ...]

    def of(self, name: str) -> DeviceFacts:
        """The device of a module or tensor, under its name in the decoder."""
        if not name.startswith("blocks."):
            return self.devices[0]
        return self.devices[self.blocks[int(name.split(".")[1])]]

    def share(self, index: int) -> float:
        """Share of the blocks that a device holds."""
        return self.blocks.count(index) / len(self.blocks)

    @property
    def words(self) -> str:
        """Where the layers lie, for people, layers counted from 1."""
        parts = []
        for index, device in enumerate(self.devices):
            held = [i + 1 for i, at in enumerate(self.blocks) if at == index]
            layers = ("no layer" if not held else f"layer {held[0]}" if len(held) == 1
                      else f"layers {held[0]} to {held[-1]}")
            parts.append(f"{layers}{' and what surrounds them' if index == 0 else ''} on {device.name} "
                         f"({device.torch_name})")
        text = "; ".join(parts)
        return f"{text[0].upper()}{text[1:]}."


def plan(needs: Sequence[Sequence[int]], fixed: int, free: Sequence[int]) -> tuple[int, ...] | None:
    """For every block the index of its device, or None where they do not all fit.

    needs[device][block]: bytes that a block takes there. fixed: bytes that only the first device may hold. free: bytes
    that each device may be given.
    """
    if not free or fixed > free[0]:
        return None
    at, left, placed = 0, free[0] - fixed, []
    for block in range(len(needs[0])):
        while needs[at][block] > left:
            at += 1
            if at == len(free):
                return None
            left = free[at]
        left -= needs[at][block]
        placed.append(at)
    return tuple(placed)


def together(device: DeviceFacts) -> tuple[DeviceFacts, ...]:
    """A device and those that take what it has no room for, as they are when a model lies on several of them."""
    return tuple(replace(one, native="", native_missing=_ALONE, spill=()) for one in (device, *device.spill))
