"""Precision: the dtype in which weights are kept and activations computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from engine.models.config import ModelConfig
from engine.models.devices import DeviceFacts
from engine.techniques.base import Effect, Options, Technique, Verdict, option

if TYPE_CHECKING:
    from engine.techniques.draft import Draft

DTYPES = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class PrecisionOptions(Options):
    """dtype of weights and activations."""

    key: ClassVar[str] = "precision"
    dtype: str = option("bf16", "Data type", "fp32 is exact; bf16 keeps fp32's range in half the bytes; fp16 keeps "
                        "more digits in half the bytes but overflows above 65,504.", choices=DTYPES)


class Precision(Technique):
    """Casts every weight once; a model without this technique runs in fp32."""

    order = 40
    label = "Precision"
    group = "Precision"
    summary = "Keep weights and activations in fewer bits."
    options_type = PrecisionOptions

    def available(self, options: Options, device: DeviceFacts, model: ModelConfig | None) -> Verdict:
        assert isinstance(options, PrecisionOptions)
        if options.dtype == "bf16" and not device.bf16:
            return Verdict(False, f"{device.name} has no bf16 arithmetic.")
        return Verdict(True)

    def short(self, options: Options) -> str:
        assert isinstance(options, PrecisionOptions)
        return options.dtype

    def apply(self, options: Options, draft: Draft) -> Effect:
        assert isinstance(options, PrecisionOptions)
        dense = [layer for layer in draft.layers.values() if not layer.quantization]
        before = draft.total_bytes()
        draft.dtype = options.dtype
        skipped = len(draft.layers) - len(dense)
        kept = f"; {skipped} quantized layers keep int8" if skipped else ""
        return Effect(len(dense), before, draft.total_bytes(),
                      f"{len(dense)} linear layers, embeddings and norms in {options.dtype}{kept}.")


TECHNIQUE = Precision()
