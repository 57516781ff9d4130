"""int8 weight-only quantization: only the weights are rounded, so the model changes least of all the 8-bit schemes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from engine.kernels.packing import int8_weight_bytes
from engine.kernels.scheme import Scheme
from engine.models.config import ModelConfig
from engine.models.devices import DeviceFacts
from engine.techniques.base import Effect, Options, Technique, Verdict
from engine.techniques.quantizing import EXCLUSIVE, embedding_option, head_option, quantize

if TYPE_CHECKING:
    from engine.kernels.linear import LinearKernel, Rows, Weights
    from engine.techniques.draft import Draft


@dataclass(frozen=True)
class Int8WeightScheme(Scheme):
    """One byte a weight and a scale a row."""

    name = "int8"
    any_float = True

    def nbytes(self, shape: tuple[int, int], dtype: str, device: DeviceFacts) -> int:
        return int8_weight_bytes(shape, device)

    def layer(self, weights: Weights, dtype: str, device: DeviceFacts) -> tuple[LinearKernel, Rows]:
        from engine.kernels.int8_weight import Int8WeightLinear
        from engine.kernels.linear import Rows

        made = Int8WeightLinear(weights, device)
        return made, Rows(made.shape, made.dense_rows)


@dataclass(frozen=True)
class Int8WeightOptions(Options):
    """head, embedding: whether they are quantized too."""

    key: ClassVar[str] = "int8-weight"
    head: str = head_option()
    embedding: str = embedding_option()


class Int8Weight(Technique):
    """Quantizes the weights of every linear layer inside the blocks, and the head where asked to."""

    order = 31
    label = "int8 weight-only"
    group = "Quantization"
    summary = "Weights in 8 bits, activations untouched: nearly no loss, a quarter of fp32's bytes."
    exclusive = EXCLUSIVE
    options_type = Int8WeightOptions

    def available(self, options: Options, device: DeviceFacts, model: ModelConfig | None) -> Verdict:
        if device.kind == "mps":
            return Verdict(False, "int8 weight-only is not offered on Apple GPUs yet.")
        if device.kind == "cpu" and not (device.int8_weight_kernel or device.native):
            return Verdict(False, "This PyTorch has no int8 weight-only kernel for this processor.")
        return Verdict(True)

    def short(self, options: Options) -> str:
        assert isinstance(options, Int8WeightOptions)
        return "int8 weights" + (" with head" if options.head != "keep" else "")

    def apply(self, options: Options, draft: Draft) -> Effect:
        assert isinstance(options, Int8WeightOptions)
        scheme = Int8WeightScheme()
        return quantize(draft, self.key, scheme, scheme if options.head != "keep" else None, options.embedding,
                        "int8 codes, one scale per row; activations are not quantized")


TECHNIQUE = Int8Weight()
