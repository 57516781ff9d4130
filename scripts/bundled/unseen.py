"""Keeps the evaluation's prompts in unusual words out of the training material: not word for word, nor nearly so.

Fifty of the hundred fixed prompts ask known things in words that training should never have shown; a prompt of the
material that is nearly one of them is dropped. It knows strings only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import SequenceMatcher

UNUSUAL_NUMBERS = (*range(2, 97, 2), 99, 100)
"""Of the fixed prompts, from 1: those that stood nowhere in the material when they were fixed."""
_SHARED_WORDS = 0.6  # of the telling words of both prompts together
_SHARED_LETTERS = 0.85  # difflib's ratio, for prompts whose words differ only in their endings
_COMMON = frozenset([
    "a", "an", "and", "are", "as", "at", "be", "by", "can", "could", "do", "does", "for", "from", "had", "has",
    "have", "how", "i", "if", "in", "is", "it", "its", "me", "my", "of", "on", "or", "our", "so", "than", "that",
    "the", "them", "there", "these", "they", "this", "to", "was", "we", "were", "what", "when", "where", "which",
    "who", "why", "will", "with", "would", "you", "your", "please"])


def _words(prompt: str) -> frozenset[str]:
    """The telling words, without the endings of plurals; all words where none tells."""
    found = [re.sub(r"(?<=\w\w\w)s$", "", word) for word in re.findall(r"[a-z0-9]+", prompt.lower())]
    return frozenset(found) - _COMMON or frozenset(found)


class Unseen:
    """The prompts that must stay unseen. A question is asked often, so its answer is remembered."""

    def __init__(self, prompts: Iterable[str]) -> None:
        self._prompts = [(prompt.lower(), _words(prompt)) for prompt in prompts]
        self._known: dict[str, bool] = {}

    def nearly(self, prompt: str) -> bool:
        """Whether a prompt is one of them, or shares most of its telling words or letters with one."""
        key = prompt.lower()
        if key not in self._known:
            words = _words(prompt)
            self._known[key] = any(len(words & theirs) >= _SHARED_WORDS * len(words | theirs) or
                                   _alike(key, text) for text, theirs in self._prompts)
        return self._known[key]


def _alike(one: str, other: str) -> bool:
    matcher = SequenceMatcher(None, one, other, autojunk=False)
    return (matcher.real_quick_ratio() >= _SHARED_LETTERS and matcher.quick_ratio() >= _SHARED_LETTERS
            and matcher.ratio() >= _SHARED_LETTERS)
