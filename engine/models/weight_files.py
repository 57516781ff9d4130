"""Which files hold a folder's weights, and what their headers promise: names, types, shapes and places, before a weight
is read.

A folder is somebody else's: nothing outside it is opened, no size is believed that the file itself does not bear out,
and no pickle is touched. It knows neither torch nor what a decoder wants.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import DynoError, reason
from engine.words import counted

AGAIN = "Download the model again, or choose another folder."
ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4,
              "U16": 2, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "C64": 8}
_LONGEST_HEADER = 100_000_000  # bytes; what the safetensors library allows
_LONGEST_INDEX = 64 << 20
_MOST_DIMENSIONS = 8
_INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: its type as stored ("BF16"), its shape, and its bytes, counted from the file's start."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_folder(folder: Path) -> dict[str, Entry]:
    """Every tensor of a folder's safetensors files by its stored name. Raises DynoError."""
    found: dict[str, Entry] = {}
    for file in weight_files(folder):
        for name, entry in read_header(file).items():
            if name in found:
                raise DynoError(f"The tensor {name} stands in both {found[name].file.name} and {file.name}.", AGAIN)
            found[name] = entry
    return found


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder: those its index names, else model.safetensors, else all there are.

    Raises DynoError.
    """
    index = folder / _INDEX
    if index.is_file():
        files = [folder / name for name in _named_by(index)]
    else:
        whole = folder / "model.safetensors"  # what a folder without an index means by its weights
        files = [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))
    for file in files:
        if not file.is_file():  # a shard that was not fetched, or a link into a download cache that has been emptied
            named = f" named by {index.name}" if index.is_file() else ""
            raise DynoError(f"The weight file {file.name}{named} is missing.", AGAIN)
        _check_inside(file, folder)
    if files:
        return files
    pickles = [p.name for pattern in _PICKLES for p in sorted(folder.glob(pattern))]
    if pickles:
        raise DynoError(f"{pickles[0]} is a pickle, which can run code when it is opened, so it was not opened.",
                        "Use the same model in safetensors format.")
    raise DynoError(f"There are no weights in {folder}: no .safetensors file.",
                    "Choose a Hugging Face model folder: config.json, *.safetensors and tokenizer.json.")


def read_header(file: Path) -> dict[str, Entry]:
    """The header of one safetensors file, checked against the file's size: offsets lie inside it, and sizes are those
    of the shapes. Raises DynoError."""
    try:
        size = file.stat().st_size
        with open(file, "rb") as handle:
            start = handle.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
            if length > min(_LONGEST_HEADER, size - 8):
                raise ValueError("its header is longer than the file")
            raw = json.loads(handle.read(length).decode("utf-8"), object_pairs_hook=_once)
        if not isinstance(raw, dict):
            raise ValueError("its header holds no table")
        entries = {name: _entry(file, name, value, 8 + length, size) for name, value in raw.items()
                   if name != "__metadata__"}
        _check_apart(entries)
        return entries
    except OSError as error:
        raise DynoError(f"{file.name} cannot be read: {reason(error)}.", AGAIN) from error
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        raise DynoError(f"{file.name} is damaged or incomplete ({reason(error)}).", AGAIN) from error


def refuse_unused(where: str, names: Sequence[str]) -> None:
    """Raise DynoError where weights are left over that the model's layers hold and the decoder has no place for."""
    if names:
        more = f" and {counted(len(names) - 1, 'more tensor')}" if len(names) > 1 else ""
        raise DynoError(f"{where} holds {names[0][:80]}{more}, for which this version has no use: without it the model "
                        "would say something else.",
                        "Use another copy of the model, or another model: its settings and its weights do not match.")


def bounded_text(path: Path, limit: int) -> str:
    """A small text file; ValueError where it is longer than `limit` bytes: no file decides what is allocated."""
    with open(path, "rb") as handle:
        raw = handle.read(min(limit, path.stat().st_size) + 1)
    if len(raw) > limit:
        raise ValueError(f"it is longer than {limit >> 20} MB")
    return raw.decode("utf-8")


def _named_by(index: Path) -> list[str]:
    try:
        raw = json.loads(bounded_text(index, _LONGEST_INDEX), object_pairs_hook=_once)
        names = sorted({str(name) for name in raw["weight_map"].values()})
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise DynoError(f"{index.name} cannot be read: {reason(error)}.", AGAIN) from error
    for name in names:
        if Path(name).name != name or "\\" in name or "\0" in name or name in (".", ".."):
            raise DynoError(f"{index.name} names the weight file {name!r}, which is not a file of this folder.",
                            "Do not use this model: its index points elsewhere.")
        if not name.endswith(".safetensors"):
            raise DynoError(f"{index.name} names {name!r}, which is no safetensors file, so it was not opened.",
                            "Use the same model in safetensors format.")
    return names


def _check_inside(file: Path, folder: Path) -> None:
    """Links may lead to another file of the folder, or, in a hub cache's snapshot, to that model's own blobs or to
    those that the cache's models share (huggingface_hub marks that folder as its own)."""
    target, home = file.resolve(), folder.resolve()
    allowed = [home]
    if home.parent.name == "snapshots":
        allowed.append(home.parent.parent / "blobs")
        shared = home.parent.parent.parent / "blobs"
        if (shared / ".huggingface-shared-blobs").is_file():
            allowed.append(shared)
    if not any(target.is_relative_to(place) for place in allowed):
        raise DynoError(f"The weight file {file.name} is a link that leads out of the model's folder, so it was not "
                        "opened.", "Put the file itself there, or open the folder that holds it.")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{twice[:80]} stands in it twice")
    return table


def _entry(file: Path, name: str, value: Any, data: int, size: int) -> Entry:
    dtype, shape = value["dtype"], tuple(value["shape"])
    begin, end = value["data_offsets"]
    if not isinstance(dtype, str) or not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
        raise ValueError(f"{name[:80]} has no usable size")
    item = ITEM_BYTES.get(dtype)
    if len(shape) > _MOST_DIMENSIONS or (item is None and math.prod(shape) > 8 * size):
        raise ValueError(f"{name[:80]} has an impossible shape")
    if item is not None and end - begin != math.prod(shape) * item:
        raise ValueError(f"{name[:80]} does not have the bytes of its shape")
    if begin > end or data + end > size:
        raise ValueError(f"{name[:80]} lies beyond the end of the file")
    return Entry(file, dtype, shape, data + begin, data + end)


def _check_apart(entries: dict[str, Entry]) -> None:
    """Tensors that share bytes would be a way to name one block of weights a million times."""
    def spans() -> Iterator[tuple[int, int, str]]:
        return ((e.begin, e.end, name) for name, e in entries.items() if e.end > e.begin)

    last, before = 0, ""
    for begin, end, name in sorted(spans()):
        if begin < last:
            raise ValueError(f"{before[:80]} and {name[:80]} lie over each other")
        last, before = end, name
