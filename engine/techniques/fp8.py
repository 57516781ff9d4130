"""fp8 quantization: e4m3 weights and activations, scaled per row, on the tensor cores of Ada, Hopper and later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from engine.kernels.scheme import Scheme
from engine.models.config import ModelConfig
from engine.models.devices import DeviceFacts
from engine.techniques.base import Effect, Options, Technique, Verdict
from engine.techniques.quantizing import EXCLUSIVE, embedding_option, quantize

if TYPE_CHECKING:
    from torch import Tensor

    from engine.kernels.linear import LinearKernel, Weights
    from engine.techniques.draft import Draft

_MULTIPLE = 16


@dataclass(frozen=True)
class Fp8Scheme(Scheme):
    """One byte a weight and an fp32 scale a row."""

    name = "fp8"

    def nbytes(self, shape: tuple[int, int], dtype: str, device: DeviceFacts) -> int:
        return shape[0] * shape[1] + 4 * shape[0]

    def layer(self, weights: Weights, dtype: str, device: DeviceFacts) -> tuple[LinearKernel, Tensor]:
        from engine.kernels.fp8 import Fp8Linear

        made = Fp8Linear(weights, device.torch_name)
        return made, made.dense().cpu()


@dataclass(frozen=True)
class Fp8Options(Options):
    """embedding: whether it is quantized too. The head stays dense."""

    key: ClassVar[str] = "fp8"
    embedding: str = embedding_option()


class Fp8(Technique):
    """Quantizes every linear layer inside the blocks to e4m3."""

    order = 33
    label = "fp8"
    group = "Quantization"
    summary = "Weights and activations in 8-bit floating point, on cards that multiply it."
    exclusive = EXCLUSIVE
    options_type = Fp8Options

    def available(self, options: Options, device: DeviceFacts, model: ModelConfig | None) -> Verdict:
        if not device.fp8:
            return Verdict(False, "fp8 needs an NVIDIA card of the Ada or Hopper generation or later (compute "
                           f"capability 8.9); {device.name} has no fp8 arithmetic.")
        sizes = () if model is None else (model.hidden_size, model.intermediate_size, model.qkv_size)
        if any(size % _MULTIPLE for size in sizes):
            return Verdict(False, "The card's fp8 product wants sizes in whole blocks of 16; this model's are not.")
        return Verdict(True)

    def short(self, options: Options) -> str:
        return "fp8"

    def apply(self, options: Options, draft: Draft) -> Effect:
        assert isinstance(options, Fp8Options)
        return quantize(draft, self.key, Fp8Scheme(), None, options.embedding,
                        "fp8 (e4m3) weights, one scale per row, and round activations at every call")


TECHNIQUE = Fp8()
