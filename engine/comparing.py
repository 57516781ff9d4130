"""What a comparison watched token by token is made of: plain frozen dataclasses, shared by engine, window and files.

Two to four lanes write on from one prompt with one seed, each with a recipe of its own; the first one is the base. What
a token's KL means, also after a lane has gone its own way, is said at `LaneToken`. Nothing here holds a tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import DynoError
from engine.recipe import Recipe

FEWEST_LANES, MOST_LANES = 2, 4


def check_lanes(recipes: Sequence[Recipe]) -> None:
    """Raises DynoError for fewer lanes than can be compared, or more than can be watched."""
    if not FEWEST_LANES <= len(recipes) <= MOST_LANES:
        raise DynoError(f"{len(recipes)} recipes cannot be watched side by side.",
                        f"Choose {FEWEST_LANES} to {MOST_LANES}.")


@dataclass(frozen=True)
class LaneReady:
    """A lane's recipe is built and has read the prompt. Bytes as allocated; ttft_s: reading the prompt and choosing
    the first token, the lane's own time."""

    lane: int
    weight_bytes: int
    kv_bytes: int
    ttft_s: float


@dataclass(frozen=True)
class LaneToken:
    """One token of a lane. number: its place in the lane's text, from 1. probability: in the lane's own distribution,
    before temperature and filters. own_s: the lane's own time for it (for the first one, the time to it).

    kl, base_probability: KL(base || lane) in nats and the token's probability, the base reading the LANE's text: what
    the base's recipe would have said after the very same words. So both stay defined when the texts differ. None in the
    base itself, and where the base has failed. departs: the first token that is not the base's.
    """

    lane: int
    number: int
    token_id: int
    text: str
    probability: float
    own_s: float = 0.0
    kl: float | None = None
    base_probability: float | None = None
    departs: bool = False


@dataclass(frozen=True)
class LaneResult:
    """A lane at its end. tokens: how many it wrote. ttft_s, tpot_s, gaps_s: its own time, without the other lanes'
    turns and without the base reading along. perplexity: exp(mean NLL) of its own words: how sure it was, not how good.

    kl_mean, kl_error: over its tokens, with the standard error. departed: number of the first token that is not the
    base's, 0 for none. finish: "end", "length", "context", "stopped" or "failed" (then error and hint say why).
    """

    lane: int
    recipe: str
    fingerprint: str
    finish: str
    tokens: int = 0
    ttft_s: float = 0.0
    tpot_s: float = 0.0
    perplexity: float = 0.0
    kl_mean: float | None = None
    kl_error: float | None = None
    departed: int = 0
    weight_bytes: int = 0
    kv_bytes: int = 0
    gaps_s: tuple[float, ...] = ()
    error: str = ""
    hint: str = ""

    @property
    def tokens_per_s(self) -> float:
        """1 / TPOT; 0 where fewer than two tokens came."""
        return 1.0 / self.tpot_s if self.tpot_s > 0 else 0.0


@dataclass(frozen=True)
class ComparisonResult:
    """All lanes at their end. complete: none was stopped. seed: of all of them."""

    lanes: tuple[LaneResult, ...]
    seed: int
    prompt_tokens: int
    complete: bool
    elapsed_s: float


LaneEvent = LaneReady | LaneToken | LaneResult
