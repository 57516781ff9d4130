"""Whether a model fits, before it is loaded: bytes it will need under a recipe, from config.json and the headers of its
files alone.

The recipe is drafted as for building, on shapes without weights, so the estimate cannot drift from what is built.
Loads torch with the first estimate. What an estimate does not know: which activations a recipe meets, and what other
programs will ask for in the meantime.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import DynoError
from engine.models.config import ModelConfig, cache_bytes_per_token, read_hf
from engine.models.devices import DeviceFacts, pick_device
from engine.models.families import family_of
from engine.models.gguf_header import is_gguf, read_gguf
from engine.models.gguf_names import config_of
from engine.models.known import transformers_has
from engine.models.placement import SHARE, together
from engine.models.weight_files import Entry, read_folder
from engine.recipe import Recipe

if TYPE_CHECKING:
    from engine.models.checkpoint import Masters
    from engine.models.families.base import Source
    from engine.techniques.draft import Draft, LayerDraft

_PROMPT_CHUNK = 256  # tokens of a prompt that run at once (engine.generation)
_SLAB_BYTES = 24 << 20  # what rounding a part of a layer at a time holds (engine.kernels)


@dataclass(frozen=True)
class Fit:
    """What a model needs under a recipe, in bytes.

    weight_bytes: weights as the recipe lays them out, each block of memory once. mapped_bytes: rows read from the file
    where they lie, which take no memory of their own (the system keeps them in its file cache while it can). kv_bytes:
    keys and values of `context` tokens. build_bytes: what building the largest layer needs beside its result, for a
    moment. run_bytes: activations of a prompt and the logits. peak_bytes: the most there is at any one time.
    free_bytes: what can be had now on the device, or on all that are needed. file_bytes: weights on the disk. stored:
    type of most of them there. placement: which layers would lie where, "" where one device holds them all.
    master_bytes: of a model that Transformers runs, the weights as loaded, which stay in memory beside the recipe's.
    """

    architecture: str
    parameters: int
    context: int
    stored: str
    file_bytes: int
    weight_bytes: int
    mapped_bytes: int
    kv_bytes: int
    build_bytes: int
    run_bytes: int
    free_bytes: int
    placement: str = ""
    master_bytes: int = 0

    @property
    def peak_bytes(self) -> int:
        """The most at any one time: while the largest layer is built, or while the model runs at its full context."""
        return self.master_bytes + self.weight_bytes + max(self.build_bytes, self.kv_bytes + self.run_bytes)

    @property
    def loads(self) -> bool:
        """Whether the weights can be built now; a full context may still be too long."""
        if self.placement:
            return True
        weights = self.master_bytes + self.weight_bytes
        return weights + self.build_bytes <= self.free_bytes and weights <= SHARE * self.free_bytes

    @property
    def fits(self) -> bool:
        """Whether it can be loaded now and a context of this length be used."""
        return self.loads and self.peak_bytes <= self.free_bytes


def estimate(path: Path, recipe: Recipe = Recipe(), context: int | None = None,  # noqa: B008 (frozen)
             device: DeviceFacts | None = None) -> Fit:
    """What the model in a folder, or a .gguf file, will need. context: tokens, by default all that the model knows.
    device: where, by default the preferred one. Raises DynoError where the model or the recipe cannot run there, and
    where headers are wrong."""
    from engine.models.checkpoint import Masters, sources
    from engine.variant import device_for

    device = device_for(device or pick_device(), recipe)
    if _foreign(Path(path)):
        return _of_foreign(Path(path), recipe, context, device)
    config, entries = read_headers(Path(path))
    masters = Masters(config, {}, unmapped=_unmapped(entries))
    draft = _drafted(masters, recipe, device)
    tokens = min(context or draft.config.context, draft.config.context)
    rows, columns = masters.shape("embed.weight")
    stored = stored_type(entries)
    item, parts = _item_bytes(entries), sources(config)
    fit = Fit(
        architecture=config.model_type, parameters=masters.parameters, context=tokens, stored=stored,
        file_bytes=sum(e.end - e.begin for e in entries.values()), weight_bytes=draft.total_bytes(),
        mapped_bytes=int(rows * columns * item) if draft.maps_embedding else 0,
        kv_bytes=tokens * cache_bytes_per_token(draft.config, draft.cache_dtype),
        build_bytes=max(_build_bytes(draft, layer, _lies(parts[layer.source]), item)
                        for layer in draft.layers.values()),
        run_bytes=_run_bytes(draft.config, tokens), free_bytes=device.free_bytes())
    return fit if fit.loads or not device.spill else _over_several(fit, masters, recipe, device)


def _foreign(path: Path) -> bool:
    kind = None if is_gguf(path) else read_hf(path).get("model_type")
    return isinstance(kind, str) and family_of(kind) is None and transformers_has(kind)


def _of_foreign(path: Path, recipe: Recipe, context: int | None, device: DeviceFacts) -> Fit:
    """Of a model that Transformers runs, from its modules without their weights. A dense recipe in the file's own type
    shares the weights as loaded; any other has its own beside them."""
    from engine.models.foreign import sketched

    masters, entries = sketched(path), read_folder(path)
    draft = _drafted(masters, recipe, device)
    stored = stored_type(entries)
    file_bytes, item = sum(e.end - e.begin for e in entries.values()), _item_bytes(entries)
    same = {"fp32": "F32", "bf16": "BF16", "fp16": "F16"}[draft.dtype] == stored
    kept = sum(layer.numel * item for layer in draft.layers.values() if layer.scheme is not None)
    tokens = min(context or draft.config.context, draft.config.context)
    return Fit(
        architecture=draft.config.model_type, parameters=masters.parameters, context=tokens, stored=stored,
        file_bytes=file_bytes, weight_bytes=draft.total_bytes(), mapped_bytes=0,
        kv_bytes=tokens * cache_bytes_per_token(draft.config, draft.cache_dtype),
        build_bytes=max(_build_bytes(draft, layer, True, item) for layer in draft.layers.values()),
        run_bytes=_run_bytes(draft.config, tokens), free_bytes=device.free_bytes(),
        master_bytes=int(kept) if same else int(masters.parameters * item))


def _drafted(masters: Masters, recipe: Recipe, device: DeviceFacts) -> Draft:
    """The draft of a recipe, no weight being read."""
    from engine.variant import drafted

    steps = drafted(masters, recipe, device, sizes_only=True)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            draft: Draft = done.value[0]
            return draft


def _over_several(fit: Fit, masters: Masters, recipe: Recipe, device: DeviceFacts) -> Fit:
    """The same with the layers laid over several devices; as it was where they have no room either."""
    from engine.placing import place_layers

    try:
        draft = _drafted(masters, recipe, replace(together(device)[0], spill=device.spill))
        draft.placement = place_layers(draft, recipe)
    except DynoError:
        return fit
    return replace(fit, weight_bytes=draft.total_bytes(), placement=draft.placement.words,
                   free_bytes=sum(one.free_bytes() for one in draft.placement.devices))


def read_headers(path: Path) -> tuple[ModelConfig, dict[str, Entry]]:
    """Shape and stored tensors of a model folder or .gguf file, from its headers. Raises DynoError."""
    if is_gguf(path):
        file = read_gguf(path)
        return config_of(file), file.tensors
    return ModelConfig.from_folder(path), read_folder(path)


def stored_type(entries: dict[str, Entry]) -> str:
    """The type in which most of the bytes are stored, as "BF16" or "Q4_K"."""
    held: dict[str, int] = {}
    for entry in entries.values():
        held[entry.dtype] = held.get(entry.dtype, 0) + entry.end - entry.begin
    if not held:
        raise DynoError("There are no tensors in the model's files.", "Download the model again.")
    return max(held, key=lambda dtype: held[dtype])


def _unmapped(entries: dict[str, Entry]) -> frozenset[str]:
    """The embedding, where GGUF stores it in codes: its rows must be put into memory then."""
    entry = entries.get("token_embd.weight")
    return frozenset({"embed.weight"} if entry is not None and entry.dtype not in ("F32", "F16", "BF16") else ())


def _item_bytes(entries: dict[str, Entry]) -> float:
    """Bytes a weight has when it is read from the file; codes are read as fp32."""
    return 2 if stored_type(entries) in ("F16", "BF16") else 4


def _lies(source: Source) -> bool:
    """Whether a weight is a part of the file as it lies there."""
    return len(source.names) == 1 and not source.transposed and not source.interleaved


def _build_bytes(draft: Draft, layer: LayerDraft, whole: bool, item: float) -> int:
    """What building one layer needs beside its result: the weight put together where it is no view of the file, fp32
    copies where the recipe edits it, and what lies between a weight and its codes."""
    if layer.name == "head" and draft.shares_embedding:
        return 0
    cut = layer.rows is not None or layer.columns is not None
    need = 0.0 if whole and not cut else item * layer.numel
    if layer.edits or not (layer.scheme is None or layer.scheme.any_float):
        need += (8 if layer.edits else 4) * layer.numel
    if layer.scheme is not None and layer.scheme.name == "int4":
        need += (1 + 18 / getattr(layer.scheme, "size", 32)) * layer.numel  # a byte a code; scales and zeros thrice
    return int(need + min(_SLAB_BYTES, 8 * layer.numel))


def _run_bytes(c: ModelConfig, context: int) -> int:
    """Activations of a chunk of a prompt in fp32: the stream and its norm, q, k and v, the widened feed-forward twice,
    visibility of every position; and one token's logits."""
    wide = 3 * c.hidden_size + 2 * c.qkv_size + 3 * c.intermediate_size * (2 if c.gated else 1)
    return _PROMPT_CHUNK * (4 * wide + context * (1 + 4 * c.n_heads // 8)) + 8 * c.vocab_size
