"""What the panel asks of techniques and recipes: what is on, what does the same job, what stands in which group. No Qt
here."""

from __future__ import annotations

from collections.abc import Mapping

from engine.recipe import Recipe
from engine.techniques import all_techniques, technique
from engine.techniques.base import Options, Technique, case_name


def is_segmented(found: Technique) -> bool:
    """Whether the technique is one choice of which one means "off"."""
    return bool(found.neutral)


def is_on(options: Options | None) -> bool:
    """Whether these options change anything: Precision at fp32 does not."""
    found = technique(options.key) if options is not None else None
    return options is not None and found is not None and not _is_neutral(found, options)


def essence(recipe: Recipe) -> Recipe:
    """The recipe without techniques that change nothing, to compare recipes by what they do."""
    return Recipe(tuple(o for o in recipe.options if is_on(o)))


def rivals(recipe: Recipe, key: str) -> list[Technique]:
    """The techniques of the recipe that do the same job as `key`, of which a recipe holds one."""
    wanted = technique(key)
    others = (technique(o.key) for o in recipe.options if o.key != key)
    return [t for t in others if t and wanted and wanted.exclusive and t.exclusive == wanted.exclusive]


def why_not(recipe: Recipe, unavailable: Mapping[str, str]) -> str:
    """Why a recipe cannot run here, empty where it can. unavailable: technique key, or "key:case" -> reason."""
    for options in recipe.options:
        found = technique(options.key)
        case = case_name(found, options) if found is not None else ""
        reason = unavailable.get(options.key) or unavailable.get(f"{options.key}:{case}")
        if reason:
            return reason
    return ""


def grouped(techniques: tuple[Technique, ...]) -> list[tuple[str, list[Technique]]]:
    """(group, its techniques): groups in the order of recipes, but the one that sets the weights' type first, and
    that choice first in it."""
    groups: dict[str, list[Technique]] = {}
    for found in sorted(techniques, key=lambda t: not is_segmented(t)):
        groups.setdefault(found.group, []).append(found)
    return list(groups.items())


def group_of(recipe: Recipe) -> str:
    """The group a recipe's techniques stand in: that of "off" where it has none, empty where they are of several."""
    found = {t.group for o in recipe.options if (t := technique(o.key)) is not None}
    if not found:
        return next((t.group for t in all_techniques() if is_segmented(t)), "")
    return found.pop() if len(found) == 1 else ""


def _is_neutral(found: Technique, options: Options) -> bool:
    return bool(found.neutral) and case_name(found, options) == found.neutral
