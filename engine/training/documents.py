"""Training data as documents: plain text files, JSON lines, Parquet, folders of them, compressed or not.

A document is a text (possibly in pieces, so that a file of any size takes the same memory) or the turns of a chat.
It knows files, not tokens.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
import lzma
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import DynoError
from engine.models.chat import ChatMessage
from engine.words import counted

_OPENERS: dict[str, Callable[..., Any]] = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open}
_KINDS = (".txt", ".md", ".jsonl", ".ndjson", ".parquet")
_FIELDS = ("text", "content", "story", "document")
_ROLES = ("system", "user", "assistant")
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Document:
    """pieces: the text (a file's in blocks), or turns: a conversation. Exactly one of them is there."""

    pieces: Callable[[], Iterator[str]] | None = None
    turns: tuple[ChatMessage, ...] = ()

    @classmethod
    def of(cls, text: str) -> Document:
        """A document of one text."""
        return cls(lambda: iter((text,)))

    def text(self) -> Iterator[str]:
        """What a tokenizer is trained on: the text, or the turns' contents."""
        if self.pieces is not None:
            yield from self.pieces()
        else:
            yield from (turn.content + "\n" for turn in self.turns)


def find_files(paths: Sequence[str]) -> list[Path]:
    """Every data file under the paths, folders searched, in a fixed order. Raises DynoError."""
    found: list[Path] = []
    for name in paths:
        path = Path(name).expanduser()
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file() and kind_of(p) in _KINDS)
            if not inside:
                raise DynoError(f"The folder {path} holds no data.", "Put .txt, .jsonl or .parquet files into it.")
            found += inside
        elif path.is_file():
            if kind_of(path) not in (*_KINDS, ".npy"):
                raise DynoError(f"{path.name} is no kind of data that can be read.",
                                "Use .txt, .jsonl or .parquet (also .xz or .gz), or a .npy of token ids.")
            found.append(path)
        else:
            raise DynoError(f"There is no file or folder {path}.", "Check its name.")
    return found


def kind_of(path: Path) -> str:
    """The suffix that says what is in a file, compression apart."""
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in _OPENERS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def read_documents(path: Path) -> Iterator[Document]:
    """The documents of one file. Raises DynoError where it turns out to be no data."""
    kind = kind_of(path)
    try:
        if kind == ".parquet":
            yield from _parquet(path)
        elif kind in (".jsonl", ".ndjson"):
            number = 0
            for number, line in enumerate(_lines(path), 1):
                if line.strip():
                    yield _from_line(path, number, line)
        else:
            yield Document(lambda: _text(path))
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise DynoError(f"{path.name} cannot be read: {error}.", "Check the file and its permissions.") from error


def _text(path: Path) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    opener = _OPENERS.get(path.suffix.lower(), open)
    try:
        with opener(path, "rb") as file:
            while True:
                block = file.read(_BLOCK)
                if b"\0" in block:
                    raise DynoError(f"{path.name} is not a text file: it holds zero bytes.",
                                    "Choose a .txt, .jsonl or .parquet file.")
                text = decoder.decode(block, final=not block)
                if text:
                    yield text
                if not block:
                    return
    except UnicodeDecodeError as error:
        raise DynoError(f"{path.name} is not UTF-8 text.", "Save it as UTF-8, or choose another file.") from error
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise DynoError(f"{path.name} cannot be read: {error}.", "Check the file and its permissions.") from error


def _lines(path: Path) -> Iterator[str]:
    held = ""
    for piece in _text(path):
        *lines, held = (held + piece).split("\n")
        yield from lines
    if held:
        yield held


def _from_line(path: Path, number: int, line: str) -> Document:
    try:
        raw: Any = json.loads(line)
    except ValueError as error:
        raise DynoError(f"Line {number:,} of {path.name} is not JSON.",
                        "Each line of a .jsonl file is one JSON object; rename a plain text to .txt.") from error
    document = _from_value(raw)
    if document is None:
        raise DynoError(f"Line {number:,} of {path.name} holds nothing to learn.",
                        'Each line needs a "text", or "messages" with a "role" and a "content" each.')
    return document


def _from_value(raw: Any) -> Document | None:
    if isinstance(raw, str):
        return Document.of(raw)
    if not isinstance(raw, dict):
        return None
    turns = raw.get("messages")
    if turns is not None:
        ok = isinstance(turns, list) and turns and all(
            isinstance(t, dict) and t.get("role") in _ROLES and isinstance(t.get("content"), str) for t in turns)
        return Document(turns=tuple(ChatMessage(t["role"], t["content"]) for t in turns)) if ok else None
    return next((Document.of(raw[name]) for name in _FIELDS if isinstance(raw.get(name), str)), None)


def _parquet(path: Path) -> Iterator[Document]:
    try:
        import pyarrow.parquet as parquet
        from pyarrow import ArrowException
    except ImportError as error:
        raise DynoError("Parquet files need the package pyarrow.",
                        'Install it (pip install "gpt-dyno[parquet]"), or save the data as .txt or .jsonl.') from error
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            column = next((n for n in ("messages", *_FIELDS) if n in names), None)
            if column is None:
                raise DynoError(f'{path.name} has no column "text" or "messages".',
                                f"Its columns are {', '.join(names) or 'none'}: rename the one to learn from.")
            number = 0
            for batch in file.iter_batches(batch_size=512, columns=[column]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    document = _from_value({column: value} if column == "messages" else value)
                    if document is None:
                        raise DynoError(f"{counted(number, 'row')} into {path.name} stands no text.",
                                        "Each row needs a text, or messages with role and content.")
                    yield document
    except ArrowException as error:
        first = str(error).strip().splitlines()[0]
        raise DynoError(f"{path.name} is no Parquet file that can be read: {first}", "Download it again.") from error
