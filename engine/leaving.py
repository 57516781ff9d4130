"""The end of the process, where something runs that cannot be stopped.

torch.compile works on threads of its own and of C++; an interpreter that is taken down under them aborts. It knows
nothing of torch.
"""

from __future__ import annotations

import os
import sys
import threading

COMPILING = "compile"
"""Name of the threads on which a token step is compiled."""


def leave(status: int) -> int:
    """The status for sys.exit(); does not return where a compilation is under way. Call when all is saved."""
    if any(thread.name == COMPILING for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status
