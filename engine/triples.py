"""Facts of the form subject, relation, object: read from what a model wrote, written as CSV, JSON and Graphviz DOT.

Models keep to no form, so several are read: lines with bars, tabs, arrows or semicolons, bracketed lists, Markdown
tables, and JSON. A line of anything else is left out, never guessed at.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

_LONGEST = 160  # characters of a part; longer ones are sentences, not names
_BULLET = re.compile(r"^\s*(?:[-*•+]|\(?\d+[.):])\s+")
_BRACKETS = re.compile(r"^[(\[<](.*)[)\]>][,;.]?$")
_SEPARATORS = tuple(re.compile(rf"\s*{mark}\s*") for mark in (r"\|", r"\t+", r"(?:-+>|=+>|→|--)", ";"))
_JSON = re.compile(r"[\[{]")
_JSON_TRIES = 1000
_COMMAS = re.compile(r"\s*,\s*")
_RULE = re.compile(r"^:?-{2,}:?$")
_NAMES = (("subject", "head", "source", "from"), ("relation", "predicate", "relationship", "type", "label", "verb"),
          ("object", "tail", "target", "to"))
_QUOTES = "\"'`“”‘’*_"


class Triple(NamedTuple):
    """One fact."""

    subject: str
    relation: str
    object: str


def parse_triples(text: str) -> tuple[Triple, ...]:
    """The facts in a text, each once (case aside), in the order of the text; a name is written as it first was."""
    spelling: dict[str, str] = {}
    found: dict[tuple[str, ...], Triple] = {}
    for parts in list(_from_json(text)) or _from_lines(text):
        cleaned = [_clean(part) for part in parts]
        if not all(0 < len(part) <= _LONGEST for part in cleaned) or _is_heading(cleaned):
            continue
        if not any(letter.isalpha() for letter in cleaned[1]):
            continue  # figures are related to each other by nothing
        subject, relation, target = cleaned
        triple = Triple(spelling.setdefault(subject.casefold(), subject), relation,
                        spelling.setdefault(target.casefold(), target))
        found.setdefault(tuple(part.casefold() for part in triple), triple)
    return tuple(found.values())


def to_csv(triples: Sequence[Triple]) -> str:
    """A table with a heading. Cells that a spreadsheet would take for a formula are led by an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(Triple._fields)
    writer.writerows([f"'{part}" if part[:1] in "=+-@" else part for part in triple] for triple in triples)
    return out.getvalue()


def to_json(triples: Sequence[Triple]) -> str:
    """A list of objects."""
    return json.dumps([triple._asdict() for triple in triples], ensure_ascii=False, indent=2) + "\n"


def to_dot(triples: Sequence[Triple]) -> str:
    """A directed graph for Graphviz."""
    lines = [f"  {_quoted(t.subject)} -> {_quoted(t.object)} [label={_quoted(t.relation)}];" for t in triples]
    return "\n".join(("digraph facts {", "  rankdir=LR;", "  node [shape=box, style=rounded];", *lines, "}")) + "\n"


def _from_lines(text: str) -> Iterator[Sequence[str]]:
    for line in text.splitlines():
        line = _BULLET.sub("", line).strip().strip("`")
        bracketed = _BRACKETS.match(line)
        line = (bracketed[1] if bracketed else line).strip().strip("|").strip()
        patterns: Iterable[re.Pattern[str]] = (*_SEPARATORS, _COMMAS) if bracketed else _SEPARATORS
        for pattern in patterns:
            parts = pattern.split(line)
            if len(parts) == 3:
                yield parts
                break


def _from_json(text: str) -> Iterator[Sequence[str]]:
    """Triples in every JSON value that begins in the text, also where it is cut off at the end."""
    decoder, at = json.JSONDecoder(), 0
    for _ in range(_JSON_TRIES):
        begin = _JSON.search(text, at)
        if begin is None:
            return
        try:
            value, at = decoder.raw_decode(text, begin.start())
        except (ValueError, RecursionError):
            at = begin.start() + 1
            continue
        yield from _in_value(value)


def _in_value(value: Any, depth: int = 0) -> Iterator[Sequence[str]]:
    if depth > 6:
        return
    if isinstance(value, list):
        if len(value) == 3 and all(isinstance(part, str) for part in value):
            yield value
        else:
            for inner in value:
                yield from _in_value(inner, depth + 1)
    elif isinstance(value, dict):
        lower = {str(key).casefold(): inner for key, inner in value.items()}
        parts = [next((lower[name] for name in names if isinstance(lower.get(name), str)), None) for names in _NAMES]
        if all(part is not None for part in parts):
            yield [str(part) for part in parts]
        else:
            for inner in value.values():
                yield from _in_value(inner, depth + 1)


def _clean(part: str) -> str:
    return " ".join(part.split()).strip(_QUOTES + " ").rstrip(".").strip()


def _is_heading(parts: Sequence[str]) -> bool:
    """The line that names the columns, or the rule under it."""
    return all(_RULE.match(part) for part in parts) or all(
        part.casefold() in names for part, names in zip(parts, _NAMES, strict=True))


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
