"""Reasoning that a model writes before its answer: where it stands in a text. Knows neither tokens nor windows.

Only a block at the very beginning counts: a model that explains the tags in its answer is not thinking. Some chat
templates open the block themselves, so the reply begins inside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from engine.models.chat import ChatMessage

_TAGS = (("<think>", "</think>"), ("<thinking>", "</thinking>"), ("<thought>", "</thought>"),
         ("<reasoning>", "</reasoning>"), ("[THINK]", "[/THINK]"), ("<|begin_of_thought|>", "<|end_of_thought|>"))


class Split(NamedTuple):
    """Places in a text, in characters: the reasoning is text[begin:end], the answer text[answer:]. closed: whether the
    reasoning has ended. Without reasoning all three are 0."""

    begin: int
    end: int
    answer: int
    closed: bool = True


def split_reasoning(text: str, opened: bool = False) -> Split:
    """Where the reasoning of a reply is. opened: the prompt ended inside a block. A tag that may still be growing at
    the end of the text is taken for reasoning, so that it is never shown for a moment."""
    start = len(text) - len(text.lstrip())
    closing = next((shut for tag, shut in _TAGS if text.startswith(tag, start)), "")
    if closing:
        begin = start + len(next(tag for tag, shut in _TAGS if shut == closing))
    elif start < len(text) and any(tag.startswith(text[start:]) for tag, _ in _TAGS):
        return Split(len(text), len(text), len(text), False)
    elif opened:
        begin = 0
    else:
        return Split(0, 0, 0)
    ends = [(at, shut) for shut in ([closing] if closing else [shut for _, shut in _TAGS])
            if (at := text.find(shut, begin)) >= 0]
    if not ends:
        grown = max((n for _, shut in _TAGS for n in range(1, len(shut)) if text.endswith(shut[:n])), default=0)
        return Split(begin, max(begin, len(text) - grown), len(text), False)
    end, shut = min(ends)
    answer = end + len(shut)
    while answer < len(text) and text[answer].isspace():
        answer += 1
    return Split(begin, end, answer)


def opens_reasoning(prompt: str) -> bool:
    """Whether a prompt ends with an opening tag."""
    return prompt.rstrip().endswith(tuple(tag for tag, _ in _TAGS))


def answer_of(text: str, opened: bool = False) -> str:
    """A reply without its reasoning."""
    return text[split_reasoning(text, opened).answer:]


def without_broken_reasoning(messages: Sequence[ChatMessage], template: str) -> list[ChatMessage]:
    """The turns, ready for a chat template that leaves earlier reasoning out. Such a template looks for the closing
    tag; a reply that was stopped before it would go in whole, so its reasoning is left out here. Whole blocks are the
    template's affair: some keep them."""
    if not any(shut in template for _, shut in _TAGS):
        return list(messages)
    return [replace(m, content=answer_of(m.content)) if m.role == "assistant" and not split_reasoning(m.content).closed
            else m for m in messages]
