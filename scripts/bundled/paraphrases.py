"""Questions in many words from few lines: the format of resources/training/asked_*.txt.

A block holds replies (lines after ">") and prompts (plain lines); `[a|b]` stands for one of its parts, and a table
"@ country, city = France, Paris | Japan, Tokyo" fills {country} and {city} on both sides. Blank lines end a block, "#"
begins a comment. It does not know chats or tokens.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aei]|o(?!ne|nce)|u(?!ni|se))")
_ROWS_PER_LINE = 24

Row = dict[str, str]


@dataclass(frozen=True)
class Block:
    """Replies that go with each of the prompts, and the tables that fill both."""

    replies: tuple[str, ...]
    prompts: tuple[str, ...]
    tables: tuple[tuple[Row, ...], ...]

    def pairs(self, rng: random.Random, draws: int) -> list[tuple[str, str]]:
        """(prompt, reply) pairs: `draws` random readings of each prompt, or one for each of up to 24 rows."""
        rows = 1
        for table in self.tables:
            rows *= len(table)
        count = draws if rows == 1 else min(rows, _ROWS_PER_LINE)
        return [self._filled(prompt, rng) for prompt in self.prompts for _ in range(count)]

    def _filled(self, prompt: str, rng: random.Random) -> tuple[str, str]:
        row: Row = {}
        for table in self.tables:
            row |= rng.choice(table)
        return _written(prompt, row, rng), _written(rng.choice(self.replies), row, rng)


def _written(text: str, row: Row, rng: random.Random) -> str:
    """One reading of a line as a sentence: capital first, articles and spaces as they should be."""
    text = _CHOICE.sub(lambda m: rng.choice(m.group(1).split("|")), text)
    for _ in range(2):  # a cell may hold a slot of another table
        text = _SLOT.sub(lambda m: row.get(m.group(1), m.group()), text)
    text = re.sub(r"(?<=[.!?] )[a-z]", lambda m: m.group().upper(), re.sub(r"\s+", " ", text).strip())
    text = _ARTICLE.sub(r"\1n ", re.sub(r" (?=[,.?!])", "", text))
    return text[:1].upper() + text[1:]


def _table(line: str) -> tuple[Row, ...]:
    """Rows of "@ a, b = x, y | z, w"; the last column keeps its commas. Raises ValueError if a row lacks a column."""
    head, _, body = line[1:].partition("=")
    names = [name.strip() for name in head.split(",")]
    rows = []
    for entry in body.split("|"):
        cells = [cell.strip() for cell in entry.split(",", len(names) - 1)]
        if len(cells) != len(names):
            raise ValueError(f"{entry.strip()!r} does not fill the columns {names}.")
        rows.append(dict(zip(names, cells, strict=True)))
    return tuple(rows)


def read_blocks(path: Path) -> list[Block]:
    """The blocks of a file. Raises ValueError for a block without a reply or a prompt, for one where a reply or a table
    follows a prompt, and for an unknown slot."""
    out: list[Block] = []
    text = "\n".join(line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    for part in text.split("\n\n"):
        lines = [line.strip() for line in part.splitlines() if line.strip()]
        begun = [line[0] not in ">@" for line in lines]
        if begun != sorted(begun):
            raise ValueError(f"{path.name}: in the block {lines[0]!r} a reply or a table follows a prompt. A blank "
                             "line is missing.")
        if not lines:
            continue
        replies = tuple(line[1:].strip() for line in lines if line.startswith(">"))
        prompts = tuple(line for line in lines if line[0] not in ">@")
        tables = tuple(_table(line) for line in lines if line.startswith("@"))
        known = {name for table in tables for name in table[0]}
        used = {name for line in (*replies, *prompts) for name in _SLOT.findall(line)}
        if not replies or not prompts or used - known:
            raise ValueError(f"{path.name}: the block {lines[0]!r} lacks a reply, a prompt or the table of a slot.")
        out.append(Block(replies, prompts, tables))
    return out
