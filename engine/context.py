"""What of a conversation a model reads: whole oldest turns are left out where the context is too short, and tokens that
the cache holds already are used again.

Knows no cache and no device: token ids and texts only.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate

from engine.chat_messages import ContextCounted, CountContext
from engine.errors import DynoError
from engine.models.chat import ChatMessage
from engine.models.reasoning import without_broken_reasoning
from engine.models.tokenizer import Tokenizer
from engine.words import counted

_LONGEST_TOKEN = 128  # characters; texts beyond this many for each token of room are not worth tokenizing
_STRIDES = 4  # of the room for the turns: the oldest leave at such steps, and the prompt stays the same between them


def reply_reserve(max_tokens: int, context: int) -> int:
    """Tokens kept free for a reply: its longest length, at most a quarter of the context."""
    return max(1, min(max_tokens, context // 4))


def fit_messages(tokenizer: Tokenizer, messages: Sequence[ChatMessage], context: int,
                 reserve: int) -> tuple[list[int], int]:
    """Token ids of the conversation and how many of its oldest turns were left out so that `reserve` tokens remain.

    A system prompt always stays. Turns leave in strides of about a quarter of the room, so that the next few prompts
    begin with the same tokens and the cache stays good. Raises DynoError where the last turn alone does not fit.
    """
    ids, dropped = _fitted(tokenizer, messages, context - reserve)
    if len(ids) > context - reserve:
        raise DynoError(f"The message is {counted(len(ids), 'token')} long; with a reply of {reserve:,} it does "
                        f"not fit into the model's context of {context:,}.",
                        "Shorten it, or open a model with more context.")
    return ids, dropped


def _fitted(tokenizer: Tokenizer, messages: Sequence[ChatMessage], room: int) -> tuple[list[int], int]:
    """The longest end of the conversation that fits; where nothing does, the last turn."""
    if not messages:
        raise DynoError("The prompt is empty.", "Write something for the model to answer.")
    messages = without_broken_reasoning(messages, tokenizer.chat_template or "")
    system = [m for m in messages[:1] if m.role == "system"]
    turns = messages[len(system):]
    if not turns:
        return tokenizer.render_chat(system), 0
    rendered: dict[int, list[int]] = {}
    hopeless = 1 + max((i for i, t in enumerate(turns[:-1]) if len(t.content) > _LONGEST_TOKEN * room), default=-1)

    def fits(dropped: int) -> bool:
        rendered[dropped] = tokenizer.render_chat([*system, *turns[dropped:]])
        return len(rendered[dropped]) <= room

    if not hopeless and fits(0):
        return rendered[0], 0
    starts = [start for start in _starts(turns) if start >= hopeless]
    sizes = [0, *accumulate(len(tokenizer.encode(turn.content, special_tokens=False)) if i >= hopeless else room
                            for i, turn in enumerate(turns))]
    stride = max(1, room // _STRIDES)
    strides = [b for a, b in zip([0, *starts], starts, strict=False) if sizes[a] // stride < sizes[b] // stride]
    for choices in (strides, starts):  # any whole turn may go where the strides do not reach far enough
        found = bisect_left(choices, True, key=fits)
        if found < len(choices):
            return rendered[choices[found]], choices[found]
    last = starts[-1] if starts else 0
    return rendered.get(last) or tokenizer.render_chat([*system, *turns[last:]]), last


def _starts(turns: Sequence[ChatMessage]) -> Iterator[int]:
    """How many turns may be left out: a reply without its question would be out of place, so it leaves with it."""
    for at in range(1, len(turns)):
        if turns[at].role != "assistant" or (at == len(turns) - 1):
            yield at


def check_prompt(ids: Sequence[int], context: int) -> None:
    """Raises DynoError for a prompt the model cannot continue."""
    if not ids:
        raise DynoError("The prompt is empty.", "Write something for the model to continue.")
    if len(ids) >= context:
        raise DynoError(f"The prompt is {counted(len(ids), 'token')} long; the model's context holds {context:,}.",
                        "Shorten it, or open a model with more context.")


def count_context(tokenizer: Tokenizer, context: int, asked: CountContext) -> ContextCounted:
    """What a reply would take of the context. Never raises: what cannot be rendered counts as nothing. A last turn that
    is beyond all measure is counted as far as it is certain not to fit."""
    reserve, most = reply_reserve(asked.max_tokens, context), _LONGEST_TOKEN * context
    if asked.messages and len(asked.messages[-1].content) > most:
        last = replace(asked.messages[-1], content=asked.messages[-1].content[:most])
        asked = replace(asked, messages=(*asked.messages[:-1], last))
    try:
        if asked.prompt is not None:
            ids, dropped, limit = tokenizer.encode(asked.prompt[:most]), 0, context - 1
        else:
            (ids, dropped), limit = _fitted(tokenizer, asked.messages, context - reserve), context - reserve
    except DynoError:
        return ContextCounted(asked.request_id, 0, context, reserve)
    return ContextCounted(asked.request_id, len(ids), context, reserve, dropped, len(ids) <= limit)


def with_known_tokens(tokenizer: Tokenizer, ids: Sequence[int], known: Sequence[int]) -> list[int]:
    """The prompt `ids` with the tokens of `known` (what the cache holds) wherever they stand for the same text.

    A model may write a text in other tokens than the tokenizer would cut it into, and the cache would then be good only
    as far as the first such token. Texts are compared from one special token to the next; where the cache ends in the
    middle of a text, the rest of it is tokenized by itself.
    """
    out, at, special = list(ids), 0, tokenizer.special_ids
    while True:
        limit = min(len(out), len(known))
        while at < limit and out[at] == known[at]:
            at += 1
        if at >= limit or known[at] in special:
            return out
        begin = at
        while begin > 0 and out[begin - 1] not in special:
            begin -= 1
        end = next((i for i in range(at, len(out)) if out[i] in special), len(out))
        known_end = next((i for i in range(at, len(known)) if known[i] in special), len(known))
        text, written = tokenizer.decode(out[begin:end]), list(known[begin:known_end])
        rest = text[len(tokenizer.decode(written)):]
        if rest:
            written += tokenizer.encode(rest, special_tokens=False)
        if tokenizer.decode(written) != text:
            return out
        out[begin:end] = written
        if rest:
            return out
        at = known_end
