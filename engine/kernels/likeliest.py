"""The likeliest of a token's logits, natively where there is a library. It knows nothing of sampling."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from engine.native.library import Library, library

# A longer list is kept in order by moving too much of it.
_LONGEST = 256


class Likeliest(NamedTuple):
    """ids (n,) int64 and values (n,) fp32 of the largest logits, descending. log_sum: ln of the sum of e^logit over all
    of them, so that value - log_sum is a log-probability; NaN where a logit is, and where it was not wanted."""

    ids: npt.NDArray[np.int64]
    values: npt.NDArray[np.float32]
    log_sum: float


class Chooser:
    """Finds them again and again, in arrays of its own: what it returns lasts until it is asked for as many again.

    run: the library's functions, by default those of the instruction set that this machine runs best. native: off for
    PyTorch's operators alone.
    """

    def __init__(self, run: Library | None = None, native: bool = True) -> None:
        self._run = (run or library()) if native else None
        self._room: dict[int, _Room] = {}

    def likeliest(self, logits: Tensor, count: int, summed: bool = True) -> Likeliest:
        """The `count` (1 to V) largest of fp32 logits (V,) on the CPU. summed: whether log_sum is wanted."""
        run = self._run
        if run is None or count > _LONGEST or not logits.is_contiguous():
            top = logits.topk(count)
            return Likeliest(top.indices.numpy(), top.values.numpy(), self._log_sum(logits) if summed else math.nan)
        room = self._room.get(count)
        if room is None:
            room = self._room[count] = _Room(count)
        if run.likeliest(logits.data_ptr(), len(logits), count, *room.addresses, room.sum_address if summed else 0,
                         run.isa):
            raise ValueError(f"{count} of {len(logits)} logits")
        return Likeliest(room.ids, room.values, room.log_sum.item() if summed else math.nan)

    def logprob(self, logits: Tensor, token: int) -> float:
        """ln of the token's probability, to the last digit that which a choice of it is told with."""
        return float(logits[token]) - self._log_sum(logits)

    def _log_sum(self, logits: Tensor) -> float:
        """The same to the last digit however many of the logits are asked for."""
        if self._run is None or not logits.is_contiguous():
            return float(logits.double().logsumexp(-1))
        return self.likeliest(logits, 1).log_sum


class _Room:
    def __init__(self, count: int) -> None:
        self.ids, self.values = np.empty(count, np.int64), np.empty(count, np.float32)
        self.log_sum = np.empty((), np.float64)
        self.addresses = self.ids.ctypes.data, self.values.ctypes.data
        self.sum_address = self.log_sum.ctypes.data
