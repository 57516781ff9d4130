"""int8 dynamic quantization: int8 weights, one scale per output row; activations quantized on the fly, one scale per
token.

The weights' scheme is that of torch.ao.quantization.quantize_dynamic with a per-channel symmetric observer; scaling
each token for itself is the vector-wise quantization of LLM.int8() (Dettmers et al., 2022) without its outliers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from engine.kernels.packing import int8_bytes
from engine.kernels.scheme import Scheme
from engine.models.config import ModelConfig
from engine.models.devices import DeviceFacts
from engine.techniques.base import Effect, Options, Technique, Verdict
from engine.techniques.quantizing import EXCLUSIVE, embedding_option, head_option, quantize

if TYPE_CHECKING:
    from engine.kernels.linear import LinearKernel, Rows, Weights
    from engine.techniques.draft import Draft


@dataclass(frozen=True)
class Int8DynamicScheme(Scheme):
    """A byte a weight and a scale a row."""

    name = "int8"
    any_float = True

    def nbytes(self, shape: tuple[int, int], dtype: str, device: DeviceFacts) -> int:
        return int8_bytes(shape)

    def layer(self, weights: Weights, dtype: str, device: DeviceFacts) -> tuple[LinearKernel, Rows]:
        from engine.kernels.int8_dynamic import Int8DynamicLinear
        from engine.kernels.linear import Rows
        from engine.kernels.rounding import round_rows

        codes, scale = round_rows(weights.weight)
        used = Rows((codes.shape[0], codes.shape[1]), lambda rows: codes[rows].float().mul_(scale[rows, None]))
        return Int8DynamicLinear(codes, scale, weights.bias, device), used


@dataclass(frozen=True)
class Int8DynamicOptions(Options):
    """head, embedding: whether they are quantized too."""

    key: ClassVar[str] = "int8-dynamic"
    head: str = head_option()
    embedding: str = embedding_option()


class Int8Dynamic(Technique):
    """Quantizes every linear layer inside the blocks, and the head where asked to."""

    order = 30
    label = "int8 dynamic"
    group = "Quantization"
    summary = "Weights and activations in 8 bits; activations are scaled for every token."
    exclusive = EXCLUSIVE
    options_type = Int8DynamicOptions

    def available(self, options: Options, device: DeviceFacts, model: ModelConfig | None) -> Verdict:
        if device.kind != "cpu":
            return Verdict(False, "int8 dynamic runs on a CPU only so far: a card's product of whole numbers takes no "
                           "less than 17 rows, so it would help prompts and not single tokens. Use int8 weight-only.")
        if not device.int8_kernels and not device.native:
            return Verdict(False, "This processor has no 8-bit integer products that PyTorch uses, and the native "
                           "token step is missing.")
        return Verdict(True)

    def short(self, options: Options) -> str:
        assert isinstance(options, Int8DynamicOptions)
        return "int8" + (" with head" if options.head != "keep" else "")

    def apply(self, options: Options, draft: Draft) -> Effect:
        assert isinstance(options, Int8DynamicOptions)
        scheme = Int8DynamicScheme()
        return quantize(draft, self.key, scheme, scheme if options.head != "keep" else None, options.embedding,
                        "int8 codes, one scale per row")


TECHNIQUE = Int8Dynamic()
