"""Recipes that write on from one prompt in turns, a token each, with the base reading along: what a comparison shows.

Every lane has its own cache and its own sampler with the same seed. While a lane has written what the base has, the
base's own logits are what it is held against. From the first other token on the base's recipe reads the lane's text,
token by token, in a second cache that begins as a copy of the base's. So the KL of a token is always that of two
distributions after the same words (engine/comparing.py). The base's reading is in nobody's time.

It writes nothing and knows neither worker nor window. A token of one lane is a step: the caller may stop after each.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from engine.bench.machine import free_memory
from engine.bench.quality import divergences
from engine.bench.statistics import deviation, mean
from engine.comparing import ComparisonResult, LaneEvent, LaneReady, LaneResult, LaneToken, check_lanes
from engine.context import check_prompt
from engine.errors import DynoError, for_people
from engine.kernels.likeliest import Chooser
from engine.messages import Sampling
from engine.models.cache import KVCache
from engine.models.tokenizer import TextStream, check_ids
from engine.recipe import Recipe
from engine.sampling import Sampler
from engine.session import Session, check_room
from engine.variant import Variant

log = logging.getLogger(__name__)
_CHUNK = 256  # tokens of the prompt between two looks at the caller's wishes, as when a reply is made
_COMPILE_TICK_S = 0.1


@dataclass(frozen=True)
class Preparing:
    """A lane is being built, compiled or reads the prompt. done of total: 0 where unknown."""

    lane: int
    stage: str
    done: int
    total: int


Step = Preparing | LaneEvent


@dataclass(frozen=True)
class Watched:
    """What is asked. ids: the prompt. set_threads: gives the kernels the threads that suit a variant. stopping: asked
    after each step."""

    recipes: tuple[Recipe, ...]
    ids: Sequence[int]
    sampling: Sampling
    set_threads: Callable[[Variant], int]
    stopping: Callable[[], bool] = lambda: False


def watch(session: Session, asked: Watched) -> Generator[Step, None, ComparisonResult]:
    """Run the lanes to their end, or until the caller stops. Raises DynoError for a prompt no lane can continue.

    A lane that cannot be built, has no room or fails says so in its LaneResult, and the others go on.
    """
    check_lanes(asked.recipes)
    check_prompt(asked.ids, session.config.context)
    check_ids(asked.ids, session.config.vocab_size)
    started_s = time.perf_counter()
    seed = Sampler(asked.sampling).seed
    run = _Run(session, replace(asked, sampling=replace(asked.sampling, seed=seed)))
    complete = yield from run.steps()
    return ComparisonResult(tuple(lane.result() for lane in run.lanes), seed, len(asked.ids), complete,
                            time.perf_counter() - started_s)


class _Stop(Exception):
    """The caller wants no more."""


@dataclass
class _Lane:
    """One recipe's text so far. logits (V,) on the CPU: what its next token is chosen from. ahead: the base's after the
    same words, None where the base has failed. reading: the base's cache over this lane's text."""

    number: int
    recipe: Recipe
    variant: Variant | None = None
    cache: KVCache | None = None
    sampler: Sampler | None = None
    stream: TextStream | None = None
    logits: Tensor | None = None
    ahead: Tensor | None = None
    reading: KVCache | None = None
    made: list[int] = field(default_factory=list)
    nlls: list[float] = field(default_factory=list)
    kls: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    ttft_s: float = 0.0
    last_step_s: float = 0.0
    departed: int = 0
    finish: str = ""
    error: str = ""
    hint: str = ""

    def result(self) -> LaneResult:
        kls = self.kls if self.number and self.kls else []
        return LaneResult(
            self.number, self.recipe.label, self.recipe.fingerprint, self.finish or "stopped", len(self.made),
            self.ttft_s, mean(self.gaps_s) if self.gaps_s else 0.0,
            math.exp(min(mean(self.nlls), 50.0)) if self.nlls else 0.0, mean(kls) if kls else None,
            deviation(kls) / math.sqrt(len(kls)) if kls else None, self.departed,
            self.variant.report.weight_bytes if self.variant is not None else 0,
            self.cache.nbytes if self.cache is not None else 0, tuple(self.gaps_s), self.error, self.hint)


class _Run:
    """A comparison under way."""

    def __init__(self, session: Session, asked: Watched) -> None:
        self.session, self.asked = session, asked
        self.lanes = [_Lane(number, recipe) for number, recipe in enumerate(asked.recipes)]
        self.capacity = min(session.config.context, len(asked.ids) + asked.sampling.max_tokens)
        self.chooser = Chooser()

    def steps(self) -> Generator[Step, None, bool]:
        """Whether it ran to its end."""
        try:
            for lane in self.lanes:
                yield from self._guarded(lane, self._prepare(lane))
            while any(not lane.finish for lane in self.lanes):
                for lane in self.lanes:
                    if not lane.finish:
                        yield from self._guarded(lane, self._turn(lane))
        except _Stop:
            return False
        return True

    def _tick(self) -> None:
        if self.asked.stopping():
            raise _Stop

    def _guarded(self, lane: _Lane, steps: Generator[Step, None, None]) -> Generator[Step, None, None]:
        """A lane's steps; what goes wrong in them ends this lane only."""
        try:
            yield from steps
        except _Stop:
            raise
        except Exception as error:
            lane.error, lane.hint = for_people(error)
            if not isinstance(error, DynoError):
                log.warning("%s failed: %s", lane.recipe.label, error, exc_info=error)
            lane.finish = "failed"
            lane.logits = lane.ahead = None
            lane.cache = lane.reading = None
            del error
            if lane.number:  # the base's goes on reading what others write
                lane.variant = None
            free_memory(self.session.device)
        if lane.finish:
            yield lane.result()
            self._tick()

    # ----------------------------------------------------------------------------------------------------- preparing

    def _prepare(self, lane: _Lane) -> Generator[Step, None, None]:
        asked, session = self.asked, self.session
        steps = session.build(lane.recipe)
        while True:
            try:
                stage, done, total = next(steps)
            except StopIteration as built:
                variant: Variant = built.value
                break
            yield Preparing(lane.number, stage, done, total)
            self._tick()
        lane.variant = variant
        check_room(variant, session.device, self.capacity)
        lane.cache = variant.new_cache(self.capacity)
        base = self.lanes[0]
        if lane is not base and base.variant is not None and not base.finish:
            check_room(base.variant, session.device, self.capacity)
            lane.reading = base.variant.new_cache(self.capacity)
        asked.set_threads(variant)
        yield from self._compile(lane, variant)
        lane.sampler = Sampler(asked.sampling, asked.ids)
        lane.stream = session.tokenizer.stream(asked.ids)
        for start in range(0, len(asked.ids), _CHUNK):
            yield Preparing(lane.number, "Reading the prompt", start, len(asked.ids))
            self._tick()
            begun_s = time.perf_counter()
            batch = torch.tensor([asked.ids[start:start + _CHUNK]], device=session.device.torch_name)  # (1, T)
            lane.logits = variant.forward(batch, lane.cache)[0, -1].cpu()  # (V,)
            lane.ttft_s += time.perf_counter() - begun_s
        yield LaneReady(lane.number, variant.report.weight_bytes, lane.cache.nbytes, lane.ttft_s)
        self._tick()

    def _compile(self, lane: _Lane, variant: Variant) -> Generator[Step, None, None]:
        """Where the recipe compiles its step, wait for it: half a text compiled would be neither one nor the other."""
        step = variant.compiled
        if step is None or lane.cache is None:
            return
        for _ in range(2):  # another capacity may be under way: then this one's turn comes after it
            step.begin(lane.cache.capacity)
            while step.state == "compiling":
                yield Preparing(lane.number, f"Compiling for {step.elapsed_s:.0f} s", 0, 0)
                self._tick()
                time.sleep(_COMPILE_TICK_S)

    # --------------------------------------------------------------------------------------------------------- turns

    def _turn(self, lane: _Lane) -> Generator[Step, None, None]:
        """A lane's next token, told; then its step to the logits after it, and the base's."""
        assert lane.variant is not None and lane.sampler is not None and lane.stream is not None
        assert lane.logits is not None
        base, sampling = self.lanes[0], self.asked.sampling
        begun_s = time.perf_counter()
        choice = lane.sampler.choose(lane.logits)
        chosen_s = time.perf_counter() - begun_s
        lane.made.append(choice.token_id)
        lane.nlls.append(-choice.logprob)
        if len(lane.made) == 1:
            lane.ttft_s += chosen_s
        else:
            lane.gaps_s.append(lane.last_step_s + chosen_s)
        kl, base_probability = self._versus(lane, base, choice.token_id)
        departs = bool(lane.departed) and lane.departed == len(lane.made)
        ended = choice.token_id in self.session.config.eos_ids
        text = "" if ended else lane.stream.push(choice.token_id)
        if ended:
            lane.finish = "end"
        elif len(lane.made) >= sampling.max_tokens:
            lane.finish = "length"
        elif len(self.asked.ids) + len(lane.made) >= self.session.config.context:
            lane.finish = "context"
        own_s = lane.gaps_s[-1] if lane.gaps_s else lane.ttft_s
        yield LaneToken(lane.number, len(lane.made), choice.token_id, text, math.exp(choice.logprob), own_s, kl,
                        base_probability, departs)
        self._tick()
        if not lane.finish:
            self._advance(lane, base, choice.token_id)

    def _versus(self, lane: _Lane, base: _Lane, token: int) -> tuple[float | None, float | None]:
        """(KL of this token's place, its probability for the base); notes where the lane departs."""
        assert lane.logits is not None
        if lane is base:
            lane.ahead = lane.logits  # what the lanes that have written the same are held against in this round
            return None, None
        place = len(lane.made)
        if not lane.departed:
            lane.ahead = base.ahead
            theirs = base.made[place - 1] if place <= len(base.made) else None
            if base.error:
                lane.ahead = None
            elif theirs != token:
                lane.departed = place
        if lane.ahead is None:
            return None, None
        kl = max(0.0, float(divergences(lane.ahead[None], lane.logits[None])[0, 0]))
        lane.kls.append(kl)
        return kl, math.exp(self.chooser.logprob(lane.ahead, token))

    def _advance(self, lane: _Lane, base: _Lane, token: int) -> None:
        """Run the token through the lane, timed; then through the base reading along, untimed."""
        assert lane.variant is not None and lane.cache is not None
        self.asked.set_threads(lane.variant)
        batch = torch.tensor([[token]], device=self.session.device.torch_name)  # (1, 1)
        begun_s = time.perf_counter()
        lane.logits = lane.variant.step(batch, lane.cache)[0, -1].cpu()  # (V,)
        lane.last_step_s = time.perf_counter() - begun_s
        if lane is base or not lane.departed or lane.ahead is None or lane.reading is None:
            return
        assert base.variant is not None and base.cache is not None
        if lane.departed == len(lane.made):
            lane.reading.take(base.cache, len(self.asked.ids) + len(lane.made) - 1)
        self.asked.set_threads(base.variant)
        lane.ahead = base.variant.step(batch, lane.reading)[0, -1].cpu()  # (V,)
