"""Recipes in JSON files: one the user names (an import, an export), and the user's own presets in the data folder.

A preset's name stands in its file; the file's name is made from it once and means nothing afterwards, so that any name
works on any file system. It knows nothing of what a recipe does.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import DynoError, reason
from engine.recipe import Recipe, load_presets, parse_recipe
from engine.techniques import technique

NAME_LENGTH = 50  # letters; a file name takes 255 bytes, and a letter up to four
_NOT_IN_FILE_NAMES = '<>:"/\\|?*'
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}  # by Windows


@dataclass(frozen=True)
class SavedRecipe:
    """A preset of the user's own."""

    name: str
    recipe: Recipe
    path: Path


def read_recipe(path: Path) -> Recipe:
    """The recipe of a JSON file. Raises DynoError that says what is wrong with it."""
    return _read(path)[1]


def write_recipe(path: Path, recipe: Recipe, name: str = "") -> None:
    """Save a recipe as JSON, with a name where it has one. Raises DynoError; the file before it then stands."""
    title = {"title": name} if name else {}
    _write(path, json.dumps(title | recipe.to_json(), indent=2, ensure_ascii=False) + "\n")


def list_recipes(folder: Path) -> tuple[tuple[SavedRecipe, ...], tuple[str, ...]]:
    """(the user's presets by name, names of the files that cannot be read). A folder that is not there holds none."""
    found, damaged = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            raw, recipe = _read(path)
        except DynoError:
            damaged.append(path.name)
            continue
        title = raw.get("title")
        found.append(SavedRecipe(_clean(title if isinstance(title, str) else "") or path.stem, recipe, path))
    return tuple(sorted(found, key=lambda saved: saved.name.casefold())), tuple(damaged)


def find_recipe(folder: Path, name: str) -> SavedRecipe | None:
    """The user's preset of this name, upper and lower case alike."""
    return next((s for s in list_recipes(folder)[0] if s.name.casefold() == _clean(name).casefold()), None)


def save_recipe(folder: Path, name: str, recipe: Recipe, replace: bool = False) -> SavedRecipe:
    """Add a preset. Raises DynoError for a name that cannot be, is taken (unless `replace`), or a disk that refuses."""
    name = _allowed(name)
    old = find_recipe(folder, name)
    if old is not None and not replace:
        raise _taken(old.name)
    path = old.path if old is not None else _free_path(folder, name)
    write_recipe(path, recipe, name)
    return SavedRecipe(name, recipe, path)


def rename_recipe(saved: SavedRecipe, name: str) -> SavedRecipe:
    """Give a preset another name. Raises DynoError as save_recipe does."""
    name = _allowed(name)
    other = find_recipe(saved.path.parent, name)
    if other is not None and other.path != saved.path:
        raise _taken(other.name)
    raw, recipe = _read(saved.path)
    _write(saved.path, json.dumps({**raw, "title": name}, indent=2, ensure_ascii=False) + "\n")
    return SavedRecipe(name, recipe, saved.path)


def delete_recipe(saved: SavedRecipe) -> str:
    """Delete a preset; returns what stood in the file, for restore_recipe(). Raises DynoError."""
    try:
        content = saved.path.read_text(encoding="utf-8")
        saved.path.unlink()
    except (OSError, ValueError) as error:
        raise DynoError(f"{saved.path.name} cannot be deleted: {reason(error)}.",
                        "Check the folder and its permissions.") from error
    return content


def restore_recipe(saved: SavedRecipe, content: str) -> SavedRecipe:
    """Undo delete_recipe(). Raises DynoError where the name was taken since."""
    other = find_recipe(saved.path.parent, saved.name)
    if other is not None:
        raise _taken(other.name)
    path = saved.path if not saved.path.exists() else _free_path(saved.path.parent, saved.name)
    _write(path, content)
    return SavedRecipe(saved.name, saved.recipe, path)


def _read(path: Path) -> tuple[dict[str, Any], Recipe]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return raw, Recipe.from_json(raw)
    except OSError as error:
        raise DynoError(f"{path.name} cannot be read: {reason(error)}.",
                        "Check the file and its permissions.") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DynoError(f"{path.name} is not a recipe.", "Choose a JSON file that was exported from the techniques "
                        "panel.") from error


def _write(path: Path, text: str) -> None:
    """Under a temporary name, flushed, then renamed: the file is the old one or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise DynoError(f"{path.name} cannot be written: {reason(error)}.",
                        "Choose another folder, or free some space.") from error


def _allowed(name: str) -> str:
    name = _clean(name)
    if not name:
        raise DynoError("A preset needs a name.", "Write a few letters.")
    # Its name on the command line counts too, and so do the techniques': there they are what the name would mean.
    shipped = {word.casefold() for preset in load_presets() for word in (preset.title, preset.name)}
    if technique(name.casefold()) is not None:
        raise DynoError(f"“{name}” is a technique's name on the command line.", "Choose another name.")
    if name.casefold() in shipped:
        raise DynoError(f"“{name}” is a preset that ships with the app.", "Choose another name.")
    if _means_a_recipe(name):
        raise DynoError(f"“{name}” means a recipe on the command line already.", "Choose another name.")
    return name


def _means_a_recipe(name: str) -> bool:
    """Whether the command line reads it without knowing the user's presets: a stack such as "int8,lookup"."""
    try:
        parse_recipe(name)
    except DynoError:
        return False
    return True


def _taken(name: str) -> DynoError:
    return DynoError(f"There is a preset “{name}” already.", "Choose another name.")


def _clean(name: str) -> str:
    """One line of printable letters, no longer than NAME_LENGTH."""
    return " ".join("".join(c if c.isprintable() else " " for c in name).split())[:NAME_LENGTH].strip()


def _free_path(folder: Path, name: str) -> Path:
    """A file that is not there yet, named after the preset as far as every file system lets it."""
    stem = "".join("-" if c in _NOT_IN_FILE_NAMES else c for c in name).strip(". ") or "recipe"
    if stem.partition(".")[0].casefold() in _RESERVED:
        stem = f"_{stem}"
    taken = {path.name.casefold() for path in folder.glob("*")} if folder.is_dir() else set()
    number, wanted = 1, f"{stem}.json"
    while wanted.casefold() in taken:
        number += 1
        wanted = f"{stem} {number}.json"
    return folder / wanted
