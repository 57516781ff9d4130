"""torch.compile of the token step over a cache of fixed size; on a card, replayed as a CUDA graph.

Compiling takes seconds to a minute, so it runs in the background while the uncompiled step answers, and takes over at
the next token once it is ready.
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
class CompileOptions(Options):
    """mode: how hard the compiler tries."""

    key: ClassVar[str] = "compile"
    mode: str = option("default", "Mode", "default compiles soonest; tuned also measures several kernels and takes "
                       "minutes.", choices=("default", "tuned"))


class Compile(Technique):
    """Compiles the step that makes one token."""

    order = 70
    label = "Compile (torch.compile)"
    group = "Decoding"
    summary = "Fuse the small operators of a token step into machine code. Compiles in the background."
    options_type = CompileOptions
    own_decoder = "The step that is compiled is that of GPT Dyno's own decoder."
    own_step = True

    def available(self, options: Options, device: DeviceFacts, model: ModelConfig | None) -> Verdict:
        if device.kind == "mps":
            return Verdict(False, "Compiling is not offered on Apple GPUs yet.")
        if device.kind == "cpu" and not device.compiler:
            return Verdict(False, "torch.compile needs a C++ compiler, and none was found. Install g++ or clang.")
        if device.kind == "cuda" and not device.compiler:
            return Verdict(False, "torch.compile needs Triton and a C compiler, and one of them was not found.")
        return Verdict(True)

    def short(self, options: Options) -> str:
        assert isinstance(options, CompileOptions)
        return "compiled" if options.mode == "default" else f"compiled, {options.mode}"

    def apply(self, options: Options, draft: Draft) -> Effect:
        assert isinstance(options, CompileOptions)
        draft.compile = options.mode
        return Effect((), "The token step is compiled in the background; until it is ready, and for prompts, the "
                      "uncompiled decoder runs.", engaged=False)


TECHNIQUE = Compile()
