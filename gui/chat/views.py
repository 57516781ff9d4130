"""The view of a stored message."""

from __future__ import annotations

from collections.abc import Mapping

from PySide6.QtCore import QCoreApplication

from engine.scenarios import Scenario
from engine.storage import Message
from gui.chat.message_view import MessageView, PromptView
from gui.chat.reply_view import ReplyView
from gui.chat.scenario_bar import words
from gui.chat.turns import Way, way_of


def stored_view(message: Message, scenarios: Mapping[str, Scenario]) -> MessageView:
    """A prompt with what the model was to do with it, or a reply as it was."""
    if message.role == "user":
        return PromptView(message.text, _task(way_of(message, scenarios), message.meta.get("file", {}).get("name", "")))
    view = ReplyView(bool(message.meta.get("reasons_first")), message.meta.get("view", ""))
    view.restore(message.text, message.meta)
    if message.state == "streaming":
        view.show_waiting(_tr("The app ended while this was being written."))
    elif message.state == "failed" and not message.text:
        view.show_waiting(_tr("No reply was written. Regenerate tries again."))
    return view


def _task(way: Way, file: str) -> str:
    title = "" if way.scenario.key == "chat" else words(way.scenario.title)
    values = [words(value) for value in way.values.values() if value]
    return "  ·  ".join(part for part in (title, *values, file) if part)


def _tr(text: str) -> str:
    return QCoreApplication.translate("ReplyView", text)
