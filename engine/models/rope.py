"""Rotary positions: the angle of every position at every frequency, under each way to stretch them.

Tables of cosines and signed sines, as the decoder's `rotate` wants them. A text that grows beyond the original context
changes the frequencies of "dynamic" and "longrope" scaling: a pass of several tokens turns all of them by those of its
last one, as Transformers does, and what lies in the cache stays as it was turned.

Rotary positions: Su et al., "RoFormer", 2021. Linear: Chen et al., "Positional Interpolation", 2023. Dynamic: NTK-aware
scaling, as Transformers has it. yarn: Peng et al., "YaRN", 2023. longrope: Ding et al., "LongRoPE", 2024. llama3:
Meta's code of Llama 3.1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engine.models.config import ModelConfig, RopeScaling

Turn = tuple[Tensor, Tensor]
"""Cosines and signed sines of some positions, (T, 1, r) twice, for the r channels of a head that turn."""


def rope_angles(config: ModelConfig, length: int, which: int = 0, reach: int | None = None) -> Tensor:
    """Angle of the first `length` positions at every frequency, (length, r/2) fp32.

    which: the table that `ModelConfig.rope` names. reach: tokens that the text has when these positions are run, None
    where each is the last one: the table of single tokens.
    """
    dim = config.rotary_dim or config.head_dim
    theta, scaling = config.rope_theta, config.rope_scaling
    if which:
        theta, scaling = config.local_rope_theta, RopeScaling()
    positions = torch.arange(length, dtype=torch.float32)
    freq = theta ** (-torch.arange(dim // 2, dtype=torch.float32) / (dim // 2))  # (r/2,)
    if scaling.moves:
        reached = positions + 1 if reach is None else torch.tensor([float(reach)])
        return positions[:, None] * _moving(freq, theta, dim, scaling, reached[:, None])
    return torch.outer(positions, _stretched(freq, theta, dim, scaling))


def rope_tables(config: ModelConfig, length: int, reach: int | None = None) -> tuple[Turn, ...]:
    """Cosines and signed sines of the first `length` positions, (length, 1, r) fp32 twice, for every rotary table of
    the model: none with learned positions, two where layers with a window have their own. reach: as for
    `rope_angles`."""
    if config.learned_positions:
        return ()
    tables = []
    for which in range(2 if config.local_rope_theta else 1):
        angles = rope_angles(config, length, which, reach)  # (length, r/2)
        factor = turn_factor(config, which)
        cos, sin = angles.cos(), angles.sin()
        if factor != 1.0:
            cos, sin = cos * factor, sin * factor
        tables.append((torch.cat((cos, cos), dim=-1)[:, None], torch.cat((-sin, sin), dim=-1)[:, None]))
    return tuple(tables)


def turn_factor(config: ModelConfig, which: int = 0) -> float:
    """What cosines and sines are multiplied by."""
    return 1.0 if which else config.rope_scaling.attention_factor


class Turns:
    """The tables of a model in the dtype and place of its activations, grown by doubling, so that a model with a very
    long context pays for what it uses."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._tables: tuple[Turn, ...] = ()

    def upto(self, length: int, like: Tensor) -> tuple[Turn, ...]:
        """Tables (C, 1, r) of `length` positions or more, each as the last token of a text."""
        known = self._tables[0][0] if self._tables else None
        if self._config.learned_positions:
            return ()
        if known is None or known.dtype != like.dtype or known.device != like.device or known.shape[0] < length:
            grown = min(self._config.context, max(1024, 1 << (length - 1).bit_length()))
            self._tables = _like(rope_tables(self._config, grown), like)
        return self._tables

    def of(self, start: int, end: int, like: Tensor) -> tuple[Turn, ...]:
        """Tables (T, 1, r) of the positions from `start` to `end` of a text that ends there."""
        scaling = self._config.rope_scaling
        if scaling.moves and end - start > 1 and end > scaling.original_context:
            tables = _like(rope_tables(self._config, end, reach=end), like)
        else:
            tables = self.upto(end, like)
        return tuple((cos[start:end], sin[start:end]) for cos, sin in tables)


def _like(tables: tuple[Turn, ...], like: Tensor) -> tuple[Turn, ...]:
    return tuple((cos.to(like.device, like.dtype), sin.to(like.device, like.dtype)) for cos, sin in tables)


def _stretched(freq: Tensor, theta: float, dim: int, s: RopeScaling) -> Tensor:
    """The frequencies (r/2,) under scaling that does not depend on the text."""
    if s.kind == "linear":
        return freq / s.factor
    if s.kind == "llama3":  # long wavelengths by `factor`, short ones not, and a blend between
        ratio = s.original_context / (2 * math.pi / freq)
        blend = ((ratio - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)).clamp(0, 1)
        return (1 - blend) * freq / s.factor + blend * freq
    if s.kind == "yarn":
        def channel(rotations: float) -> float:
            """The channel that turns so often over the original context."""
            return dim * math.log(s.original_context / (rotations * 2 * math.pi)) / (2 * math.log(theta))

        low, high = channel(s.beta_fast), channel(s.beta_slow)
        if s.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        ramp = (torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low if high != low else 0.001)
        blend = 1 - ramp.clamp(0, 1)
        return freq / s.factor * (1 - blend) + freq * blend
    return freq


def _moving(freq: Tensor, theta: float, dim: int, s: RopeScaling, reached: Tensor) -> Tensor:
    """The frequencies (T, r/2) under scaling that depends on the length of the text, reached (T, 1)."""
    if s.kind == "longrope":
        short, long = torch.tensor(s.short_factors), torch.tensor(s.long_factors)
        return torch.where(reached > s.original_context, freq / long, freq / short)
    grown = s.factor * reached.clamp_min(s.original_context).double() / s.original_context - (s.factor - 1)
    base = theta * grown ** (dim / (dim - 2))  # (T, 1)
    return (base ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)).float()
