"""The header of a GGUF file: metadata and where each tensor lies. llama.cpp's format, version 2 and 3.

Layout: github.com/ggml-org/ggml, docs/gguf.md. The gguf library's own reader believes every count it finds; this one
believes none that the file's size does not bear out, because a file may come from anywhere. It knows neither torch nor
what the metadata mean.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import DynoError, reason
from engine.models.weight_files import Entry

AGAIN = "Download the file again, or choose another one."
BLOCKS = {"F32": (1, 4), "F16": (1, 2), "BF16": (1, 2), "Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22),
          "Q5_1": (32, 24), "Q8_0": (32, 34), "Q4_K": (256, 144), "Q5_K": (256, 176), "Q6_K": (256, 210)}
"""Tensor types that are read: (weights in a block, bytes of a block)."""

_TYPES = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 12: "Q4_K", 13: "Q5_K",
          14: "Q6_K", 30: "BF16"}
_OTHER_TYPES = {9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
                20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64",
                28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4"}
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MOST_ENTRIES = 1 << 16
_LONGEST_ARRAY = 1 << 22
_LONGEST_STRING = 16 << 20
_MOST_DIMENSIONS = 4


@dataclass(frozen=True)
class GgufFile:
    """metadata: by key; arrays of numbers are NumPy arrays, arrays of strings lists. tensors: by GGUF's own names, with
    their shapes as torch writes them, the longest stride first."""

    path: Path
    metadata: dict[str, Any] = field(repr=False)
    tensors: dict[str, Entry] = field(repr=False)

    def get(self, key: str, kind: type, default: Any = None) -> Any:
        """A value of metadata as int, float, str, bool or list; `default` where there is none. Raises DynoError where
        it is something else."""
        value = self.metadata.get(key, default)
        if value is default:
            return default
        if kind is list and isinstance(value, np.ndarray):
            value = value.tolist()
        if kind is float and type(value) is int:
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise DynoError(f"{self.path.name} gives {key} as something that is no {kind.__name__}.", AGAIN)
        return value


def is_gguf(path: Path) -> bool:
    """Whether this is a file that calls itself GGUF."""
    return path.suffix.lower() == ".gguf" and path.is_file()


def read_gguf(path: Path) -> GgufFile:
    """Read and check the header. Raises DynoError saying what is wrong with it."""
    try:
        if not path.is_file():
            raise DynoError(f"There is no file {path}.", "Choose a .gguf file.")
        if path.stat().st_size < 24:
            raise ValueError("it is too short")
        with open(path, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(path, data).read()
    except OSError as error:
        raise DynoError(f"{path.name} cannot be read: {reason(error)}.", AGAIN) from error
    except (ValueError, struct.error, OverflowError, RecursionError) as error:
        raise DynoError(f"{path.name} is damaged or incomplete ({reason(error)}).", AGAIN) from error


class _Reader:
    """A place in the file that only moves on, and refuses to move beyond its end."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path, self._data, self._at, self._size = path, data, 0, len(data)

    def read(self) -> GgufFile:
        if self._take(4) != b"GGUF":
            raise ValueError("it does not begin as a GGUF file")
        version = self._number("I")
        if version not in (2, 3):
            raise DynoError(f"{self._path.name} is GGUF of version {version}; versions 2 and 3 are read.",
                            "Convert the model again with a current llama.cpp.")
        tensors, entries = self._number("Q"), self._number("Q")
        if tensors > _MOST_ENTRIES or entries > _MOST_ENTRIES:
            raise ValueError("its header counts more entries than a model has")
        metadata: dict[str, Any] = {}
        for _ in range(entries):
            key = self._string()
            if key in metadata:
                raise ValueError(f"{key[:80]} stands in it twice")
            metadata[key] = self._value(self._number("I"))
        infos = [self._info() for _ in range(tensors)]
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 8 <= alignment <= 1 << 20 or alignment & (alignment - 1):
            raise ValueError("its alignment cannot be right")
        start = -(-self._at // alignment) * alignment
        found: dict[str, Entry] = {}
        for name, dtype, shape, offset in infos:
            if name in found:
                raise ValueError(f"the tensor {name[:80]} stands in it twice")
            found[name] = self._placed(name, dtype, shape, start + offset, alignment)
        self._check_apart(found)
        return GgufFile(self._path, metadata, found)

    def _take(self, count: int) -> bytes:
        if count > self._size - self._at:
            raise ValueError("it ends in the middle of its header")
        self._at += count
        return self._data[self._at - count:self._at]

    def _number(self, code: str) -> Any:
        return struct.unpack("<" + code, self._take(struct.calcsize("<" + code)))[0]

    def _string(self) -> str:
        length = self._number("Q")
        if length > _LONGEST_STRING:
            raise ValueError("a string in its header is longer than any that makes sense")
        return self._take(length).decode("utf-8", errors="replace")

    def _value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            raise ValueError(f"its header holds a value of unknown type {kind}")
        inner, count = self._number("I"), self._number("Q")
        if count > _LONGEST_ARRAY:
            raise ValueError("an array in its header is longer than any that makes sense")
        if inner in _SCALARS:
            dtype = np.dtype("<" + {"?": "u1"}.get(_SCALARS[inner], _numpy(_SCALARS[inner])))
            return np.frombuffer(self._take(count * dtype.itemsize), dtype)
        if inner != _STRING:
            raise ValueError(f"its header holds an array of unknown type {inner}")
        return [self._string() for _ in range(count)]

    def _info(self) -> tuple[str, str, tuple[int, ...], int]:
        name, dimensions = self._string(), self._number("I")
        if not 1 <= dimensions <= _MOST_DIMENSIONS:
            raise ValueError(f"the tensor {name[:80]} has {dimensions} dimensions")
        shape = tuple(self._number("Q") for _ in range(dimensions))[::-1]
        kind, offset = self._number("I"), self._number("Q")
        if kind not in _TYPES:
            called = _OTHER_TYPES.get(kind, f"type {kind}")
            raise DynoError(f"{self._path.name} stores {name[:80]} as {called}, which this version cannot read.",
                            f"It reads {', '.join(BLOCKS)}: choose such a file of the same model.")
        return name, _TYPES[kind], shape, offset

    def _placed(self, name: str, dtype: str, shape: tuple[int, ...], begin: int, alignment: int) -> Entry:
        weights, nbytes = BLOCKS[dtype]
        numel = math.prod(shape)
        if not numel or shape[-1] % weights:
            raise ValueError(f"the rows of {name[:80]} are no whole blocks")
        end = begin + numel // weights * nbytes
        if begin % alignment or end > self._size:
            raise ValueError(f"{name[:80]} lies beyond the end of the file")
        return Entry(self._path, dtype, shape, begin, end)

    @staticmethod
    def _check_apart(found: dict[str, Entry]) -> None:
        last, before = 0, ""
        for begin, end, name in sorted((e.begin, e.end, name) for name, e in found.items()):
            if begin < last:
                raise ValueError(f"{before[:80]} and {name[:80]} lie over each other")
            last, before = end, name


def _numpy(code: str) -> str:
    return {"B": "u1", "b": "i1", "H": "u2", "h": "i2", "I": "u4", "i": "i4", "f": "f4", "Q": "u8", "q": "i8",
            "d": "f8"}.get(code, "u1")
