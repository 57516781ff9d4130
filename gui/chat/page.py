"""The chat page: sends what the user wrote, shows what comes back, and keeps both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from PySide6.QtCore import QT_TRANSLATE_NOOP, Qt, QTimer
from PySide6.QtWidgets import QHBoxLayout, QSplitter, QVBoxLayout, QWidget

from engine.errors import DynoError
from engine.messages import Cancel, CountContext, Event, ModelInfo, ModelLoaded
from engine.scenarios import read_scenarios
from engine.storage import NEW_CHAT, Conversation
from gui.chat import export, turns
from gui.chat.budget import Budget
from gui.chat.composer import Composer
from gui.chat.conversation_list import ConversationList
from gui.chat.drafts import Drafts, state_of
from gui.chat.message_view import MessageView
from gui.chat.reply import RunningReply
from gui.chat.reply_view import ReplyView
from gui.chat.sampling_popover import SamplingPopover
from gui.chat.thread import Thread
from gui.chat.transcript import Transcript
from gui.chat.unsaved import UnsavedReplies
from gui.chat.welcome import welcome_for
from gui.context import AppContext, Page
from gui.theme import theme
from gui.widgets.notice import Notice

_REFRESH_MS = 80
_UNDO_MS = 60_000
_TITLE_LENGTH = 48


class ChatPage(QWidget):
    """Conversations at the left, the transcript and the composer beside them."""

    def __init__(self, context: AppContext) -> None:
        super().__init__()
        self._context = context
        self._store = context.store
        self._model: ModelInfo | None = None
        self._conversation: Conversation | None = None
        self._reply: RunningReply | None = None
        self._draft_system = ""
        scenarios, problems = read_scenarios()
        self._scenarios = {scenario.key: scenario for scenario in scenarios}
        self.list = ConversationList(context.store)
        self.transcript = Transcript()
        self._thread = Thread(context.store, self.transcript, self._scenarios)
        self.composer = Composer(scenarios)
        self.notice = Notice()
        self._edit_strip = Notice()
        self._sampling = SamplingPopover(context.settings, self)
        self._drafts = Drafts(context.store, self.composer)
        self._budget = Budget(context.bridge, self.composer.meter, self._count)
        self._unsaved = UnsavedReplies(self)
        self._timer = QTimer(self, interval=_REFRESH_MS)
        self._timer.timeout.connect(lambda: self._reply.tick() if self._reply is not None else None)
        self._build()
        self._connect()
        self._open_last()
        if problems:
            self.notice.show_problem(problems[0])

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
        self._thread.edit_requested.connect(self._edit)
        self._thread.retry_requested.connect(self._retry)
        self._thread.branch_requested.connect(self._walk)
        self._edit_strip.dismissed.connect(self._cancel_edit)
        self.composer.sent.connect(self._send_composed)
        self.composer.changed.connect(self._budget.changed)
        self.composer.scenarios.changed.connect(self._propose)
        self.composer.stop_requested.connect(self.stop)
        self.composer.refused.connect(self.notice.show_problem)
        self.composer.sampling_requested.connect(
            lambda anchor: self._sampling.open_at(anchor, self._system_prompt()))
        self._sampling.system_prompt_changed.connect(self._set_system_prompt)
        self._drafts.refused.connect(self.notice.show_problem)
        self._unsaved.refused.connect(self.notice.show_problem)
        self._unsaved.saved.connect(lambda: self.notice.show_message(self.tr("Everything is saved again.")))
        self.transcript.suggestion_chosen.connect(self.send)
        for part in (self.list, self.transcript, self.composer):
            theme().changed.connect(part.restyle)

    # ----------------------------------------------------------------------------------------------- conversations

    def new_chat(self) -> None:
        """Begin a conversation; it is stored with its first message."""
        self._leave()
        self._conversation = None
        self._draft_system = ""
        self.list.clear_selection()
        self._show_welcome()
        self._open_draft()
        self.composer.field.setFocus()

    def open(self, conversation_id: int) -> None:
        """Show a stored conversation."""
        found = next((c for c in self._store.conversations() if c.id == conversation_id), None)
        if found is None:
            return
        self._leave()
        self._conversation = found
        self._context.settings.set("conversation", conversation_id)
        self._show_path()
        self._open_draft()

    def _show_path(self) -> None:
        """Show the turns of the branch that is shown."""
        assert self._conversation is not None
        self._thread.open(self._conversation.id, self._reply, self._unsaved.newest)

    def _open_last(self) -> None:
        self.list.refresh()
        last = self._context.settings.get("conversation", 0)
        if any(c.id == last for c in self._store.conversations()):
            self.list.refresh(current=last)
            self.open(last)
        else:
            self._show_welcome()
            self._open_draft()

    def _open_draft(self) -> None:
        self._drafts.open(self._conversation.id if self._conversation is not None else NEW_CHAT)
        if self._thread.view(self._drafts.editing) is not None:
            self._say_editing()
        else:
            self._cancel_edit()
        self._budget.changed()

    def _leave(self) -> None:
        """Take the conversation off the screen; a running reply goes on unseen."""
        self._drafts.save()
        self._edit_strip.clear()
        self._thread.clear(self._reply)

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
        welcome = welcome_for(self._model, self.composer.way.scenario)
        self.transcript.show_welcome(welcome.title, welcome.suggestions, welcome.note)

    def _propose(self) -> None:
        """Another scenario proposes other texts, in a conversation not begun."""
        if self._conversation is None:
            self._show_welcome()

    def _set_system_prompt(self, text: str) -> None:
        self._budget.changed()
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
        messages = self._store.messages(self._conversation.id) if self._conversation is not None else []
        export.ask_and_write(self, self.notice, self._conversation, messages)

    # ----------------------------------------------------------------------------------------------------- sending

    def _send_composed(self, text: str) -> None:
        """Send what stands in the composer; it stays there where it cannot be stored, or read by the model."""
        if too_long := self._budget.too_long():
            self.notice.show_problem(too_long, self.tr("Shorten it, or open a model with more context."))
            return
        file = self.composer.attachment
        meta = self.composer.way.to_meta()
        if file.text:
            meta["file"] = {"name": file.name, "characters": len(file.text.strip())}
        if self._store_prompt(text, meta):
            if self._drafts.editing:
                self._drafts.end_edit()
                self._edit_strip.clear()
            else:
                self.composer.clear()
                self._drafts.save()
            self._ask()

    def send(self, text: str) -> None:
        """Send a prompt, for the scenario that is chosen. What cannot be sent now, or stored, goes into the composer if
        that is empty."""
        if self._reply is None and self._store_prompt(text, self.composer.way.to_meta()):
            self._ask()
        elif not self.composer.text:
            self.composer.set_state({"text": text})

    def _store_prompt(self, text: str, meta: dict[str, Any]) -> bool:
        """Store a prompt at the end, or as another branch beside the one that is edited; whether it could be."""
        edited = self._thread.view(self._drafts.editing)
        try:
            if self._conversation is None:
                title = " ".join(text.split())[:_TITLE_LENGTH]
                self._conversation = self._store.new_conversation(title, self._draft_system)
                self._context.settings.set("conversation", self._conversation.id)
                self._drafts.begun(self._conversation.id)
            if edited is None:
                message = self._store.add_message(self._conversation.id, "user", text, meta=meta)
            else:
                message = self._store.replace_from(self._conversation.id, self._drafts.editing, "user", text, meta=meta)
        except DynoError as error:
            self.notice.show_problem(error.summary, error.hint)
            return False
        if edited is not None:
            self._thread.forget_from(edited)
        self.list.refresh(current=self._conversation.id)
        self._thread.add(message)
        self.composer.field.setFocus()
        return True

    def first_stop(self) -> QWidget:
        """Where the keyboard begins."""
        return self.composer.field

    def stop(self) -> None:
        """End the running reply and keep what was written."""
        if self._reply is not None:
            self._context.bridge.submit(Cancel(self._reply.job_id))
        self.composer.field.setFocus()

    def _ask(self, instead_of: MessageView | None = None) -> None:
        """Have the model answer the conversation as it stands; a reply it takes the place of stays as a branch."""
        assert self._conversation is not None
        conversation = self._conversation
        replaced = self._thread.message(instead_of)
        stored = [m for m in self._store.messages(conversation.id) if replaced is None or m.id < replaced.id]
        prompt = next((m for m in reversed(stored) if m.role == "user"), None)
        way, seen = turns.way_of(prompt, self._scenarios), turns.turns_of(stored, self._scenarios)
        view = ReplyView(way.by_template and self._model is not None and self._model.reasons_first, way.scenario.view)
        try:
            if replaced is None:
                message = self._store.add_message(conversation.id, "assistant", "", "streaming", view.begin_meta())
            else:
                message = self._store.replace_from(conversation.id, replaced.id, "assistant", "", "streaming",
                                                   view.begin_meta())
        except DynoError as error:
            self.notice.show_problem(error.summary, error.hint)
            return
        if instead_of is not None:
            self._thread.forget_from(instead_of)
        view.show_waiting(self.tr("The model is loading…") if self._model is None else self.tr("Reading…"))
        self._thread.add_reply(view, message)
        self._thread.show_branches(conversation.id)
        job_id = self._context.bridge.next_id()
        self._reply = RunningReply(self._store, job_id, conversation.id, message.id, view, way, seen)
        self.composer.set_busy(True)
        self._budget.reply_runs(True)
        self._timer.start()
        self.transcript.follow()
        self._context.bridge.submit(turns.command(
            job_id, way, seen, prompt.text if prompt is not None else "", conversation.system_prompt,
            self._sampling.sampling(), self._sampling.stop(), self._sampling.pace()))

    def _count(self, request_id: int) -> CountContext | None:
        """What to ask about the context: the conversation with what stands in the composer."""
        if self._model is None:
            return None
        way, text = (self._reply.way, "") if self._reply is not None else (self.composer.way, self.composer.text)
        stored = [m for m in self._thread.messages if not self._drafts.editing or m.id < self._drafts.editing]
        return turns.question(request_id, way, text, stored, self._scenarios, self._system_prompt(),
                              self._sampling.sampling().max_tokens)

    # --------------------------------------------------------------------------------------- editing and branches

    def _retry(self, view: MessageView) -> None:
        """Answer again; the old reply stays as a branch."""
        if self._reply is None and self._conversation is not None and self._thread.message(view) is not None:
            self._ask(instead_of=view)

    def _edit(self, view: MessageView) -> None:
        """Put a prompt into the composer; sending it begins another branch, and not before."""
        message = self._thread.message(view)
        if self._reply is None and message is not None:
            self._drafts.begin_edit(message.id, state_of(message))
            self.composer.field.setFocus()
            self._say_editing()

    def _say_editing(self) -> None:
        said = self.tr("Sending begins another branch here; this one stays, behind the arrows.")
        self._edit_strip.show_message(said, self.tr("Cancel"), self._cancel_edit, lasting_ms=0)

    def _cancel_edit(self) -> None:
        self._edit_strip.clear()
        self._drafts.end_edit()

    def _walk(self, view: MessageView, step: int) -> None:
        """Show the branch beside this turn."""
        if self._conversation is None or self._thread.message(view) is None:
            return
        conversation_id = self._conversation.id
        if self._reply is not None and self._reply.conversation_id == conversation_id:
            self.notice.show_message(self.tr("Stop the reply, or wait for it, before walking to another branch."))
            return
        target = self._thread.beside(conversation_id, view, step)
        if target and self._guarded(lambda: self._store.show_branch(conversation_id, target)):
            self._cancel_edit()
            self._thread.clear(None)
            self._show_path()
            self._thread.focus(target, step)
            self._budget.changed()

    # ------------------------------------------------------------------------------------------------------ events

    def _on_event(self, event: Event) -> None:
        if isinstance(event, ModelLoaded):
            self._model = event.model
            self._sampling.suggest(event.model.sampling)
            self.composer.set_model(event.model)
            self._budget.changed()
            if self._reply is not None and self._reply.way.by_template:
                self._reply.view.begins_in_reasoning(event.model.reasons_first)
            if self._conversation is None:
                self._show_welcome()
        elif self._reply is not None and getattr(event, "job_id", None) == self._reply.job_id:
            self._reply.take(event)
            if self._reply.ended:
                self._end()

    def _end(self) -> None:
        assert self._reply is not None
        reply, self._reply = self._reply, None
        self._unsaved.take(reply)
        self._thread.reply_ended(reply)
        self._timer.stop()
        self.composer.set_busy(False)
        self._budget.reply_runs(False)
        self._store.checkpoint()

    def _renamed(self, conversation_id: int, title: str) -> None:
        if self._conversation is not None and self._conversation.id == conversation_id:
            self._conversation = replace(self._conversation, title=title)

    def _close(self) -> None:
        self._drafts.close()
        self._budget.stop()
        if self._reply is not None:
            self._reply.finish("stopped", None)
            self._end()
        self._unsaved.close()
        self.list.stop()

    def _guarded(self, action: Callable[[], None]) -> bool:
        """Run something that may be refused by the disk; say so instead of raising."""
        try:
            action()
        except DynoError as error:
            self.notice.show_problem(error.summary, error.hint)
            return False
        return True


_KEYS = (
    str(QT_TRANSLATE_NOOP("pages", "Enter: Send the message")),
    str(QT_TRANSLATE_NOOP("pages", "Shift+Enter: New line in the message")),
    str(QT_TRANSLATE_NOOP("pages", "F2: Rename the selected chat")),
    str(QT_TRANSLATE_NOOP("pages", "Del: Delete the selected chat")),
    str(QT_TRANSLATE_NOOP("pages", "Left, Right in a reply: Walk through its tokens")),
    str(QT_TRANSLATE_NOOP("pages", "Alt+Left, Alt+Right in a turn: Walk to the branch before or after")),
    str(QT_TRANSLATE_NOOP("pages", "Arrows, +, -, 0 in a graph: Move, zoom, show all of it")),
)
PAGE = Page("chat", str(QT_TRANSLATE_NOOP("pages", "Chat")), "chat", 10, ChatPage, _KEYS)
