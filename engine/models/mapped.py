"""Weight files mapped into memory: a tensor is a view of its file, read when it is touched, given back when told so.

Mapped pages are the system's file cache: a process that has read a file shows them as resident, and the system takes
them back when it needs room. `release` gives them back at once, so that a build layer by layer stays as small as its
result. It knows nothing of models.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from engine.errors import DynoError, reason
from engine.models.weight_files import Entry

_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# Pages nobody writes need no promise of memory: without it Linux refuses to map a file larger than the machine.
_NO_RESERVE = 0x4000


def trim() -> None:
    """Give back what the allocator keeps of freed memory, where it is glibc's: on other threads than the first it lies
    in heaps of 64 MB, and copies of one layer leave holes there in which the next layer's find no room."""
    if _give_back is not None:
        _give_back(0)


def _glibc_trim() -> Callable[[int], int] | None:
    if sys.platform != "linux":
        return None
    found: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return found


_give_back = _glibc_trim()


class MappedFile:
    """One file's bytes. Nothing writes into them: the mapping is private, so that not even a mistake reaches the file.
    """

    def __init__(self, path: Path) -> None:
        try:
            with open(path, "rb") as handle:
                if sys.platform == "linux":
                    self._map = mmap.mmap(handle.fileno(), 0, flags=mmap.MAP_PRIVATE | _NO_RESERVE,
                                          prot=mmap.PROT_READ | mmap.PROT_WRITE)
                else:
                    self._map = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError) as error:
            raise DynoError(f"{path.name} cannot be read: {reason(error)}.",
                            "Download the model again, or choose another folder.") from error
        self._bytes = torch.frombuffer(self._map, dtype=torch.uint8)  # keeps the mapping alive

    def raw(self, entry: Entry) -> Tensor:
        """A tensor's bytes, (n,) uint8."""
        return self._bytes[entry.begin:entry.end]

    def tensor(self, entry: Entry) -> Tensor:
        """An F32, F16 or BF16 tensor where it lies. (A copy where it lies at an address that its type cannot have.)"""
        dtype, raw = _TYPES[entry.dtype], self.raw(entry)
        if raw.data_ptr() % dtype.itemsize:
            raw = raw.clone()
        return raw.view(dtype).view(entry.shape)

    def release(self, entry: Entry) -> None:
        """Give a tensor's pages back to the system; they are read again when they are touched again."""
        if hasattr(mmap, "MADV_DONTNEED") and sys.platform == "linux":  # elsewhere it may mean something else
            begin = entry.begin // mmap.PAGESIZE * mmap.PAGESIZE
            self._map.madvise(mmap.MADV_DONTNEED, begin, entry.end - begin)
