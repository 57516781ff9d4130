"""The seam between Qt and the models service: its mailbox, drained on a timer, its events as one signal.

Apart from the engine's bridge, because nothing here passes through the engine thread.
"""

from __future__ import annotations

from PySide6.QtCore import QObject, QTimer, Signal

from engine.hub.service import ModelsService

_LIVELY_MS, _QUIET_MS = 100, 1000


class ModelsBridge(QObject):
    """`received` carries a ModelsEvent, on the window's thread."""

    received = Signal(object)

    def __init__(self, service: ModelsService, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.service = service
        self._timer = QTimer(self, interval=_QUIET_MS)
        self._timer.timeout.connect(self.drain)

    def watch(self, lively: bool) -> None:
        """Pass events on from now on; often while somebody looks."""
        self._timer.start(_LIVELY_MS if lively else _QUIET_MS)

    def drain(self) -> None:
        """Pass on what the service has said since the last time."""
        for event in self.service.mailbox.drain():
            self.received.emit(event)

    def stop(self) -> None:
        """Pause downloads and end the service's threads."""
        self._timer.stop()
        self.service.stop()
