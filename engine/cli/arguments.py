"""Numbers on the command line: each declares its range, and one outside it is answered with a sentence and status 2.

What only the model can tell (its context) is checked with `at_most` once its folder is known, before it is loaded.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from engine.errors import DynoError
from engine.models import opening


class WrongArgument(DynoError):
    """An argument that cannot be: status 2, as for those that the parser itself refuses."""


class Parser(argparse.ArgumentParser):
    """Refuses in one line, without the usage of all the other arguments in front of it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message.rstrip('.')}. See {self.prog} --help.\n")


def whole(low: int, high: int, where: str = "") -> Callable[[str], int]:
    """A type for add_argument: a whole number from low to high. where: of what the range is, as in "on this machine".
    """
    def read(text: str) -> int:
        return int(_checked(text, int, "whole number", low, high, where))

    return read


def number(low: float, high: float) -> Callable[[str], float]:
    """A type for add_argument: a number from low to high."""
    return lambda text: _checked(text, float, "number", low, high, "")


def threads() -> Callable[[str], int]:
    """A type for add_argument: as many threads as this process may run at once."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return whole(1, allowed, "on this machine")


def at_most(argument: str, value: int, low: int, high: int) -> None:
    """Raises WrongArgument for a value that the model cannot have."""
    if not low <= value <= high:
        raise WrongArgument(f"argument {argument}: {_outside(value, low, high, 'for this model')}.")


def model_context(folder: str) -> int:
    """Tokens a model can hold, from its folder or file. Raises DynoError."""
    return opening.model_context(Path(folder).expanduser())


def _checked(text: str, kind: type[int] | type[float], noun: str, low: float, high: float, where: str) -> float:
    try:
        value = kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no {noun} from {_short(low)} to {_short(high)}") from None
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(_outside(value, low, high, where))
    return value


def _outside(value: float, low: float, high: float, where: str) -> str:
    return f"{_short(value)} is outside {_short(low)} to {_short(high)} {where}".rstrip()


def _short(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
