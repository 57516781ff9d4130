"""What the model is shown of a conversation, and the command that asks it for the next reply. Knows no widgets."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from engine.messages import ChatMessage, CountContext, Generate, Sampling, WorkOnText
from engine.models.reasoning import split_reasoning
from engine.scenarios import Scenario
from engine.storage import Message

_ALTERNATIVES = 5


class Turn(NamedTuple):
    """What the model sees of one or several messages of one role; `first` is the id of the first of them."""

    role: str
    content: str
    first: int


@dataclass(frozen=True)
class Way:
    """How a prompt is to be answered: a scenario and what was chosen for its fields."""

    scenario: Scenario
    values: Mapping[str, str]

    @property
    def by_template(self) -> bool:
        """Whether the model's chat template is used."""
        return self.scenario.way != "continue"

    def to_meta(self) -> dict[str, object]:
        """What is stored with the prompt; nothing for plain chat."""
        plain = self.scenario.key == "chat"
        return {} if plain else {"scenario": self.scenario.key, "values": dict(self.values)}


def way_of(message: Message | None, scenarios: Mapping[str, Scenario]) -> Way:
    """How a stored prompt was meant; plain chat where its scenario is no longer there."""
    meta = message.meta if message is not None else {}
    return Way(scenarios.get(meta.get("scenario", ""), scenarios["chat"]), meta.get("values", {}))


def turns_of(messages: Sequence[Message], scenarios: Mapping[str, Scenario]) -> list[Turn]:
    """Turns in which user and assistant take turns: a prompt left without a reply joins the next one."""
    turns: list[Turn] = []
    for message in messages:
        turn = Turn(message.role, _content(message, scenarios), message.id)
        if not turn.content:
            continue
        if turns and turns[-1].role == turn.role:
            before = turns.pop()
            turn = Turn(turn.role, f"{before.content}\n\n{turn.content}", before.first)
        turns.append(turn)
    return turns


def _content(message: Message, scenarios: Mapping[str, Scenario]) -> str:
    if message.role == "user":
        way = way_of(message, scenarios)
        return way.scenario.asked(message.text, way.values)
    opened = bool(message.meta.get("reasons_first"))
    # A template leaves reasoning out by its closing tag; a reply stopped before it would be taken for an answer.
    unfinished = opened and not split_reasoning(message.text, opened).closed
    return "" if unfinished else message.text


def command(job_id: int, way: Way, turns: Sequence[Turn], text: str, system: str, sampling: Sampling,
            stop: tuple[str, ...], pace: float = 0.0) -> Generate | WorkOnText:
    """What to ask the engine. turns: the conversation up to the prompt; text: the prompt as it was written. pace: of a
    reply, in tokens per second; 0: as fast as it can. Work on a text is never held back."""
    scenario, submitted_s = way.scenario, time.perf_counter()
    if scenario.way == "text":
        return WorkOnText(job_id, text, scenario.filled(way.values), scenario.filled(way.values, scenario.combine),
                          scenario.system or system, scenario.reply_ratio, scenario.sampled(sampling), stop,
                          _ALTERNATIVES, submitted_s)
    if scenario.way == "continue":
        return Generate(job_id, prompt=text, sampling=scenario.sampled(sampling), stop=stop,
                        alternatives=_ALTERNATIVES, submitted_s=submitted_s, pace_tokens_per_s=pace)
    return Generate(job_id, messages=as_messages(turns, system), sampling=scenario.sampled(sampling), stop=stop,
                    alternatives=_ALTERNATIVES, submitted_s=submitted_s, pace_tokens_per_s=pace)


def question(request_id: int, way: Way, text: str, stored: Sequence[Message], scenarios: Mapping[str, Scenario],
             system: str, most: int) -> CountContext | None:
    """What to ask about the context for a prompt `text` after the stored messages and a reply of at most `most` tokens.
    None where the text may be of any length."""
    if way.scenario.way == "text":
        return None
    if way.scenario.way == "continue":
        last = stored[-2].text if not text and len(stored) > 1 else ""  # the one that is being continued
        return CountContext(request_id, prompt=text or last, max_tokens=most)
    turns = turns_of([*stored, *([Message(0, 0, "user", text, "complete", 0.0)] if text else [])], scenarios)
    if turns and turns[-1].role != "user":
        turns.append(Turn("user", "", 0))  # what the conversation takes before anything is written
    return CountContext(request_id, as_messages(turns, system), max_tokens=most)


def as_messages(turns: Sequence[Turn], system: str) -> tuple[ChatMessage, ...]:
    """Turns as the engine takes them, after the system prompt where there is one."""
    first = (ChatMessage("system", system),) if system else ()
    return (*first, *(ChatMessage(turn.role, turn.content) for turn in turns))
