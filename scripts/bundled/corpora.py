"""Which text the bundled model reads, how often, and in which shape.

A document is a list of chat messages; plain text is one message with the role "text". It does not know tokens.
Advice followed (SOURCES.md of the data): stories and chats outweigh novels, and nothing under eval/ is ever read.
"""

from __future__ import annotations

import json
import lzma
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scripts.bundled.text import SEPARATOR, HeldOut, Truecaser, is_blocked, plain, reply_text

Message = tuple[str, str]  # (role, content)
Document = list[Message]

_CHUNK_CHARS = 3000
_MAX_TURN_CHARS = 600


@dataclass(frozen=True)
class Source:
    """One corpus file and how often its documents are read: 0.25 takes a quarter of them, 3 repeats all three times.

    truecase: the file is written in lower case. max_chars: longer documents are left out (chats) or cut (prose).
    """

    path: str
    epochs: float
    truecase: bool = False
    max_chars: int = 6000

    @property
    def is_chat(self) -> bool:
        """Whether the file holds JSON lines of conversations."""
        return ".jsonl" in self.path


PRETRAINING = (
    Source("stories/tinystories_cased.txt.xz", 5.0),
    Source("stories/tinystories_lowercased.txt.xz", 4.0, truecase=True),
    Source("stories/african_storybook.txt.xz", 6.0),
    Source("stories/fairytale_stories.txt.xz", 2.0),
    Source("stories/simple_narrative.txt.xz", 1.5),
    Source("prose/enwiki2015_simple.txt.xz", 0.5),
    Source("prose/wikinews.txt.xz", 0.45),
    Source("prose/novels_1839_1927.txt.xz", 0.15),
    Source("prose/gutenberg_books.txt.xz", 0.25),
    Source("chat/selfdialogue.jsonl.xz", 2.0),
    Source("chat/topicalchat.jsonl.xz", 3.0),
    Source("chat/dolly6k.jsonl.xz", 4.0, max_chars=1200),
    Source("chat/instruct_rasbt.jsonl.xz", 5.0),
    Source("chat/instruct_selfinstruct.jsonl.xz", 5.0),
    Source("chat/fairytaleqa.jsonl.xz", 0.4, max_chars=1500),
    Source("chat/opentrivia_open.jsonl.xz", 0.4),
    Source("chat/sgd.jsonl.xz", 0.4),
    Source("chat/casino.jsonl.xz", 1.0),
    Source("chat/taskmaster4.jsonl.xz", 1.0),
)


def opened(path: Path) -> str:
    """Text of a plain or .xz file."""
    if path.suffix == ".xz":
        with lzma.open(path, "rt", encoding="utf-8") as handle:
            return handle.read()
    return path.read_text(encoding="utf-8")


def prose_documents(path: Path, max_chars: int) -> Iterator[str]:
    """Documents of a prose file; whole books come in chunks that end with a paragraph or a sentence.

    What is left at a book's end and fills no chunk is dropped.
    """
    for document in opened(path).split(SEPARATOR):
        document = document.strip()
        if len(document) <= max_chars:
            if len(document) > 80:
                yield document
            continue
        chunk = ""
        for piece in re.split(r"(?<=\n)|(?<=[.!?] )", document):
            chunk += piece
            if len(chunk) >= _CHUNK_CHARS:
                yield chunk
                chunk = ""


def conversation(line: str) -> Document:
    """The messages of one JSON line."""
    return [(m["role"], m["content"]) for m in json.loads(line)["messages"]]


def _usable(chat: Document, max_chars: int) -> bool:
    sizes = [len(content) for _, content in chat]
    return (len(chat) >= 2 and min(sizes) > 0 and sum(sizes) <= max_chars
            and all(s <= _MAX_TURN_CHARS for s in sizes[1:]))


def cleaned(chat: Document, truecase: Truecaser) -> Document:
    """Replies written out as sentences; the user's side stays as people type."""
    return [(role, reply_text(text, truecase) if role == "assistant" else plain(text)) for role, text in chat]


def truecaser(data: Path) -> Truecaser:
    """Names learned from edited text."""
    texts = [opened(data / p)[:30_000_000] for p in
             ("stories/tinystories_cased.txt.xz", "prose/enwiki2015_simple.txt.xz")]
    return Truecaser.from_texts(texts)


@dataclass
class Tally:
    """What happened to the documents of one source."""

    kept: int = 0
    copied: int = 0
    unsuitable: int = 0


def documents(data: Path, source: Source, held_out: HeldOut, truecase: Truecaser, rng: random.Random,
              tally: Tally) -> list[Document]:
    """The source's clean documents, each once; a source read less than once gives a random share of them."""
    path = data / source.path
    out: list[Document] = []
    raw = opened(path).splitlines() if source.is_chat else list(prose_documents(path, source.max_chars))
    for entry in raw:
        if rng.random() >= source.epochs:
            continue
        chat = conversation(entry) if source.is_chat else [("text", entry)]
        joined = " ".join(content for _, content in chat)
        if is_blocked(joined) or (source.is_chat and not _usable(chat, source.max_chars)):
            tally.unsuitable += 1
        elif held_out.copied_into(joined):
            tally.copied += 1
        else:
            tally.kept += 1
            if source.is_chat:
                out.append(cleaned(chat, truecase))
            else:
                text = plain(entry)
                out.append([("text", truecase(text) if source.truecase else text)])
    return out
