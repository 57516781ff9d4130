"""Making `import torch` cheap for a window that is already on the screen. Knows nothing of the engine."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def preload_torch() -> None:
    """Map torch's libraries before importing it. `import torch` would do so holding Python's global lock, and the
    window would stand still for it; a foreign call releases the lock."""
    # Threads that wait for work spin this long before they sleep: enough for the gaps between two products. The default
    # spins for milliseconds, and where another program wants the core a token then takes ten times as long.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    spec = importlib.util.find_spec("torch")
    if "torch" in sys.modules or spec is None or not spec.submodule_search_locations or sys.platform != "linux":
        return
    folder = Path(spec.submodule_search_locations[0]) / "lib"
    dlopen: Callable[..., Any] = ctypes.CDLL(None).dlopen
    dlopen.restype = ctypes.c_void_p  # type: ignore[attr-defined]
    for pattern in ("libgomp*", "libc10.so", "libtorch_cpu.so", "libtorch.so", "libtorch_python.so"):
        for library in folder.glob(pattern):
            dlopen(str(library).encode(), 1)  # RTLD_LAZY; a failure here only means that the import does the work
