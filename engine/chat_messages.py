"""What is asked of a reply, what its context holds, and work on a text: the part of engine/messages.py that the Chat
room adds to. Frozen dataclasses, below the unions that name them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.models.chat import ChatMessage


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. temperature 0 is greedy. top_k 0, top_p 1, min_p 0, repetition_penalty 1: off.

    max_tokens: longest reply, in tokens. seed None: a fresh one each time (it is reported, so a run can be repeated).
    """

    temperature: float = 0.8
    top_k: int = 50
    top_p: float = 0.95
    min_p: float = 0.0
    repetition_penalty: float = 1.1
    max_tokens: int = 256
    seed: int | None = None


SAMPLING_LIMITS: Mapping[str, tuple[float, float]] = {
    "temperature": (0.0, 5.0), "top_k": (0, 1_000_000), "top_p": (0.01, 1.0), "min_p": (0.0, 1.0),
    "repetition_penalty": (1.0, 3.0), "max_tokens": (1, 1_000_000), "seed": (0, (1 << 63) - 1)}
"""The least and the greatest value of each field of a Sampling."""


@dataclass(frozen=True)
class CountContext:
    """Control: count what of the context a reply to `messages` (or a continuation of `prompt`) would take. Answered by
    ContextCounted; of several that wait only the newest is. request_id: comes back with the answer."""

    request_id: int
    messages: tuple[ChatMessage, ...] = ()
    prompt: str | None = None
    max_tokens: int = 256


@dataclass(frozen=True)
class ContextCounted:
    """used: prompt tokens that the model would read, of `context`. dropped: oldest turns that would be left out.
    reserve: tokens kept free for the reply. fits: whether the last turn fits at all."""

    request_id: int
    used: int
    context: int
    reserve: int
    dropped: int = 0
    fits: bool = True


@dataclass(frozen=True)
class WorkOnText:
    """Have the model work on a text of any length by a prompt in which "{text}" stands for it.

    A text longer than the context is cut into parts. combine: the prompt that makes one result of the parts' results;
    empty: they stand one after the other. reply_ratio: tokens of the result for each token of text, which decides how
    much text a part holds and where its result ends at the latest; sampling.max_tokens is not looked at.
    """

    job_id: int
    text: str
    prompt: str
    combine: str = ""
    system: str = ""
    reply_ratio: float = 0.4
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    alternatives: int = 0
    submitted_s: float = 0.0


@dataclass(frozen=True)
class PartBegun:
    """The tokens that follow belong to part `part` of `parts` (from 1). combining: it makes one of the results that
    came before; final: what follows is the result, everything before it was on the way to it."""

    job_id: int
    t_s: float
    part: int
    parts: int
    combining: bool = False
    final: bool = False
