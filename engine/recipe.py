"""A recipe: an immutable, ordered, hashable set of technique options.

It validates itself when it is built, round-trips through JSON, and has a fingerprint that keys benchmark rows, caches
and log lines. It knows options, never tensors.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import DynoError
from engine.paths import RECIPES
from engine.techniques import all_techniques, technique
from engine.techniques.base import Options, Technique


@dataclass(frozen=True)
class Recipe:
    """Technique options in the order in which they apply. An empty recipe is the model in fp32, untouched.

    Raises DynoError for an unknown technique, two of the same, or two that exclude each other.
    """

    options: tuple[Options, ...] = ()

    def __post_init__(self) -> None:
        order = {t.key: t.order for t in all_techniques()}
        newest_first = self.options[::-1]
        object.__setattr__(self, "options", tuple(sorted(self.options, key=lambda o: order[o.key])))
        keys = [o.key for o in self.options]
        for key in keys:
            if keys.count(key) > 1:
                raise DynoError(f"The recipe names {key} twice.", "Keep one of the two.")
        for options in newest_first:  # what was asked for last may stay: the remedy names what was there before
            others = tuple(o for o in self.options if o is not options)
            clash = _technique(options.key).conflict(options, tuple(_technique(o.key) for o in others), others)
            if clash is not None:
                raise clash

    def get(self, key: str) -> Options | None:
        """The options of a technique, or None where it is off."""
        return next((o for o in self.options if o.key == key), None)

    def with_options(self, options: Options) -> Recipe:
        """This recipe with one technique added or replaced."""
        return Recipe((*(o for o in self.options if o.key != options.key), options))

    def without(self, key: str) -> Recipe:
        """This recipe with one technique switched off."""
        return Recipe(tuple(o for o in self.options if o.key != key))

    @functools.cached_property
    def label(self) -> str:
        """A few words for status lines and charts."""
        parts = [part for o in self.options if (part := _technique(o.key).short(o))]
        return " + ".join(parts) or "fp32"

    @functools.cached_property
    def fingerprint(self) -> str:
        """Ten hex digits that are the same wherever the recipe is."""
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:10]

    def to_json(self) -> dict[str, Any]:
        """{"techniques": {key: {field: value}}}, as files and exports hold it."""
        return {"techniques": {o.key: dataclasses.asdict(o) for o in self.options}}

    @classmethod
    def from_json(cls, raw: Any) -> Recipe:
        """The recipe of a JSON object. Raises DynoError naming what is wrong."""
        techniques = raw.get("techniques") if isinstance(raw, dict) else None
        if not isinstance(techniques, dict):
            raise DynoError('A recipe is a JSON object with a "techniques" object in it.',
                            "Export one from the techniques panel to see the format.")
        return cls(tuple(make_options(str(key), values) for key, values in techniques.items()))


@dataclass(frozen=True)
class Preset:
    """A recipe with a name for the command line, a title and a sentence."""

    name: str
    title: str
    description: str
    recipe: Recipe


def make_options(key: str, values: Any) -> Options:
    """Options of the technique `key` from plain values. Raises DynoError on unknown names."""
    options_type = _technique(key).options_type
    if not isinstance(values, dict):
        raise DynoError(f"The options of {key} are not a set of names and values.", "Write them as {\"name\": value}.")
    known = {f.name: f for f in dataclasses.fields(options_type)}
    for name in values:
        if name not in known:
            allowed = ", ".join(known) or "none"
            raise DynoError(f"{key} has no option {name!r}.", f"Its options: {allowed}.")
    return options_type(**{name: _today(known[name], value) for name, value in values.items()})


def _today(field: dataclasses.Field[Any], value: Any) -> Any:
    """The value as it is written now, where an earlier version wrote it otherwise."""
    return field.metadata.get("formerly", {}).get(value, value) if isinstance(value, str) else value


def load_presets(folder: Path = RECIPES) -> tuple[Preset, ...]:
    """The presets that ship with the app, in the order they are meant to be read."""
    presets = []
    for path in sorted(folder.glob("*.json")):
        raw = json.loads(path.read_text(encoding="utf-8"))
        presets.append((raw["order"], Preset(path.stem, raw["title"], raw["description"], Recipe.from_json(raw))))
    return tuple(preset for _, preset in sorted(presets, key=lambda item: item[0]))


def parse_recipe(text: str) -> Recipe:
    """A recipe from the command line: a preset's name, a JSON file, or options such as
    "prune-l1:amount=0.3,precision:dtype=bf16" (preset names may stand among them)."""
    presets = {preset.name: preset.recipe for preset in load_presets()}
    if text in presets:
        return presets[text]
    path = Path(text)
    if path.suffix == ".json" or os.path.isfile(text):
        try:
            return Recipe.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise DynoError(f"The recipe {text} cannot be read: {error}.", "Check the file's name.") from error
    recipe = Recipe()
    for item in filter(None, (part.strip() for part in text.split(","))):
        added = presets[item].options if item in presets else (_inline(item, presets),)
        for options in added:
            if recipe.get(options.key) is not None:
                raise DynoError(f"The recipe names {options.key} twice.", "Keep one of the two.")
            recipe = recipe.with_options(options)
    return recipe


def _inline(item: str, presets: dict[str, Recipe]) -> Options:
    key, *pairs = item.split(":")
    if technique(key) is None:
        raise DynoError(f"There is no preset or technique {key!r}.",
                        f"Presets: {', '.join(presets)}. Techniques: {', '.join(t.key for t in all_techniques())}.")
    values: dict[str, Any] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        values[name] = float(value) if _is_number(value) else value
    return make_options(key, values)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _technique(key: str) -> Technique:
    found = technique(key)
    if found is None:
        raise DynoError(f"There is no technique {key!r}.",
                        f"Techniques: {', '.join(t.key for t in all_techniques())}.")
    return found
