"""The mixture for chat tuning: the project's own small talk first, then conversations, short answers and stories.

Our own prompts are repeated and strung together into chats of several turns, because greetings and questions about
the model itself are what people type first. It does not know tokens.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from scripts.bundled.corpora import Document, Source, Tally, documents
from scripts.bundled.paraphrases import read_blocks
from scripts.bundled.text import HeldOut, Truecaser
from scripts.bundled.unseen import Unseen

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
_PROSE = (("prose/enwiki2015_simple.txt.xz", 0.02), ("prose/wikinews.txt.xz", 0.025),
          ("prose/gutenberg_books.txt.xz", 0.01), ("prose/novels_1839_1927.txt.xz", 0.008))
_TOPICS = ("cat", "dog", "bird", "bear", "rabbit", "fish", "frog", "mouse", "horse", "duck", "lion", "monkey", "tree",
           "ball", "boat", "car", "train", "cake", "doll", "robot", "dragon", "princess", "king", "fairy", "flower",
           "kite", "truck", "castle", "balloon", "butterfly", "squirrel", "elephant", "fox", "cow", "pig", "bee")


@dataclass(frozen=True)
class OwnShare:
    """How often our own material is read: the plain pairs `repeats` times, each line of asked_*.txt in `draws` random
    readings, and `strung` chats of several of them."""

    repeats: int
    draws: int
    strung: int


@dataclass(frozen=True)
class Mixture:
    """Shares of a tuning mixture: of the chats and stories that are not ours, of the prose, and of our own."""

    others: float
    prose: float
    own: OwnShare


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def own_pairs(folder: Path, unseen: Unseen) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(prompt, reply) pairs written for this project: plain ones, and those filled from templates.

    Prompts that come near one that must stay unseen are left out.
    """
    plain_pairs = [pair for path in sorted(folder.glob("intents*.jsonl")) for row in _lines(path)
                   for pair in product(row["prompts"], row["replies"]) if not unseen.nearly(pair[0])]
    filled: list[tuple[str, str]] = []
    for row in _lines(folder / "templates.jsonl"):
        for prompt, reply, word in product(row["prompts"], row["replies"], row["slots"]["x"]):
            reply = reply.replace("{x}", word)
            filled.append((prompt.replace("{x}", word), reply[0].upper() + reply[1:]))
    return plain_pairs, [pair for pair in filled if not unseen.nearly(pair[0])]


def asked_pairs(folder: Path, unseen: Unseen, rng: random.Random, draws: int) -> list[tuple[str, str]]:
    """(prompt, reply) pairs of asked_*.txt, each prompt in `draws` readings; near unseen ones are left out."""
    found = [pair for path in sorted(folder.glob("asked_*.txt")) for block in read_blocks(path)
             for pair in block.pairs(rng, draws)]
    return [pair for pair in found if not unseen.nearly(pair[0])]


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


def own_documents(folder: Path, unseen: Unseen, rng: random.Random, share: OwnShare) -> list[Document]:
    """The project's pairs as often as `share` says, a part of the filled templates, chats of two to four pairs, and
    the dialogues."""
    pairs, filled = own_pairs(folder, unseen)
    asked = asked_pairs(folder, unseen, rng, share.draws)
    out = [_chat([pair], rng) for _ in range(share.repeats) for pair in pairs]
    out += [_chat([pair], rng) for pair in rng.sample(filled, min(len(filled), len(pairs) * 2))]
    out += [_chat([pair], rng) for pair in asked]
    for _ in range(share.strung):
        pool = [rng.choice(rng.choice((pairs, pairs, asked, asked, filled))) for _ in range(rng.randint(2, 4))]
        out.append(_chat(pool, rng))
    dialogues = [[(m["role"], m["content"]) for m in row["messages"]]
                 for path in sorted(folder.glob("dialogues*.jsonl")) for row in _lines(path)]
    return out + dialogues * (3 * share.repeats)


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


def tuning_documents(data: Path, own: list[Document], held_out: HeldOut, truecase: Truecaser, rng: random.Random,
                     others: float, prose: float) -> list[Document]:
    """All documents of the tuning mixture, shuffled.

    own: ours. others: the share that is taken of the chats and stories that are not ours. prose: likewise of the
    pretraining's articles and books, so that they are not forgotten.
    """
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
    out = rng.sample(out, round(others * len(out))) + own
    for path, epochs in _PROSE:
        out += read(path, prose * epochs) if prose else []
    rng.shuffle(out)
    return out
