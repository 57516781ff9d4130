"""Precision: the dtype in which weights are kept and activations computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from engine.models.config import ModelConfig
from engine.models.devices import DeviceFacts
from engine.techniques.base import Effect, Options, Technique, Verdict, option
from engine.words import agreed, counted

if TYPE_CHECKING:
    from engine.techniques.draft import Draft

DTYPES = ("fp32", "tf32", "bf16", "fp16")


@dataclass(frozen=True)
class PrecisionOptions(Options):
    """dtype of weights and activations."""

    key: ClassVar[str] = "precision"
    dtype: str = option("bf16", "Data type", "fp32 is exact; tf32 keeps fp32 weights and rounds inside the products "
                        "of NVIDIA cards; bf16 keeps fp32's range in half the bytes; fp16 keeps more digits in half "
                        "the bytes but overflows above 65,504.", choices=DTYPES)


class Precision(Technique):
    """Casts every weight once; a model without this technique runs in fp32."""

    order = 40
    label = "Precision"
    group = "Precision"
    summary = "Keep weights and activations in fewer bits."
    options_type = PrecisionOptions
    case_field = "dtype"
    neutral = "fp32"
    dense_kernels = True

    def available(self, options: Options, device: DeviceFacts, model: ModelConfig | None) -> Verdict:
        assert isinstance(options, PrecisionOptions)
        if options.dtype == "bf16" and not device.bf16:
            return Verdict(False, f"{device.name} has no bf16 arithmetic.")
        if options.dtype == "tf32" and not device.tf32:
            return Verdict(False, "tf32 is a mode of NVIDIA tensor cores (Ampere and later); "
                           f"{device.name} has none.")
        if options.dtype == "fp16" and not device.fp16:
            return Verdict(False, f"{device.name} has no fp16 arithmetic.")
        return Verdict(True)

    def short(self, options: Options) -> str:
        assert isinstance(options, PrecisionOptions)
        return options.dtype

    def apply(self, options: Options, draft: Draft) -> Effect:
        assert isinstance(options, PrecisionOptions)
        dense = tuple(layer.name for layer in draft.layers.values()
                      if layer.scheme is None or not layer.scheme.rounds)
        layers = counted(len(dense), "linear layer")
        if options.dtype == "tf32":
            draft.tf32 = True
            return Effect(dense, f"{layers} {agreed(len(dense), 'multiplies', 'multiply')} in tf32; weights stay fp32.",
                          engaged=bool(dense))
        draft.dtype = options.dtype
        skipped = len(draft.layers) - len(dense)
        kept = (f"; {counted(skipped, 'quantized layer')} {agreed(skipped, 'keeps its', 'keep their')} codes" if skipped
                else "")
        return Effect(dense, f"{layers}, embeddings and norms in {options.dtype}{kept}.")


TECHNIQUE = Precision()
