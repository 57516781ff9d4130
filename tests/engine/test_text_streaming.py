"""Text as it streams: pieces join to the text, whatever the language, and no half character is ever shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.generation import NewToken, generate
from engine.messages import Sampling
from engine.models.tokenizer import Tokenizer
from tests.engine.support import open_session

TEXTS = {
    "plain": "The girl at the oars was wet and laughing. ",
    "emoji": "tea ☕, a family 👩‍👩‍👧‍👦 and a flag 🏴‍☠️!",
    "right to left": "שלום עולם, مرحبا بالعالم 123 (abc)",
    "chinese": "灯塔看守人数着船。",
    "combining": "e\u0301 n\u0303 क्षि 한국어",
    "rare planes": "𝕏 𐍈 🂡 𠮷",
    "spaces": "  two\n\n\tthree   ",
    "a replacement character": "before \ufffd after",
}


def stream(tokenizer: Tokenizer, prompt: list[int], ids: list[int]) -> list[str]:
    """What a reader is shown, token by token."""
    text = tokenizer.stream(prompt)
    return [text.push(token) for token in ids]


@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
def test_pieces_join_to_the_decode_of_all_tokens(model_folder: Path, text: str) -> None:
    tokenizer = Tokenizer.from_folder(model_folder)
    ids = tokenizer.encode(text, special_tokens=False)
    pieces = stream(tokenizer, tokenizer.encode(""), ids)
    assert "".join(pieces) == tokenizer.decode(ids) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
def test_a_prompt_and_its_continuation_join_wherever_the_cut_is(model_folder: Path, text: str) -> None:
    tokenizer = Tokenizer.from_folder(model_folder)
    for cut in range(len(text)):
        prompt = tokenizer.encode(text[:cut])
        rest = tokenizer.encode(text[cut:], special_tokens=False)
        assert text[:cut] + "".join(stream(tokenizer, prompt, rest)) == text


@pytest.mark.parametrize("name", ["plain", "emoji", "right to left", "chinese", "rare planes"])
def test_a_sentencepiece_tokenizer_with_byte_tokens_streams_the_same_text(stories: Path, name: str) -> None:
    tokenizer = Tokenizer.from_folder(stories)
    ids = tokenizer.encode(TEXTS[name], special_tokens=False)
    pieces = stream(tokenizer, tokenizer.encode(""), ids)
    assert "".join(pieces) == tokenizer.decode(ids) == TEXTS[name]
    assert not any("\ufffd" in piece for piece in pieces)


def test_bytes_that_are_no_text_never_stop_a_reply(stories: Path) -> None:
    tokenizer = Tokenizer.from_folder(stories)
    newline, lead, word = (tokenizer._backend.token_to_id(t) for t in ("<0x0A>", "<0xF0>", "▁a"))
    assert stream(tokenizer, [1], [newline, lead, word, word])[-1] == " a"
    for token in range(tokenizer.vocab_size):
        stream(tokenizer, [1], [newline, token, lead, token, word])


def test_a_prompt_that_ends_in_a_replacement_character_is_not_repeated(stories: Path) -> None:
    tokenizer = Tokenizer.from_folder(stories)
    word = tokenizer._backend.token_to_id("a")
    assert stream(tokenizer, tokenizer.encode("hello \ufffd"), [word]) == ["a"]


def test_every_token_has_a_text_a_person_can_read(model_folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(model_folder)
    assert all(tokenizer.token_text(i) for i in range(tokenizer.vocab_size))


def texts_of(folder: Path, sampling: Sampling, stop: tuple[str, ...] = ()) -> tuple[str, str, list[int]]:
    """The streamed text, why it ended, and the token ids of a reply."""
    session = open_session(folder)
    ids: list[int] = []
    shown = ""
    steps = generate(session, session.tokenizer.encode("The waves"), sampling, stop=stop)
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return shown, end.value.finish, ids
        if isinstance(step, NewToken):
            shown += step.piece.text
            ids.append(step.piece.token_id)


def test_a_streamed_reply_is_the_decode_of_its_tokens(model_folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(model_folder)
    for seed in range(6):
        shown, finish, ids = texts_of(model_folder, Sampling(max_tokens=60, seed=seed, temperature=1.5, top_k=0))
        assert finish == "length"
        whole = tokenizer.decode(ids)
        assert whole.startswith(shown) and set(whole[len(shown):]) <= {"\ufffd"}


def test_stop_strings_end_the_reply_before_them_even_across_tokens(stories: Path) -> None:
    greedy = Sampling(temperature=0.0, repetition_penalty=1.0, max_tokens=80, seed=1)
    whole, _, _ = texts_of(stories, greedy)
    assert len(whole) > 80
    for start in range(0, 60, 3):
        mark = whole[start:start + 7]
        shown, finish, _ = texts_of(stories, greedy, stop=(mark, "never there"))
        assert (shown, finish) == (whole[:whole.index(mark)], "stop string")


def test_the_earliest_of_several_stop_strings_wins(stories: Path) -> None:
    greedy = Sampling(temperature=0.0, repetition_penalty=1.0, max_tokens=80, seed=1)
    whole, _, _ = texts_of(stories, greedy)
    early, late = whole[10:12], whole[11:13]
    assert texts_of(stories, greedy, stop=(late, early))[0] == whole[:min(whole.index(early), whole.index(late))]


def test_text_held_back_for_a_stop_string_comes_when_the_reply_ends_otherwise(stories: Path) -> None:
    for length in range(5, 25):
        greedy = Sampling(temperature=0.0, repetition_penalty=1.0, max_tokens=length, seed=1)
        whole, _, _ = texts_of(stories, greedy)
        shown, finish, _ = texts_of(stories, greedy, stop=(whole[-3:] + "\x00never",))
        assert (shown, finish) == (whole, "length")
