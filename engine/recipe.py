"""A recipe: an immutable, ordered, hashable set of technique options.

It validates itself when it is built, round-trips through JSON, and has a fingerprint that keys benchmark rows, caches
and log lines. It knows options, never tensors.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from engine.errors import DynoError, reason
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

    @property
    def argument(self) -> str:
        """As --recipe takes it, every option named, so that it stays the same recipe when a default changes."""
        return ",".join(":".join((o.key, *(f"{name}={value}" for name, value in dataclasses.asdict(o).items())))
                        for o in self.options) or "fp32"

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


def parse_recipe(text: str, saved: Mapping[str, Recipe] = MappingProxyType({})) -> Recipe:
    """A recipe from the command line: parts with commas between them, each a preset's name, a JSON file, or options
    such as "prune-l1:amount=0.3". saved: the user's own presets by name; one that ships with the app goes first.

    Raises DynoError for a part that is none of these, or a technique that stands in two of them.
    """
    named = {name.casefold(): recipe for name, recipe in saved.items()}
    named |= {preset.name: preset.recipe for preset in load_presets()}
    parts, recipe, at = text.split(","), Recipe(), 0
    while at < len(parts):
        # A name or a path may have commas of its own: the longest run of parts that is one is taken.
        found = ((end, whole) for end in range(len(parts), at, -1)
                 if (whole := _whole(",".join(parts[at:end]).strip(), named)) is not None)
        at, added = next(found, None) or (at + 1, (_inline(parts[at].strip(), (*saved, *named)),))
        for options in added:
            if recipe.get(options.key) is not None:
                raise DynoError(f"The recipe names {options.key} twice.", "Keep one of the two.")
            recipe = recipe.with_options(options)
    return recipe


def _whole(text: str, named: Mapping[str, Recipe]) -> tuple[Options, ...] | None:
    """The options of a preset or a file of this name; None where there is neither."""
    if not text:
        return ()
    if text.casefold() in named:
        return named[text.casefold()].options
    if os.path.isfile(text) or ("," not in text and text.casefold().endswith(".json")):
        return _from_file(Path(text)).options
    return None


def _from_file(path: Path) -> Recipe:
    try:
        return Recipe.from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise DynoError(f"There is no file {path}.", "Check the file's name.") from error
    except OSError as error:
        raise DynoError(f"{path} cannot be read: {reason(error)}.",
                        "Check the file and its permissions.") from error
    except ValueError as error:
        raise DynoError(f"{path} is not a recipe: it is not JSON.",
                        "Choose a file that was exported from the techniques panel.") from error


def _inline(item: str, presets: Iterable[str]) -> Options:
    key, *pairs = item.split(":")
    if technique(key) is None:
        names = {name.casefold(): name for name in (*(t.key for t in all_techniques()), *presets)}
        near = [names[name] for name in difflib.get_close_matches(key.casefold(), names, n=3)]
        meant = f"Did you mean {' or '.join(dict.fromkeys(near))}? " if near else ""
        raise DynoError(f"There is no preset or technique {key[:60]!r}.", f"{meant}`main.py recipes` lists them all.")
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
