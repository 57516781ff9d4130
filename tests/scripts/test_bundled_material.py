"""The bundled model's own material: the format of asked_*.txt, and that nothing near an unusual prompt is learned."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from scripts.bundled.evaluation import PROMPTS
from scripts.bundled.paraphrases import read_blocks
from scripts.bundled.tuning import asked_pairs, own_pairs
from scripts.bundled.unseen import UNUSUAL_NUMBERS, Unseen
from tests.conftest import ROOT

MATERIAL = ROOT / "resources" / "training"


def blocks(folder: Path, text: str) -> list[tuple[str, str]]:
    """The pairs of a file with this text, each prompt drawn once."""
    path = folder / "asked_it.txt"
    path.write_text(text, encoding="utf-8")
    return [pair for block in read_blocks(path) for pair in block.pairs(random.Random(1), 1)]


def test_choices_and_tables_fill_both_sides_as_sentences(tmp_path: Path) -> None:
    pairs = blocks(tmp_path, "# a remark\n"
                             "@ animal, sound = owl, hoo | dog, woof, woof\n> a {animal} says {sound}.\n"
                             "[what does|how does] a {animal} [go|]?\n\n> Yes.\nReally?\n")
    assert pairs[-1] == ("Really?", "Yes.") and len(pairs) == 3
    for prompt, reply in pairs[:2]:
        assert prompt[0].isupper() and prompt.endswith(("go?", "owl?", "dog?"))
        assert ("An owl says hoo." if "an owl" in prompt else "A dog says woof, woof.") == reply


@pytest.mark.parametrize(("text", "words"), [
    ("> Yes.\nReally?\n> No.\nHonestly?\n", "follows a prompt"),
    ("> Yes.\nReally?\n@ x = a | b\n", "follows a prompt"),
    ("Really?\n", "lacks a reply"),
    ("> Yes.\n", "lacks a reply, a prompt"),
    ("> Yes, {x}.\nReally?\n", "the table of a slot"),
    ("@ x, y = a\n> Yes, {x} {y}.\nReally?\n", "does not fill"),
])
def test_a_block_that_would_pair_the_wrong_lines_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        blocks(tmp_path, text)


def test_nothing_near_an_unusual_prompt_is_in_what_is_learned() -> None:
    prompts = [prompt for group in PROMPTS.values() for prompt in group]
    unusual = [prompts[number - 1] for number in UNUSUAL_NUMBERS]
    assert len(prompts) == 100 and len(set(unusual)) == 50
    unseen = Unseen(unusual)
    asked = asked_pairs(MATERIAL, unseen, random.Random(1), 2)
    plain, filled = own_pairs(MATERIAL, unseen)
    assert len(asked) > 2000 and len(plain) > 2000
    for prompt, reply in {*asked, *plain, *filled}:
        assert not unseen.nearly(prompt) and "{" not in prompt + reply and "|" not in prompt + reply
        assert prompt and reply


@pytest.mark.parametrize(("one", "other", "near"), [
    ("How many legs do two spiders have together?", "How many legs have two cats together?", True),
    ("How many legs do two spiders have together?", "how many leg do two spider have together", True),
    ("Why does LoRA need so little memory?", "What is a KV cache?", False),
])
def test_what_comes_near_shares_telling_words_or_letters(one: str, other: str, near: bool) -> None:
    assert Unseen([one]).nearly(other) is near
