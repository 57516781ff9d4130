"""What recipes are called, and what they say where whole parts make another share than the one asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.cli import run
from engine.cli.arguments import WrongArgument
from engine.cli.recipes import named_recipe
from engine.errors import DynoError
from engine.recipe import Recipe, parse_recipe
from engine.recipe_files import save_recipe
from tests.engine.support import open_session


@pytest.mark.parametrize("text", ["", " ", ",", " , ,"])
def test_an_empty_recipe_is_refused_and_not_taken_for_fp32(text: str) -> None:
    with pytest.raises(WrongArgument, match="empty"):
        named_recipe(text)


@pytest.mark.parametrize("recipe", ["", "prune-l1:amount=0.99", "lookup:drafts=9", "int9"])
def test_a_recipe_that_cannot_be_is_a_wrong_argument(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", "--prompt", "Hello", "--recipe", recipe]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_option_is_named_as_it_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", "--prompt", "Hello", "--recipe", "lookup:drafts=9"]) == 2
    assert "(drafts) is 9, outside 1 to 7" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["int8,lookup", "int8, kv-int8", "prune-l1:amount=0.3"])
def test_a_preset_takes_no_name_that_means_something_else_on_the_command_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(DynoError, match="means a recipe"):
        save_recipe(tmp_path, name, Recipe())


def test_recipes_that_differ_in_how_they_decode_have_labels_that_differ() -> None:
    assert parse_recipe("compile").label != parse_recipe("compile:mode=tuned").label
    assert parse_recipe("lookup").label != parse_recipe("lookup:drafts=7").label != parse_recipe("lookup:ngram=3").label


@pytest.mark.parametrize(("recipe", "words"), [
    ("prune-layers:amount=0.1", "10 % was asked for; whole ones make it"),
    ("prune-heads:amount=0.3", "30 % was asked for; whole ones make it 50 %"),
])
def test_whole_parts_that_make_another_share_say_so(llama_folder: Path, recipe: str, words: str) -> None:
    session = open_session(llama_folder, parse_recipe(recipe))
    assert session.active is not None and words in session.active.report.techniques[0].detail
