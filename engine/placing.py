"""A recipe's model laid over several devices, where the first has no room for all of it.

It counts what each block would weigh on each device, its keys and values for a usual chat beside it, and asks
engine/models/placement.py for a plan.
"""

from __future__ import annotations

import math

from engine.errors import DynoError
from engine.kernels.packing import ITEM_BYTES
from engine.models.config import cache_bytes_per_token
from engine.models.placement import SHARE, Placement, plan, together
from engine.recipe import Recipe
from engine.techniques import technique
from engine.techniques.draft import Draft

_CONTEXT = 4096  # tokens whose keys and values are counted with


def place_layers(draft: Draft, recipe: Recipe) -> Placement:
    """Where the layers of a draft over together(device) may lie. Raises DynoError where the model cannot be split, a
    technique cannot run on one of the devices, or not even all of them have room."""
    devices = together(draft.device)
    if draft.config.foreign:
        raise DynoError(f"{draft.config.model_type} runs through Transformers, whose layers are not split over devices "
                        "here, and one device has no room for all of them.", "Choose a smaller model.")
    if draft.compile:
        raise DynoError("Compile needs the whole model on one device, and none has room for all of it.",
                        "Switch Compile off, choose fewer bits or a smaller model.")
    free = [int(SHARE * device.free_bytes()) for device in devices]
    needs = [[block_bytes(draft, at, index) for at in range(draft.config.n_layers)] for index in range(len(devices))]
    fixed = draft.total_bytes() - sum(block_weights(draft, at, 0) for at in range(draft.config.n_layers))
    blocks = plan(needs, fixed, free)
    if blocks is None:
        need, room = draft.total_bytes(), sum(free)
        raise DynoError(f"The recipe {recipe.label} needs {need / 1e9:.2f} GB for weights, {fixed / 1e9:.2f} GB of it "
                        f"on {devices[0].name}; all devices together can give {room / 1e9:.2f} GB.",
                        "Choose fewer bits or a smaller model, or close other programs.")
    used = max(blocks) + 1
    for device in devices[1:used]:
        for options in recipe.options:
            tech = technique(options.key)
            assert tech is not None, options.key
            verdict = tech.usable(options, device, draft.config)
            if not verdict.ok:
                raise DynoError(f"A part of the model must lie on {device.name}, and {tech.label} cannot run there: "
                                f"{verdict.reason}", f"Switch {tech.label} off, or choose a smaller model.")
    return Placement(devices[:used], blocks)


def block_bytes(draft: Draft, block: int, index: int) -> int:
    """What a block of the decoder takes on one of the devices: weights, and keys and values of a usual chat."""
    c = draft.config
    cache = min(_CONTEXT, c.context) * cache_bytes_per_token(c, draft.cache_dtype) // c.n_layers
    return block_weights(draft, block, index) + cache


def block_weights(draft: Draft, block: int, index: int) -> int:
    """The weights of a block of the decoder alone, in bytes."""
    item, total = ITEM_BYTES[draft.dtype], 0
    start = f"blocks.{draft.blocks[block]}."
    layers = [layer for name, layer in draft.layers.items() if name.startswith(start)]
    for layer in layers:
        exact = layer.scheme is not None and layer.scheme.exact_bias
        total += draft.layer_bytes(layer, together(draft.device)[index])
        total += layer.shape[0] * (4 if exact else item) if layer.has_bias else 0
    linear = {layer.name for layer in layers}
    return total + sum(item * math.prod(draft.masters.shape(name)) for name in draft.masters
                       if name.startswith(start) and name.rpartition(".")[0] not in linear)
