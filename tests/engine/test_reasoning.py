"""Where reasoning stands in a reply, at every moment of its growth."""

from __future__ import annotations

import pytest

from engine.models.reasoning import answer_of, opens_reasoning, split_reasoning

WHOLE = [
    ("<think>\nfirst\n</think>\n\nThe answer.", False, "\nfirst\n", "The answer."),
    ("  <thinking>a</thinking>b", False, "a", "b"),
    ("[THINK]a[/THINK]b", False, "a", "b"),
    ("<|begin_of_thought|>a<|end_of_thought|> b", False, "a", "b"),
    ("already inside</think>out", True, "already inside", "out"),
    ("<think>opened twice</think>out", True, "opened twice", "out"),
    ("<think></think>nothing thought", False, "", "nothing thought"),
    ("<think>a <think> b</think>c</think>d", False, "a <think> b", "c</think>d"),
    ("<think>other tags </reasoning> stay</think>c", False, "other tags </reasoning> stay", "c"),
]


@pytest.mark.parametrize(("text", "opened", "reasoning", "answer"), WHOLE)
def test_reasoning_and_answer_are_told_apart(text: str, opened: bool, reasoning: str, answer: str) -> None:
    split = split_reasoning(text, opened)
    assert (text[split.begin:split.end], text[split.answer:], split.closed) == (reasoning, answer, True)
    assert answer_of(text, opened) == answer


@pytest.mark.parametrize(("text", "opened", "reasoning", "answer"), WHOLE)
def test_no_tag_and_no_reasoning_is_ever_shown_as_an_answer_while_it_grows(
        text: str, opened: bool, reasoning: str, answer: str) -> None:
    for length in range(len(text) + 1):
        grown = text[:length]
        split = split_reasoning(grown, opened)
        assert answer.startswith(grown[split.answer:].strip()) or not grown[split.answer:].strip()
        assert reasoning.startswith(grown[split.begin:split.end])


@pytest.mark.parametrize("text", ["", "Hello", "Use <think> to think.", "a < b", "<b>bold</b>", "</think>", "\n\n"])
def test_text_without_reasoning_is_all_answer(text: str) -> None:
    assert answer_of(text) == text


def test_an_unfinished_block_has_no_answer_yet() -> None:
    assert split_reasoning("<think>so far").closed is False
    assert answer_of("<think>so far") == ""
    assert answer_of("so far", opened=True) == ""


def test_a_prompt_that_ends_inside_a_block_is_known() -> None:
    assert opens_reasoning("<|assistant|>\n<think>\n")
    assert not opens_reasoning("<|assistant|>\n<think></think>\n")
