"""What gives way to a new choice: the techniques of a recipe that cannot stand beside it. No Qt here."""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import DynoError
from engine.recipe import Recipe
from engine.techniques import technique
from engine.techniques.base import Options, Technique
from gui.techniques.choices import is_on, rivals


@dataclass(frozen=True)
class Change:
    """recipe: the one with the new choice. replaced: what it has no longer. reason: why, where it is not that a recipe
    holds one technique for a job."""

    recipe: Recipe
    replaced: tuple[Technique, ...] = ()
    reason: str = ""


def with_choice(recipe: Recipe, key: str, options: Options | None) -> Change:
    """The recipe with a technique's new options, or without it (None). Raises DynoError where the options cannot be,
    whatever gives way."""
    rest = recipe.without(key)
    if options is None:
        return Change(rest)
    same_job, gone, reason = rivals(recipe, key), [], ""
    for other in rest.options:
        found, error = technique(other.key), _clash(other, options)
        if found is not None and (found in same_job or error is not None):
            rest = rest.without(other.key)
            gone += [found] if is_on(other) else []
            if found not in same_job and error is not None:
                reason = reason or error.summary
    return Change(rest.with_options(options), tuple(gone), reason)


def _clash(one: Options, other: Options) -> DynoError | None:
    try:
        Recipe((one, other))
    except DynoError as error:
        return error
    return None
