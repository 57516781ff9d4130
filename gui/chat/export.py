"""A conversation as Markdown or JSON, written whole or not at all."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PySide6.QtWidgets import QFileDialog, QWidget

from engine.errors import DynoError
from engine.models.reasoning import split_reasoning
from engine.storage import Conversation, Message
from gui.widgets.notice import Notice


def to_markdown(conversation: Conversation, messages: Sequence[Message]) -> str:
    """The conversation for people."""
    parts = [f"# {conversation.title}", f"Exported from GPT Dyno on {time.strftime('%Y-%m-%d %H:%M')}"]
    if conversation.system_prompt:
        parts += ["## System", conversation.system_prompt]
    for message in messages:
        parts += ["## You" if message.role == "user" else "## Model", _for_people(message)]
        stats = message.meta.get("stats")
        if stats:
            speed = 1 / stats["tpot_s"] if stats["tpot_s"] else 0.0
            by = ", ".join(part for part in (stats.get("model", ""), stats["recipe"]) if part)
            parts.append(f"*{stats['output_tokens']} tokens, {speed:.1f} tok/s, {by}*")
    return "\n\n".join(parts) + "\n"


def _for_people(message: Message) -> str:
    """The text, reasoning folded away as Markdown viewers know it."""
    split = split_reasoning(message.text, bool(message.meta.get("reasons_first"))) if message.role != "user" else None
    if split is None or split.end <= split.begin:
        return message.text
    thought = message.text[split.begin:split.end].strip()
    return f"<details><summary>Reasoning</summary>\n\n{thought}\n\n</details>\n\n{message.text[split.answer:]}"


def to_json(conversation: Conversation, messages: Sequence[Message]) -> str:
    """The conversation for programs: messages as role and content, with their statistics."""
    turns: list[dict[str, Any]] = [{"role": "system", "content": conversation.system_prompt}] if (
        conversation.system_prompt) else []
    for message in messages:
        turn: dict[str, Any] = {"role": message.role, "content": message.text, "state": message.state}
        if message.meta.get("stats"):
            turn["stats"] = message.meta["stats"]
        turns.append(turn)
    return json.dumps({"title": conversation.title, "messages": turns}, ensure_ascii=False, indent=2) + "\n"


def ask_and_write(parent: QWidget, notice: Notice, conversation: Conversation | None,
                  messages: Sequence[Message]) -> None:
    """Ask for a file and write the conversation to it; the notice says what came of it."""
    if conversation is None:
        notice.show_message(parent.tr("There is nothing to export yet."))
        return
    suggestion = str(Path.home() / f"{conversation.title.replace('/', '-').rstrip('. ')}.md")
    path, _ = QFileDialog.getSaveFileName(parent, parent.tr("Export chat"), suggestion,
                                          parent.tr("Markdown (*.md);;JSON (*.json)"))
    if not path:
        return
    try:
        write(Path(path), conversation, messages)
    except DynoError as error:
        notice.show_problem(error.summary, error.hint)
    else:
        notice.show_message(parent.tr("Exported to {name}.").format(name=Path(path).name))


def write(path: Path, conversation: Conversation, messages: Sequence[Message]) -> None:
    """Write JSON for a .json name, Markdown otherwise. Raises DynoError."""
    write_text(path, (to_json if path.suffix.lower() == ".json" else to_markdown)(conversation, messages))


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all. Raises DynoError."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DynoError(f"{path.name} could not be written: {error.strerror}.", "Choose another place.") from error
