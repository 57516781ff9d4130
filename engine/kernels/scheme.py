"""What a quantization scheme promises to whoever plans a model, free of torch: the window reads it before torch is
there. The kernel behind a scheme stands in a file of its own and is imported when the first layer is built."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from engine.models.devices import DeviceFacts

if TYPE_CHECKING:
    from torch import Tensor

    from engine.kernels.linear import LinearKernel, Rows, Weights


class Scheme(ABC):
    """How a linear layer's weight is kept. Immutable; equal schemes are equal objects (frozen dataclasses).

    exact_bias: the bias stays in fp32, whatever the activations are. rounds: the weight is rounded to codes; false
    where only its layout is another, and casting the model casts it. any_float: layer() takes the weight in 16 bits
    too, and makes of it what it makes of the same numbers in fp32.
    """

    name: str
    exact_bias = True
    rounds = True
    any_float = False

    @abstractmethod
    def nbytes(self, shape: tuple[int, int], dtype: str, device: DeviceFacts) -> int:
        """Bytes that the weight of a (rows, columns) layer takes as allocated, bias apart.

        dtype: of the activations, "fp32", "bf16" or "fp16".
        """

    @abstractmethod
    def layer(self, weights: Weights, dtype: str, device: DeviceFacts) -> tuple[LinearKernel, Tensor | Rows]:
        """The layer that runs, and the fp32 weight (N, K) that it really multiplies by, whole or by rows."""
