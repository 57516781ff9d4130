"""The seam at which one token is made: an object that runs a few new tokens for the active recipe.

The decoder itself is the plain form. Faster ones (compiled, native, a captured graph) take its place for the shapes
they know and leave the rest to it.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from engine.models.cache import KVCache
from engine.models.gpt import Decoder

MAX_ROWS = 8


class TokenStep(Protocol):
    """Runs 1 to MAX_ROWS new tokens after those in the cache."""

    def __call__(self, ids: Tensor, cache: KVCache) -> Tensor:
        """Logits (1, T, V) for ids (1, T), in the dtype of the activations; the cache holds the tokens afterwards."""
        ...


class DecoderStep:
    """The decoder, operator by operator: any number of rows, any cache."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def __call__(self, ids: Tensor, cache: KVCache) -> Tensor:
        """Logits (1, T, V)."""
        return self._decoder(ids, cache)  # type: ignore[no-any-return]
