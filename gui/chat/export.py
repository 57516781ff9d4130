"""A conversation as Markdown or JSON, written whole or not at all."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.errors import DynoError
from engine.storage import Conversation, Message


def to_markdown(conversation: Conversation, messages: Sequence[Message]) -> str:
    """The conversation for people."""
    parts = [f"# {conversation.title}", f"Exported from GPT Dyno on {time.strftime('%Y-%m-%d %H:%M')}"]
    if conversation.system_prompt:
        parts += ["## System", conversation.system_prompt]
    for message in messages:
        parts += ["## You" if message.role == "user" else "## Model", message.text]
        stats = message.meta.get("stats")
        if stats:
            speed = 1 / stats["tpot_s"] if stats["tpot_s"] else 0.0
            parts.append(f"*{stats['output_tokens']} tokens, {speed:.1f} tok/s, {stats['recipe']}*")
    return "\n\n".join(parts) + "\n"


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


def write(path: Path, conversation: Conversation, messages: Sequence[Message]) -> None:
    """Write JSON for a .json name, Markdown otherwise. Raises DynoError."""
    text = (to_json if path.suffix.lower() == ".json" else to_markdown)(conversation, messages)
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
