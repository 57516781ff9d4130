"""What the first page of a conversation proposes. A model brings its own proposals in a file suggestions.json in its
folder: {"suggestions": ["…", "…", "…"], "note": "…"}; others get general ones.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from PySide6.QtCore import QCoreApplication

from engine.messages import ModelInfo
from engine.paths import bundled_model
from engine.scenarios import Scenario
from gui.chat.scenario_bar import words

_FILE = "suggestions.json"
_MOST, _LONGEST, _LARGEST_BYTES = 4, 200, 1 << 16


class Welcome(NamedTuple):
    """A title, prompts to click, and a quiet line under them."""

    title: str
    suggestions: tuple[str, ...]
    note: str


def welcome_for(model: ModelInfo | None, scenario: Scenario) -> Welcome:
    """What to propose for a model, None being the bundled one, which is loading; or to try a scenario with."""
    if scenario.key != "chat":
        return Welcome(words(scenario.title), tuple(words(text) for text in scenario.examples), words(scenario.about))
    folder = Path(model.folder) if model is not None else bundled_model()
    own = read_suggestions(folder)
    bundled = folder.name == bundled_model().name
    if model is not None and not bundled and not model.chat_template:
        general: tuple[str, ...] = (_tr("Once upon a time"), _tr("The most important thing about engines is"))
        note = _tr("{name} has no chat template: it continues the text you give it.").format(name=model.name)
    else:
        general = (_tr("Hello! What can you do?"), _tr("Explain attention in two sentences."),
                   _tr("Write a short poem about the sea."))
        note = _tr("The bundled model is small and often wrong: it is here so that everything works at once, without a "
                   "network. Open a bigger one with Ctrl+O.") if bundled else _tr("Everything stays on this computer.")
    return Welcome(_tr("What shall we talk about?"), tuple(_tr(text) for text in own.suggestions) or general,
                   _tr(own.note) if own.note else note)


def read_suggestions(folder: Path) -> Welcome:
    """A model's own proposals; empty where it has none or they cannot be used: they are no reason to complain."""
    path = folder / _FILE
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            return Welcome("", (), "")
        raw = json.loads(path.read_text(encoding="utf-8"))
        texts = [" ".join(text.split()) for text in raw["suggestions"] if isinstance(text, str)]
        note = raw.get("note", "")
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return Welcome("", (), "")
    kept = [text for text in texts if 0 < len(text) <= _LONGEST][:_MOST]
    return Welcome("", tuple(kept), note[:2 * _LONGEST] if isinstance(note, str) else "")


def _tr(text: str) -> str:
    return QCoreApplication.translate("Welcome", text)
