"""Prompt lookup: what followed the last few tokens the time before, as a guess at what follows them now."""

from __future__ import annotations

from collections.abc import Sequence


class PromptLookup:
    """Remembers where every run of `ngram` tokens last ended, so that proposing costs the same at any length."""

    def __init__(self, tokens: Sequence[int], ngram: int) -> None:
        self.ngram = ngram
        self._tokens: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # a run -> the position after its last appearance but the newest
        for token in tokens:
            self.add(token)

    def add(self, token: int) -> None:
        """The text goes on with `token`."""
        if len(self._tokens) >= self.ngram:
            self._after[tuple(self._tokens[-self.ngram:])] = len(self._tokens)
        self._tokens.append(token)

    def propose(self, count: int) -> list[int]:
        """At most `count` tokens that followed the last run before; none where it is new."""
        start = self._after.get(tuple(self._tokens[-self.ngram:]))
        return [] if start is None or count <= 0 else self._tokens[start:start + count]
