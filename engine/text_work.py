"""Work on a text of any length with a model whose context has an end: the text is cut into parts, each is worked on,
and the results stand one after the other or are made into one.

Knows neither what the work is nor who asked for it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace

from engine.chat_messages import PartBegun, WorkOnText
from engine.errors import DynoError
from engine.generation import generate
from engine.jobs import EngineState, JobSteps, reply_events
from engine.messages import ChatMessage, Event, GenerationStats, Progress, Tokens
from engine.models.reasoning import answer_of, opens_reasoning
from engine.models.tokenizer import Tokenizer
from engine.session import Session
from engine.words import counted

_LEAST_PART = 32  # tokens of text below which a part says nothing
_CHARACTERS_A_TOKEN = 8
_SEAMS = ("\n\n", "\n", ". ", "! ", "? ", "。", " ")


def text_job(state: EngineState, command: WorkOnText) -> JobSteps:
    """Carry out a WorkOnText; its result is the statistics of all its replies together."""
    session = state.loaded()
    work = _Work(state, session, command)
    if not command.text.strip():
        raise DynoError("There is no text to work on.", "Write or paste one, or choose a file.")
    room = work.room(command.prompt)
    parts = []
    for part in parts_of(session.tokenizer, command.text, room):
        parts.append(part)
        yield Progress(command.job_id, time.monotonic(), "Cutting the text into parts", 0, 0)
        if work.stopping:
            return None
    if len(parts) == 1:
        yield from work.reply(command.prompt, parts[0], reading=True)
        return work.stats()
    results = yield from work.each(command.prompt, parts, combining=False)
    while command.combine and len(results) > 1 and not work.stopping:
        groups = grouped(session.tokenizer, results, work.room(command.combine))
        results = yield from work.each(command.combine, groups, combining=True)
    return work.stats()


class _Work:
    """What the replies of one command share: how they are asked for, and their statistics."""

    def __init__(self, state: EngineState, session: Session, command: WorkOnText) -> None:
        self._state, self._session, self._command = state, session, command
        self._context = session.config.context
        self._slack = min(64, self._context // 16)
        self._done: list[GenerationStats] = []
        tokenizer = session.tokenizer
        self._reasons_first = tokenizer.chat_template is not None and opens_reasoning(
            tokenizer.chat_text(self._messages("?", ""), answering=True))

    @property
    def stopping(self) -> bool:
        """Whether the user has had enough."""
        return self._state.stopping or self._command.job_id in self._state.cancelled

    def room(self, prompt: str) -> int:
        """Tokens of text that go into a prompt beside the reply to them. Raises DynoError where it is too few."""
        frame = len(self._ids(prompt, ""))
        room = int((self._context - frame - self._slack) / (1 + self._command.reply_ratio))
        if room < _LEAST_PART:
            raise DynoError(f"The model's context of {counted(self._context, 'token')} is too short for this: the "
                            f"instructions alone take {frame:,}.", "Open a model with more context.")
        return room

    def each(self, prompt: str, texts: Sequence[str], combining: bool) -> Generator[Event, None, list[str]]:
        """The results of several texts, with a word before each of them."""
        job_id, results = self._command.job_id, []
        for number, text in enumerate(texts, 1):
            stage = "Putting the results together" if combining else f"Part {number} of {len(texts)}"
            yield Progress(job_id, time.monotonic(), stage, number - 1, len(texts) + bool(self._command.combine))
            yield PartBegun(job_id, time.monotonic(), number, len(texts), combining, combining and len(texts) == 1)
            results.append((yield from self.reply(prompt, text)))
            if self.stopping:
                break
        return results

    def reply(self, prompt: str, text: str, reading: bool = False) -> Generator[Event, None, str]:
        """Have the model answer the prompt with this text in it; what it wrote, without its reasoning."""
        command, written = self._command, ""
        ids = self._ids(prompt, text)
        length = len(self._session.tokenizer.encode(text, special_tokens=False))
        most = int(command.reply_ratio * length) + self._slack
        steps = generate(self._session, ids, replace(command.sampling, max_tokens=most), stop=command.stop,
                         alternatives=command.alternatives,
                         submitted_s=(command.submitted_s or None) if not self._done else None,
                         stopping=lambda: self.stopping)
        events = reply_events(self._state, command.job_id, steps, reading)
        while True:
            try:
                event = next(events)
            except StopIteration as finished:
                self._done.append(finished.value)
                return answer_of(written, self._reasons_first).strip()
            if isinstance(event, Tokens):
                written += event.text
            yield event

    def stats(self) -> GenerationStats:
        """Of all replies together: sums, the first one's time to its first token, means over tokens."""
        done = self._done
        tokens = sum(s.output_tokens for s in done)
        steps = sum(max(0, s.output_tokens - 1) for s in done)
        nll = sum(math.log(s.perplexity) * s.output_tokens for s in done if s.output_tokens)
        endings = [s.finish for s in done]
        cut = "stopped" if self.stopping else next((e for e in ("length", "context") if e in endings), endings[-1])
        return replace(
            done[0], prompt_tokens=sum(s.prompt_tokens for s in done), cached_tokens=sum(s.cached_tokens for s in done),
            output_tokens=tokens, tpot_s=sum(s.tpot_s * max(0, s.output_tokens - 1) for s in done) / max(1, steps),
            elapsed_s=sum(s.elapsed_s for s in done), perplexity=math.exp(nll / tokens) if tokens else 0.0, finish=cut,
            recipe=" → ".join(dict.fromkeys(s.recipe for s in done)),
            drafted_tokens=sum(s.drafted_tokens for s in done), accepted_tokens=sum(s.accepted_tokens for s in done))

    def _ids(self, prompt: str, text: str) -> list[int]:
        return self._session.tokenizer.render_chat(self._messages(prompt, text))

    def _messages(self, prompt: str, text: str) -> list[ChatMessage]:
        system = [ChatMessage("system", self._command.system)] if self._command.system else []
        return [*system, ChatMessage("user", prompt.replace("{text}", text))]


def parts_of(tokenizer: Tokenizer, text: str, most: int) -> Iterator[str]:
    """A text cut into parts of about `most` tokens at the longest, where a paragraph, line, sentence or word ends.
    Joined they are the text, less white space alone."""
    at = 0
    while at < len(text):
        window = text[at:at + most * _CHARACTERS_A_TOKEN]
        ids, places = tokenizer.encode_with_places(window)
        if len(ids) > most:
            cut = _seam(window, max(1, places[most]))
        else:
            cut = len(window) if at + len(window) == len(text) else _seam(window, len(window))
        if window[:cut].strip():
            yield window[:cut]
        at += cut


def grouped(tokenizer: Tokenizer, texts: Sequence[str], most: int) -> list[str]:
    """Texts joined into groups of `most` tokens, at least two in each (they are cut short where they must be), so that
    there are fewer afterwards."""
    def size(text: str) -> int:
        return len(tokenizer.encode(text, special_tokens=False))

    cut = [text if size(text) <= most // 2 else next(parts_of(tokenizer, text, most // 2), "") for text in texts]
    groups: list[str] = []
    for text in cut:
        joined = f"{groups[-1]}\n\n{text}" if groups else text
        if groups and size(joined) <= most + 2:
            groups[-1] = joined
        else:
            groups.append(text)
    return groups


def _seam(text: str, wanted: int) -> int:
    """The end of a paragraph, line, sentence or word in the second half of text[:wanted]; else `wanted`."""
    for mark in _SEAMS:
        found = text.rfind(mark, wanted // 2, wanted)
        if found >= 0:
            return found + len(mark)
    return wanted
