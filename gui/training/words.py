"""How the Train page says things about a run."""

from __future__ import annotations

import math

from PySide6.QtCore import QT_TRANSLATE_NOOP, QCoreApplication

from engine.training.records import RunRecord
from gui.widgets.words import duration_text

_STATES = {
    "running": QT_TRANSLATE_NOOP("training", "running"), "paused": QT_TRANSLATE_NOOP("training", "paused"),
    "interrupted": QT_TRANSLATE_NOOP("training", "interrupted"), "failed": QT_TRANSLATE_NOOP("training", "failed"),
    "done": QT_TRANSLATE_NOOP("training", "done"), "finished early": QT_TRANSLATE_NOOP("training", "finished early"),
    "stopped early": QT_TRANSLATE_NOOP("training", "stopped early"), "": QT_TRANSLATE_NOOP("training", "not begun")}


def said(text: str) -> str:
    """A text of this page in the app's language."""
    return QCoreApplication.translate("training", text)


def state_text(run: RunRecord) -> str:
    """How a run stands."""
    if not run.state and run.step:
        return said("not running")  # a run that keeps no account of itself
    return said(str(_STATES.get(run.state, run.state)))


def where_text(run: RunRecord) -> str:
    """A run in one line: how it stands, how far it is, how long it will take."""
    text = said("{name}: {state}, step {step} of {steps}").format(
        name=run.folder.name, state=state_text(run), step=f"{run.step:,}", steps=f"{run.plan.steps:,}")
    if run.state == "running" and math.isfinite(run.left_s):
        text = said("{text}, about {time} left").format(text=text, time=duration_text(max(1.0, run.left_s)))
    return text
