"""A variant: the model as one recipe makes it, ready to run. Built from the masters, never from another variant.

Building is a generator, one layer a step, so that the engine can look at its control queue in between.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from engine.aside import aside
from engine.errors import DynoError
from engine.kernels.choose import choose_kernel, tied_kernel
from engine.kernels.compiled_step import CompiledStep
from engine.kernels.embedding import Int8Embedding, RowsOnDemand
from engine.kernels.flat_step import FlatStep
from engine.kernels.linear import LinearKernel, Weights, parameter
from engine.kernels.native_step import NativeStep
from engine.kernels.token_step import DecoderStep, TokenStep
from engine.models.cache import Int8KVCache, KVCache
from engine.models.checkpoint import Masters
from engine.models.config import cache_bytes_per_token
from engine.models.devices import DeviceFacts, torch_dtype
from engine.models.foreign import ForeignCache, ForeignDecoder, ForeignMasters
from engine.models.gpt import Decoder, attend_plain
from engine.models.mapped import trim
from engine.models.placement import SHARE, Placement, together
from engine.models.spread import spread
from engine.native.library import library
from engine.placing import place_layers
from engine.recipe import Recipe
from engine.reports import EngagedReport
from engine.techniques import technique
from engine.techniques.base import BuildStep
from engine.techniques.calibration import Calibrator
from engine.techniques.draft import Draft, Lookup
from engine.techniques.quantizing import quantizes
from engine.variant_report import Applied, layer_reports, technique_report, token_step_words, weight_bytes
from engine.words import counted

_LARGE = 1 << 26  # weights of a layer whose building takes so long that it must be possible to walk away from it
_TRIMMED = 1 << 20  # weights of a layer whose building leaves so much behind that it is worth giving back
_COMPILED_CAPACITY = 512  # compiled caches have one of few sizes, each twice the last
_SDPA = {"math": "MATH", "flash": "FLASH_ATTENTION", "efficient": "EFFICIENT_ATTENTION", "cudnn": "CUDNN_ATTENTION"}


@dataclass(frozen=True)
class Context:
    """What surrounds a forward pass. attention: a scaled-dot-product backend, "" for PyTorch's own choice. others:
    kinds of the devices beside the first, where a model lies on several."""

    device: DeviceFacts
    autocast: torch.dtype | None = None
    attention: str = ""
    tf32: bool = False
    others: tuple[str, ...] = ()

    def __call__(self) -> contextlib.AbstractContextManager[object]:
        """The contexts that are needed, entered together."""
        if self.autocast is None and not self.attention and not self.tf32:
            return contextlib.nullcontext()
        return self._entered()

    @contextlib.contextmanager
    def _entered(self) -> Generator[None, None, None]:
        with contextlib.ExitStack() as stack:
            if self.autocast is not None:
                for kind in (self.device.kind, *self.others):
                    stack.enter_context(torch.autocast(kind, dtype=self.autocast))
            if self.attention:
                # No backend takes every shape and mask: where this one cannot, plain operators step in.
                kinds = torch.nn.attention.SDPBackend
                wanted = [getattr(kinds, _SDPA[self.attention]), kinds.MATH]
                stack.enter_context(torch.nn.attention.sdpa_kernel(wanted, set_priority=True))
            if self.tf32:
                old = torch.backends.cuda.matmul.allow_tf32
                torch.backends.cuda.matmul.allow_tf32 = True
                stack.callback(setattr, torch.backends.cuda.matmul, "allow_tf32", old)
            yield


@dataclass
class Variant:
    """One recipe's decoder and its report. `token_step` runs the steps that make tokens, `forward` everything else."""

    decoder: Decoder
    report: EngagedReport
    device: DeviceFacts
    context: Context
    cache_dtype: str
    token_step: TokenStep
    lookup: Lookup | None = None
    placement: Placement | None = None

    @property
    def recipe(self) -> Recipe:
        """The recipe this variant was built from."""
        return self.report.recipe

    @torch.inference_mode()
    def forward(self, ids: Tensor, cache: KVCache | None, last_only: bool = True) -> Tensor:
        """fp32 logits (B, T, V), or (B, 1, V) with `last_only`, for ids (B, T) that follow the cache's content."""
        with self.context():
            return self.decoder(ids, cache, last_only).float()  # type: ignore[no-any-return]

    @torch.inference_mode()
    def step(self, ids: Tensor, cache: KVCache) -> Tensor:
        """fp32 logits (1, T, V) for ids (1, T), at most MAX_ROWS of them: the step that makes tokens."""
        with self.context():
            return self.token_step(ids, cache).float()

    def new_cache(self, capacity: int) -> KVCache:
        """An empty cache for `capacity` tokens or more in this variant's format."""
        config, device = self.decoder.config, self.device.torch_name
        if isinstance(self.token_step, CompiledStep):
            capacity = compiled_capacity(capacity, config.context)
            return _zeroed(_new_cache(self.decoder, capacity, self.cache_dtype, self.context.autocast, device))
        return self.plain_cache(capacity)

    def plain_cache(self, capacity: int, batch: int = 1) -> KVCache:
        """An empty cache for exactly `capacity` tokens of each of `batch` texts, for `forward`."""
        device: str | tuple[str, ...] = self.device.torch_name
        if self.placement is not None:
            device = tuple(self.placement.devices[at].torch_name for at in self.placement.blocks)
        return _new_cache(self.decoder, capacity, self.cache_dtype, self.context.autocast, device, batch)

    def shares(self) -> list[tuple[DeviceFacts, float]]:
        """The devices, each with the share of keys and values that it holds."""
        if self.placement is None:
            return [(self.device, 1.0)]
        return [(device, self.placement.share(i)) for i, device in enumerate(self.placement.devices)]

    @property
    def compiled(self) -> CompiledStep | None:
        """The compiled token step, where the recipe has one."""
        return self.token_step if isinstance(self.token_step, CompiledStep) else None

    def note_compilation(self) -> None:
        """Bring the report up to date with what the compiler has done."""
        step = self.compiled
        if step is None:
            return
        if step.state not in ("ready", "failed"):
            return
        words = []
        if step.state == "ready":
            words.append(f"The token step was compiled in {step.compile_s:.1f} s, in the background.")
        if step.error:
            there = ", so the uncompiled decoder runs" if step.state == "failed" else "; there the uncompiled one runs"
            words.append(f"Compiling for a cache of {counted(step.failed_capacity, 'token')} failed{there}: "
                         f"{step.error}")
        self.report = replace(self.report, techniques=tuple(
            replace(t, engaged=step.state == "ready", detail=" ".join(words), build_s=step.compile_s)
            if t.key == "compile" else t for t in self.report.techniques))


BuildSteps = Generator[BuildStep, None, Variant]


def build_variant(masters: Masters, recipe: Recipe, device: DeviceFacts, calibrator: Calibrator | None = None,
                  make_room: Callable[[int], None] = lambda nbytes: None) -> BuildSteps:
    """Build a recipe layer by layer, yielding (stage, done, total). Raises DynoError where it cannot run or fit.

    calibrator: gives techniques that ask for it what activations look like. make_room(nbytes): free memory that can be
    spared, called before the check whether the weights fit.
    """
    started_s = time.perf_counter()
    device = device_for(device, recipe)
    draft, done = yield from drafted(masters, recipe, device, calibrator)
    need = draft.total_bytes()
    make_room(int(need / SHARE))
    free = device.free_bytes()
    if need > free * SHARE and device.spill:
        device = replace(together(device)[0], spill=device.spill)
        draft, done = yield from drafted(masters, recipe, device, calibrator)
        draft.placement = place_layers(draft, recipe)
    elif need > free * SHARE:
        raise DynoError(f"The recipe {recipe.label} needs {_size(need)} for weights; {_size(free)} are free.",
                        "Choose fewer bits or a smaller model, or close other programs.")
    try:
        decoder = yield from _assemble(draft)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error):
            raise DynoError(f"Memory ran out while building {recipe.label}.",
                            "Choose fewer bits or a smaller model, or close other programs.") from error
        raise
    device.synchronize()
    variant = _finished(draft, decoder, recipe)
    layers = layer_reports(decoder)
    inner = [layer for layer in layers if layer.name != "head"]
    zeros = sum(layer.sparsity * math.prod(layer.shape) for layer in inner)
    mapped = decoder.embed.master.nbytes if isinstance(decoder.embed, RowsOnDemand) else 0
    variant.report = EngagedReport(
        recipe=recipe, techniques=tuple(technique_report(one, layers, draft) for one in done),
        layers=layers, weight_bytes=weight_bytes(decoder), baseline_bytes=Draft(masters, device).total_bytes(),
        kv_bytes_per_token=cache_bytes_per_token(draft.config, variant.cache_dtype), cache_dtype=variant.cache_dtype,
        sparsity=zeros / sum(math.prod(la.shape) for la in inner), build_s=time.perf_counter() - started_s,
        mapped_bytes=mapped, context=draft.config.context,
        token_step=token_step_words(device, decoder, variant.token_step),
        placement=draft.placement.words if draft.placement is not None else "")
    return variant


def device_for(device: DeviceFacts, recipe: Recipe) -> DeviceFacts:
    """The device, without its native step where a recipe asks for another way to compute a token."""
    other = next((t for o in recipe.options if (t := technique(o.key)) is not None and t.own_step), None)
    if not device.native or other is None:
        return device
    return replace(device, native="", native_missing=f"{other.label} brings its own way to compute a token.")


def drafted(masters: Masters, recipe: Recipe, device: DeviceFacts, calibrator: Calibrator | None = None,
            sizes_only: bool = False) -> Generator[BuildStep, None, tuple[Draft, list[Applied]]]:
    """What a recipe makes of a model, before a layer is built. device: device_for(...) of it. sizes_only: without
    reading a weight, for sizes alone. Raises DynoError where it cannot run."""
    planned = getattr(recipe.get("precision"), "dtype", "fp32")
    autocast = getattr(recipe.get("autocast"), "dtype", "")
    draft = Draft(masters, device, calibrator, planned, autocast, quantizes(o.key for o in recipe.options),
                  sizes_only)
    done: list[Applied] = []
    for options in recipe.options:
        tech = technique(options.key)
        assert tech is not None, options.key
        verdict = tech.usable(options, device, draft.config)
        if not verdict.ok:
            raise DynoError(f"{tech.label} cannot run here: {verdict.reason}", f"Switch {tech.label} off.")
        before = draft.total_bytes()
        effect = yield from tech.steps(options, draft)
        done.append(Applied(tech, effect, before, draft.total_bytes()))
    return draft, done


@torch.no_grad()
def _assemble(draft: Draft) -> Generator[BuildStep, None, Decoder]:
    device, target = draft.device, torch_dtype(draft.dtype)
    masters = draft.masters
    decoder = masters.decoder() if isinstance(masters, ForeignMasters) else Decoder(draft.config, skeleton=True)
    modules = dict(decoder.named_modules())
    total, compiled = len(draft.layers), bool(draft.compile)
    shared = draft.shares_embedding
    for done, layer in enumerate(draft.layers.values()):
        yield "Building", done, total
        if layer.name == "head" and shared:
            continue
        # A layer nobody edits is laid out from the checkpoint's own numbers: an fp32 copy of a large head would be the
        # most that building needs.
        as_stored = not layer.edits and (layer.scheme is None or layer.scheme.any_float)
        weights = Weights(draft.stored(layer.name) if as_stored else draft.weight(layer.name), draft.bias(layer.name),
                          draft.importance(layer.name) if draft.calibrated else None)
        reference = weights.weight if not layer.edits else draft.reference(layer.name)
        place = draft.place(layer.name)
        assert place is not None
        with draft.clock(layer.scheme_key or "precision"):
            make = partial(choose_kernel, weights, reference, draft.dtype, layer.scheme, draft.autocast, compiled,
                           draft.device_of(place))
            if layer.numel < _LARGE or device.kind != "cpu":
                kernel = make()
            else:
                waiting = aside(make)
                while True:
                    try:
                        next(waiting)
                    except StopIteration as made:
                        kernel = made.value
                        break
                    yield "Building", done, total
            del make
        _put(modules, place, kernel)
        del weights, reference
        draft.masters.release(layer.source)
        if layer.numel >= _TRIMMED:
            trim()
    linear = tuple(f"{name}." for name in draft.layers)
    for name in draft.masters:
        place = draft.place(name)
        if place is None or name.startswith(linear) or name == "embed.weight":
            continue
        owner, _, leaf = place.rpartition(".")
        setattr(modules[owner], leaf, parameter(draft.masters[name].to(draft.device_of(place).torch_name, target)))
    _put_embedding(draft, decoder)
    if draft.attention == "plain":
        for block in decoder.blocks:
            block.attn.attend = attend_plain  # type: ignore[union-attr]
    if isinstance(decoder, ForeignDecoder):
        autocast = torch_dtype(draft.autocast) if draft.autocast else None
        decoder.settle(device.torch_name, Context(device, autocast)())
    if draft.placement is not None:
        spread(decoder, draft.placement)
    yield "Building", total, total
    return decoder.eval()


def _put_embedding(draft: Draft, decoder: Decoder) -> None:
    """The embedding: shared with the head, int8 codes, rows of the file where a CPU can reach them, or a copy."""
    device, target = draft.device, torch_dtype(draft.dtype)
    master = draft.masters["embed.weight"]
    if draft.embedding:
        decoder.embed = Int8Embedding(master, target, device.torch_name)
    elif draft.maps_embedding:
        decoder.embed = RowsOnDemand(master, target)
    else:
        weight = parameter(master.to(device.torch_name, target))
        decoder.embed.weight = weight
        if draft.shares_embedding:
            decoder.head = tied_kernel(weight, draft.autocast, bool(draft.compile), device)


def _finished(draft: Draft, decoder: Decoder, recipe: Recipe) -> Variant:
    """The variant around a decoder, its report still to come."""
    autocast = torch_dtype(draft.autocast) if draft.autocast else None
    device = draft.device
    placement = draft.placement
    others = {other.kind for other in placement.devices} - {device.kind} if placement is not None else set()
    context = Context(device, autocast, draft.attention if draft.attention in _SDPA else "", draft.tf32,
                      tuple(sorted(others)))
    plain = isinstance(decoder, ForeignDecoder) or placement is not None
    run = library() if device.native and not plain else None
    step: TokenStep | None = NativeStep.of(decoder, run) if run is not None else None
    if step is None:
        step = FlatStep(decoder) if autocast is None and not plain else DecoderStep(decoder)
    if draft.compile:
        step = CompiledStep(decoder, device.torch_name, draft.compile, context,
                            lambda capacity: _zeroed(_new_cache(decoder, capacity, draft.cache_dtype, autocast,
                                                                device.torch_name)))
    empty = EngagedReport(recipe, (), (), 0, 0, 0, draft.cache_dtype, 0.0, 0.0)
    return Variant(decoder, empty, device, context, draft.cache_dtype, step, draft.lookup, placement)


def _new_cache(decoder: Decoder, capacity: int, dtype: str, autocast: torch.dtype | None,
               device: str | tuple[str, ...], batch: int = 1) -> KVCache:
    if decoder.config.foreign:
        return ForeignCache(capacity)
    if dtype == "int8":
        return Int8KVCache(decoder.config, capacity, autocast or decoder.dtype, device, batch)
    return KVCache(decoder.config, capacity, torch_dtype(dtype), device, batch)


def _zeroed(cache: KVCache) -> KVCache:
    """A step of fixed shapes multiplies unwritten positions by a weight of zero, so they must hold numbers."""
    for tensor in cache.tensors():
        tensor.zero_()
    return cache


def compiled_capacity(wanted: int, context: int) -> int:
    """The capacity of a compiled step that holds `wanted` tokens: 512 times a power of two, or the whole context."""
    capacity = _COMPILED_CAPACITY
    while capacity < wanted:
        capacity *= 2
    return min(capacity, context)


def _put(modules: dict[str, nn.Module], name: str, kernel: LinearKernel) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(modules[owner], leaf, kernel)


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e8 else f"{nbytes / 1e6:.1f} MB"
