"""The dock's entry. pyqtgraph takes a tenth of a second to import, so it is imported only when the dock is made."""

from __future__ import annotations

from PySide6.QtCore import QT_TRANSLATE_NOOP, Qt
from PySide6.QtWidgets import QWidget

from engine.messages import BenchStarted, Cancelled, Event, Failed, Finished
from gui.context import AppContext, Dock


def make(context: AppContext) -> QWidget:
    """The dock's content."""
    from gui.monitor.panel import MonitorPanel

    panel = MonitorPanel(context.monitor, context.settings)
    measuring: set[int] = set()

    def follow(event: Event) -> None:
        """Drawing takes the processor from what is being timed."""
        if isinstance(event, BenchStarted):
            measuring.add(event.job_id)
            panel.hold(True)
        elif isinstance(event, (Finished, Cancelled, Failed)) and event.job_id in measuring:
            measuring.discard(event.job_id)
            panel.hold(False)

    context.bridge.received.connect(follow)
    return panel


DOCK = Dock("monitor", str(QT_TRANSLATE_NOOP("docks", "Monitor")), Qt.DockWidgetArea.BottomDockWidgetArea, make)
