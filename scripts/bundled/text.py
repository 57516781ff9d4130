"""Cleaning of the corpora, and the check that nothing under eval/ slips into training.

It knows strings and bytes only: no tokens, no files of the model.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

SEPARATOR = "<|endoftext|>"
WINDOW_CHARS = 50  # letters and digits that two texts must share in a row to count as copied
_EVAL_STRIDE_CHARS = 5
_TABLE_BITS = 27

_PLAIN = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "—": " - ", "–": "-", "…": "...", "\u00a0": " ",
                        "\ufffd": "", "\u200b": ""})
_BLOCKED = re.compile(r"\b(fuck\w*|shit\w*|bitch\w*|cunts?|nigg\w*|fag\w*|whores?|sluts?|porn\w*|rap(e|ed|ist|ists)|"
                      r"nazis?|suicid\w*|penis|vagina|retard\w*|mturk|turkers?|amazon turk|hits?\b.{0,20}\bworkers?)\b",
                      re.IGNORECASE)
_ASKS = re.compile(r"(who|what|where|when|why|how|which|whose|do|does|did|is|are|was|were|can|could|would|will|"
                   r"should|have you|has|isn't|aren't|don't you|didn't|you like|any)\b", re.IGNORECASE)
_SENTENCE_START = re.compile(r"((?:^|[.!?]\s+|\n\s*)[\"']?)([a-z])")
_LONE_I = re.compile(r"\bi(?=\b(?!\.[a-z]))")
_WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")


def plain(text: str) -> str:
    """Typewriter quotes and dashes, and single spaces: a small vocabulary should not spend tokens on their variants."""
    text = text.translate(_PLAIN)
    text = re.sub(r"[ \t]+", " ", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def is_blocked(text: str) -> bool:
    """Whether a text holds words that a friendly demo should not learn, or talk about the crowd-work task itself."""
    return _BLOCKED.search(text) is not None


class Truecaser:
    """Gives lower-case writing its capitals back, from the words that edited text almost always capitalises."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    @classmethod
    def from_texts(cls, texts: Iterable[str], minimum_count: int = 15, share: float = 0.95) -> Truecaser:
        """Count words inside sentences; those capitalised in `share` of their uses are names."""
        upper: Counter[str] = Counter()
        total: Counter[str] = Counter()
        inside = re.compile(r"(?<=[a-z,] )[A-Za-z]+")
        for text in texts:
            for word in inside.findall(text):
                total[word.lower()] += 1
                upper[word.lower()] += word[0].isupper()
        return cls(frozenset(w for w, n in total.items()
                             if n >= minimum_count and upper[w] >= share * n and len(w) > 2))

    def __call__(self, text: str) -> str:
        """Capitals for names, sentence starts and the pronoun I."""
        def fix(match: re.Match[str]) -> str:
            word = match.group()
            stem = word.split("'")[0]
            return word[0].upper() + word[1:] if stem in self._names else word

        text = _WORD.sub(fix, text)
        text = _LONE_I.sub("I", text)
        return _SENTENCE_START.sub(lambda m: m.group(1) + m.group(2).upper(), text)


def reply_text(text: str, truecase: Truecaser) -> str:
    """A chat turn as a sentence: capitals, and an end mark where the writer left it out."""
    text = truecase(plain(text))
    if text and text[-1].isalnum():
        text += "?" if _ASKS.match(text) and len(text) < 120 else "."
    return text


_KEEP = (string.ascii_letters + string.digits).encode()
_LOWER = bytes.maketrans(string.ascii_uppercase.encode(), string.ascii_lowercase.encode())
_DROP = bytes(b for b in range(256) if b not in _KEEP)


def _window_hashes(text: str) -> npt.NDArray[np.uint64]:
    """Polynomial hash of every window of WINDOW_CHARS letters and digits, case and spacing ignored.

    Windows double in length by h_2n[i] = h_n[i] * p^n + h_n[i + n], so 50 = 32 + 16 + 2 takes seven passes.
    """
    key = text.encode("utf-8", "ignore").translate(_LOWER, _DROP)
    if len(key) < WINDOW_CHARS:
        return np.empty(0, dtype=np.uint64)
    base = 0x9E3779B97F4A7C15
    lengths = {1: np.frombuffer(key, dtype=np.uint8).astype(np.uint64) + np.uint64(1)}
    for n in (1, 2, 4, 8, 16):
        lengths[2 * n] = _joined(lengths[n], lengths[n], n, base)
    return _joined(_joined(lengths[32], lengths[16], 32, base), lengths[2], 48, base)


def _joined(left: npt.NDArray[np.uint64], right: npt.NDArray[np.uint64], left_chars: int,
            base: int) -> npt.NDArray[np.uint64]:
    """Hashes of windows made of a left part and the right part that starts `left_chars` later."""
    tail = right[left_chars:]
    count = min(len(left), len(tail))
    return left[:count] * np.uint64(pow(base, left_chars, 1 << 64)) + tail[:count]


class HeldOut:
    """The evaluation texts, as hashes, to find training documents that copy from them."""

    def __init__(self, eval_dir: Path) -> None:
        texts = [p.read_text(encoding="utf-8") for p in sorted(eval_dir.glob("*"))]
        hashes = [_window_hashes(t)[::_EVAL_STRIDE_CHARS] for t in texts]
        self._hashes = np.unique(np.concatenate(hashes))
        self._table = np.zeros(1 << _TABLE_BITS, dtype=bool)  # a cheap first look; the sorted hashes decide
        self._table[self._slots(self._hashes)] = True

    @staticmethod
    def _slots(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        return (hashes >> np.uint64(64 - _TABLE_BITS)).astype(np.int64)

    def copied_into(self, text: str) -> bool:
        """Whether `text` shares a window of about WINDOW_CHARS letters and digits with an evaluation text."""
        hashes = _window_hashes(text)
        candidates = hashes[self._table[self._slots(hashes)]]
        places = np.searchsorted(self._hashes, candidates).clip(max=len(self._hashes) - 1)
        return bool((self._hashes[places] == candidates).any())
