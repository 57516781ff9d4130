"""Recipes in files: what is written is read again, names are safe, and nothing is overwritten unasked."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from engine.errors import DynoError
from engine.recipe import Recipe, load_presets, make_options
from engine.recipe_files import (
    NAME_LENGTH,
    delete_recipe,
    find_recipe,
    list_recipes,
    read_recipe,
    rename_recipe,
    restore_recipe,
    save_recipe,
    write_recipe,
)

BF16 = Recipe((make_options("precision", {"dtype": "bf16"}),))
L1 = Recipe((make_options("prune-l1", {"amount": 0.5}),))


def test_writing_and_reading_a_recipe_are_inverse(tmp_path: Path) -> None:
    for preset in load_presets():
        write_recipe(tmp_path / "r.json", preset.recipe)
        assert read_recipe(tmp_path / "r.json") == preset.recipe


def test_a_folder_that_is_not_there_holds_nothing_and_is_made_by_the_first_preset(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "recipes"
    assert list_recipes(folder) == ((), ())
    saved = save_recipe(folder, "Mine", BF16)
    assert list_recipes(folder) == ((saved,), ())
    assert [path.name for path in folder.iterdir()] == ["Mine.json"]


@pytest.mark.parametrize("name", ["a/b", "../up", "..", ".hidden", "con", "NUL.txt", "what?", "x" * 200, "größe 日本語",
                                  "tab\tand\nline", "C:\\windows", "*", "emoji 🦊", "a.json", "🦊" * 60])
def test_any_name_makes_a_file_inside_the_folder_and_is_read_back(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "recipes"
    saved = save_recipe(folder, name, BF16)
    assert saved.path.parent == folder and saved.path.suffix == ".json" and not saved.path.name.startswith(".")
    assert not any(c in '<>:"/\\|?*' for c in saved.path.name) and len(os.fsencode(saved.path.name)) < 250
    assert saved.path.stem.partition(".")[0].casefold() not in ("con", "nul")
    assert len(saved.name) <= NAME_LENGTH and saved.name.isprintable()
    assert list_recipes(folder)[0] == (saved,)
    assert list(tmp_path.iterdir()) == [folder]


def test_two_names_that_make_the_same_file_name_are_two_presets(tmp_path: Path) -> None:
    save_recipe(tmp_path, "a/b", BF16)
    save_recipe(tmp_path, "a?b", L1)
    assert [(s.name, s.recipe) for s in list_recipes(tmp_path)[0]] == [("a/b", BF16), ("a?b", L1)]


def test_a_taken_name_is_refused_in_either_case_and_replaced_where_asked(tmp_path: Path) -> None:
    save_recipe(tmp_path, "Mine", BF16)
    with pytest.raises(DynoError, match="already"):
        save_recipe(tmp_path, "MINE", L1)
    assert read_recipe(tmp_path / "Mine.json") == BF16
    save_recipe(tmp_path, "MINE", L1, replace=True)
    assert [(s.name, s.recipe) for s in list_recipes(tmp_path)[0]] == [("MINE", L1)]


@pytest.mark.parametrize("name", ["", " \t", "\u200b", "BF16", "fp32 baseline"])
def test_no_name_and_that_of_a_shipped_preset_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DynoError):
        save_recipe(tmp_path, name, L1)
    assert list(tmp_path.iterdir()) == []


def test_damaged_files_are_named_and_the_others_listed(tmp_path: Path) -> None:
    saved = save_recipe(tmp_path, "Good", BF16)
    for number, text in enumerate(("", "{", "[]", '{"techniques": {"magic": {}}}', "[" * 100_000)):
        (tmp_path / f"bad {number}.json").write_text(text, encoding="utf-8")
    (tmp_path / "not text.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "note.txt").write_text("no recipe, and none that claims to be", encoding="utf-8")
    found, damaged = list_recipes(tmp_path)
    assert found == (saved,)
    assert damaged == ("bad 0.json", "bad 1.json", "bad 2.json", "bad 3.json", "bad 4.json", "not text.json")


def test_a_file_without_a_name_goes_by_that_of_the_file(tmp_path: Path) -> None:
    write_recipe(tmp_path / "from a friend.json", L1)
    assert [s.name for s in list_recipes(tmp_path)[0]] == ["from a friend"]


def test_renaming_keeps_the_file_and_what_else_stands_in_it(tmp_path: Path) -> None:
    saved = save_recipe(tmp_path, "Mine", BF16)
    raw = json.loads(saved.path.read_text(encoding="utf-8"))
    saved.path.write_text(json.dumps(raw | {"description": "kept"}), encoding="utf-8")
    renamed = rename_recipe(saved, "mine, but better")
    assert list_recipes(tmp_path)[0] == (renamed,)
    assert json.loads(renamed.path.read_text(encoding="utf-8"))["description"] == "kept"
    assert rename_recipe(renamed, "MINE, but better").name == "MINE, but better", "its own name in another case"
    save_recipe(tmp_path, "Other", L1)
    with pytest.raises(DynoError, match="already"):
        rename_recipe(renamed, "other")


def test_a_deleted_preset_comes_back_byte_for_byte(tmp_path: Path) -> None:
    saved = save_recipe(tmp_path, "Mine", BF16)
    before = saved.path.read_bytes()
    content = delete_recipe(saved)
    assert find_recipe(tmp_path, "Mine") is None
    assert restore_recipe(saved, content) == saved
    assert saved.path.read_bytes() == before
    with pytest.raises(DynoError, match="already"):
        restore_recipe(saved, content)


def test_deleting_what_is_gone_says_so(tmp_path: Path) -> None:
    saved = save_recipe(tmp_path, "Mine", BF16)
    delete_recipe(saved)
    with pytest.raises(DynoError, match="cannot be deleted"):
        delete_recipe(saved)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = save_recipe(tmp_path, "Mine", BF16)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DynoError, match="no space left"):
        save_recipe(tmp_path, "Mine", L1, replace=True)
    assert read_recipe(saved.path) == BF16
    assert list(tmp_path.iterdir()) == [saved.path]
