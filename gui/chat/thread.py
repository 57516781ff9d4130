"""The branch of a conversation that is on the screen: which view shows which message, the arrows to other branches, and
the line above which the model no longer sees. Sends nothing and edits nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from PySide6.QtCore import QObject, Signal
from PySide6.QtGui import QGuiApplication

from engine.scenarios import Scenario
from engine.storage import Message, Store
from gui.chat.message_view import MessageView
from gui.chat.reply import RunningReply
from gui.chat.reply_view import ReplyView
from gui.chat.transcript import Transcript
from gui.chat.views import stored_view


class Thread(QObject):
    """`edit_requested`, `retry_requested` and `branch_requested` carry the view that was asked, the last a step too."""

    edit_requested = Signal(object)
    retry_requested = Signal(object)
    branch_requested = Signal(object, int)

    def __init__(self, store: Store, transcript: Transcript, scenarios: Mapping[str, Scenario]) -> None:
        super().__init__(transcript)
        self._store, self._transcript, self._scenarios = store, transcript, scenarios
        self._messages: dict[MessageView, Message] = {}

    @property
    def messages(self) -> Iterable[Message]:
        """The messages on the screen, in order."""
        return self._messages.values()

    def message(self, view: MessageView | None) -> Message | None:
        """What a view shows; None for a view that is no longer on the screen."""
        return self._messages.get(view) if view is not None else None

    def view(self, message_id: int) -> MessageView | None:
        """The view of a message."""
        return next((view for view, message in self._messages.items() if message.id == message_id), None)

    def open(self, conversation_id: int, reply: RunningReply | None, newest: Callable[[Message], Message]) -> None:
        """Show the branch of a conversation that was shown last. reply: the one that is being written, whose view goes
        on. newest: a message as it should be stored."""
        for message in map(newest, self._store.messages(conversation_id)):
            running = reply is not None and message.id == reply.message_id
            self._put(reply.view if running and reply is not None else self._made(message), message)
        self.show_branches(conversation_id)
        self._mark_context()
        self._transcript.follow()

    def add(self, message: Message) -> None:
        """Show a stored message at the end."""
        self._put(self._made(message), message)

    def add_reply(self, view: ReplyView, message: Message) -> None:
        """Show a reply that is about to be written."""
        self._connect(view)
        self._put(view, message)

    def reply_ended(self, reply: RunningReply) -> None:
        """Take in what a reply has become."""
        if reply.view in self._messages:
            text, state, meta = reply.wanted
            self._messages[reply.view] = replace(self._messages[reply.view], text=text, state=state, meta=meta or {})
            self._mark_context()

    def forget_from(self, view: MessageView) -> None:
        """Take a turn and all after it off the screen."""
        views = self._transcript.views()
        for gone in views[views.index(view):]:
            self._messages.pop(gone, None)
        self._transcript.remove_from(view)

    def clear(self, reply: RunningReply | None) -> None:
        """Take everything off the screen; a running reply goes on unseen."""
        if reply is not None:
            reply.view.setParent(None)
        self._messages.clear()
        self._transcript.clear()

    def beside(self, conversation_id: int, view: MessageView, step: int) -> int:
        """Id of the message that stands in the place of a view's on the branch before or after; 0 where there is none.
        """
        message_id = self._messages[view].id
        beside = self._store.branches(conversation_id).get(message_id, (message_id,))
        place = beside.index(message_id) + step
        return beside[place] if 0 <= place < len(beside) else 0

    def focus(self, message_id: int, step: int) -> None:
        """Go to a message that an arrow has led to; the next press of the key leads on."""
        view = self.view(message_id)
        if view is not None:
            self._transcript.ensureWidgetVisible(view)
            view.focus_branches(step)

    def show_branches(self, conversation_id: int) -> None:
        """Draw the arrows wherever there are other branches."""
        branches = self._store.branches(conversation_id)
        for view, message in self._messages.items():
            beside = branches.get(message.id, (message.id,))
            view.show_branches(beside.index(message.id) + 1, len(beside))

    def _mark_context(self) -> None:
        """Show where the model's view of the conversation began when it last replied."""
        last = next((m for m in reversed(self._messages.values()) if m.role == "assistant"), None)
        first = last.meta.get("context_from", 0) if last is not None else 0
        self._transcript.mark_context(self.view(first) if first else None, self.tr(
            "The model no longer sees what is above: its context was full."))

    def _made(self, message: Message) -> MessageView:
        view = stored_view(message, self._scenarios)
        self._connect(view)
        return view

    def _put(self, view: MessageView, message: Message) -> None:
        self._messages[view] = message
        self._transcript.add(view)
        view.show()

    def _connect(self, view: MessageView) -> None:
        view.copy_requested.connect(lambda: self._copy(view))
        view.edit_requested.connect(lambda: self.edit_requested.emit(view))
        view.retry_requested.connect(lambda: self.retry_requested.emit(view))
        view.branch_requested.connect(lambda step: self.branch_requested.emit(view, step))

    def _copy(self, view: MessageView) -> None:
        text = view.answer if isinstance(view, ReplyView) else self._messages[view].text
        QGuiApplication.clipboard().setText(text)
