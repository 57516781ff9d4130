"""The mixture for chat tuning: the project's own small talk first, then conversations, short answers and stories.

Our own prompts are repeated and strung together into chats of several turns, because greetings and questions about
the model itself are what people type first. It does not know tokens.
"""

from __future__ import annotations

import json
import random
import re
from itertools import product
from pathlib import Path
from typing import Any

from scripts.bundled.corpora import Document, Source, Tally, documents
from scripts.bundled.text import HeldOut, Truecaser

_SYSTEM_SHARE = 0.12
_SYSTEM_TEXTS = (
    "You are a helpful assistant.", "You are a friendly assistant.", "You are a kind friend.",
    "You are Dyno Small, a little language model.", "Answer briefly.", "You are a helpful and honest assistant.",
    "You are a chat partner who answers in short sentences.", "Be polite and keep it short.",
)
_STORY_PROMPTS = ("Tell me a story about {x}.", "Can you tell me a story about {x}?", "Write a story about {x}.",
                  "tell me a story about {x}", "I would like to hear a story about {x}.",
                  "Tell me a short story about {x}, please.")
_PLAIN_STORY_PROMPTS = ("Tell me a story.", "Can you tell me a story?", "tell me a story", "Do you know a story?",
                        "I want to hear a story.")
_TOPICS = ("cat", "dog", "bird", "bear", "rabbit", "fish", "frog", "mouse", "horse", "duck", "lion", "monkey", "tree",
           "ball", "boat", "car", "train", "cake", "doll", "robot", "dragon", "princess", "king", "fairy", "flower",
           "kite", "truck", "castle", "balloon", "butterfly", "squirrel", "elephant", "fox", "cow", "pig", "bee")


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def own_pairs(folder: Path) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(prompt, reply) pairs written for this project: plain ones, and those filled from templates."""
    plain_pairs = [pair for path in sorted(folder.glob("intents*.jsonl")) for row in _lines(path)
                   for pair in product(row["prompts"], row["replies"])]
    filled: list[tuple[str, str]] = []
    for row in _lines(folder / "templates.jsonl"):
        for prompt, reply, word in product(row["prompts"], row["replies"], row["slots"]["x"]):
            reply = reply.replace("{x}", word)
            filled.append((prompt.replace("{x}", word), reply[0].upper() + reply[1:]))
    return plain_pairs, filled


def typed(prompt: str, rng: random.Random) -> str:
    """A prompt as people type it: now and then without capitals or an end mark."""
    if rng.random() < 0.25:
        prompt = prompt.lower()
    if rng.random() < 0.35:
        prompt = prompt.rstrip(".!?")
    return prompt or "?"


def _chat(pairs: list[tuple[str, str]], rng: random.Random) -> Document:
    chat: Document = []
    if rng.random() < _SYSTEM_SHARE:
        chat.append(("system", rng.choice(_SYSTEM_TEXTS)))
    for prompt, reply in pairs:
        chat += [("user", typed(prompt, rng)), ("assistant", reply)]
    return chat


def own_documents(folder: Path, rng: random.Random, repeats: int, strung: int) -> list[Document]:
    """The project's pairs `repeats` times, a share of the filled templates, `strung` chats of two to four pairs, and
    the dialogues."""
    pairs, filled = own_pairs(folder)
    out = [_chat([pair], rng) for _ in range(repeats) for pair in pairs]
    out += [_chat([pair], rng) for pair in rng.sample(filled, min(len(filled), len(pairs) * 2))]
    for _ in range(strung):
        pool = [rng.choice(pairs if rng.random() < 0.75 else filled) for _ in range(rng.randint(2, 4))]
        out.append(_chat(pool, rng))
    dialogues = [[(m["role"], m["content"]) for m in row["messages"]]
                 for path in sorted(folder.glob("dialogues*.jsonl")) for row in _lines(path)]
    return out + dialogues * (3 * repeats)


def story_chat(story: str, rng: random.Random) -> Document | None:
    """A story as the answer to a wish for it, or None if the story does not suit."""
    story = re.sub(r"\s*\n\s*", " ", story)
    if not 200 < len(story) < 900 or story[-1] not in '.!?"':
        return None
    words = re.findall(r"[a-z]+", story.lower())
    named = [t for t in _TOPICS if words.count(t) >= 2]
    if named:
        topic = max(named, key=words.count)
        article = "an" if topic[0] in "aeiou" else "a"
        prompt = rng.choice(_STORY_PROMPTS).format(x=f"{article} {topic}")
    else:
        prompt = rng.choice(_PLAIN_STORY_PROMPTS)
    return [("user", prompt), ("assistant", story)]


def opening(chat: Document, rng: random.Random) -> Document:
    """The first turns of a conversation, begun at a random turn so that both speakers play the assistant."""
    start = rng.choice((0, 0, 1)) if len(chat) > 3 else 0
    turns = [content for _, content in chat][start:start + 2 * rng.randint(1, 5)]
    turns = turns[:len(turns) // 2 * 2]
    return [(("user", "assistant")[i % 2], content) for i, content in enumerate(turns)]


def tuning_documents(data: Path, own: Path, held_out: HeldOut, truecase: Truecaser, rng: random.Random,
                     others: float = 1.0) -> list[Document]:
    """All documents of the tuning mixture, shuffled. others: the share that is taken of what is not our own."""
    def read(path: str, epochs: float, max_chars: int = 6000, lower: bool = False) -> list[Document]:
        return documents(data, Source(path, epochs, lower, max_chars), held_out, truecase, rng, Tally())

    out: list[Document] = []
    out += [opening(c, rng) for c in read("chat/selfdialogue.jsonl.xz", 0.1)]
    out += [opening(c, rng) for c in read("chat/topicalchat.jsonl.xz", 0.4)]
    out += [opening(c, rng) for c in read("chat/casino.jsonl.xz", 0.05)]
    out += read("chat/dolly6k.jsonl.xz", 0.5, max_chars=450)
    out += read("chat/instruct_rasbt.jsonl.xz", 0.6)
    out += read("chat/instruct_selfinstruct.jsonl.xz", 1.0, max_chars=600)
    out += read("chat/opentrivia_open.jsonl.xz", 0.01)
    tales = read("stories/tinystories_cased.txt.xz", 0.6) + read("stories/tinystories_lowercased.txt.xz", 0.3,
                                                                 lower=True)
    out += [chat for tale in tales if (chat := story_chat(tale[0][1], rng)) is not None]
    out += rng.sample(tales, len(tales) // 8) + read("stories/african_storybook.txt.xz", 0.3)
    out = rng.sample(out, round(others * len(out))) + own_documents(own, rng, repeats=6, strung=2500)
    rng.shuffle(out)
    return out
