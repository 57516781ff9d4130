"""Which process wrote something, and whether it still runs: its number, and since when, because numbers come again."""

from __future__ import annotations

import os

import psutil

_SAME_START_S = 2.0


def this_process() -> tuple[int, float]:
    """(number, start in seconds since the epoch) of this process."""
    return os.getpid(), float(psutil.Process().create_time())


def runs_still(number: int, started_s: float) -> bool:
    """Whether the process with this number and start runs on this machine."""
    try:
        return bool(abs(psutil.Process(number).create_time() - started_s) < _SAME_START_S)
    except (psutil.Error, ValueError):
        return False
