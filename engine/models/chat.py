"""One turn of a conversation. Apart, so that windows and files can speak of turns without loading a tokenizer."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ChatMessage:
    """role is "system", "user" or "assistant"."""

    role: str
    content: str
