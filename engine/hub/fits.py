"""Whether a model fits, recipe by recipe, in words a list can show. The numbers are engine.fit's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.errors import DynoError
from engine.models.devices import DeviceFacts
from engine.recipe import load_presets

FITS, TIGHT, TOO_LARGE, UNKNOWN = "fits", "tight", "does not fit", "unknown"
RECIPES = ("fp32", "bf16", "int8", "int4")
CONTEXT = 4096
"""Tokens that an estimate counts with: what chats use, not the most a model could take."""
_COMFORT = 0.85


@dataclass(frozen=True)
class RecipeFit:
    """A model under a recipe. needed: bytes at the most; free: bytes that can be had now. reason: why it is unknown.
    context: tokens counted with. placement: which layers would lie where, "" where one device holds them all."""

    recipe: str
    verdict: str
    needed: int = 0
    free: int = 0
    context: int = 0
    reason: str = ""
    placement: str = ""


def recipe_fits(path: Path, device: DeviceFacts | None = None) -> tuple[RecipeFit, ...]:
    """A model under each of RECIPES. "tight": it fits, with less than 15 % of what is free to spare. Loads torch."""
    from engine.fit import estimate

    recipes = {preset.name: preset.recipe for preset in load_presets()}
    found = []
    for name in RECIPES:
        try:
            fit = estimate(path, recipes[name], CONTEXT, device)
        except DynoError as error:
            found.append(RecipeFit(name, UNKNOWN, reason=str(error)))
            continue
        verdict = TOO_LARGE if not fit.fits else FITS if fit.peak_bytes <= _COMFORT * fit.free_bytes else TIGHT
        found.append(RecipeFit(name, verdict, fit.peak_bytes, fit.free_bytes, fit.context, placement=fit.placement))
    return tuple(found)
