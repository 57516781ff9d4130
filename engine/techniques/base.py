"""What a technique is, and how its options describe themselves.

A technique is one file in this package that defines `TECHNIQUE`. Its options are a frozen dataclass; every field made
with `option()` carries unit, limits, help and default, from which the window's form, the command line and the docs are
generated. Nothing here loads torch: the window reads options before torch is there.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from engine.errors import DynoError
from engine.models.config import ModelConfig
from engine.models.devices import DeviceFacts

if TYPE_CHECKING:
    from engine.techniques.draft import Draft


def option(default: Any, label: str, help: str, *, unit: str = "", low: float | None = None,
           high: float | None = None, step: float | None = None, choices: tuple[str, ...] = ()) -> Any:
    """A dataclass field that knows its label, unit, limits and help text."""
    return dataclasses.field(default=default, metadata={
        "label": label, "help": help, "unit": unit, "low": low, "high": high, "step": step, "choices": choices})


@dataclass(frozen=True)
class Options:
    """Base of every technique's options. `key` names the technique; values are checked against their limits."""

    key: ClassVar[str]

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, meta = getattr(self, field.name), field.metadata
            name = f"{self.key}: {meta['label'].lower()}"
            if meta["choices"]:
                if value not in meta["choices"]:
                    raise DynoError(f"{name} is {value!r}, which is not a choice.",
                                    f"Choose one of: {', '.join(meta['choices'])}.")
            elif isinstance(field.default, float):
                if isinstance(value, bool) or not isinstance(value, (int, float)):
                    raise DynoError(f"{name} is {value!r}, which is not a number.", "Give a number such as 0.5.")
                if not meta["low"] <= value <= meta["high"]:
                    raise DynoError(f"{name} is {value:g}, outside {meta['low']:g} to {meta['high']:g}.",
                                    f"Choose a value from {meta['low']:g} to {meta['high']:g}.")
                object.__setattr__(self, field.name, float(value))


@dataclass(frozen=True)
class Verdict:
    """Whether something can be done here, and the reason a person reads where it cannot."""

    ok: bool
    reason: str = ""


@dataclass(frozen=True)
class Effect:
    """What one technique did to the draft: layers touched, their bytes before and after, and a plain sentence."""

    layers_touched: int
    bytes_before: int
    bytes_after: int
    detail: str
    engaged: bool = True


class Technique(ABC):
    """One way of making a model smaller or faster.

    order: place in the fixed sequence prune (10s), quantize (30s), cast (40s), KV cache (50s), autocast (60s).
    group: the heading it stands under in the panel.
    """

    order: ClassVar[int]
    label: ClassVar[str]
    group: ClassVar[str]
    summary: ClassVar[str]
    options_type: ClassVar[type[Options]]

    @property
    def key(self) -> str:
        """Name of the technique in recipes."""
        return self.options_type.key

    def available(self, options: Options, device: DeviceFacts, model: ModelConfig | None) -> Verdict:
        """Whether it can run on this device and model; the reason stands on the disabled switch."""
        return Verdict(True)

    def conflict(self, options: Options, others: tuple[Options, ...]) -> DynoError | None:
        """Why these options cannot stand beside the others, with the remedy; None where they can."""
        return None

    @abstractmethod
    def short(self, options: Options) -> str:
        """A few characters for a recipe's label, such as "L1 50 %"."""

    @abstractmethod
    def apply(self, options: Options, draft: Draft) -> Effect:
        """Record in the draft what this technique does to weights, layers, cache or context."""


def cases(technique: Technique) -> list[tuple[str, Options]]:
    """(name, options) of every dtype a technique offers; one unnamed case with its defaults where it offers none."""
    fields = dataclasses.fields(technique.options_type)
    choices = next((f.metadata["choices"] for f in fields if f.name == "dtype"), None)
    if choices is None:
        return [("", technique.options_type())]
    return [(name, technique.options_type(dtype=name)) for name in choices]  # type: ignore[call-arg]
