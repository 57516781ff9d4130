"""int8 dynamic quantization: int8 weights, one scale per output row; activations quantized on the fly, per call.

The scheme of torch.ao.quantization.quantize_dynamic with a per-channel symmetric weight observer, run by
torch.ops.quantized.linear_dynamic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from engine.models.config import ModelConfig
from engine.models.devices import DeviceFacts
from engine.techniques.base import Effect, Options, Technique, Verdict, option

if TYPE_CHECKING:
    from engine.techniques.draft import Draft


@dataclass(frozen=True)
class Int8DynamicOptions(Options):
    """head: whether the output head is quantized too."""

    key: ClassVar[str] = "int8-dynamic"
    head: str = option("keep", "Output head", "The head decides between all words and loses most by rounding; "
                       "quantizing a tied head also costs a second copy of it.", choices=("keep", "quantize"))


class Int8Dynamic(Technique):
    """Quantizes every linear layer inside the blocks, and the head where asked to."""

    order = 30
    label = "int8 dynamic"
    group = "Quantization"
    summary = "Weights and activations in 8 bits; activations are scaled at every call."
    options_type = Int8DynamicOptions

    def available(self, options: Options, device: DeviceFacts, model: ModelConfig | None) -> Verdict:
        if device.kind != "cpu":
            return Verdict(False, "int8 dynamic runs on a CPU only; PyTorch has no such kernel for this device.")
        if not device.int8_kernels:
            return Verdict(False, "This PyTorch was built without the FBGEMM int8 kernels.")
        return Verdict(True)

    def short(self, options: Options) -> str:
        return "int8"

    def apply(self, options: Options, draft: Draft) -> Effect:
        assert isinstance(options, Int8DynamicOptions)
        layers = list(draft.layers.values()) if options.head == "quantize" else list(draft.inner())
        before = sum(draft.layer_bytes(layer) for layer in layers if not layer.tied)
        for layer in layers:
            layer.quantization = "int8-dynamic"
            layer.tied = False
        after = sum(draft.layer_bytes(layer) for layer in layers)
        codes = sum(layer.numel for layer in layers)
        padding = f" Packing pads them to {after / codes:.1f} times their size." if after > 1.1 * codes else ""
        return Effect(len(layers), before, after,
                      f"{len(layers)} layers hold int8 codes, one scale per row.{padding}")


TECHNIQUE = Int8Dynamic()
