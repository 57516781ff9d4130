"""The end of the process, where something runs that cannot be stopped.

torch.compile and torch.distributed work on threads of their own and of C++; an interpreter that is taken down under
them aborts. It knows nothing of torch.
"""

from __future__ import annotations

import os
import sys
import threading

COMPILING = "compile"
"""Name of the threads on which a token step is compiled."""

_staying: set[str] = set()


def stays(what: str) -> None:
    """Say that threads nobody can end will outlive the work: `what` they are, for a debugger's eye."""
    _staying.add(what)


def leave(status: int) -> int:
    """The status for sys.exit(); does not return where such threads run. Call when all is saved."""
    if _staying or any(thread.name == COMPILING for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status
