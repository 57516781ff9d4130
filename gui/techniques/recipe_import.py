"""A recipe that comes in a file: its name, made one that is free, and what is wrong with it, in words about the file.

The engine's sentences about recipes speak of switches, which a file has none of. No widgets here.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from PySide6.QtCore import QCoreApplication

from engine.errors import DynoError
from engine.recipe import Recipe, load_presets, make_options
from engine.recipe_files import NAME_LENGTH, find_recipe, read_recipe, save_recipe
from gui.techniques.choices import essence
from gui.widgets.labels import engine_text

_NOT_IN_FILE_NAMES = '<>:"/\\|?*'


def read_named(path: Path) -> tuple[str, Recipe]:
    """(title, recipe) of a file; the title is empty where it has none. Raises DynoError that names the file."""
    try:
        recipe = read_recipe(path)
    except DynoError as error:
        raise _about_file(path, error) from error
    title = json.loads(path.read_text(encoding="utf-8")).get("title")
    return _name_of(title if isinstance(title, str) else ""), recipe


def keep(folder: Path, title: str, recipe: Recipe) -> str:
    """Keep a recipe among the user's presets; returns the name it goes by: the title, with a number where another
    recipe has that. One that is there already is not kept twice. Raises DynoError where the disk refuses."""
    for number in itertools.count(1):
        ending = f" {number}" if number > 1 else ""
        name = title[:NAME_LENGTH - len(ending)].rstrip() + ending
        known = _known(folder, name)
        if known is not None and essence(known[1]) == essence(recipe):
            return known[0]
        if known is None:
            return _saved(folder, name, recipe)
    raise AssertionError("there are more numbers than presets")


def file_name(title: str) -> str:
    """What a recipe of this title is called in a file dialog."""
    return ("".join("-" if c in _NOT_IN_FILE_NAMES else c for c in title).strip(". ") or "recipe") + ".json"


def _name_of(title: str) -> str:
    """A title as a preset may have it: the command line parts recipes at commas and colons."""
    title = "".join(" " if c in ",:" or not c.isprintable() else c for c in title)
    return " ".join(title.removesuffix(".json").split())[:NAME_LENGTH].strip()


def _known(folder: Path, name: str) -> tuple[str, Recipe] | None:
    saved = find_recipe(folder, name)
    if saved is not None:
        return saved.name, saved.recipe
    return next(((engine_text(p.title), p.recipe) for p in load_presets()
                 if name.casefold() in (p.title.casefold(), p.name.casefold())), None)


def _saved(folder: Path, name: str, recipe: Recipe) -> str:
    try:
        return save_recipe(folder, name, recipe).name
    except DynoError:
        # A technique's name, which a preset may not have.
        return save_recipe(folder, f"{name[:NAME_LENGTH - 9]} (import)", recipe, replace=True).name


def _about_file(path: Path, error: DynoError) -> DynoError:
    if path.name in error.summary:
        return error
    summary = _tr("{file} cannot be imported. {reason}").format(file=path.name, reason=engine_text(error.summary))
    clash = _tr("Take one of them out of the file, or export the recipe again.")
    return DynoError(summary, clash if _is_clash(path) else engine_text(error.hint))


def _is_clash(path: Path) -> bool:
    """Whether each of the file's techniques could be, but not all of them together."""
    try:
        for key, values in json.loads(path.read_text(encoding="utf-8"))["techniques"].items():
            make_options(str(key), values)
    except (DynoError, OSError, ValueError, TypeError, KeyError, AttributeError):
        return False
    return True


def _tr(text: str) -> str:
    return QCoreApplication.translate("RecipeImport", text)
