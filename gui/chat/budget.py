"""How much of the model's context the next reply would take: asked of the engine while one types, shown below it."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QObject, QRectF, QSize, Qt, QTimer
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QHBoxLayout, QLabel, QWidget

from engine.messages import ContextCounted, CountContext, Event, Tokens
from gui.bridge import Bridge
from gui.theme import colours, small_font, theme

_PAUSE_MS = 250
_SHOWN_MS = 200  # eyes cannot read the number faster, and painting it takes time from the token step
_BAR_PX = 44


class ContextMeter(QWidget):
    """A short bar and "312 / 1,024": tokens used, of the context. Empty until something has been counted."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._bar = _Bar()
        self._label = QLabel()
        self._label.setProperty("muted", True)
        row = QHBoxLayout(self)
        row.setContentsMargins(5, 2, 5, 2)
        row.setSpacing(6)
        row.addWidget(self._bar)
        row.addWidget(self._label)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        theme().changed.connect(self._restyle)
        self._restyle()
        self.hide()

    def text(self) -> str:
        """What it says in words, as a screen reader and the tool tip do."""
        return self.toolTip()

    def show_count(self, counted: ContextCounted) -> None:
        """Show what the next reply would read."""
        said = (self.tr("{used} of {context} tokens of the context would be read; {reserve} are kept for the reply.")
                if counted.fits else
                self.tr("This is {used} tokens long and does not fit: the context holds {context}, of which {reserve} "
                        "are kept for the reply.")).format(
            used=f"{counted.used:,}", context=f"{counted.context:,}", reserve=f"{counted.reserve:,}")
        tone = "error" if not counted.fits else "warning" if counted.dropped else "accent"
        beside = self.tr("too long") if not counted.fits else ""
        if counted.fits and counted.dropped:
            said += " " + self.tr("Oldest turns that would be left out: {n}.").format(n=counted.dropped)
            beside = self.tr("−1 turn") if counted.dropped == 1 else self.tr("−{n} turns").format(n=counted.dropped)
        self._show(counted.used, counted.context, said, tone, f"  {beside}" if beside else "")

    def show_reply(self, used: int, context: int) -> None:
        """Show what the running reply has taken so far."""
        self._show(used, context, self.tr("{used} of {context} tokens of the context are taken.").format(
            used=f"{used:,}", context=f"{context:,}"), "accent", "")

    def clear(self) -> None:
        """Show nothing: there is no model, or the text is of any length."""
        self.hide()

    def paintEvent(self, event: QPaintEvent) -> None:
        """A ring while it has the keyboard's focus."""
        if self.hasFocus():
            painter = QPainter(self)
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            painter.setPen(QPen(QColor(colours().accent), 2))
            painter.drawRoundedRect(QRectF(self.rect()).adjusted(1, 1, -1, -1), 6, 6)

    def _show(self, used: int, context: int, said: str, tone: str, more: str) -> None:
        self._label.setText(f"{used:,} / {context:,}{more}")
        self._bar.set_state(used / max(1, context), tone)
        self.setToolTip(said)
        self.setAccessibleName(self.tr("Context: {said}").format(said=said))
        self.show()

    def _restyle(self) -> None:
        self._label.setFont(small_font(self.font()))
        self._bar.update()


class _Bar(QWidget):
    def __init__(self) -> None:
        super().__init__()
        self._share, self._tone = 0.0, "accent"
        self.setFixedSize(QSize(_BAR_PX, 6))

    def set_state(self, share: float, tone: str) -> None:
        self._share, self._tone = min(1.0, share), tone
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter, c = QPainter(self), colours()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(c.border))
        painter.drawRoundedRect(QRectF(self.rect()), 3, 3)
        if self._share > 0:
            painter.setBrush(QColor(getattr(c, self._tone)))
            painter.drawRoundedRect(QRectF(0, 0, max(6.0, self._share * self.width()), self.height()), 3, 3)


class Budget(QObject):
    """Asks the engine a moment after something has changed, and shows the answer; while a reply runs its tokens are
    added. ask: the question as it is now, None where there is nothing to count."""

    def __init__(self, bridge: Bridge, meter: ContextMeter, ask: Callable[[int], CountContext | None]) -> None:
        super().__init__(meter)
        self._bridge, self._meter, self._ask = bridge, meter, ask
        self._request = 0
        self._running, self._closed = False, False
        self._counted: ContextCounted | None = None
        self._tokens = 0  # of the running reply
        self._pause = QTimer(self, singleShot=True, interval=_PAUSE_MS)
        self._pause.timeout.connect(self._send)
        self._shown = QTimer(self, singleShot=True, interval=_SHOWN_MS)
        self._shown.timeout.connect(self._show_reply)
        bridge.received.connect(self._on_event)

    def changed(self) -> None:
        """Something that counts has changed."""
        if not self._running and not self._closed:
            self._pause.start()

    def reply_runs(self, running: bool) -> None:
        """A reply shows what it takes itself."""
        self._running, self._tokens = running, 0
        self._pause.stop()
        self._send()

    def too_long(self) -> str:
        """Why what stands there cannot be sent; empty where it can, or where that is not known yet."""
        if self._pause.isActive() or self._counted is None or self._counted.fits:
            return ""
        return self._meter.text()

    def stop(self) -> None:
        """Ask no more: the window is about to close."""
        self._pause.stop()
        self._closed = True

    def _send(self) -> None:
        if self._closed:
            return
        self._request += 1
        self._counted = None
        question = self._ask(self._request)
        if question is None:
            self._meter.clear()
        else:
            self._bridge.submit(question)

    def _show_reply(self) -> None:
        if self._running and self._counted is not None:
            self._meter.show_reply(min(self._counted.used + self._tokens, self._counted.context), self._counted.context)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, ContextCounted) and event.request_id == self._request:
            self._counted = event
            self._meter.show_count(event)
        elif isinstance(event, Tokens) and self._running and self._counted is not None:
            self._tokens += len(event.pieces)
            if not self._shown.isActive():
                self._shown.start()
