"""A recipe on its way to becoming weights: what each layer will be, before kernels are chosen.

Techniques write into the draft; nothing is computed until a layer's weight is asked for, so a large model is built one
layer at a time and the masters are never written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.kernels.packing import fbgemm_bytes
from engine.models.config import ModelConfig
from engine.models.devices import DeviceFacts

if TYPE_CHECKING:
    from torch import Tensor

    from engine.models.checkpoint import Masters

Edit = Callable[["Tensor"], "Tensor"]
_ITEM_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


@dataclass
class LayerDraft:
    """One linear slot. shape: (rows out, columns in) as it will be built. source: the master it starts from.

    tied: the slot will share the embedding's own tensor. Quantizing a tied head ends that: codes need their own memory.

    quantization names the scheme that replaces the dense weight, empty for none. Edits take and give the fp32 weight
    (or bias) and return a new tensor.
    """

    name: str
    shape: tuple[int, int]
    source: str
    has_bias: bool
    tied: bool = False
    quantization: str = ""
    weight_edits: list[Edit] = field(default_factory=list)
    bias_edits: list[Edit] = field(default_factory=list)

    @property
    def numel(self) -> int:
        """Number of weights, bias apart."""
        return self.shape[0] * self.shape[1]


class Draft:
    """The model as a recipe will make it.

    dtype: weights and activations ("fp32", "bf16", "fp16"). autocast: dtype of torch.autocast, or None.
    """

    def __init__(self, masters: Masters, device: DeviceFacts) -> None:
        self.masters = masters
        self.device = device
        self.dtype = "fp32"
        self.autocast: str | None = None
        self.layers = {layer.name: layer for layer in _slots(masters.config)}

    @property
    def config(self) -> ModelConfig:
        """Shape of the unpruned model."""
        return self.masters.config

    def inner(self) -> Iterator[LayerDraft]:
        """The linear layers inside the blocks: everything but the head."""
        return (layer for name, layer in self.layers.items() if name != "head")

    def weight(self, name: str) -> Tensor:
        """The slot's fp32 weight after every edit so far, (rows, columns); may be a view of the masters: read-only."""
        import torch

        layer = self.layers[name]
        return _edited(self.masters[layer.source].to(torch.float32), layer.weight_edits)

    def bias(self, name: str) -> Tensor | None:
        """The slot's fp32 bias after every edit so far, or None."""
        import torch

        layer = self.layers[name]
        if not layer.has_bias:
            return None
        return _edited(self.masters[f"{name}.bias"].to(torch.float32), layer.bias_edits)

    def layer_bytes(self, layer: LayerDraft) -> int:
        """Bytes of the slot's weight as the draft stands, padding of packed codes included."""
        if layer.quantization:
            return fbgemm_bytes(layer.shape, self.device)
        return layer.numel * _ITEM_BYTES[self.dtype]

    def total_bytes(self) -> int:
        """Bytes of the whole model as the draft stands, embeddings and norms included."""
        item = _ITEM_BYTES[self.dtype]
        linear = set(self.layers)
        rest = sum(_numel(self.masters.shape(n)) for n in self.masters if n.rpartition(".")[0] not in linear)
        biases = sum(layer.shape[0] for layer in self.layers.values() if layer.has_bias)
        return (rest + biases) * item + sum(self.layer_bytes(la) for la in self.layers.values() if not la.tied)


def _edited(tensor: Tensor, edits: list[Edit]) -> Tensor:
    for edit in edits:
        tensor = edit(tensor)
    return tensor


def _numel(shape: tuple[int, ...]) -> int:
    n = 1
    for size in shape:
        n *= size
    return n


def _slots(c: ModelConfig) -> Iterator[LayerDraft]:
    up_rows = c.intermediate_size * (2 if c.gated else 1)
    for i in range(c.n_layers):
        for slot, rows, columns, bias in (("attn.qkv", c.qkv_size, c.hidden_size, c.qkv_bias),
                                          ("attn.out", c.hidden_size, c.n_heads * c.head_dim, c.out_bias),
                                          ("mlp.up", up_rows, c.hidden_size, c.mlp_bias),
                                          ("mlp.down", c.hidden_size, c.intermediate_size, c.mlp_bias)):
            name = f"blocks.{i}.{slot}"
            yield LayerDraft(name, (rows, columns), f"{name}.weight", bias)
    yield LayerDraft("head", (c.vocab_size, c.hidden_size), "embed.weight" if c.tied else "head.weight", False, c.tied)
