"""The chat page: sends what the user wrote, shows what comes back, and keeps both."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from PySide6.QtCore import QT_TRANSLATE_NOOP, Qt, QTimer
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QFileDialog, QHBoxLayout, QSplitter, QVBoxLayout, QWidget

from engine.errors import DynoError
from engine.messages import (
    Cancel,
    Cancelled,
    ChatMessage,
    Event,
    Failed,
    Finished,
    Generate,
    GenerationStats,
    JobStarted,
    ModelInfo,
    ModelLoaded,
    Switched,
    Tokens,
    TurnsDropped,
)
from engine.storage import Conversation, Message
from gui.chat import export
from gui.chat.composer import Composer
from gui.chat.conversation_list import ConversationList
from gui.chat.message_view import MessageView, PromptView, ReplyView
from gui.chat.reply import RunningReply
from gui.chat.sampling_popover import SamplingPopover
from gui.chat.transcript import Transcript
from gui.context import AppContext, Page
from gui.theme import theme
from gui.widgets.notice import Notice

_REFRESH_MS = 80
_SAVE_AGAIN_MS = 2000
_UNDO_MS = 60_000
_ALTERNATIVES = 5
_TITLE_LENGTH = 48


class ChatPage(QWidget):
    """Conversations at the left, the transcript and the composer beside them."""

    def __init__(self, context: AppContext) -> None:
        super().__init__()
        self._context = context
        self._store = context.store
        self._model: ModelInfo | None = None
        self._conversation: Conversation | None = None
        self._messages: dict[MessageView, Message] = {}
        self._reply: RunningReply | None = None
        self._editing: MessageView | None = None
        self._draft = ""  # what stood in the composer before an edit began
        self._unsaved: list[RunningReply] = []
        self._draft_system = ""
        self.list = ConversationList(context.store)
        self.transcript = Transcript()
        self.composer = Composer()
        self.notice = Notice()
        self._edit_strip = Notice()
        self._sampling = SamplingPopover(context.settings, self)
        self._retry_timer = QTimer(self, interval=_SAVE_AGAIN_MS)
        self._retry_timer.timeout.connect(self._save_again)
        self._timer = QTimer(self, interval=_REFRESH_MS)
        self._timer.timeout.connect(self._tick)
        self._build()
        self._connect()
        self._open_last()

    # ------------------------------------------------------------------------------------------------------- build

    def _build(self) -> None:
        right = QWidget()
        column = QVBoxLayout(right)
        column.setContentsMargins(4, 0, 0, 8)
        column.addWidget(self.notice)
        column.addWidget(self.transcript, 1)
        column.addWidget(self._edit_strip)
        column.addWidget(self.composer)
        splitter = QSplitter(Qt.Orientation.Horizontal)
        splitter.setHandleWidth(5)
        splitter.addWidget(self.list)
        splitter.addWidget(right)
        splitter.setStretchFactor(1, 1)
        splitter.setSizes([200, 700])
        splitter.setCollapsible(1, False)
        self.list.setMinimumWidth(120)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(splitter)

    def _connect(self) -> None:
        actions = self._context.actions
        actions.new_chat.connect(self.new_chat)
        actions.search.connect(self.list.search.setFocus)
        actions.compose.connect(self.composer.field.setFocus)
        actions.export.connect(self._export_shown)
        actions.stop.connect(self.stop)
        actions.closing.connect(self._close)
        self._context.bridge.received.connect(self._on_event)
        self.list.chosen.connect(self.open)
        self.list.new_requested.connect(self.new_chat)
        self.list.deleted.connect(self._deleted)
        self.list.renamed.connect(self._renamed)
        self._edit_strip.dismissed.connect(self._cancel_edit)
        self.composer.sent.connect(self.send)
        self.composer.stop_requested.connect(self.stop)
        self.composer.sampling_requested.connect(
            lambda anchor: self._sampling.open_at(anchor, self._system_prompt()))
        self._sampling.system_prompt_changed.connect(self._set_system_prompt)
        self.transcript.suggestion_chosen.connect(self.send)
        theme().changed.connect(self._restyle)

    # ----------------------------------------------------------------------------------------------- conversations

    def new_chat(self) -> None:
        """Begin a conversation; it is stored with its first message."""
        self._leave()
        self._conversation = None
        self._draft_system = ""
        self.list.clear_selection()
        self._show_welcome()
        self.composer.field.setFocus()

    def open(self, conversation_id: int) -> None:
        """Show a stored conversation."""
        found = next((c for c in self._store.conversations() if c.id == conversation_id), None)
        if found is None:
            return
        self._leave()
        self._conversation = found
        self._context.settings.set("conversation", conversation_id)
        unsaved = {reply.message_id: reply.wanted for reply in self._unsaved}
        for message in self._store.messages(conversation_id):
            if message.id in unsaved:
                text, state, meta = unsaved[message.id]
                message = replace(message, text=text, state=state, meta=meta or {})
            if self._reply is not None and message.id == self._reply.message_id:
                self._show(self._reply.view, message)
            else:
                self._show(self._stored_view(message), message)
        self.transcript.follow()

    def _open_last(self) -> None:
        self.list.refresh()
        last = self._context.settings.get("conversation", 0)
        if any(c.id == last for c in self._store.conversations()):
            self.list.refresh(current=last)
            self.open(last)
        else:
            self._show_welcome()

    def _leave(self) -> None:
        """Take the conversation off the screen; a running reply goes on unseen."""
        if self._reply is not None:
            self._reply.view.setParent(None)
        self._cancel_edit()
        self._messages.clear()
        self.transcript.clear()

    def _deleted(self, conversation_id: int, title: str) -> None:
        if self._conversation is not None and self._conversation.id == conversation_id:
            if self._reply is not None and self._reply.conversation_id == conversation_id:
                self.stop()
            self.new_chat()

        def undo() -> None:
            self._store.restore(conversation_id)
            self.list.refresh(current=conversation_id)
            self.open(conversation_id)

        self.notice.show_message(self.tr("Deleted “{title}”.").format(title=title), self.tr("Undo"), undo,
                                 lasting_ms=_UNDO_MS)

    def _show_welcome(self) -> None:
        name = self._model.name if self._model is not None else ""
        bundled = self._model is None or name.startswith("dyno-small")
        suggestions: tuple[str, ...]
        if bundled:
            suggestions = (self.tr("Hello! How are you today?"), self.tr("Tell me a short story about a fox."),
                           self.tr("What is a KV cache?"))
            note = self.tr("The bundled model is small and often wrong: it is here so that everything works at once, "
                           "without a network. Open a bigger one with Ctrl+O.")
        elif self._model is not None and not self._model.chat_template:
            suggestions = (self.tr("Once upon a time"), self.tr("The most important thing about engines is"))
            note = self.tr("{name} has no chat template: it continues the text you give it.").format(name=name)
        else:
            suggestions = (self.tr("Hello! What can you do?"), self.tr("Explain attention in two sentences."),
                           self.tr("Write a short poem about the sea."))
            note = self.tr("Everything stays on this computer.")
        self.transcript.show_welcome(self.tr("What shall we talk about?"), suggestions, note)

    def _set_system_prompt(self, text: str) -> None:
        if self._conversation is None:
            self._draft_system = text
            return
        conversation = self._conversation
        if self._guarded(lambda: self._store.set_system_prompt(conversation.id, text)):
            self._conversation = replace(conversation, system_prompt=text)

    def _system_prompt(self) -> str:
        return self._conversation.system_prompt if self._conversation is not None else self._draft_system

    def _export_shown(self) -> None:
        """Ctrl+E is for the page in front."""
        if self.isVisible():
            self.export()

    def export(self) -> None:
        """Ask for a file and write the conversation to it."""
        if self._conversation is None:
            self.notice.show_message(self.tr("There is nothing to export yet."))
            return
        suggestion = str(Path.home() / f"{self._conversation.title.replace('/', '-').rstrip('. ')}.md")
        path, _ = QFileDialog.getSaveFileName(self, self.tr("Export chat"), suggestion,
                                              self.tr("Markdown (*.md);;JSON (*.json)"))
        if path:
            conversation, messages = self._conversation, self._store.messages(self._conversation.id)
            if self._guarded(lambda: export.write(Path(path), conversation, messages)):
                self.notice.show_message(self.tr("Exported to {name}.").format(name=Path(path).name))

    # ----------------------------------------------------------------------------------------------------- sending

    def send(self, text: str) -> None:
        """Store the prompt, then ask the engine. What cannot be stored goes back into the composer."""
        if self._reply is not None:
            self._give_back(text)
            return
        try:
            if self._conversation is None:
                title = " ".join(text.split())[:_TITLE_LENGTH]
                self._conversation = self._store.new_conversation(title, self._draft_system)
                self._context.settings.set("conversation", self._conversation.id)
            edited = self._messages.get(self._editing) if self._editing is not None else None
            if edited is None:
                message = self._store.add_message(self._conversation.id, "user", text)
            else:
                message = self._store.replace_from(self._conversation.id, edited.id, "user", text)
        except DynoError as error:
            self._give_back(text)
            self.notice.show_problem(error.summary, error.hint)
            return
        if self._editing is not None:
            self._forget_from(self._editing)
            self._editing, draft = None, self._draft
            self._edit_strip.clear()
            self.composer.field.setPlainText(draft)
        self.list.refresh(current=self._conversation.id)
        self._show(self._stored_view(message), message)
        self.composer.field.setFocus()
        self._ask()

    def stop(self) -> None:
        """End the running reply and keep what was written."""
        if self._reply is not None:
            self._context.bridge.submit(Cancel(self._reply.job_id))
        self.composer.field.setFocus()

    def _ask(self, instead_of: MessageView | None = None) -> None:
        """Have the model answer the conversation as it stands; an older reply it replaces is archived."""
        assert self._conversation is not None
        conversation = self._conversation
        replaced = self._messages[instead_of] if instead_of is not None else None
        stored = self._store.messages(conversation.id)
        turns = _alternating([m.turn for m in stored if m.text and (replaced is None or m.id < replaced.id)])
        system = [ChatMessage("system", conversation.system_prompt)] if conversation.system_prompt else []
        try:
            if replaced is None:
                message = self._store.add_message(conversation.id, "assistant", "", "streaming")
            else:
                message = self._store.replace_from(conversation.id, replaced.id, "assistant", "", "streaming")
        except DynoError as error:
            self.notice.show_problem(error.summary, error.hint)
            return
        if instead_of is not None:
            self._forget_from(instead_of)
        view = ReplyView()
        self._connected(view)
        view.show_waiting(self.tr("The model is loading…") if self._model is None else self.tr("Reading…"))
        self._show(view, message)
        job_id = self._context.bridge.next_id()
        self._reply = RunningReply(self._store, job_id, conversation.id, message.id, view)
        self.composer.set_busy(True)
        self._timer.start()
        self.transcript.follow()
        self._context.bridge.submit(Generate(
            job_id, messages=(*system, *turns), sampling=self._sampling.sampling(), alternatives=_ALTERNATIVES,
            submitted_s=time.perf_counter()))

    def _retry(self, view: MessageView) -> None:
        """Answer again; the old reply is archived."""
        if self._reply is None and self._conversation is not None and view in self._messages:
            self._ask(instead_of=view)

    def _edit(self, view: MessageView) -> None:
        """Put a prompt into the composer; it and what followed are archived when the new one is sent, not before."""
        if self._reply is None and view in self._messages:
            if self._editing is None:
                self._draft = self.composer.field.toPlainText()
            self._editing = view
            self._give_back(self._messages[view].text)
            self._edit_strip.show_message(self.tr("Sending replaces this message and all after it."), self.tr("Cancel"),
                                          self._cancel_edit, lasting_ms=0)

    def _cancel_edit(self) -> None:
        if self._editing is not None:
            self._editing = None
            self._edit_strip.clear()
            self.composer.field.setPlainText(self._draft)

    def _give_back(self, text: str) -> None:
        self.composer.field.setPlainText(text)
        self.composer.field.moveCursor(self.composer.field.textCursor().MoveOperation.End)
        self.composer.field.setFocus()

    def _forget_from(self, view: MessageView) -> None:
        views = self.transcript.views()
        for gone in views[views.index(view):]:
            self._messages.pop(gone, None)
        self.transcript.remove_from(view)

    # ------------------------------------------------------------------------------------------------------ events

    def _on_event(self, event: Event) -> None:
        if isinstance(event, ModelLoaded):
            self._model = event.model
            self._sampling.suggest(event.model.sampling)
            if self._conversation is None:
                self._show_welcome()
            return
        reply = self._reply
        if reply is None or getattr(event, "job_id", None) != reply.job_id:
            return
        if isinstance(event, Tokens):
            if not reply.view.text:
                reply.view.show_waiting("")
            reply.view.add_pieces(event.pieces)
        elif isinstance(event, JobStarted):
            reply.view.show_waiting(self.tr("Reading…"))
        elif isinstance(event, Switched):
            reply.view.add_switch(event)
        elif isinstance(event, TurnsDropped):
            reply.view.notice.show_message(
                self.tr("The conversation is longer than the model's context: its {n} oldest turns were left out.")
                .format(n=event.count), lasting_ms=20000)
        elif isinstance(event, Finished):
            self._end("complete", event.result)
        elif isinstance(event, Cancelled):
            self._end("stopped", event.result)
        elif isinstance(event, Failed):
            reply.view.show_waiting("")
            reply.view.notice.show_problem(event.summary, event.hint, event.details)
            self._end("failed", None)

    def _end(self, state: str, result: object) -> None:
        assert self._reply is not None
        stats = result if isinstance(result, GenerationStats) else None
        if state == "stopped" and stats is None:
            self._reply.view.show_waiting(self.tr("stopped"))
        self._reply.finish(state, stats)
        if self._reply.unsaved:
            self._unsaved.append(self._reply)
            self._retry_timer.start()
            self._tell_unsaved()
        self._reply = None
        self._timer.stop()
        self.composer.set_busy(False)
        self._store.checkpoint()

    def _save_again(self) -> None:
        """Store what the disk refused; the text stays in memory until it is stored."""
        for reply in self._unsaved:
            reply.save_again()
        self._unsaved = [reply for reply in self._unsaved if reply.unsaved]
        if self._unsaved:
            self._tell_unsaved()
        else:
            self._retry_timer.stop()
            self.notice.show_message(self.tr("Everything is saved again."))

    def _tell_unsaved(self) -> None:
        problem = self._unsaved[-1].problem
        if problem is not None:
            self.notice.show_problem(problem.summary, problem.hint)

    def _renamed(self, conversation_id: int, title: str) -> None:
        if self._conversation is not None and self._conversation.id == conversation_id:
            self._conversation = replace(self._conversation, title=title)

    def _close(self) -> None:
        if self._reply is not None:
            self._end("stopped", None)
        self._timer.stop()
        self._retry_timer.stop()
        if self._unsaved:
            self._save_again()
        self.list.stop()

    def _tick(self) -> None:
        if self._reply is not None:
            self._reply.tick()

    # ------------------------------------------------------------------------------------------------------- views

    def _stored_view(self, message: Message) -> MessageView:
        if message.role == "user":
            return self._connected(PromptView(message.text))
        view = ReplyView()
        self._connected(view)
        view.restore(message.text, message.meta)
        if message.state == "streaming":
            view.show_waiting(self.tr("The app ended while this was being written."))
        elif message.state == "failed" and not message.text:
            view.show_waiting(self.tr("No reply was written. Regenerate tries again."))
        return view

    def _show(self, view: MessageView, message: Message) -> None:
        self._messages[view] = message
        self.transcript.add(view)
        view.show()

    def _connected(self, view: MessageView) -> MessageView:
        view.copy_requested.connect(lambda: self._copy(view))
        view.edit_requested.connect(lambda: self._edit(view))
        view.retry_requested.connect(lambda: self._retry(view))
        return view

    def _copy(self, view: MessageView) -> None:
        text = view.text if isinstance(view, ReplyView) else self._messages[view].text
        QGuiApplication.clipboard().setText(text)

    def _restyle(self) -> None:
        self.list.restyle()
        self.transcript.restyle()
        self.composer.restyle()

    def _guarded(self, action) -> bool:  # type: ignore[no-untyped-def]
        """Run something that may be refused by the disk; say so instead of raising."""
        try:
            action()
        except DynoError as error:
            self.notice.show_problem(error.summary, error.hint)
            return False
        return True


def _alternating(turns: list[ChatMessage]) -> list[ChatMessage]:
    """Turns in which user and assistant take turns: a prompt left without a reply joins the next one."""
    joined: list[ChatMessage] = []
    for turn in turns:
        if joined and joined[-1].role == turn.role:
            turn = ChatMessage(turn.role, f"{joined.pop().content}\n\n{turn.content}")
        joined.append(turn)
    return joined


PAGE = Page("chat", str(QT_TRANSLATE_NOOP("pages", "Chat")), "chat", 10, ChatPage)
