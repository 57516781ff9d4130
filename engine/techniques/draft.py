"""A recipe on its way to becoming weights: what each layer will be, before kernels are chosen.

Techniques write into the draft; nothing is computed until a layer's weight is asked for, so a large model is built one
layer at a time and the masters are never written.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from engine.errors import DynoError
from engine.kernels.packing import ITEM_BYTES, packs
from engine.kernels.scheme import Scheme
from engine.models.config import ModelConfig
from engine.models.devices import DeviceFacts
from engine.models.placement import Placement
from engine.techniques.base import BuildStep

if TYPE_CHECKING:
    from torch import Tensor

    from engine.models.checkpoint import Masters
    from engine.techniques.calibration import Calibration, Calibrator

Edit = Callable[["Tensor"], "Tensor"]


@dataclass
class LayerDraft:
    """One linear slot, under its name in the masters. shape: (rows out, columns in) as it will be built.

    rows, columns: which of the master's rows and columns are left, None for all. edits: (technique key, function)
    changing values of the cut weight, each returning a new tensor of the same shape.
    tied: the slot will share the embedding's own tensor. Quantizing a tied head ends that: codes need their own memory.
    scheme: how the weight is quantized, None for a dense weight; scheme_key: the technique that chose it.
    """

    name: str
    shape: tuple[int, int]
    source: str
    has_bias: bool
    tied: bool = False
    scheme: Scheme | None = None
    scheme_key: str = ""
    rows: Tensor | None = None
    columns: Tensor | None = None
    edits: list[tuple[str, Edit]] = field(default_factory=list)

    @property
    def numel(self) -> int:
        """Number of weights, bias apart."""
        return self.shape[0] * self.shape[1]

    def cut_rows(self, kept: Tensor) -> None:
        """Keep these of the rows that are left, (n,) indices."""
        self.rows = kept if self.rows is None else self.rows[kept]
        self.shape = len(kept), self.shape[1]

    def cut_columns(self, kept: Tensor) -> None:
        """Keep these of the columns that are left, (n,) indices."""
        self.columns = kept if self.columns is None else self.columns[kept]
        self.shape = self.shape[0], len(kept)


@dataclass(frozen=True)
class Lookup:
    """Speculative decoding by prompt lookup: match the last `ngram` tokens, propose up to `drafts` that followed."""

    ngram: int
    drafts: int


class Draft:
    """The model as a recipe will make it.

    config: its shape, pruned parts gone. blocks: the master blocks that are left, in order. dtype: weights and
    activations. tf32: fp32 products may use tensor cores. autocast: dtype of torch.autocast, or None. cache: dtype of
    the KV cache ("" for that of the activations). attention, compile, lookup: how the forward pass runs.
    embedding: scheme of the embedding ("" for dense). wants_16_bits: the recipe will cast to bf16 or fp16.
    wants_autocast: the dtype of the autocast it will have, "" for none. wants_codes: it will quantize the
    blocks' weights. placement: which device holds which block, None where `device` holds them all. sizes_only:
    nothing is built from it, so techniques choose without reading a weight: which rows go does not change how many
    stay.
    """

    def __init__(self, masters: Masters, device: DeviceFacts, calibrator: Calibrator | None = None,
                 planned_dtype: str = "fp32", planned_autocast: str = "", planned_codes: bool = False,
                 sizes_only: bool = False) -> None:
        self.masters = masters
        self.sizes_only = sizes_only
        self.device = device
        self._calibrator = calibrator
        self._calibration: Calibration | None = None
        self.wants_16_bits = planned_dtype in ("bf16", "fp16")
        self.wants_autocast = planned_autocast
        self.wants_codes = planned_codes
        self.config: ModelConfig = masters.config
        self.blocks = list(range(masters.config.n_layers))
        self.dtype = "fp32"
        self.tf32 = False
        self.autocast: str | None = None
        self.cache = ""
        self.attention = "auto"
        self.compile = ""
        self.lookup: Lookup | None = None
        self.embedding = ""
        self.layers = {layer.name: layer for layer in _slots(masters)}
        self.spent_s: dict[str, float] = {}
        self.placement: Placement | None = None

    @property
    def cache_dtype(self) -> str:
        """dtype in which keys and values are kept."""
        return self.cache or self.autocast or self.dtype

    def inner(self) -> Iterator[LayerDraft]:
        """The linear layers inside the blocks: everything but the head."""
        return (layer for name, layer in self.layers.items() if name != "head")

    def reshape(self, **sizes: int) -> None:
        """Record sizes of the configuration that pruning changed."""
        self.config = replace(self.config, **sizes)  # type: ignore[arg-type]

    def drop_blocks(self, gone: set[int]) -> None:
        """Leave out whole blocks, named by their place in the masters."""
        kept = [at for at, i in enumerate(self.blocks) if i not in gone]
        self.blocks = [self.blocks[at] for at in kept]
        for name in [n for n in self.layers if n.startswith("blocks.") and int(n.split(".")[1]) in gone]:
            del self.layers[name]
        self.config = self.config.keeping(kept)

    def place(self, name: str) -> str | None:
        """Where a master tensor or layer stands in the decoder; None where its block is gone."""
        if not name.startswith("blocks."):
            return name
        _, block, rest = name.split(".", 2)
        return f"blocks.{self.blocks.index(int(block))}.{rest}" if int(block) in self.blocks else None

    def device_of(self, place: str) -> DeviceFacts:
        """The device of a layer or tensor, under its name in the decoder."""
        return self.device if self.placement is None else self.placement.of(place)

    def reference(self, name: str) -> Tensor:
        """The slot's fp32 master weight with pruned rows and columns gone, (rows, columns): read-only."""
        import torch

        stored = self.stored(name)
        weight = stored.to(torch.float32)
        if weight is not stored:
            self.masters.release(self.layers[name].source)
        return weight

    def stored(self, name: str) -> Tensor:
        """The same weight in the dtype of the checkpoint: read-only, a view of the file where it can be."""
        layer = self.layers[name]
        weight = self.masters[layer.source]
        if layer.rows is not None:
            weight = weight.index_select(0, layer.rows)
        if layer.columns is not None:
            weight = weight.index_select(1, layer.columns)
        return weight.contiguous()  # GPT-2's matrices are stored transposed

    def weight(self, name: str) -> Tensor:
        """The slot's fp32 weight after every edit so far, (rows, columns); may be a view of the masters: read-only."""
        weight = self.reference(name)
        for key, edit in self.layers[name].edits:
            with self.clock(key):
                weight = edit(weight)
        return weight

    def bias(self, name: str) -> Tensor | None:
        """The slot's fp32 bias, pruned rows gone, or None."""
        import torch

        layer = self.layers[name]
        if not layer.has_bias:
            return None
        bias = self.masters[f"{name}.bias"]
        return (bias if layer.rows is None else bias.index_select(0, layer.rows)).to(torch.float32)

    def calibrate(self) -> Generator[BuildStep, None, Calibration]:
        """What activations look like on the calibration text. Raises DynoError where there is none."""
        if self.sizes_only:
            from engine.techniques.calibration import Calibration

            return Calibration({}, (0.0,) * self.masters.config.n_layers, 0)
        if self._calibrator is None:
            raise DynoError("This technique needs a calibration text, and none was given.",
                            "Switch it off, or run it on a model with a tokenizer.")
        self._calibration = yield from self._calibrator.steps()
        return self._calibration

    def importance(self, name: str) -> Tensor:
        """Mean square of every input of a slot on the calibration text, pruned columns gone, (K,)."""
        if self.sizes_only:
            import torch

            return torch.ones(self.layers[name].shape[1])
        assert self._calibration is not None, "calibrate() first"
        square, columns = self._calibration.mean_square[name], self.layers[name].columns
        return square if columns is None else square[columns]

    @property
    def calibrated(self) -> bool:
        """Whether importance() can be asked."""
        return self._calibration is not None

    @contextmanager
    def clock(self, key: str) -> Iterator[None]:
        """Count the time spent inside as the technique's."""
        started_s = time.perf_counter()
        try:
            yield
        finally:
            self.spent_s[key] = self.spent_s.get(key, 0.0) + time.perf_counter() - started_s

    def layer_bytes(self, layer: LayerDraft, device: DeviceFacts | None = None) -> int:
        """Bytes of the slot's weight as the draft stands, padding of packed codes included. device: where, by default
        where the draft has it."""
        if layer.scheme is not None:
            return layer.scheme.nbytes(layer.shape, self.dtype,
                                       device or self.device_of(self.place(layer.name) or layer.name))
        return layer.numel * ITEM_BYTES[self.dtype]

    @property
    def shares_embedding(self) -> bool:
        """Whether a tied head reads the embedding's own tensor: where no faster layout is worth memory of its own."""
        head = self.layers["head"]
        return head.tied and not self.embedding and not packs(head.shape, self.dtype, self.autocast,
                                                              bool(self.compile), self.device)

    @property
    def maps_embedding(self) -> bool:
        """Whether the embedding's rows are read from the masters and take no memory: a CPU reaches the mapped file."""
        return (self.device.kind == "cpu" and not self.shares_embedding and not self.embedding
                and not self.compile and self.masters.mapped("embed.weight"))

    def embedding_bytes(self) -> int:
        """Bytes of the embedding as the draft stands."""
        if self.maps_embedding:
            return 0
        rows, columns = self.masters.shape("embed.weight")
        return rows * columns + 4 * rows if self.embedding else rows * columns * ITEM_BYTES[self.dtype]

    def total_bytes(self) -> int:
        """Bytes of the whole model as the draft stands, embeddings and norms included."""
        item = ITEM_BYTES[self.dtype]
        linear = set(self.layers)
        rest = sum(math.prod(self.masters.shape(n)) for n in self.masters
                   if self.place(n) and n != "embed.weight" and n.rpartition(".")[0] not in linear)
        biases = sum(layer.shape[0] * (4 if layer.scheme is not None and layer.scheme.exact_bias else item)
                     for layer in self.layers.values() if layer.has_bias)
        shared = self.shares_embedding
        return (self.embedding_bytes() + rest * item + biases
                + sum(self.layer_bytes(la) for la in self.layers.values() if not (shared and la.name == "head")))

    def quantize(self, key: str, layers: list[LayerDraft], scheme: Scheme) -> None:
        """Give these layers a scheme."""
        for layer in layers:
            layer.scheme, layer.scheme_key, layer.tied = scheme, key, False


def _slots(masters: Masters) -> Iterator[LayerDraft]:
    c = masters.config
    if c.foreign:
        yield from (LayerDraft(slot.name, slot.shape, slot.source, slot.has_bias, slot.tied) for slot in masters.slots)
        return
    up_rows = c.intermediate_size * (2 if c.gated else 1)
    for i in range(c.n_layers):
        for slot, rows, columns, bias in (("attn.qkv", c.qkv_size, c.hidden_size, c.qkv_bias),
                                          ("attn.out", c.hidden_size, c.n_heads * c.head_dim, c.out_bias),
                                          ("mlp.up", up_rows, c.hidden_size, c.mlp_bias),
                                          ("mlp.down", c.hidden_size, c.intermediate_size, c.mlp_bias)):
            name = f"blocks.{i}.{slot}"
            yield LayerDraft(name, (rows, columns), f"{name}.weight", bias)
    yield LayerDraft("head", (c.vocab_size, c.hidden_size), "embed.weight" if c.tied else "head.weight", False, c.tied)
