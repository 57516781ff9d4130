"""4-bit weight-only quantization by groups: an eighth of fp32's bytes, and a scale and a zero for every group.

Codes are rounded to the nearest level, or fitted: the group's range, scale and zero that make the least error where the
activations are strong (engine.kernels.rounding.fit_groups).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from engine.kernels.packing import int4_bytes
from engine.kernels.scheme import Scheme
from engine.models.config import ModelConfig
from engine.models.devices import DeviceFacts
from engine.techniques.base import Options, Steps, Technique, Verdict, option
from engine.techniques.int8_weight import Int8WeightScheme
from engine.techniques.quantizing import EXCLUSIVE, embedding_option, quantize

if TYPE_CHECKING:
    from engine.kernels.linear import LinearKernel, Rows, Weights
    from engine.techniques.draft import Draft


@dataclass(frozen=True)
class Int4Scheme(Scheme):
    """Half a byte a weight, and two 16-bit numbers a group. fitted: least error instead of the nearest level."""

    size: int
    fitted: bool
    name = "int4"
    any_float = True

    def nbytes(self, shape: tuple[int, int], dtype: str, device: DeviceFacts) -> int:
        return int4_bytes(shape, self.size)

    def layer(self, weights: Weights, dtype: str, device: DeviceFacts) -> tuple[LinearKernel, Rows]:
        import torch

        from engine.kernels.int4_weight import Int4PanelLinear, Int4WeightLinear
        from engine.kernels.linear import Rows
        from engine.kernels.rounding import fit_groups, round_groups

        if self.fitted:
            groups = fit_groups(weights.weight, self.size, torch.bfloat16, weights.importance)
        else:
            groups = round_groups(weights.weight, self.size, torch.bfloat16)
        used = Rows((groups.codes.shape[0], groups.columns), groups.dense)
        if device.native:
            return Int4PanelLinear(groups, weights.bias), used
        return Int4WeightLinear(groups, weights.bias, device.torch_name), used


@dataclass(frozen=True)
class Int4WeightOptions(Options):
    """group: columns that share a scale. fit: how codes are chosen. head, embedding: whether they are quantized too."""

    key: ClassVar[str] = "int4-weight"
    group: str = option("32", "Group size", "Columns that share a scale and a zero: smaller groups follow the weights "
                        "more closely and take more bytes.", unit="columns", choices=("32", "64", "128"))
    fit: str = option("nearest", "Rounding", "nearest rounds every weight for itself and is quick; fit searches each "
                      "group's range for the least error where the activations are strong.", choices=("nearest", "fit"))
    head: str = option("keep", "Output head", "The head decides between all words and loses most by rounding, so it is "
                       "left out unless asked for. In a small model with many words it is most of what a token reads.",
                       choices=("keep", "int8", "int4"))
    embedding: str = embedding_option()


class Int4Weight(Technique):
    """Quantizes the weights of every linear layer inside the blocks to 4 bits, and the head where asked to."""

    order = 32
    label = "int4 weight-only"
    group = "Quantization"
    summary = "Weights in 4 bits by groups of columns: an eighth of fp32's bytes."
    exclusive = EXCLUSIVE
    options_type = Int4WeightOptions

    def available(self, options: Options, device: DeviceFacts, model: ModelConfig | None) -> Verdict:
        if device.kind == "mps":
            return Verdict(False, "int4 weight-only is not offered on Apple GPUs yet.")
        if not device.int4_kernel and not device.native:
            return Verdict(False, "This PyTorch has no int4 kernel for this device (on NVIDIA: Ampere or later).")
        if device.kind == "cuda" and model is not None and (model.hidden_size % 128 or model.intermediate_size % 128):
            return Verdict(False, "The card's int4 kernel wants columns in whole blocks of 128; this model's sizes are "
                           "not.")
        return Verdict(True)

    def short(self, options: Options) -> str:
        assert isinstance(options, Int4WeightOptions)
        head = f" with {options.head} head" if options.head != "keep" else ""
        return f"int4{' fit' if options.fit == 'fit' else ''} g{options.group}{head}"

    def steps(self, options: Options, draft: Draft) -> Steps:
        assert isinstance(options, Int4WeightOptions)
        fitted = options.fit == "fit"
        if fitted:
            yield from draft.calibrate()
        scheme = Int4Scheme(int(options.group), fitted)
        head: dict[str, Scheme | None] = {"keep": None, "int8": Int8WeightScheme(), "int4": scheme}
        how = "fitted" if fitted else "rounded to the nearest level"
        # The native products are whole-number ones, which need the other side in whole numbers too.
        tokens = "; for single tokens, activations are rounded to 8 bits, 32 to a scale" if draft.device.native else ""
        return quantize(draft, self.key, scheme, head[options.head], options.embedding,
                        f"4-bit codes in groups of {options.group}, {how}{tokens}")


TECHNIQUE = Int4Weight()
