"""What a model reads of a conversation: whole turns, and only the tokens that the cache does not hold."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from engine.context import count_context, fit_messages, reply_reserve, with_known_tokens
from engine.errors import DynoError
from engine.messages import (
    ChatMessage,
    ContextCounted,
    CountContext,
    Finished,
    Generate,
    GenerationStats,
    Sampling,
    TurnsDropped,
)
from engine.models.tokenizer import Tokenizer
from engine.paths import bundled_model
from engine.session import Session
from tests.engine.support import Engine

TEMPLATE = ("{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>{% endfor %}"
            "{% if add_generation_prompt %}<s>assistant\n{% endif %}")
FREE = Sampling(temperature=0.7, top_k=40, repetition_penalty=1.0, max_tokens=24)


@pytest.fixture
def chat_folder(llama_folder: Path, tmp_path: Path) -> Path:
    """The tiny Llama with a chat template of special tokens."""
    folder = Path(shutil.copytree(llama_folder, tmp_path / "chat"))
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return folder


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many tokens each part of a prompt had that the model read."""
    counted: list[int] = []
    read = Session.read

    def counting(self: Session, ids: Sequence[int]) -> object:
        counted.append(len(ids))
        return read(self, ids)

    monkeypatch.setattr(Session, "read", counting)
    return counted


def talk(engine: Engine, turns: list[ChatMessage], sampling: Sampling = FREE) -> tuple[str, GenerationStats]:
    """The reply to a conversation."""
    end = engine.run(command := Generate(engine.next_id(), messages=tuple(turns), sampling=sampling))
    assert isinstance(end, Finished) and isinstance(end.result, GenerationStats)
    return engine.text_of(command.job_id), end.result


def test_the_second_turn_of_a_chat_reads_only_the_new_tokens(engine: Engine, reads: list[int]) -> None:
    engine.load(bundled_model())
    tokenizer = engine.session.tokenizer
    turns = [ChatMessage("user", "Hello! How are you today?")]
    text, first = talk(engine, turns)
    assert sum(reads) == first.prompt_tokens == len(tokenizer.render_chat(turns))
    for question in ("Tell me a short story about a fox.", "And then?", "What is a KV cache?"):
        held = first.prompt_tokens + first.output_tokens - 1  # the last token was chosen and not run
        turns += [ChatMessage("assistant", text), ChatMessage("user", question)]
        reads.clear()
        text, second = talk(engine, turns)
        asked = tokenizer.chat_text([ChatMessage("user", question)], answering=True)
        new = len(tokenizer.encode(asked, special_tokens=False))
        assert second.cached_tokens == held
        assert sum(reads) == second.prompt_tokens - second.cached_tokens
        assert sum(reads) <= new + 2, "the last token of the reply, the end of its turn, and the new turn"
        first = second


def test_a_seeded_reply_reads_everything_again(engine: Engine, reads: list[int]) -> None:
    engine.load(bundled_model())
    turns = [ChatMessage("user", "Hello!")]
    for _ in range(2):
        reads.clear()
        text, stats = talk(engine, turns, Sampling(seed=3, max_tokens=10))
        assert (sum(reads), stats.cached_tokens) == (stats.prompt_tokens, 0)
        turns += [ChatMessage("assistant", text), ChatMessage("user", "Go on.")]


def spelled(tokenizer: Tokenizer, text: str) -> list[int]:
    """A text in tokens of one letter each, as no tokenizer would cut it."""
    return [i for letter in text for i in tokenizer.encode(letter, special_tokens=False)]


@pytest.mark.parametrize("reply", ["The boats came home", "Grüße, 🚢!", "  two\nlines  ", "a"])
def test_a_reply_in_unusual_tokens_is_found_in_the_cache(chat_folder: Path, reply: str) -> None:
    tokenizer = Tokenizer.from_folder(chat_folder)
    turns = [ChatMessage("user", "where are they"), ChatMessage("assistant", reply), ChatMessage("user", "and now")]
    prompt, held = tokenizer.render_chat(turns), tokenizer.render_chat(turns[:1])
    written = spelled(tokenizer, reply)
    for end in range(len(written) + 1):
        known = held + written[:end]
        out = with_known_tokens(tokenizer, prompt, known)
        assert tokenizer.decode(out) == tokenizer.decode(prompt)
        whole = "\ufffd" not in tokenizer.decode(written[:end])  # a cache that ends inside a character is cut back
        assert not whole or out[:len(known)] == known
        assert out[-5:] == prompt[-5:]


def test_a_prompt_is_never_changed_into_another_text(chat_folder: Path) -> None:
    tokenizer, chance = Tokenizer.from_folder(chat_folder), random.Random(5)
    turns = [ChatMessage("user" if i % 2 == 0 else "assistant", f"turn {i} about boats and gulls") for i in range(5)]
    prompt = tokenizer.render_chat(turns)
    for _ in range(300):
        known = list(prompt)
        for _ in range(chance.randrange(1, 6)):
            at = chance.randrange(len(known))
            if chance.random() < 0.5:
                known[at:at + 1] = spelled(tokenizer, tokenizer.token_text(known[at])) if known[at] > 1 else [0]
            else:
                known[at] = chance.randrange(tokenizer.vocab_size)
        known = known[:chance.randrange(len(known) + 1)]
        out = with_known_tokens(tokenizer, prompt, known)
        assert tokenizer.decode(out) == tokenizer.decode(prompt)
        assert [i for i in out if i < 2] == [i for i in prompt if i < 2], "roles and ends stay"


def conversation(n: int) -> list[ChatMessage]:
    turns = [ChatMessage("system", "Be brief.")]
    for i in range(n):
        turns += [ChatMessage("user", f"question {i} about the boats"), ChatMessage("assistant", f"answer {i}")]
    return turns


def test_oldest_turns_leave_in_strides_so_that_the_prompt_keeps_its_beginning(chat_folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(chat_folder)
    drops, prompts = [], []
    for n in range(1, 25):
        ids, dropped = fit_messages(tokenizer, [*conversation(n), ChatMessage("user", "and the last?")], 256, 24)
        assert len(ids) <= 256 - 24
        assert dropped % 2 == 0, "a question leaves with its answer"
        drops.append(dropped)
        prompts.append(ids)
    assert drops == sorted(drops) and drops[-1] > 0
    kept = sum(a == b for a, b in pairwise(drops))
    assert kept > len(set(drops)), "most turns are added without another one leaving"
    assert all(len(ids) > (256 - 24) // 3 for ids, d in zip(prompts, drops, strict=True) if d), "no more than needed"
    assert all(tokenizer.decode(ids).startswith("system\nBe brief.") for ids in prompts)


def test_the_last_turn_goes_without_its_predecessors_where_only_it_fits(chat_folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(chat_folder)
    long, last = ChatMessage("user", "boats " * 300), ChatMessage("user", "and now?")
    ids, dropped = fit_messages(tokenizer, [long, ChatMessage("assistant", "yes"), last], 256, 24)
    assert (dropped, ids) == (2, tokenizer.render_chat([last]))
    with pytest.raises(DynoError, match="does not fit"):
        fit_messages(tokenizer, [last, ChatMessage("assistant", "yes"), long], 256, 24)


def test_a_book_among_the_turns_is_left_out_without_being_tokenized(chat_folder: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, encoded = Tokenizer.from_folder(chat_folder), []
    encode = Tokenizer.encode

    def watched(self: Tokenizer, text: str, special_tokens: bool = True) -> list[int]:
        encoded.append(len(text))
        return encode(self, text, special_tokens)

    monkeypatch.setattr(Tokenizer, "encode", watched)
    book, last = ChatMessage("user", "boats and gulls " * 10_000), ChatMessage("user", "and now?")
    turns = [ChatMessage("user", "hi"), ChatMessage("assistant", "yes"), book, ChatMessage("assistant", "seven"), last]
    ids, dropped = fit_messages(tokenizer, turns, 256, 24)
    assert (dropped, tokenizer.decode(ids)) == (4, tokenizer.decode(tokenizer.render_chat([last])))
    counted = count_context(tokenizer, 256, CountContext(1, (*turns[:2], book)))
    assert not counted.fits and counted.used > 256
    assert max(encoded) < 200 * 256 < len(book.content)


def test_the_budget_counts_what_a_reply_would_read(chat_folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(chat_folder)
    turns = (*conversation(20), ChatMessage("user", "and the last?"))
    for messages in (turns[:3], turns):
        counted = count_context(tokenizer, 256, CountContext(7, messages, max_tokens=24))
        ids, dropped = fit_messages(tokenizer, messages, 256, reply_reserve(24, 256))
        assert counted == ContextCounted(7, len(ids), 256, 24, dropped)
    huge = count_context(tokenizer, 256, CountContext(8, (ChatMessage("user", "boats " * 300),)))
    assert not huge.fits and huge.used > 256
    assert count_context(tokenizer, 256, CountContext(9)) == ContextCounted(9, 0, 256, 64)
    assert count_context(tokenizer, 256, CountContext(9, prompt="the wind")).used == len(tokenizer.encode("the wind"))


def test_the_engine_answers_the_newest_question_about_the_context_and_a_reply_agrees(
        engine: Engine, chat_folder: Path) -> None:
    engine.load(chat_folder)
    turns = (*conversation(20), ChatMessage("user", "and the last?"))
    for request in (1, 2, 3):
        engine.submit(CountContext(request, turns, max_tokens=24))
    counted = engine.wait(lambda event: isinstance(event, ContextCounted) and event.request_id == 3)
    assert isinstance(counted, ContextCounted)
    _, stats = talk(engine, list(turns), Sampling(seed=1, max_tokens=24))
    dropped = next(e for e in engine.seen if isinstance(e, TurnsDropped))
    assert (counted.used, counted.dropped) == (stats.prompt_tokens, dropped.count)


THINKING = """{%- set last = namespace(i=-1) -%}
{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set last.i = loop.index0 -%}{%- endif -%}{%- endfor -%}
{%- for m in messages -%}
{%- set content = m.content -%}
{%- if m.role == 'assistant' and '</think>' in content and loop.index0 < last.i -%}
{%- set content = content.split('</think>')[-1].lstrip('\\n') -%}{%- endif -%}
<s>{{ m.role }}\n{{ content }}</s>
{%- endfor -%}
{%- if add_generation_prompt -%}<s>assistant\n<think>\n{% endif %}"""


def test_earlier_reasoning_is_not_sent_back_where_the_template_leaves_it_out(chat_folder: Path, engine: Engine) -> None:
    (chat_folder / "chat_template.jinja").write_text(THINKING, encoding="utf-8")
    assert engine.load(chat_folder).model.reasons_first
    tokenizer = engine.session.tokenizer
    question = ChatMessage("user", "how many boats")
    for reply, seen in (("<think>one, two</think>\n\nSeven.", "Seven."), ("one, two</think>Seven.", "Seven."),
                        ("<think>one, two, th", ""), ("Use <think>.", "Use <think>.")):
        ids, _ = fit_messages(tokenizer, [question, ChatMessage("assistant", reply), question], 256, 24)
        assert tokenizer.decode(ids).split("assistant\n")[1].startswith(f"{seen}user")


def test_a_template_that_knows_no_reasoning_gets_replies_as_they_are(chat_folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(chat_folder)
    reply = ChatMessage("assistant", "<think>one, two, th")
    ids, _ = fit_messages(tokenizer, [ChatMessage("user", "q"), reply, ChatMessage("user", "q")], 256, 24)
    assert reply.content in tokenizer.decode(ids)
