"""Which code computes attention: PyTorch's scaled-dot-product backends, or the formula written out as a reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from engine.models.config import ModelConfig
from engine.models.devices import DeviceFacts
from engine.techniques.base import Effect, Options, Technique, Verdict, option
from engine.words import agreed, counted

if TYPE_CHECKING:
    from engine.techniques.draft import Draft

_CARD_ONLY = ("efficient", "cudnn")
_FUSED = ("flash", *_CARD_ONLY)
_WORDS = {
    "plain": "softmax(QK^T / sqrt(d))V in three steps, with the whole score matrix in memory",
    "math": "PyTorch's composite of plain operators",
    "flash": "tiles with a running softmax; the score matrix is never stored",
    "efficient": "the memory-efficient kernel of xFormers",
    "cudnn": "NVIDIA's cuDNN kernel",
}


@dataclass(frozen=True)
class AttentionOptions(Options):
    """backend: the code that runs."""

    key: ClassVar[str] = "attention"
    backend: str = option("plain", "Backend", "Without this technique PyTorch chooses. plain writes the formula out: "
                          "the reference all others are compared with.",
                          choices=("plain", "math", "flash", "efficient", "cudnn"))


class Attention(Technique):
    """Fixes the backend of attention."""

    order = 65
    label = "Attention backend"
    group = "KV cache and attention"
    summary = "Choose which code computes softmax(QKᵀ/√d)V, instead of leaving it to PyTorch."
    options_type = AttentionOptions
    own_decoder = "Its own code chooses how attention is computed."
    own_step = True
    case_field = "backend"

    def available(self, options: Options, device: DeviceFacts, model: ModelConfig | None) -> Verdict:
        assert isinstance(options, AttentionOptions)
        if model is not None and model.attention_cap and options.backend != "plain":
            return Verdict(False, f"This {model.model_type} caps its attention scores, which only the formula written "
                           "out does.")
        if options.backend in _CARD_ONLY and device.kind != "cuda":
            return Verdict(False, f"The {options.backend} backend runs on NVIDIA cards only; {device.name} is none.")
        if options.backend == "flash" and device.kind == "mps":
            return Verdict(False, "PyTorch has no flash attention for Apple GPUs.")
        return Verdict(True)

    def short(self, options: Options) -> str:
        assert isinstance(options, AttentionOptions)
        return f"attention {options.backend}"

    def apply(self, options: Options, draft: Draft) -> Effect:
        assert isinstance(options, AttentionOptions)
        draft.attention = options.backend
        layers = draft.config.n_layers
        return Effect((), f"{counted(layers, 'attention layer')} {agreed(layers, 'runs', 'run')} "
                      f"{_WORDS[options.backend]}."
                      + (" Where it cannot, plain operators step in." if options.backend in _FUSED else ""))


TECHNIQUE = Attention()
