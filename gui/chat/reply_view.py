"""What the model wrote: runs of text with a thin line wherever a technique was switched or a part of a long text began,
reasoning folded away before them, a result view where the scenario has one, and one line of statistics."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from PySide6.QtWidgets import QFrame, QLabel, QWidget

from engine.messages import GenerationStats, PartBegun, Switched, TokenPiece
from engine.models.reasoning import split_reasoning
from engine.units import duration, rate
from gui.chat.message_view import MessageView
from gui.chat.reasoning_view import FoldedText
from gui.chat.results.base import Result
from gui.chat.text_view import TextView
from gui.theme import small_font

_BETWEEN_PARTS = TokenPiece("\n\n", -1, 1.0)


class ReplyView(MessageView):
    """opened: the prompt ended inside a block of reasoning. result: the module of gui.chat.results that shows what the
    text says, "" for the text alone."""

    def __init__(self, opened: bool = False, result: str = "", parent: QWidget | None = None) -> None:
        super().__init__("assistant", parent)
        self._opened, self._kind = opened, result
        self._runs: list[tuple[TextView, list[TokenPiece]]] = []
        self._texts: list[str] = []
        self._switches: list[str] = []
        self._segments: list[int] = []  # runs at which a reply begins: the first, and one for each part of a text
        self._reasonings: list[FoldedText] = []
        self._notes = ""
        self._notes_view: FoldedText | None = None
        self._result: Result | None = None
        self._stale = False
        self._begin_segment()

    @property
    def text(self) -> str:
        """Everything written so far."""
        return "".join(self._texts)

    @property
    def answer(self) -> str:
        """The text without reasoning."""
        ends = [*self._segments[1:], len(self._texts)]
        texts = ("".join(self._texts[a:b]) for a, b in zip(self._segments, ends, strict=True))
        return "".join(text[split_reasoning(text, self._opened).answer:] for text in texts)

    def begins_in_reasoning(self, opened: bool) -> None:
        """Whether the prompt ended inside a block of reasoning, where that is known only after the view was made."""
        self._opened = opened

    def add_pieces(self, pieces: Sequence[TokenPiece]) -> None:
        """Take tokens in; they show at the next refresh()."""
        self._runs[-1][1].extend(pieces)
        self._texts[-1] += "".join(piece.text for piece in pieces)
        self._stale = True

    def refresh(self, final: bool = False) -> None:
        """Show what has come since the last time."""
        if not (self._stale or final):
            return
        self._stale = False
        first = self._segments[-1]
        written = "".join(self._texts[first:])
        split = split_reasoning(written, self._opened)
        at = sum(map(len, self._texts[first:-1]))
        view, pieces = self._runs[-1]
        shown = list(_between(pieces, split.answer - at, len(self._texts[-1]))) if split.answer else pieces
        text = self._texts[-1][max(0, split.answer - at):]
        if final and not split.closed and split.begin == len(written):
            text, shown = self._texts[-1], pieces  # it looked like a tag and was none
        elif split.end > split.begin:
            self._show_reasoning(first, split.begin, split.end, split.closed, final)
        view.setVisible(bool(text))
        view.set_text(text, shown, final)

    def finish(self, whole: bool = False) -> None:
        """No more comes: show all of it, and what it says where the scenario has a view for that. whole: the model had
        its say, so that nothing is an answer too."""
        self.refresh(final=True)
        if not self._kind or self._result is not None or not (whole or self.answer.strip()):
            return
        self._result = importlib.import_module(f"gui.chat.results.{self._kind}").make()
        place = self._body.indexOf(self._notes_view) + 1 if self._notes_view is not None else 0
        self._body.insertWidget(place, self._result)
        if self._result.read(self.answer):
            written = FoldedText(self.tr("What the model wrote"))
            written.show_text(self.tr("What the model wrote"), self.answer)
            self._body.insertWidget(place + 1, written)
            for view, _ in self._runs:
                view.hide()

    def add_switch(self, event: Switched) -> None:
        """Draw the line of a switch: what changed, how long it took, what was read again."""
        self._add_line(self.tr("{old} → {new}: {build} to switch, {tokens} tokens re-read in {reread}").format(
            old=event.old, new=event.new, build=duration(event.build_s), tokens=event.tokens_reread,
            reread=duration(event.reread_s)))

    def begin_part(self, event: PartBegun) -> None:
        """What follows is about another part of the text, or makes one of what was written about the parts."""
        if event.combining and event.part == 1:
            self.refresh(final=True)
            self._put_notes("\n\n".join(part for part in (self._notes, self.answer.strip()) if part))
            self._drop_runs()
        elif self.text:
            self.add_pieces([_BETWEEN_PARTS])
        if not event.final:
            self._add_line(self.tr("Part {part} of {parts}").format(part=event.part, parts=event.parts), segment=True)

    def show_stats(self, stats: GenerationStats) -> None:
        """The quiet line under the reply."""
        parts = [self.tr("{n} tokens").format(n=stats.output_tokens)]
        if stats.tokens_per_s:
            speed = rate(stats.tokens_per_s)
            parts.append(self.tr("{rate} of its own, held back to {pace}").format(
                rate=speed, pace=rate(stats.pace_tokens_per_s)) if stats.pace_tokens_per_s else speed)
        if stats.output_tokens:
            parts.append(self.tr("first after {time}").format(time=duration(stats.ttft_s)))
            parts.append(self.tr("perplexity {value}").format(value=f"{stats.perplexity:.2f}"))
        if stats.drafted_tokens:
            share = stats.accepted_tokens / stats.drafted_tokens
            parts.append(self.tr("lookup {share} % of {n} right").format(share=round(100 * share),
                                                                         n=stats.drafted_tokens))
        parts += [stats.model, stats.recipe] if stats.model else [stats.recipe]
        endings = {"length": self.tr("cut at the longest reply"), "context": self.tr("the context is full"),
                   "stopped": self.tr("stopped"), "stop string": self.tr("ended by a stop string")}
        if stats.finish in endings:
            parts.append(endings[stats.finish])
        elif not self.text.strip() and not self._notes:
            parts.append(self.tr("the model wrote nothing"))
        self._foot.setText("  ·  ".join(parts))
        self._foot.setToolTip(self.tr(
            "Perplexity here says how sure the model was of its own words, not how good they are. Seed {seed}; "
            "{cached} of {prompt} prompt tokens were still in the cache.").format(
                seed=stats.seed, cached=stats.cached_tokens, prompt=stats.prompt_tokens))

    def show_waiting(self, text: str) -> None:
        """A quiet word while nothing has come yet."""
        self._foot.setText(text)

    def begin_meta(self) -> dict[str, Any]:
        """What is stored before the first token, so that a reply which is cut off is read as what it is."""
        kept = {"reasons_first": self._opened, "view": self._kind}
        return {key: value for key, value in kept.items() if value}

    def to_meta(self, stats: GenerationStats | None) -> dict[str, Any]:
        """What is stored beside the text, so that the reply looks the same at the next start."""
        return self.begin_meta() | {
            "stats": stats.__dict__ if stats is not None else None,
            "switches": self._switches, "segments": self._segments, "notes": self._notes,
            "runs": [[[p.text, p.token_id, round(p.probability, 5), [[t, round(q, 5)] for t, q in p.alternatives]]
                      for p in pieces] for _, pieces in self._runs],
        }

    def restore(self, text: str, meta: dict[str, Any]) -> None:
        """Show a stored reply. Text without tokens (saved before the app was killed) shows as text."""
        runs = [[TokenPiece(t, i, p, tuple((a, q) for a, q in alts)) for t, i, p, alts in run]
                for run in meta.get("runs", [])]
        if meta.get("notes"):
            self._put_notes(meta["notes"])
        if "".join(piece.text for run in runs for piece in run) != text:
            runs = []
            self._texts[-1] = text
        for index, run in enumerate(runs):
            if index:
                self._add_line(meta["switches"][index - 1], segment=index in meta.get("segments", ()))
            self.add_pieces(run)
        self.finish(bool(meta.get("stats")))
        try:
            self.show_stats(GenerationStats(**meta["stats"]))
        except (KeyError, TypeError):
            self.show_waiting("")  # no statistics, or those of another version: the text stands without them

    def _show_reasoning(self, first: int, begin: int, end: int, closed: bool, final: bool) -> None:
        texts = "".join(self._texts[first:])
        pieces = [piece for _, run in self._runs[first:] for piece in run]
        inside = list(_between(pieces, begin, end))
        said = (self.tr("Thinking… {n} tokens") if not closed and not final else
                self.tr("Reasoning, {n} tokens") if inside else self.tr("Reasoning")).format(n=len(inside))
        self._reasonings[-1].show_text(said, texts[begin:end].strip(), inside, final)

    def _put_notes(self, text: str) -> None:
        self._notes = text
        if self._notes_view is None:
            self._notes_view = FoldedText(self.tr("Notes on the parts"))
            self._body.insertWidget(0, self._notes_view)
        self._notes_view.show_text(self.tr("Notes on the parts of the text"), text)

    def _drop_runs(self) -> None:
        """Begin anew after what is now in the notes."""
        for index in reversed(range(self._body.count())):
            widget = self._body.itemAt(index).widget()
            if widget is not None and widget is not self._notes_view:
                self._body.removeWidget(widget)
                widget.hide()
                widget.deleteLater()
        self._runs, self._texts, self._switches, self._segments, self._reasonings = [], [], [], [], []
        self._begin_segment()

    def _add_line(self, text: str, segment: bool = False) -> None:
        self.refresh(final=True)
        self._switches.append(text)
        line = QLabel(text)
        line.setProperty("muted", True)
        line.setWordWrap(True)
        line.setFont(small_font(self.font()))
        rule = QFrame()
        rule.setProperty("line", True)
        rule.setFixedHeight(1)
        self._body.addWidget(rule)
        self._body.addWidget(line)
        if segment:
            self._begin_segment()
        else:
            self._new_run()

    def _begin_segment(self) -> None:
        self._segments.append(len(self._runs))
        reasoning = FoldedText(self.tr("Reasoning of the model"))
        self._body.addWidget(reasoning)
        self._reasonings.append(reasoning)
        self._new_run()

    def _new_run(self) -> None:
        view = TextView(markdown=True)
        view.setAccessibleName(self.tr("Reply of the model"))
        view.setVisible(not self._runs)  # hidden until there is something in it, but for the first
        self._body.addWidget(view)
        self._runs.append((view, []))
        self._texts.append("")


def _between(pieces: Sequence[TokenPiece], begin: int, end: int) -> Iterator[TokenPiece]:
    """The tokens whose text lies in [begin, end) of all their text, those at the edges cut to it."""
    at = 0
    for piece in pieces:
        low, high = max(begin - at, 0), min(end - at, len(piece.text))
        if low < high:
            yield piece if high - low == len(piece.text) else replace(piece, text=piece.text[low:high])
        at += len(piece.text)
