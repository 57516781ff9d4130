"""`recipes`: every preset and technique that --recipe takes, by name."""

from __future__ import annotations

import argparse
import dataclasses

from engine.cli.arguments import WrongArgument
from engine.errors import DynoError
from engine.paths import user_data
from engine.recipe import Recipe, load_presets, parse_recipe
from engine.recipe_files import SavedRecipe, list_recipes
from engine.techniques import all_techniques
from engine.techniques.base import Options

HELP = "list the presets and techniques that --recipe takes"
RECIPE_HELP = ('preset (your own too), JSON file, or options, with commas between them: '
               '"neurons-30,precision:dtype=bf16"')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It has none."""


def named_recipe(text: str) -> Recipe:
    """The recipe of a --recipe argument, among them the user's own presets. Raises WrongArgument."""
    if not text.strip(", "):  # a script's variable that holds nothing must not measure fp32
        raise WrongArgument("The recipe is empty.", "Name one, such as fp32; `main.py recipes` lists them all.")
    try:
        return parse_recipe(text, {saved.name: saved.recipe for saved in _saved()[0]})
    except DynoError as error:
        raise WrongArgument(error.summary, error.hint) from error


def run(options: argparse.Namespace) -> int:
    """Run it; the exit status."""
    shipped = {preset.name for preset in load_presets()}
    print("Presets")
    for preset in load_presets():
        print(f"  {preset.name:18} {preset.title}")
    saved, damaged = _saved()
    if saved or damaged:
        print("\nYour presets")
    for own in saved:
        hidden = own.name.casefold() in shipped  # saved before names were kept apart
        print(f"  {own.name:18} {own.recipe.label}" + (f" (name taken: use {own.path})" if hidden else ""))
    for file in damaged:
        print(f"  {file}: cannot be read")
    print("\nTechniques, with their options")
    for each in all_techniques():
        print(f"  {each.key:18} {each.summary}")
        for line in _options(each.options_type):
            print(f"    {line}")
    return 0


def _saved() -> tuple[tuple[SavedRecipe, ...], tuple[str, ...]]:
    return list_recipes(user_data() / "recipes")


def _options(options_type: type[Options]) -> list[str]:
    """"amount=0.5 (0 to 0.95)" for each field."""
    lines = []
    for field in dataclasses.fields(options_type):
        meta = field.metadata
        limits = ", ".join(meta["choices"]) if meta["choices"] else f"{meta['low']:g} to {meta['high']:g}"
        lines.append(f"{field.name}={field.default} ({limits})")
    return lines
