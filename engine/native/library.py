"""The compiled library behind the native token step: found, checked, and called without Python's lock.

Built by setup.py beside this file. Where it is missing or cannot run, `library()` is None, `missing_reason()` says why,
and everything runs on PyTorch.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

ABI = 5  # DYNO_ABI of src/dyno.h
MAX_ROWS = 8
PARTS = 3  # of a step's time, DYNO_PARTS
KINDS = {"fp32": 0, "bf16": 1, "fp16": 2, "int8": 3, "int8-dynamic": 4, "int4": 5}
ACTIVATIONS = {"silu": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3}
INSTRUCTION_SETS = {"auto": 0, "portable": 1, "avx2": 2, "avx512": 3, "neon": 4}
SWITCH = "GPT_DYNO_NATIVE"  # environment: an instruction set by name, or "off"
INT4_BLOCK, INT4_PANEL = 32, 16  # columns and rows of a 4-bit weight that lie together

_HERE = Path(__file__).resolve().parent
_NAMES = ("libdyno.so.1", "libdyno.dylib", "dyno.dll")


class Vector(ctypes.Structure):
    """dyno_vector."""

    _fields_ = (("data", ctypes.c_void_p), ("kind", ctypes.c_int64))


class Matrix(ctypes.Structure):
    """dyno_matrix."""

    _fields_ = (("data", ctypes.c_void_p), ("scale", Vector), ("bias", Vector),
                ("rows", ctypes.c_int64), ("columns", ctypes.c_int64), ("stride", ctypes.c_int64),
                ("kind", ctypes.c_int64), ("group", ctypes.c_int64))


class Block(ctypes.Structure):
    """dyno_block."""

    _fields_ = (("qkv", Matrix), ("out", Matrix), ("up", Matrix), ("down", Matrix), ("norm1", Vector),
                ("norm1_bias", Vector), ("norm2", Vector), ("norm2_bias", Vector), ("q_norm", Vector),
                ("k_norm", Vector), ("post1", Vector), ("post2", Vector), ("window", ctypes.c_int64),
                ("turn", ctypes.c_int64))


class Table(ctypes.Structure):
    """dyno_table."""

    _fields_ = (("data", ctypes.c_void_p), ("scale", Vector), ("kind", ctypes.c_int64), ("round_to", ctypes.c_int64))


class Model(ctypes.Structure):
    """dyno_model."""

    _fields_ = (*((name, ctypes.c_int64) for name in (
        "hidden", "layers", "heads", "kv_heads", "head_size", "neurons", "vocabulary", "context", "gated",
        "activation", "layer_norm", "turned", "parallel")), *((name, ctypes.c_double) for name in (
            "norm_eps", "embed_scale", "score_scale", "score_cap", "logit_cap")), ("embedding", Table),
        ("positions", Table), ("norm", Vector), ("norm_bias", Vector), ("head", Matrix),
        ("blocks", ctypes.POINTER(Block)))


class Cache(ctypes.Structure):
    """dyno_cache."""

    _fields_ = (("data", ctypes.c_void_p), ("scale", ctypes.c_void_p), ("kind", ctypes.c_int64),
                ("capacity", ctypes.c_int64))


class Turn(ctypes.Structure):
    """dyno_turn."""

    _fields_ = (("cosine", ctypes.c_void_p), ("sine", ctypes.c_void_p))


class Library:
    """The functions of src/dyno.h with the types of their arguments, for one instruction set."""

    def __init__(self, handle: ctypes.CDLL, isa: int) -> None:
        self.isa = isa
        handle.dyno_isa_name.restype = ctypes.c_char_p
        self.name: str = handle.dyno_isa_name(isa).decode()
        self.open = handle.dyno_open
        self.open.restype, self.open.argtypes = ctypes.c_void_p, (ctypes.POINTER(Model), ctypes.c_int)
        self.close = handle.dyno_close
        self.close.restype, self.close.argtypes = None, (ctypes.c_void_p,)
        self.step = handle.dyno_step
        self.step.argtypes = (ctypes.c_void_p, ctypes.POINTER(Cache), ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64,
                              ctypes.POINTER(Turn), ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
        self.linear = handle.dyno_linear
        self.linear.argtypes = (ctypes.POINTER(Matrix), ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int,
                                ctypes.c_int)
        self.unpack = handle.dyno_unpack
        self.unpack.argtypes = (ctypes.POINTER(Matrix), ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int)
        self.likeliest = handle.dyno_likeliest
        self.likeliest.argtypes = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p,
                                   ctypes.c_void_p, ctypes.c_int)


def library(isa: str = "") -> Library | None:
    """The library with one instruction set by name; without a name the one that this machine runs best, or that the
    environment names. None where there is none."""
    return _chosen(isa or os.environ.get(SWITCH, "auto").lower())[0]


def missing_reason() -> str:
    """Why there is no native step; "" where there is one."""
    return _chosen(os.environ.get(SWITCH, "auto").lower())[1]


def runnable() -> tuple[str, ...]:
    """Names of the instruction sets that the library can run here."""
    handle, _ = _loaded()
    return tuple(name for name, isa in INSTRUCTION_SETS.items() if isa and handle is not None
                 and handle.dyno_can_run(isa))


@functools.cache
def _chosen(wanted: str) -> tuple[Library | None, str]:
    if wanted == "off":
        return None, f"It is switched off by {SWITCH}=off."
    handle, reason = _loaded()
    if handle is None:
        return None, reason
    if wanted not in INSTRUCTION_SETS:
        return None, f"{SWITCH}={wanted} names no instruction set; it takes off, {', '.join(INSTRUCTION_SETS)}."
    if not handle.dyno_can_run(INSTRUCTION_SETS[wanted]):
        return None, f"This machine cannot run {wanted}, which {SWITCH} asks for."
    return Library(handle, INSTRUCTION_SETS[wanted]), ""


@functools.cache
def _loaded() -> tuple[ctypes.CDLL | None, str]:
    path = next((_HERE / name for name in _NAMES if (_HERE / name).is_file()), None)
    if path is None:
        return None, ("It was not built: there was no C++ compiler (g++ or clang++) when GPT Dyno was installed. "
                      "Install one and run pip install --editable . again.")
    try:
        handle = ctypes.CDLL(str(path))
        if handle.dyno_abi() != ABI:
            return None, "It was built from another version. Run pip install --editable . again."
    except (OSError, AttributeError) as error:
        return None, f"{path.name} cannot be loaded: {error}."
    return handle, ""
