"""What a technique is, and how its options describe themselves.

A technique is one file in this package that defines `TECHNIQUE`. Its options are a frozen dataclass; every field made
with `option()` carries unit, limits, help and default, from which the window's form, the command line and the docs are
generated. Nothing here loads torch: the window reads options before torch is there.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from engine.errors import DynoError
from engine.models.config import ModelConfig
from engine.models.devices import DeviceFacts

if TYPE_CHECKING:
    from engine.techniques.draft import Draft

_SAME_SHARE = 0.015


def option(default: Any, label: str, help: str, *, unit: str = "", low: float | None = None,
           high: float | None = None, step: float | None = None, choices: tuple[str, ...] = (),
           formerly: Mapping[str, str] = MappingProxyType({})) -> Any:
    """A dataclass field that knows its label, unit, limits and help text; its default says whether a number is whole.

    formerly: what a choice was called in saved recipes of an earlier version -> what it is called now.
    """
    return dataclasses.field(default=default, metadata={
        "label": label, "help": help, "unit": unit, "low": low, "high": high, "step": step, "choices": choices,
        "formerly": formerly})


@dataclass(frozen=True)
class Options:
    """Base of every technique's options. `key` names the technique; values are checked against their limits."""

    key: ClassVar[str]

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, meta = getattr(self, field.name), field.metadata
            name = f"{self.key}: {meta['label'].lower()} ({field.name})"
            if meta["choices"]:
                if isinstance(value, (int, float)) and not isinstance(value, bool):
                    value = f"{value:g}"  # a choice such as 32 reads as a number on the command line
                    object.__setattr__(self, field.name, value)
                if value not in meta["choices"]:
                    raise DynoError(f"{name} is {value!r}, which is not a choice.",
                                    f"Choose one of: {', '.join(meta['choices'])}.")
            elif isinstance(field.default, (int, float)):
                whole = isinstance(field.default, int)
                limits = f"from {meta['low']:g} to {meta['high']:g}"
                if isinstance(value, bool) or not isinstance(value, (int, float)):
                    raise DynoError(f"{name} is {value!r}, which is not a number.",
                                    f"Give a number {limits}, such as {field.default:g}.")
                if not meta["low"] <= value <= meta["high"]:
                    raise DynoError(f"{name} is {value:g}, outside {meta['low']:g} to {meta['high']:g}.",
                                    f"Choose a value {limits}.")
                if whole and value != int(value):
                    raise DynoError(f"{name} is {value:g}, which is not a whole number {limits}.",
                                    f"Choose {math.floor(value)} or {math.ceil(value)}.")
                object.__setattr__(self, field.name, int(value) if whole else float(value))


@dataclass(frozen=True)
class Verdict:
    """Whether something can be done here, and the reason a person reads where it cannot."""

    ok: bool
    reason: str = ""


@dataclass(frozen=True)
class Effect:
    """What one technique did to the draft: names of the layers touched, and a plain sentence. zeros: weights it set to
    zero where they stay in dense matrices; how many are zero in the end is counted when the layers are built."""

    layers: tuple[str, ...]
    detail: str
    engaged: bool = True
    zeros: int = 0


BuildStep = tuple[str, int, int]
"""(what is being done, done, total): total 0 where it is not known."""

Steps = Generator[BuildStep, None, Effect]


class Technique(ABC):
    """One way of making a model smaller or faster.

    order: place in the fixed sequence prune (10s), quantize (30s), cast (40s), KV cache (50s), autocast (60s),
    attention (65), compile (70), decoding (80).
    group: the heading it stands under in the panel.
    case_field: the option whose choices can each be possible or not on a device; empty where there is none.
    neutral: the choice of it that leaves the model as it is, so that choosing it is switching off; empty for none.
    exclusive: techniques with the same word here do the same job, so a recipe holds one of them.
    dense_kernels: the kernels of layers that hold no codes are its choice.
    own_step: it says how PyTorch computes a token, so the native step stands aside.
    own_decoder: why it needs GPT Dyno's own decoder, as a sentence; empty where it works on linear layers of any model.
    """

    order: ClassVar[int]
    label: ClassVar[str]
    group: ClassVar[str]
    summary: ClassVar[str]
    options_type: ClassVar[type[Options]]
    case_field: ClassVar[str] = ""
    neutral: ClassVar[str] = ""
    exclusive: ClassVar[str] = ""
    dense_kernels: ClassVar[bool] = False
    own_step: ClassVar[bool] = False
    own_decoder: ClassVar[str] = ""

    @property
    def key(self) -> str:
        """Name of the technique in recipes."""
        return self.options_type.key

    def usable(self, options: Options, device: DeviceFacts, model: ModelConfig | None) -> Verdict:
        """Whether it can run on this device and model at all: `available`, and what Transformers' models lack."""
        if model is not None and model.foreign and self.own_decoder:
            return Verdict(False, f"{model.model_type} runs through Transformers. {self.own_decoder}")
        return self.available(options, device, model)

    def available(self, options: Options, device: DeviceFacts, model: ModelConfig | None) -> Verdict:
        """Whether it can run on this device and model; the reason stands on the disabled switch."""
        return Verdict(True)

    def conflict(self, options: Options, others: tuple[Technique, ...],
                 their_options: tuple[Options, ...]) -> DynoError | None:
        """Why these options cannot stand beside the others, with the remedy; None where they can."""
        rival = next((t for t in others if self.exclusive and t.exclusive == self.exclusive), None)
        if rival is None:
            return None
        return DynoError(f"{self.label} and {rival.label} are both {self.exclusive}; a recipe holds one.",
                         f"Switch {rival.label} off first.")

    @abstractmethod
    def short(self, options: Options) -> str:
        """A few characters for a recipe's label, such as "L1 50 %"."""

    def steps(self, options: Options, draft: Draft) -> Steps:
        """apply() as a generator, for techniques whose scoring takes long enough to show progress or to be stopped."""
        return self.apply(options, draft)
        yield  # makes this a generator

    def apply(self, options: Options, draft: Draft) -> Effect:
        """Record in the draft what this technique does to weights, layers, cache or context."""
        raise NotImplementedError


def whole_parts(asked: float, gone: float) -> str:
    """A sentence where whole parts made the share that went another than the one asked for; empty where they did not.
    """
    if abs(asked - gone) < _SAME_SHARE:
        return ""
    return f" {100 * asked:.0f} % was asked for; whole ones make it {100 * gone:.0f} %."


def case_name(technique: Technique, options: Options) -> str:
    """The choice these options make among the technique's cases; empty where it has none."""
    return str(getattr(options, technique.case_field)) if technique.case_field else ""


def cases(technique: Technique) -> list[tuple[str, Options]]:
    """(name, options) of every case a technique offers; one unnamed case with its defaults where it offers none."""
    if not technique.case_field:
        return [("", technique.options_type())]
    fields = {f.name: f for f in dataclasses.fields(technique.options_type)}
    return [(name, technique.options_type(**{technique.case_field: name}))
            for name in fields[technique.case_field].metadata["choices"]]
