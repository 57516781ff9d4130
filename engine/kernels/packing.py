"""Which weights are packed and how many bytes that takes. Free of torch: techniques count with it before anything is
built."""

from __future__ import annotations

from engine.models.devices import DeviceFacts


def int8_bytes(shape: tuple[int, int]) -> int:
    """Bytes of an int8 (N, K) weight: codes and an fp32 scale a row."""
    return shape[0] * shape[1] + 4 * shape[0]


INT8_WEIGHT_COLUMNS = 16  # the CPU's int8 weight-only kernel reads whole vectors of this many columns


def int8_weight_bytes(shape: tuple[int, int], device: DeviceFacts) -> int:
    """Bytes of an int8 weight-only (N, K) weight: codes, on a CPU in whole vectors, and a scale a row."""
    rows, columns = shape
    if device.kind != "cpu":
        return rows * columns + 4 * rows
    return rows * (-(-columns // INT8_WEIGHT_COLUMNS) * INT8_WEIGHT_COLUMNS) + 2 * rows


INT4_ROWS = 16  # 4-bit layouts of a CPU and of CUDA take whole blocks of this many rows


def int4_bytes(shape: tuple[int, int], group: int) -> int:
    """Bytes of a 4-bit (N, K) weight: whole groups, whole blocks of rows, and two 16-bit numbers a group."""
    rows = -(-shape[0] // INT4_ROWS) * INT4_ROWS
    groups = -(-shape[1] // group)
    return rows * groups * group // 2 + rows * groups * 4


# Below this size the packed fp32 kernel's call costs more than its faster reading saves (measured, docs/design.md).
_PACK_FP32_FROM_BYTES = 4 << 20
ITEM_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


def packs(shape: tuple[int, int], dtype: str, autocast: str | None, compiled: bool, device: DeviceFacts) -> bool:
    """Whether a dense weight is reordered for oneDNN, which reads it up to twice as fast as F.linear (docs/design.md).

    The native token step reads rows where they lie, so with it nothing is.
    """
    if device.native or device.kind != "cpu" or not device.packed_linear or autocast is not None or compiled:
        return False
    nbytes = shape[0] * shape[1] * ITEM_BYTES[dtype]
    return dtype == "bf16" or (dtype == "fp32" and nbytes >= _PACK_FP32_FROM_BYTES)
