"""Recipes: immutable, ordered, the same on every machine, and clear about what is wrong."""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import DynoError
from engine.recipe import Recipe, load_presets, make_options, parse_recipe
from engine.recipe_files import list_recipes, rename_recipe, save_recipe
from engine.techniques import all_techniques
from engine.techniques.autocast import AutocastOptions
from engine.techniques.int8_dynamic import Int8DynamicOptions
from engine.techniques.precision import PrecisionOptions
from engine.techniques.prune_l1 import PruneL1Options
from engine.techniques.prune_neurons import PruneNeuronsOptions
from tests.conftest import ROOT

STACK = (PruneNeuronsOptions(0.3), PruneL1Options(0.5), Int8DynamicOptions("keep"), PrecisionOptions("bf16"))


def test_the_order_in_which_options_are_given_does_not_matter() -> None:
    recipes = {Recipe(order) for order in itertools.permutations(STACK)}
    assert len(recipes) == 1
    assert [o.key for o in recipes.pop().options] == [o.key for o in STACK]


def test_json_round_trips_every_technique() -> None:
    for technique in all_techniques():
        recipe = Recipe((technique.options_type(),))
        assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    assert Recipe.from_json(Recipe(STACK).to_json()) == Recipe(STACK)
    assert Recipe.from_json(Recipe().to_json()) == Recipe()


def test_the_fingerprint_is_the_same_in_every_process_and_differs_by_option() -> None:
    code = ("from engine.recipe import parse_recipe\n"
            "print(parse_recipe('neurons-30,l1-50,int8,bf16').fingerprint, parse_recipe('fp32').fingerprint)")
    printed = {subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
                              timeout=60).stdout for _ in range(2)}
    assert printed == {f"{Recipe(STACK).fingerprint} {Recipe().fingerprint}\n"}
    assert Recipe().fingerprint == "9cc9b86d0d"  # a row written by an older version must still be found
    every = [Recipe(), Recipe(STACK), *(Recipe((o,)) for o in STACK), Recipe((PruneL1Options(0.51),)),
             Recipe((PrecisionOptions("fp16"),))]
    assert len({r.fingerprint for r in every}) == len(every)
    assert len({r.label for r in every}) == len(every)


def test_an_integer_and_a_float_of_one_value_are_one_recipe() -> None:
    one = Recipe.from_json({"techniques": {"prune-l1": {"amount": 0}}})
    assert one == Recipe((PruneL1Options(0.0),)) and one.fingerprint == Recipe((PruneL1Options(0.0),)).fingerprint


def test_recipes_cannot_be_changed_but_give_changed_copies() -> None:
    recipe = Recipe(STACK)
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.options = ()  # type: ignore[misc]
    assert recipe.without("prune-l1").get("prune-l1") is None
    assert recipe.with_options(PruneL1Options(0.2)).get("prune-l1") == PruneL1Options(0.2)
    assert recipe.get("prune-l1") == PruneL1Options(0.5)


def test_every_shipped_preset_loads_and_is_named() -> None:
    presets = load_presets()
    assert {"fp32", "int8", "bf16"} <= {p.name for p in presets}
    assert len({p.recipe for p in presets}) == len(presets)
    for preset in presets:
        assert preset.title and preset.description
        assert parse_recipe(preset.name) == preset.recipe


def test_a_recipe_is_read_from_a_preset_a_file_or_a_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(Recipe(STACK).to_json()), encoding="utf-8")
    assert parse_recipe(str(path)) == Recipe(STACK)
    assert parse_recipe("neurons-30, l1-50,int8 ,precision:dtype=bf16") == Recipe(STACK)
    assert parse_recipe("prune-neurons:amount=0.3,prune-l1:amount=.5,int8-dynamic:head=keep,bf16") == Recipe(STACK)
    assert parse_recipe("") == parse_recipe("fp32") == Recipe()


def test_techniques_that_exclude_each_other_are_refused_with_the_remedy() -> None:
    with pytest.raises(DynoError) as caught:
        Recipe((AutocastOptions("bf16"), PrecisionOptions("bf16")))
    assert "Autocast" in caught.value.summary and caught.value.hint == "Set Precision to fp32, or switch Autocast off."
    Recipe((AutocastOptions("bf16"), PrecisionOptions("fp32")))


@pytest.mark.parametrize(("text", "words"), [
    ("nonsense", "nonsense"), ("prune-l1:amount=2", "outside 0 to 0.95"), ("prune-l1:amount=-0.1", "outside"),
    ("prune-l1:amount=nan", "outside"), ("prune-l1:amount=lots", "not a number"), ("prune-l1:amount", "not a number"),
    ("prune-l1:share=0.5", "no option 'share'"), ("precision:dtype=int4", "not a choice"), ("bf16,fp16", "twice"),
    ("l1-50,prune-l1:amount=0.1", "twice"), ("autocast-bf16,bf16", "Autocast"), ("missing.json", "no file"),
    ("x" * 5000, "no preset"), ("a\0b", "no preset"), ("/", "no preset"),
])
def test_a_recipe_that_cannot_be_is_refused_with_a_hint(text: str, words: str) -> None:
    with pytest.raises(DynoError) as caught:
        parse_recipe(text)
    assert words in caught.value.summary and caught.value.hint


@pytest.mark.parametrize("raw", [None, [], "fp32", {}, {"techniques": []}, {"techniques": {"prune-l1": 0.5}},
                                 {"techniques": {"prune-l1": {"amount": True}}},
                                 {"techniques": {"prune-l1": {"amount": None}}},
                                 {"techniques": {"precision": {"dtype": ["bf16"]}}}, {"techniques": {"magic": {}}}])
def test_json_that_is_no_recipe_is_refused(raw: object) -> None:
    with pytest.raises(DynoError) as caught:
        Recipe.from_json(raw)
    assert caught.value.hint


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"techniques": {"magic": {}}}', b"\xed\xa0\x80"])
def test_a_damaged_recipe_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(content)
    with pytest.raises(DynoError):
        parse_recipe(str(path))


def test_every_option_describes_itself() -> None:
    for technique in all_techniques():
        for field in dataclasses.fields(technique.options_type):
            meta = field.metadata
            assert meta["label"] and meta["help"]
            if meta["choices"]:
                assert field.default in meta["choices"]
            else:
                assert meta["low"] <= field.default <= meta["high"]
                assert meta["unit"] or field.name == "seed"  # the one number that measures nothing
        assert make_options(technique.key, {}) == technique.options_type()


def test_a_file_takes_more_techniques_stacked_on_it(tmp_path: Path) -> None:
    path = tmp_path / "mine, the second.json"
    path.write_text(json.dumps(parse_recipe("int8").to_json()), encoding="utf-8")
    assert parse_recipe(f"{path},kv-int8") == parse_recipe("int8,kv-int8") == parse_recipe(f"kv-int8,{path}")


def test_a_saved_preset_is_named_like_one_that_ships_and_never_hides_it() -> None:
    saved = {"Small, for trains": parse_recipe("l1-50"), "int8": parse_recipe("bf16")}
    assert parse_recipe("small, FOR trains,kv-int8", saved) == parse_recipe("l1-50,kv-int8")
    assert parse_recipe("int8", saved) == parse_recipe("int8")


def test_a_wrong_name_is_answered_with_the_nearest_ones_in_a_short_sentence() -> None:
    with pytest.raises(DynoError) as caught:
        parse_recipe("prune-l2")
    assert "Did you mean prune-l1" in caught.value.hint and len(str(caught.value)) < 160


@pytest.mark.parametrize("value", ["150%", True, None, 1e9, 0.123456])
def test_a_number_that_cannot_be_is_answered_with_option_value_and_range(value: object) -> None:
    refused = 0
    for each in all_techniques():
        for field in dataclasses.fields(each.options_type):
            low, high = field.metadata["low"], field.metadata["high"]
            if field.metadata["choices"] or (value == 0.123456 and low <= value and isinstance(field.default, float)):
                continue
            with pytest.raises(DynoError) as caught:
                make_options(each.key, {field.name: value})
            shown = f"{value:g}" if type(value) is float else repr(value)
            label = f"{each.key}: {field.metadata['label'].lower()} ({field.name})"
            assert f"{label} is {shown}, " in caught.value.summary
            assert f"{low:g} to {high:g}" in str(caught.value)
            refused += 1
    assert refused


def test_a_missing_file_is_one_clean_sentence() -> None:
    with pytest.raises(DynoError) as caught:
        parse_recipe("nowhere.json")
    assert str(caught.value) == "There is no file nowhere.json. Check the file's name."


@pytest.mark.parametrize("name", ["int8", "INT8-weight-only", "prune-l1"])
def test_a_saved_preset_cannot_take_a_name_that_means_something_else(tmp_path: Path, name: str) -> None:
    saved = save_recipe(tmp_path, "mine", parse_recipe("bf16"))
    for attempt in (lambda: save_recipe(tmp_path, name, Recipe()), lambda: rename_recipe(saved, name)):
        with pytest.raises(DynoError, match="Choose another name"):
            attempt()
    assert [s.name for s in list_recipes(tmp_path)[0]] == ["mine"]


def test_a_recipes_argument_makes_the_same_recipe() -> None:
    recipes = [preset.recipe for preset in load_presets()]
    recipes += [parse_recipe(text) for text in (
        "fp32", "prune-l1:amount=0.35:scope=layer,bf16", "int4-weight:group=64:fit=fit:head=int8", "lookup")]
    for recipe in recipes:
        assert parse_recipe(recipe.argument) == recipe
    assert parse_recipe("prune-l1:amount=0.35:scope=layer,bf16").argument == (
        "prune-l1:amount=0.35:scope=layer,precision:dtype=bf16")
