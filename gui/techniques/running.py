"""What a report says of the recipe in a few words: its label with what does not run yet, and what the last switch did.

No widgets here."""

from __future__ import annotations

from PySide6.QtCore import QCoreApplication

from engine.messages import EngagedReport
from gui.widgets.labels import engine_text
from gui.widgets.words import size_text


def running_label(report: EngagedReport) -> str:
    """The recipe's label; says so where it asks for compiled code and none answers yet."""
    waits = any(technique.key == "compile" and not technique.engaged for technique in report.techniques)
    return _tr("{recipe} (uncompiled so far)").format(recipe=report.recipe.label) if waits else report.recipe.label


def switch_text(before: EngagedReport | None, now: EngagedReport) -> str:
    """What the last switch did to the weights, and the kernel that most layers run; only that where there was none."""
    kernel = engine_text(now.kernels[0][0]) if now.kernels else ""
    if before is None or before.recipe == now.recipe:
        return _tr("Kernel: {kernel}").format(kernel=kernel) if kernel else ""
    old, new = size_text(before.weight_bytes), size_text(now.weight_bytes)
    change = _tr("{size}, as before").format(size=new) if old == new else f"{old} → {new}"
    return _tr("Last switch: {change} · {kernel}").format(change=change, kernel=kernel)


def _tr(text: str) -> str:
    return QCoreApplication.translate("Running", text)
