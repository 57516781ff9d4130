"""Generating a reply: read the prompt, then one token a step, whatever recipe is active at that step.

A generator of steps. Between any two the caller may switch the session's variant: the cache is then rebuilt from the
token ids and the reply goes on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import torch

from engine.context import check_prompt
from engine.errors import DynoError
from engine.lookup import PromptLookup
from engine.messages import GenerationStats, Sampling, TokenPiece
from engine.models.tokenizer import Tokenizer, check_ids
from engine.recipe import Recipe
from engine.sampling import Sampler
from engine.session import Session

_PREFILL_CHUNK = 256
_FIRST_PAUSE, _LONGEST_PAUSE = 4, 64


@dataclass(frozen=True)
class PromptRead:
    """A part of the prompt has been read: `done` of `total` tokens."""

    done: int
    total: int


@dataclass(frozen=True)
class NewToken:
    """A token was chosen. nll: its negative log-likelihood under the model; recipe: fingerprint it was made with."""

    piece: TokenPiece
    nll: float
    recipe: str


@dataclass(frozen=True)
class Reread:
    """The recipe changed from `old` to `new`; `tokens` tokens were read again in `elapsed_s`."""

    old: str
    new: str
    tokens: int
    elapsed_s: float


@dataclass(frozen=True)
class SwitchRefused:
    """The cache of `recipe` did not fit; the reply goes on with what it had."""

    recipe: Recipe
    summary: str
    hint: str


Step = PromptRead | NewToken | Reread | SwitchRefused


def generate(session: Session, ids: Sequence[int], sampling: Sampling, *, stop: tuple[str, ...] = (),
             alternatives: int = 0, submitted_s: float | None = None,
             stopping: Callable[[], bool] = lambda: False,
             hold: Callable[[float], float] = lambda token_s: 0.0) -> Generator[Step, None, GenerationStats]:
    """Generate a reply to the prompt `ids`; returns its statistics.

    submitted_s: time.perf_counter() of the request. stopping: asked after each step; true ends the reply there. hold:
    called between tokens with the time of the last one, may hold the reply back, and returns for how long it did.
    """
    begun_s = time.perf_counter() if submitted_s is None else submitted_s
    context = session.config.context
    check_prompt(ids, context)
    check_ids(ids, session.config.vocab_size)
    sampler = Sampler(sampling, ids)
    text = _TextOut(session.tokenizer, ids, stop)
    cached = session.begin(ids, len(ids) + sampling.max_tokens, reuse=sampling.seed is None)
    logits, switched = yield from _read(session, ids[cached:], cached, len(ids), stopping)
    cached = 0 if switched else cached
    nll_sum, first_s, last_s, paused_s, count, finish = 0.0, 0.0, 0.0, 0.0, 0, "stopped"
    recipes: list[str] = []
    ahead = _Ahead(session, ids)
    while logits is not None and not stopping():
        choice = sampler.choose(logits, alternatives)
        nll_sum -= choice.logprob
        count += 1
        last_s = time.perf_counter()
        first_s = first_s or last_s
        if recipes[-1:] != [session.running]:
            recipes.append(session.running)
        ended = choice.token_id in session.config.eos_ids
        full = count >= sampling.max_tokens or len(ids) + count >= context
        piece = text.piece(choice.token_id, math.exp(choice.logprob), choice.likeliest, ended, full)
        yield NewToken(piece, -choice.logprob, session.filled_by.fingerprint)
        if ended or text.stopped:
            finish = "end" if ended else "stop string"
            break
        if full:
            finish = "length" if count >= sampling.max_tokens else "context"
            break
        held_s = hold(last_s)
        checked = ahead.checked(choice.token_id)
        if session.switched:
            ahead.drop()
            if checked is not None:  # the token is in the old cache already: it is run again with the new recipe
                session.forget(1)
                checked = None
            while session.switched and not stopping():
                yield from _reread(session, stopping)
            paused_s += time.perf_counter() - last_s  # building and reading again is not decoding
        else:
            paused_s += held_s
        if stopping():
            break
        left = min(sampling.max_tokens - count, context - len(ids) - count) - 1
        logits = ahead.step(choice.token_id, left) if checked is None else checked
    ahead.drop()
    return GenerationStats(
        prompt_tokens=len(ids), cached_tokens=cached, output_tokens=count, ttft_s=max(0.0, first_s - begun_s),
        tpot_s=(last_s - first_s - paused_s) / (count - 1) if count > 1 else 0.0,
        elapsed_s=time.perf_counter() - begun_s, perplexity=math.exp(min(nll_sum / count, 50.0)) if count else 0.0,
        seed=sampler.seed, finish=finish, recipe=" → ".join(recipes) or session.running,
        drafted_tokens=ahead.drafted, accepted_tokens=ahead.accepted)


def _read(session: Session, ids: Sequence[int], done: int, total: int,
          stopping: Callable[[], bool]) -> Generator[Step, None, tuple[torch.Tensor | None, bool]]:
    """Prefill in chunks; (logits after the last token, or None when stopped; whether a switch made it start over)."""
    logits, old, started_s, again = None, "", 0.0, 0
    pending = list(ids)
    while pending:
        if stopping():
            return None, bool(old)
        if session.switched:
            before, begun_s = session.filled_by.label, time.perf_counter()
            known = yield from _restarted(session)
            if known is None:
                continue
            old, started_s = old or before, started_s or begun_s
            again = len(known)
            pending, done = [*known, *pending], done - again
        chunk, pending = pending[:_PREFILL_CHUNK], pending[_PREFILL_CHUNK:]
        logits = session.read(chunk)
        done += len(chunk)
        if pending:
            yield PromptRead(done, total)
        elif old:
            yield Reread(old, session.filled_by.label, again, time.perf_counter() - started_s)
            if session.switched:
                pending = (yield from _restarted(session)) or []
    return logits, bool(old)


def _reread(session: Session, stopping: Callable[[], bool]) -> Generator[Step, None, None]:
    """Rebuild the cache for the variant that is now active; another switch on the way starts over."""
    started_s = time.perf_counter()
    old = session.filled_by.label
    ids = yield from _restarted(session)
    if ids is None:
        return
    pending = list(ids)
    while pending:
        chunk, pending = pending[:_PREFILL_CHUNK], pending[_PREFILL_CHUNK:]
        session.read(chunk)
        if pending:
            yield PromptRead(len(ids) - len(pending), len(ids))
            if stopping():
                return
            if session.switched:
                session.restart()  # what it has read so far is all that could be kept, so a refusal ends the reply
                pending = list(ids)
    yield Reread(old, session.filled_by.label, len(ids), time.perf_counter() - started_s)


def _restarted(session: Session) -> Generator[Step, None, list[int] | None]:
    """The tokens to read again after a switch; None where the new cache did not fit and the old recipe goes on."""
    assert session.active is not None
    wanted = session.active.recipe
    try:
        return session.restart()
    except DynoError as error:
        if session.switched:
            raise
        yield SwitchRefused(wanted, error.summary, error.hint)
        return None


class _Ahead:
    """Tokens proposed by prompt lookup, run together with the last one, and checked as the sampler goes on.

    drafted, accepted: how many were proposed, and how many were what the sampler chose. A proposal of which nothing was
    right cost time, so the next ones wait: 4 tokens, then 8, up to 64, until one is right again.
    """

    def __init__(self, session: Session, prompt: Sequence[int]) -> None:
        self._session = session
        self._text = list(prompt)
        self._lookup: PromptLookup | None = None
        self._drafts: list[int] = []  # in the cache, not yet chosen
        self._rows: list[torch.Tensor] = []  # logits after each of them
        self.drafted = self.accepted = 0
        self._pause = self._waits = 0
        self._proposed = self._hit = False

    def checked(self, token: int) -> torch.Tensor | None:
        """The logits after `token` where it had been proposed and has already been run; None where it must be run."""
        self._text.append(token)
        if self._lookup is not None:
            self._lookup.add(token)
        if self._drafts and self._drafts[0] == token:
            self.accepted += 1
            self._hit = True
            del self._drafts[0]
            return self._rows.pop(0)
        self.drop()
        return None

    def drop(self) -> None:
        """Forget what was proposed and not chosen."""
        self._session.forget(len(self._drafts))
        self._drafts, self._rows = [], []

    def step(self, token: int, most: int) -> torch.Tensor:
        """Run `token` with at most `most` proposals after it; the logits (V,) that follow it."""
        assert self._session.active is not None
        plan = self._session.active.lookup
        if plan is None:
            return self._session.step([token])[-1]
        if self._lookup is None or self._lookup.ngram != plan.ngram:
            self._lookup = PromptLookup(self._text, plan.ngram)
        self._drafts = self._lookup.propose(min(plan.drafts, most)) if self._may_propose() else []
        self._proposed, self._hit = bool(self._drafts), False
        self.drafted += len(self._drafts)
        first, *self._rows = self._session.step([token, *self._drafts]).unbind(0)
        return first

    def _may_propose(self) -> bool:
        """Whether the last proposal paid, or the wait for the next one is over."""
        if self._proposed and not self._hit:
            self._pause = min(_LONGEST_PAUSE, 2 * self._pause or _FIRST_PAUSE)
            self._waits = self._pause
        elif self._proposed:
            self._pause = self._waits = 0
        self._proposed = False
        self._waits -= 1
        return self._waits < 0


class _TextOut:
    """Turns tokens into pieces of text, and holds back what may become a stop string."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: tuple[str, ...]) -> None:
        self._tokenizer = tokenizer
        self._stream = tokenizer.stream(prompt)
        self._stop = tuple(s for s in stop if s)
        self._held = ""
        self.stopped = False

    def piece(self, token_id: int, probability: float, likeliest: tuple[tuple[int, float], ...],
              ended: bool, full: bool) -> TokenPiece:
        """ended: the token ends the text. full: nothing can follow it, so nothing may be held back."""
        text = self._held if ended else self._filtered(self._held + self._stream.push(token_id))
        if full and not ended:
            text += self._held
        shown = tuple((self._tokenizer.token_text(i), p) for i, p in likeliest)
        return TokenPiece(text, token_id, probability, shown)

    def _filtered(self, text: str) -> str:
        self._held = ""
        found = [at for at in (text.find(mark) for mark in self._stop) if at >= 0]
        if found:
            self.stopped = True
            return text[:min(found)]
        longest = max((n for mark in self._stop for n in range(1, len(mark)) if text.endswith(mark[:n])), default=0)
        if longest:
            self._held = text[-longest:]
            return text[:-longest]
        return text
