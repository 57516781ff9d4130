"""Texts to score, read as a stream: plain text, JSON lines and Parquet. A file of any size takes the same memory.

It knows files, not tokens. What cannot be scored (missing, empty, binary, another encoding) is refused with a sentence.
"""

from __future__ import annotations

import codecs
import functools
import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import DynoError, reason
from engine.paths import RESOURCES

EVALUATION_TEXT = RESOURCES / "evaluation" / "evaluation.txt"
BETWEEN = "\n\n"
"""Stands between two documents of a JSON lines or Parquet file, as in Transformers' WikiText recipe."""
_BLOCK = 1 << 16
_FIELDS = ("text", "content", "prompt", "story", "document")


@dataclass(frozen=True)
class TextFile:
    """A text on disk. size_bytes: of the file, for progress."""

    path: Path
    size_bytes: int

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    @functools.cached_property
    def fingerprint(self) -> str:
        """Ten hex digits of the file's bytes. Raises DynoError where it cannot be read."""
        try:
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()[:10]
        except OSError as error:
            raise _unreadable(self.name, error) from error

    def pieces(self) -> Iterator[str]:
        """The text from its beginning, in pieces of any length. Raises DynoError where it turns out to be no text."""
        suffix = self.path.suffix.lower()
        try:
            if suffix == ".parquet":
                yield from _joined(_parquet(self.path))
            elif suffix in (".jsonl", ".ndjson"):
                yield from _joined(_json_lines(self.path))
            else:
                yield from _plain(self.path)
        except OSError as error:
            raise _unreadable(self.name, error) from error


def open_text(path: str) -> TextFile:
    """A text by its path, "" for the evaluation text that ships with the app. Raises DynoError."""
    place = Path(path).expanduser() if path else EVALUATION_TEXT
    try:
        if not place.is_file():
            raise DynoError(f"There is no text file {place}.", "Check its name; a folder cannot be scored.")
        size_bytes = place.stat().st_size
    except (OSError, ValueError) as error:
        raise _unreadable(place.name[:60], error) from error
    if size_bytes == 0:
        raise DynoError(f"{place.name} is empty.", "Choose a text of a few thousand words.")
    text = TextFile(place, size_bytes)
    pieces = text.pieces()
    if not any(piece.strip() for piece in itertools.islice(pieces, 64)):
        raise DynoError(f"{place.name} holds nothing but white space.", "Choose a text of a few thousand words.")
    return text


def _unreadable(name: str, error: OSError | ValueError) -> DynoError:
    return DynoError(f"{name} cannot be read: {reason(error)}.", "Check the file and its permissions.")


def _plain(path: Path) -> Iterator[str]:
    """Line ends stay as they are, since they are tokens like any other; a mark of UTF-8 at the beginning goes."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    with path.open("rb") as file:
        while True:
            block = file.read(_BLOCK)
            if b"\0" in block:
                raise DynoError(f"{path.name} is not a text file: it holds zero bytes.",
                                "Choose a .txt, .jsonl or .parquet file; save other texts as UTF-8.")
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                raise DynoError(f"{path.name} is not UTF-8 text.",
                                "Save it as UTF-8, or choose another file.") from error
            if text:
                yield text
            if not block:
                return


def _joined(documents: Iterator[str]) -> Iterator[str]:
    between = ""
    for document in documents:
        yield between + document
        between = BETWEEN


def _json_lines(path: Path) -> Iterator[str]:
    """The "text" of each object (or the first known name that holds one), or the turns of its "messages"."""
    pending: list[str] = []  # one line may be as long as the file, so its parts are joined once
    number = 0
    for piece in _plain(path):
        head, *rest = piece.split("\n")
        pending.append(head)
        for part in rest:
            number += 1
            line = "".join(pending)
            if line.strip():
                yield _document(path, number, line)
            pending = [part]
    line = "".join(pending)
    if line.strip():
        yield _document(path, number + 1, line)


def _document(path: Path, number: int, line: str) -> str:
    try:
        raw: Any = json.loads(line)
    except ValueError as error:
        raise DynoError(f"Line {number:,} of {path.name} is not JSON.",
                        "Each line of a .jsonl file is one JSON object; rename a plain text to .txt.") from error
    if isinstance(raw, str):
        return raw
    if isinstance(raw, dict):
        for name in _FIELDS:
            if isinstance(raw.get(name), str):
                return str(raw[name])
        turns = raw.get("messages")
        if isinstance(turns, list) and all(isinstance(t, dict) and isinstance(t.get("content"), str) for t in turns):
            return "\n".join(t["content"] for t in turns)
    raise DynoError(f"Line {number:,} of {path.name} holds no text.",
                    'Each line needs a "text", or "messages" with a "content" each.')


def _parquet(path: Path) -> Iterator[str]:
    """The column of text, row by row (WikiText's files have one column "text")."""
    try:
        import pyarrow.parquet as parquet
        from pyarrow import ArrowException, types
    except ImportError as error:
        raise DynoError("Parquet files need the package pyarrow.",
                        'Install it (pip install "gpt-dyno[parquet]"), or save the text as .txt or .jsonl.') from error
    try:
        with parquet.ParquetFile(path) as file:
            strings = [f.name for f in file.schema_arrow if types.is_string(f.type) or types.is_large_string(f.type)]
            column = next((name for name in _FIELDS if name in strings), strings[0] if len(strings) == 1 else None)
            if column is None:
                names = ", ".join(strings) or "none"
                raise DynoError(f'{path.name} has no column "text" (its text columns: {names}).',
                                'Rename the column to score to "text".')
            for batch in file.iter_batches(batch_size=512, columns=[column]):
                yield from (value for value in batch.column(0).to_pylist() if value is not None)
    except ArrowException as error:
        first = str(error).strip().splitlines()[0]
        raise DynoError(f"{path.name} is no Parquet file that can be read: {first.rstrip('.')}.",
                        "Download it again.") from error
