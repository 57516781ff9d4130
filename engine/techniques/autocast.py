"""Autocast (AMP): weights stay fp32, matrix products run in bf16 or fp16 and are cast on the fly (torch.amp).

For inference it saves no memory and each call casts the weights anew, which is why it is often slower at one token
than bf16 weights; in training it is what makes mixed precision work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from engine.errors import DynoError
from engine.models.config import ModelConfig
from engine.models.devices import DeviceFacts
from engine.techniques.base import Effect, Options, Technique, Verdict, option
from engine.words import agreed, counted

if TYPE_CHECKING:
    from engine.techniques.draft import Draft


@dataclass(frozen=True)
class AutocastOptions(Options):
    """dtype of the matrix products."""

    key: ClassVar[str] = "autocast"
    dtype: str = option("bf16", "Data type", "Type in which matrix products run; sums that need it stay in fp32.",
                        choices=("bf16", "fp16"))


class Autocast(Technique):
    """Runs the forward pass inside torch.autocast."""

    order = 60
    label = "Autocast (AMP)"
    group = "Precision"
    summary = "Keep fp32 weights, run matrix products in 16 bits."
    options_type = AutocastOptions
    own_step = True
    dense_kernels = True
    case_field = "dtype"

    def available(self, options: Options, device: DeviceFacts, model: ModelConfig | None) -> Verdict:
        assert isinstance(options, AutocastOptions)
        if options.dtype == "bf16" and not device.bf16:
            return Verdict(False, f"{device.name} has no bf16 arithmetic.")
        return Verdict(True)

    def conflict(self, options: Options, others: tuple[Technique, ...],
                 their_options: tuple[Options, ...]) -> DynoError | None:
        cast = next((o for o in their_options if o.key == "precision"), None)
        if cast is not None and getattr(cast, "dtype", "fp32") in ("bf16", "fp16"):
            return DynoError("Autocast works on fp32 weights, but Precision casts them to "
                             f"{getattr(cast, 'dtype', '')}.", "Set Precision to fp32, or switch Autocast off.")
        return super().conflict(options, others, their_options)

    def short(self, options: Options) -> str:
        assert isinstance(options, AutocastOptions)
        return f"autocast {options.dtype}"

    def apply(self, options: Options, draft: Draft) -> Effect:
        assert isinstance(options, AutocastOptions)
        before = draft.total_bytes()
        draft.autocast = options.dtype
        gain = ", so nothing gets smaller" if draft.total_bytes() == before else ""
        dense = [layer for layer in draft.layers.values() if layer.scheme is None]
        words = f"{counted(len(dense), 'layer')} {agreed(len(dense), 'multiplies', 'multiply')} in {options.dtype}"
        return Effect(tuple(layer.name for layer in dense),
                      f"{words}; weights stay fp32 and are cast at every call{gain}.",
                      engaged=bool(dense))


TECHNIQUE = Autocast()
