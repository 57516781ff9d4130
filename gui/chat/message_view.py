"""One turn in the transcript: a prompt, or a reply with the switches that happened in it and one line of statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PySide6.QtCore import Qt, Signal, SignalInstance
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QToolButton, QVBoxLayout, QWidget

from engine.messages import GenerationStats, Switched, TokenPiece
from gui.chat.text_view import TextView
from gui.theme import icon, small_font
from gui.widgets.notice import Notice
from gui.widgets.numbers import duration, rate


class MessageView(QFrame):
    """A turn with its actions. The page listens to the signals."""

    copy_requested = Signal()
    edit_requested = Signal()
    retry_requested = Signal()

    def __init__(self, role: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.role = role
        self._who = QLabel(self.tr("You") if role == "user" else self.tr("Model"))
        self._who.setProperty("heading", True)
        self._body = QVBoxLayout()
        self._body.setSpacing(4)
        self._foot = QLabel()
        self._foot.setProperty("muted", True)
        self._foot.setWordWrap(True)
        self.notice = Notice()
        self._buttons: list[tuple[QToolButton, str]] = []
        head, actions = QHBoxLayout(), QHBoxLayout()
        actions.setSpacing(0)
        actions.addWidget(self._foot, 1)
        head.addWidget(self._who, 1)
        self._add_button(actions, "copy", self.tr("Copy"), self.copy_requested)
        if role == "user":
            head.addLayout(actions)
            self._add_button(actions, "edit", self.tr("Edit and send again"), self.edit_requested)
        else:
            self._add_button(actions, "retry", self.tr("Regenerate"), self.retry_requested)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(14, 10, 14, 6)
        layout.setSpacing(4)
        layout.addLayout(head)
        layout.addLayout(self._body)
        layout.addWidget(self.notice)
        if role != "user":
            layout.addLayout(actions)
        self.setProperty("card", role == "user")
        self.setAccessibleName(self._who.text())
        self.restyle()

    def restyle(self) -> None:
        """Draw again in the active colours and font."""
        small = small_font(self.font())
        self._foot.setFont(small)
        small.setBold(True)
        self._who.setFont(small)
        for button, name in self._buttons:
            button.setIcon(icon(name, size=16))
        for view in self.findChildren(TextView):
            view.restyle()

    def _add_button(self, row: QHBoxLayout, name: str, title: str, signal: SignalInstance) -> None:
        button = QToolButton()
        button.setAccessibleName(title)
        button.setToolTip(title)
        button.clicked.connect(lambda _=False: signal.emit())
        row.addWidget(button, 0, Qt.AlignmentFlag.AlignBottom)
        self._buttons.append((button, name))


class PromptView(MessageView):
    """What the user wrote, as plain text."""

    def __init__(self, text: str, parent: QWidget | None = None) -> None:
        super().__init__("user", parent)
        view = TextView(markdown=False)
        view.setAccessibleName(self.tr("Your message"))
        view.set_text(text)
        self._body.addWidget(view)


class ReplyView(MessageView):
    """What the model wrote: runs of text, and a thin line wherever a technique was switched in mid-reply."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("assistant", parent)
        self._runs: list[tuple[TextView, list[TokenPiece]]] = []
        self._texts: list[str] = []
        self._switches: list[str] = []
        self._stale = False
        self._new_run()

    @property
    def text(self) -> str:
        """Everything written so far."""
        return "".join(self._texts)

    def add_pieces(self, pieces: Sequence[TokenPiece]) -> None:
        """Take tokens in; they show at the next refresh()."""
        self._runs[-1][1].extend(pieces)
        self._texts[-1] += "".join(piece.text for piece in pieces)
        self._stale = True

    def refresh(self, final: bool = False) -> None:
        """Show what has come since the last time."""
        if self._stale or final:
            view, pieces = self._runs[-1]
            view.set_text(self._texts[-1], pieces, final)
            self._stale = False

    def add_switch(self, event: Switched) -> None:
        """Draw the line of a switch: what changed, how long it took, what was read again."""
        self._add_switch_line(self.tr("{old} → {new}: {build} to switch, {tokens} tokens re-read in {reread}").format(
            old=event.old, new=event.new, build=duration(event.build_s), tokens=event.tokens_reread,
            reread=duration(event.reread_s)))

    def show_stats(self, stats: GenerationStats) -> None:
        """The quiet line under the reply."""
        parts = [self.tr("{n} tokens").format(n=stats.output_tokens)]
        if stats.tokens_per_s:
            parts.append(rate(stats.tokens_per_s))
        if stats.output_tokens:
            parts.append(self.tr("first after {time}").format(time=duration(stats.ttft_s)))
            parts.append(self.tr("perplexity {value}").format(value=f"{stats.perplexity:.2f}"))
        if stats.drafted_tokens:
            share = stats.accepted_tokens / stats.drafted_tokens
            parts.append(self.tr("lookup {share} % of {n} right").format(share=round(100 * share),
                                                                         n=stats.drafted_tokens))
        parts.append(stats.recipe)
        endings = {"length": self.tr("cut at the longest reply"), "context": self.tr("the context is full"),
                   "stopped": self.tr("stopped")}
        if stats.finish in endings:
            parts.append(endings[stats.finish])
        self._foot.setText("  ·  ".join(parts))
        self._foot.setToolTip(self.tr(
            "Perplexity here says how sure the model was of its own words, not how good they are. Seed {seed}; "
            "{cached} of {prompt} prompt tokens were still in the cache.").format(
                seed=stats.seed, cached=stats.cached_tokens, prompt=stats.prompt_tokens))

    def show_waiting(self, text: str) -> None:
        """A quiet word while nothing has come yet."""
        self._foot.setText(text)

    def to_meta(self, stats: GenerationStats | None) -> dict[str, Any]:
        """What is stored beside the text, so that the reply looks the same at the next start."""
        return {
            "stats": stats.__dict__ if stats is not None else None,
            "switches": self._switches,
            "runs": [[[p.text, p.token_id, round(p.probability, 5), [[t, round(q, 5)] for t, q in p.alternatives]]
                      for p in pieces] for _, pieces in self._runs],
        }

    def restore(self, text: str, meta: dict[str, Any]) -> None:
        """Show a stored reply. Text without tokens (saved before the app was killed) shows as text."""
        runs = [[TokenPiece(t, i, p, tuple((a, q) for a, q in alts)) for t, i, p, alts in run]
                for run in meta.get("runs", [])]
        if "".join(piece.text for run in runs for piece in run) != text:
            runs, switches = [], []
            self._texts[-1] = text
        else:
            switches = meta.get("switches", [])
        for index, run in enumerate(runs):
            if index:
                self._add_switch_line(switches[index - 1])
            self.add_pieces(run)
            self.refresh(final=True)
        self.refresh(final=True)
        try:
            self.show_stats(GenerationStats(**meta["stats"]))
        except (KeyError, TypeError):
            self.show_waiting("")  # no statistics, or those of another version: the text stands without them

    def _add_switch_line(self, text: str) -> None:
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
        self._new_run()

    def _new_run(self) -> None:
        view = TextView(markdown=True)
        view.setAccessibleName(self.tr("Reply of the model"))
        self._body.addWidget(view)
        self._runs.append((view, []))
        self._texts.append("")
