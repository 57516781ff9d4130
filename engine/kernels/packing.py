"""How many bytes a packed weight takes. Free of torch: techniques count with it before anything is built."""

from __future__ import annotations

from engine.models.devices import DeviceFacts

# FBGEMM's cache blocks for int8, (columns, rows), by PyTorch's name of the instruction set.
_FBGEMM_BLOCKS = {"AVX512": (512, 48), "AVX2": (512, 8)}


def fbgemm_bytes(shape: tuple[int, int], device: DeviceFacts) -> int:
    """Bytes FBGEMM allocates for an int8 (N, K) weight: codes padded to its blocks, and per row a column sum, a
    scale and a zero point of 4 bytes each."""
    rows, columns = shape
    block_columns, block_rows = _FBGEMM_BLOCKS.get(device.instruction_set, (512, 8))
    padded = -(-columns // block_columns) * block_columns * (-(-rows // block_rows) * block_rows)
    return padded + 12 * rows
