"""What changes with the step: the learning rate and the share of weights pruned. Pure arithmetic, no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from engine.errors import DynoError

Shape = Literal["cosine", "linear", "constant"]


@dataclass(frozen=True)
class LearningRate:
    """A linear warm-up, then a cosine, a line or a constant. Raises DynoError where it cannot be followed.

    peak: the highest rate. steps, warmup_steps: optimizer steps. floor: the share of the peak the last step has.
    """

    peak: float
    steps: int
    warmup_steps: int = 0
    shape: Shape = "cosine"
    floor: float = 0.1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.peak) and self.peak > 0):
            raise DynoError(f"A learning rate of {self.peak} trains nothing.",
                            "Choose a number above 0, such as 0.0003.")
        if self.steps < 1 or not 0 <= self.warmup_steps <= self.steps:
            raise DynoError(f"{self.warmup_steps} warm-up steps do not fit into {self.steps} steps.",
                            "Choose at least one step, and no more warm-up than steps.")
        if self.shape not in ("cosine", "linear", "constant"):
            raise DynoError(f"There is no learning rate schedule {self.shape!r}.", "Choose cosine, linear or constant.")
        if not 0 <= self.floor <= 1:
            raise DynoError(f"A floor of {self.floor} is no share of the rate.", "Choose a number from 0 to 1.")

    def at(self, step: int) -> float:
        """The rate of step 0, 1, ... steps - 1; later steps keep the last one's."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        if self.shape == "constant":
            return self.peak
        done = min((step - self.warmup_steps) / max(self.steps - 1 - self.warmup_steps, 1), 1.0)
        left = (1 + math.cos(math.pi * done)) / 2 if self.shape == "cosine" else 1 - done
        return self.peak * (self.floor + (1 - self.floor) * left)


@dataclass(frozen=True)
class Sparsity:
    """The share of weights pruned, growing from 0 as Zhu & Gupta (2017) have it: s_f - s_f (1 - (t - t_0) / (n dt))^3.

    final: 0 to below 1. start, end: the steps of the first and the last cut (equal: one shot). every: steps between.
    """

    final: float
    start: int = 0
    end: int = 0
    every: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.final < 1:
            raise DynoError(f"A sparsity of {self.final} leaves no model.",
                            "Choose a share from 0 to below 1, such as 0.8.")
        if self.start < 0 or self.end < self.start or self.every < 1:
            raise DynoError(f"Pruning every {self.every} steps from {self.start} to {self.end} cannot be followed.",
                            "Choose an end that is not before the start, and at least one step between cuts.")

    def at(self, step: int) -> float:
        """The share pruned in step `step`; it changes at cuts only and never falls."""
        if step < self.start:
            return 0.0
        if step >= self.end:
            return self.final
        last_cut = step - (step - self.start) % self.every
        return self.final * (1 - (1 - (last_cut - self.start) / (self.end - self.start)) ** 3)
