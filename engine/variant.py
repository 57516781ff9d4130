"""A variant: the model as one recipe makes it, ready to run. Built from the masters, never from another variant.

Building is a generator, one layer a step, so that the engine can look at its control queue in between.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.errors import DynoError
from engine.kernels.choose import Weights, choose_kernel, parameter, tied_kernel
from engine.kernels.linear import LinearKernel, tensor_memory
from engine.messages import EngagedReport, LayerReport, TechniqueReport
from engine.models.checkpoint import Masters
from engine.models.devices import DeviceFacts, torch_dtype
from engine.models.gpt import Decoder, KVCache
from engine.recipe import Recipe
from engine.techniques import technique
from engine.techniques.draft import Draft

_HEADROOM = 0.92


@dataclass
class Variant:
    """One recipe's decoder and its report. `forward` is the seam at which a token step is run."""

    decoder: Decoder
    report: EngagedReport
    device: DeviceFacts
    autocast: torch.dtype | None
    cache_dtype: torch.dtype

    @property
    def recipe(self) -> Recipe:
        """The recipe this variant was built from."""
        return self.report.recipe

    @torch.inference_mode()
    def forward(self, ids: Tensor, cache: KVCache | None, last_only: bool = True) -> Tensor:
        """fp32 logits (B, T, V), or (B, 1, V) with `last_only`, for ids (B, T) that follow the cache's content."""
        with self._context():
            return self.decoder(ids, cache, last_only).float()  # type: ignore[no-any-return]

    def new_cache(self, capacity: int) -> KVCache:
        """An empty cache for `capacity` tokens in this variant's format."""
        return KVCache(self.decoder.config, capacity, self.cache_dtype, self.device.torch_name)

    def _context(self) -> contextlib.AbstractContextManager[object]:
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.kind, dtype=self.autocast)


BuildSteps = Generator[tuple[int, int], None, Variant]


def build_variant(masters: Masters, recipe: Recipe, device: DeviceFacts,
                  make_room: Callable[[int], None] = lambda nbytes: None) -> BuildSteps:
    """Build a recipe layer by layer, yielding (done, total). Raises DynoError where it cannot run or fit.

    make_room(nbytes): free memory that can be spared, called before the check whether the weights fit.
    """
    started_s = time.perf_counter()
    draft, effects = _drafted(masters, recipe, device)
    need = draft.total_bytes()
    make_room(int(need / _HEADROOM))
    free = device.free_bytes()
    if need > free * _HEADROOM:
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
    autocast = torch_dtype(draft.autocast) if draft.autocast else None
    cache_dtype = autocast or torch_dtype(draft.dtype)
    layers = _layer_reports(decoder)
    inner = [layer for layer in layers if layer.name != "head"]
    zeros = sum(layer.sparsity * layer.shape[0] * layer.shape[1] for layer in inner)
    report = EngagedReport(
        recipe=recipe, techniques=tuple(effects), layers=layers, weight_bytes=weight_bytes(decoder),
        baseline_bytes=Draft(masters, device).total_bytes(),
        kv_bytes_per_token=masters.config.kv_elements_per_token() * cache_dtype.itemsize,
        cache_dtype=_dtype_name(cache_dtype), sparsity=zeros / sum(la.shape[0] * la.shape[1] for la in inner),
        build_s=time.perf_counter() - started_s)
    return Variant(decoder, report, device, autocast, cache_dtype)


def _drafted(masters: Masters, recipe: Recipe, device: DeviceFacts) -> tuple[Draft, list[TechniqueReport]]:
    draft, reports = Draft(masters, device), []
    for options in recipe.options:
        tech = technique(options.key)
        assert tech is not None, options.key
        verdict = tech.available(options, device, masters.config)
        if not verdict.ok:
            raise DynoError(f"{tech.label} cannot run here: {verdict.reason}", f"Switch {tech.label} off.")
        effect = tech.apply(options, draft)
        reports.append(TechniqueReport(tech.key, tech.label, effect.engaged, effect.layers_touched,
                                       effect.bytes_before, effect.bytes_after, effect.detail))
    return draft, reports


@torch.no_grad()
def _assemble(draft: Draft) -> Generator[tuple[int, int], None, Decoder]:
    config, device, target = draft.config, draft.device, torch_dtype(draft.dtype)
    decoder = Decoder(config, skeleton=True)
    modules = dict(decoder.named_modules())
    total = len(draft.layers)
    for done, layer in enumerate(draft.layers.values()):
        yield done, total
        if layer.tied:
            continue
        weights = Weights(draft.weight(layer.name), draft.bias(layer.name))
        kernel = choose_kernel(weights, draft.dtype, layer.quantization, draft.autocast, device)
        _put(modules, layer.name, kernel)
    linear = tuple(f"{name}." for name in draft.layers)
    for name in draft.masters:
        if not name.startswith(linear):
            owner, _, leaf = name.rpartition(".")
            setattr(modules[owner], leaf, parameter(draft.masters[name].to(device.torch_name, target)))
    if draft.layers["head"].tied:
        embedding = decoder.embed.weight
        assert isinstance(embedding, nn.Parameter)
        _put(modules, "head", tied_kernel(embedding, draft.autocast, device))
    yield total, total
    return decoder.eval()


def _put(modules: dict[str, nn.Module], name: str, kernel: LinearKernel) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(modules[owner], leaf, kernel)


def weight_bytes(decoder: Decoder) -> int:
    """Bytes of everything the decoder keeps alive, each block of memory once."""
    seen: dict[object, int] = {}
    for module in decoder.modules():
        if isinstance(module, LinearKernel):
            seen |= dict(module.memory())
        else:
            seen |= dict(tensor_memory(t) for t in module.parameters(recurse=False))
    return sum(seen.values())


def _layer_reports(decoder: Decoder) -> tuple[LayerReport, ...]:
    embedding = tensor_memory(decoder.embed.weight)[0]
    reports = []
    for name, module in decoder.named_modules():
        if isinstance(module, LinearKernel):
            memory = dict(module.memory())
            reports.append(LayerReport(name, module.shape, module.dtype_name, module.sparsity, sum(memory.values()),
                                       module.kernel, shared=embedding in memory))
    return tuple(reports)


def _dtype_name(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e8 else f"{nbytes / 1e6:.1f} MB"
