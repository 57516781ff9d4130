"""The one exception a user reads: what happened, and what to do about it; and any other one in those words."""

from __future__ import annotations

import re
from pathlib import Path

_LONGEST_REASON = 200  # characters


class DynoError(Exception):
    """A failure with a sentence for the user.

    summary: what happened, one sentence. hint: what to do instead, one sentence (may be empty).
    Raise it near the cause; everything between lets it pass.
    """

    def __init__(self, summary: str, hint: str = "") -> None:
        super().__init__(summary, hint)
        self.summary = summary
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.summary} {self.hint}".strip()


def reason(error: Exception) -> str:
    """What is wrong, for a sentence that names the file itself: without number and path, which Python's words repeat.
    """
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[:1].lower() + error.strerror[1:]
    words = " ".join(re.sub(r" \(os error \d+\)", "", str(error)).split())
    if len(words) > _LONGEST_REASON:  # some libraries tell stories, and some files are quoted in full
        whole = words[:_LONGEST_REASON].rpartition(". ")[0]
        words = whole or words[:_LONGEST_REASON] + "…"
    return words.rstrip(".")


def for_people(error: Exception) -> tuple[str, str]:
    """One sentence of what happened, one of what to do, for any exception."""
    if isinstance(error, DynoError):
        return error.summary, error.hint
    if isinstance(error, MemoryError) or "out of memory" in str(error) or "allocate memory" in str(error):
        return "Memory ran out.", "Choose fewer bits, a smaller model or a shorter context, or close other programs."
    if isinstance(error, OSError) and error.filename:
        return (f"{Path(str(error.filename)).name} cannot be used: {reason(error)}.",
                "Check the file, its permissions, and the space on the disk.")
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"Something went wrong in the engine: {first}", "Try again; if it happens again, please report it."
