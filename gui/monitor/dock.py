"""The dock's entry. pyqtgraph takes a tenth of a second to import, so it is imported only when the dock is made."""

from __future__ import annotations

from PySide6.QtCore import QT_TRANSLATE_NOOP, Qt
from PySide6.QtWidgets import QWidget

from gui.context import AppContext, Dock


def make(context: AppContext) -> QWidget:
    """The dock's content."""
    from gui.monitor.panel import MonitorPanel

    return MonitorPanel(context.monitor, context.settings)


DOCK = Dock("monitor", str(QT_TRANSLATE_NOOP("docks", "Monitor")), Qt.DockWidgetArea.BottomDockWidgetArea, make)
