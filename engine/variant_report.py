"""What a built decoder is said to be: read from the modules that run and the memory they hold, never from the plan."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from engine.kernels.embedding import Int8Embedding, RowsOnDemand
from engine.kernels.linear import LinearKernel, tensor_memory
from engine.kernels.native_step import NativeStep
from engine.kernels.token_step import TokenStep
from engine.models.devices import DeviceFacts
from engine.models.gpt import Decoder
from engine.reports import LayerReport, TechniqueReport
from engine.techniques.base import Effect, Technique
from engine.techniques.draft import Draft
from engine.words import agreed, counted


@dataclass(frozen=True)
class Applied:
    """A technique in a draft: what it recorded, and bytes of the whole model's weights before and after it."""

    technique: Technique
    effect: Effect
    before: int
    after: int


def layer_reports(decoder: Decoder) -> tuple[LayerReport, ...]:
    """Every linear layer as it runs, in the decoder's order."""
    embedding = tensor_memory(decoder.embed.weight)[0] if isinstance(decoder.embed, nn.Embedding) else None
    reports = []
    for name, module in decoder.named_modules():
        if isinstance(module, LinearKernel):
            memory = dict(module.memory())
            reports.append(LayerReport(name, module.shape, module.dtype_name, module.sparsity, sum(memory.values()),
                                       module.kernel, shared=embedding in memory, error=module.error))
    return tuple(reports)


def technique_report(done: Applied, layers: tuple[LayerReport, ...], draft: Draft) -> TechniqueReport:
    """What one technique did to the draft, and which of the `layers` that run now carry it."""
    key, effect = done.technique.key, done.effect
    touched = {draft.place(name): name for name in effect.layers}
    kernels: dict[str, int] = {}
    for layer in layers:
        name = touched.get(layer.name)
        if name is not None and draft.layers[name].scheme_key == ("" if done.technique.dense_kernels else key):
            kernels[layer.kernel] = kernels.get(layer.kernel, 0) + 1
    detail = effect.detail
    if effect.zeros:
        detail = f"{_zeros_sentence(effect.zeros, [la for la in layers if la.name in touched])} {detail}"
    return TechniqueReport(key, done.technique.label, effect.engaged, len(effect.layers), done.before, done.after,
                           detail, build_s=draft.spent_s.get(key, 0.0),
                           kernels=tuple(sorted(kernels.items(), key=lambda item: -item[1])))


def _zeros_sentence(pruned: int, layers: list[LayerReport]) -> str:
    """How many weights are zero as they run: some were before, and rounding to few bits moves others to zero or off."""
    total = sum(math.prod(layer.shape) for layer in layers)
    zeros = round(sum(layer.sparsity * math.prod(layer.shape) for layer in layers))
    words = f"{zeros:,} of {counted(total, 'weight')} {agreed(zeros, 'is', 'are')} zero"
    if zeros == pruned:
        return f"{words}."
    if zeros > pruned:
        return f"{words}: {pruned:,} by pruning, {zeros - pruned:,} by rounding or in the model itself."
    return f"{words}: pruning chose {pruned:,}, and rounding moved {pruned - zeros:,} of them off zero."


def weight_bytes(decoder: Decoder) -> int:
    """Bytes of everything the decoder keeps alive, each block of memory once."""
    seen: dict[object, int] = {}
    for module in decoder.modules():
        if isinstance(module, (LinearKernel, RowsOnDemand, Int8Embedding)):
            seen |= dict(module.memory())
        else:
            seen |= dict(tensor_memory(t) for t in module.parameters(recurse=False))
    return sum(seen.values())


def token_step_words(device: DeviceFacts, decoder: Decoder, step: TokenStep) -> str:
    """How single tokens are computed on a CPU, and why not natively; "" on other devices."""
    if device.kind != "cpu":
        return ""
    if isinstance(step, NativeStep):
        return f"native step, {device.native}"
    if decoder.config.foreign:
        return (f"PyTorch, not the native step. Transformers runs {decoder.config.model_type}: GPT Dyno's own "
                "decoder does not know this architecture.")
    if not device.native:
        return f"PyTorch, not the native step. {device.native_missing or 'This machine has none.'}"
    foreign = [m.kernel for m in decoder.modules() if isinstance(m, LinearKernel) and m.native() is None]
    why = (f"It cannot read {counted(len(foreign), 'layer')} ({foreign[0]})." if foreign
           else "It does not take a model of this shape.")
    return f"PyTorch, not the native step. {why}"
