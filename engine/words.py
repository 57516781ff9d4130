"""Counts in the sentences people read: "1 layer holds", "12 layers hold"."""

from __future__ import annotations


def counted(number: int, one: str, many: str = "") -> str:
    """The number with its noun. many: the noun of any number but one, `one` with an s where it is not given."""
    return f"{number:,} {agreed(number, one, many or one + 's')}"


def agreed(number: int, one: str, many: str) -> str:
    """The form of a word that goes with the number."""
    return one if number == 1 else many
