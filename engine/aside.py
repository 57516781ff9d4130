"""A long computation on a thread of its own, so that whoever steps through it can stop at any moment.

A foreign call of seconds cannot be interrupted; one may walk away from it. What it still makes is then thrown away.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import TypeVar

import torch

T = TypeVar("T")
_LOOK_S = 0.1


def aside(work: Callable[[], T]) -> Generator[None, None, T]:
    """Run `work` without gradients, yielding while it takes; returns its result or raises what it raised."""
    made: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            with torch.no_grad():
                made.append(work())
        except BaseException as error:  # handed on to whoever waits
            failed.append(error)

    thread = threading.Thread(target=run, name="building")  # a process that ends waits: torch must not be cut off
    thread.start()
    while thread.is_alive():
        yield
        thread.join(_LOOK_S)
    if failed:
        raise failed[0]
    return made[0]
