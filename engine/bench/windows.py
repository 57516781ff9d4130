"""A stream of token ids cut into the windows that are scored. It knows ids only.

Fixed chunks are llama.cpp's llama-perplexity; the strided windows are Transformers' page "Perplexity of fixed-length
models", to the letter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """ids[scored:] are scored, each from the ids before it; scored is 1 or more. weight: of the window's mean NLL in
    the mean over all windows."""

    ids: list[int]
    scored: int
    weight: int


class Counted:
    """Ids one by one from lists of them. count: how many have been taken."""

    def __init__(self, lists: Iterable[list[int]]) -> None:
        self._lists = iter(lists)
        self._held: list[int] = []
        self.count = 0

    def fill(self, wanted: int) -> int:
        """Have at least `wanted` ids at hand, or all that are left; how many there are."""
        while len(self._held) < wanted:
            fresh = next(self._lists, None)
            if fresh is None:
                break
            self._held += fresh
            self.count += len(fresh)
        return len(self._held)

    def first(self, count: int) -> list[int]:
        """The next `count` ids, which stay."""
        return self._held[:count]

    def drop(self, count: int) -> None:
        """Go on by `count` ids."""
        del self._held[:count]


def fixed_windows(ids: Counted, context: int, bos: int | None) -> Iterator[Window]:
    """Disjoint chunks of `context` tokens, the first replaced by `bos`, the tokens after the middle one scored. What
    is left over at the end is not scored."""
    while ids.fill(context) >= context:
        part = ids.first(context)
        ids.drop(context)
        if bos is not None:
            part[0] = bos
        first = context // 2 + 1
        yield Window(part, first, context - first)


def strided_windows(ids: Counted, context: int, stride: int) -> Iterator[Window]:
    """Windows of up to `context` tokens every `stride` ones; those that no window before has scored are.

    A window weighs its labels less one, as in Transformers' documented loop ("due to internal label shift").
    """
    begin = last_end = 0
    while True:
        there = ids.fill(context + 1)
        part = ids.first(context)
        end = begin + len(part)
        fresh = end - last_end
        scored = max(1, len(part) - fresh)
        if len(part) > scored and fresh > 1:
            yield Window(part, scored, fresh - 1)
        if there <= context:
            return
        ids.drop(stride)
        begin, last_end = begin + stride, end
