"""Conversations in SQLite. Nothing the user made is ever lost: a prompt is committed before the engine sees it, a
growing reply at least once a second, and what an edit or a regeneration replaces stays as another branch.

A conversation is a tree of messages, each with its parent. One path from a root to a leaf is shown; the messages off it
are marked archived. Ids grow along every path.

WAL mode: a commit reaches the operating system before the call returns, which survives a kill; the flush to the disk
itself happens at checkpoints, outside the window's thread (`checkpoint`).
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import DynoError, reason
from engine.models.chat import ChatMessage
from engine.storage_schema import prepare

log = logging.getLogger(__name__)

DELETED_KEPT_S = 7 * 24 * 3600.0
NEW_CHAT = 0
"""The conversation id under which the draft of a conversation that has not begun is kept."""


@dataclass(frozen=True)
class Conversation:
    """One conversation in the list. Times are seconds since the epoch."""

    id: int
    title: str
    created_s: float
    updated_s: float
    system_prompt: str = ""


@dataclass(frozen=True)
class Message:
    """One turn. state: "complete", "streaming" (the app ended in mid-reply), "stopped" or "failed".

    meta: whatever the window keeps with it as JSON: statistics, tokens, switches. parent_id: the turn it follows, None
    for a first one.
    """

    id: int
    conversation_id: int
    role: str
    text: str
    state: str
    created_s: float
    meta: dict[str, Any] = field(default_factory=dict)
    parent_id: int | None = None

    @property
    def turn(self) -> ChatMessage:
        """The message as the model sees it."""
        return ChatMessage(self.role, self.text)


class Store:
    """The database. All calls come from one thread. Raises DynoError with a sentence when the disk refuses."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._flusher: threading.Thread | None = None
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("PRAGMA foreign_keys=ON")
            self._db.execute("PRAGMA wal_autocheckpoint=0")
            prepare(self._db)
            self._db.execute("DELETE FROM conversation WHERE deleted_s < ?", (time.time() - DELETED_KEPT_S,))
            self._db.execute("DELETE FROM draft WHERE conversation_id <> ? AND conversation_id NOT IN"
                             " (SELECT id FROM conversation)", (NEW_CHAT,))
        except sqlite3.Error as error:
            raise DynoError(f"The conversations in {path} cannot be opened: {reason(error)}.",
                            "Make sure the folder can be written, or move the file away to start afresh.") from error

    # ------------------------------------------------------------------------------------------------ conversations

    def conversations(self, search: str = "") -> list[Conversation]:
        """The newest first; with `search`, those whose title or any message contains it, one
        of another branch too (a to z in either case)."""
        query = "SELECT id, title, created_s, updated_s, system_prompt FROM conversation c WHERE deleted_s IS NULL"
        values: tuple[str, ...] = ()
        if search:
            pattern = "%" + search.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
            query += (" AND (title LIKE ? ESCAPE '\\' OR EXISTS (SELECT 1 FROM message m WHERE m.conversation_id = c.id"
                      " AND m.text LIKE ? ESCAPE '\\'))")
            values = (pattern, pattern)
        with self._guard():
            rows = self._db.execute(query + " ORDER BY updated_s DESC, id DESC", values).fetchall()
        return [Conversation(*row) for row in rows]

    def new_conversation(self, title: str, system_prompt: str = "") -> Conversation:
        """An empty conversation."""
        now_s = time.time()
        with self._guard():
            cursor = self._db.execute(
                "INSERT INTO conversation (title, created_s, updated_s, system_prompt) VALUES (?, ?, ?, ?)",
                (title, now_s, now_s, system_prompt))
        assert cursor.lastrowid is not None
        return Conversation(cursor.lastrowid, title, now_s, now_s, system_prompt)

    def rename(self, conversation_id: int, title: str) -> None:
        """Give a conversation another title."""
        with self._guard():
            self._db.execute("UPDATE conversation SET title = ? WHERE id = ?", (title, conversation_id))

    def set_system_prompt(self, conversation_id: int, text: str) -> None:
        """Give a conversation another system prompt."""
        with self._guard():
            self._db.execute("UPDATE conversation SET system_prompt = ? WHERE id = ?", (text, conversation_id))

    def delete(self, conversation_id: int) -> None:
        """Hide a conversation; it can be restored for a week."""
        with self._guard():
            self._db.execute("UPDATE conversation SET deleted_s = ? WHERE id = ?", (time.time(), conversation_id))

    def restore(self, conversation_id: int) -> None:
        """Undo delete()."""
        with self._guard():
            self._db.execute("UPDATE conversation SET deleted_s = NULL WHERE id = ?", (conversation_id,))

    # ----------------------------------------------------------------------------------------------------- messages

    def messages(self, conversation_id: int) -> list[Message]:
        """The turns of the path that is shown, in order."""
        with self._guard():
            rows = self._db.execute(
                "SELECT id, conversation_id, role, text, state, created_s, meta, parent_id FROM message"
                " WHERE conversation_id = ? AND archived = 0 ORDER BY id", (conversation_id,)).fetchall()
        return [Message(i, conversation, role, text, state, created_s, json.loads(meta), parent)
                for i, conversation, role, text, state, created_s, meta, parent in rows]

    def add_message(self, conversation_id: int, role: str, text: str, state: str = "complete",
                    meta: dict[str, Any] | None = None) -> Message:
        """Append a turn to the path that is shown; committed when this returns."""
        with self._guard(), self._transaction():
            parent = self._db.execute("SELECT max(id) FROM message WHERE conversation_id = ? AND archived = 0",
                                      (conversation_id,)).fetchone()[0]
            return self._insert(conversation_id, role, text, state, meta, parent)

    def _insert(self, conversation_id: int, role: str, text: str, state: str, meta: dict[str, Any] | None,
                parent: int | None) -> Message:
        now_s = time.time()
        cursor = self._db.execute(
            "INSERT INTO message (conversation_id, role, text, state, created_s, meta, parent_id, shown)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, (SELECT coalesce(max(shown), 0) + 1 FROM message))",
            (conversation_id, role, text, state, now_s, json.dumps(meta or {}, ensure_ascii=False), parent))
        self._db.execute("UPDATE conversation SET updated_s = ? WHERE id = ?", (now_s, conversation_id))
        assert cursor.lastrowid is not None
        return Message(cursor.lastrowid, conversation_id, role, text, state, now_s, meta or {}, parent)

    def save_message(self, message_id: int, text: str, state: str, meta: dict[str, Any] | None = None) -> None:
        """Replace a turn's text (a reply that grows); committed when this returns."""
        with self._guard():
            if meta is None:
                self._db.execute("UPDATE message SET text = ?, state = ? WHERE id = ?", (text, state, message_id))
            else:
                self._db.execute("UPDATE message SET text = ?, state = ?, meta = ? WHERE id = ?",
                                 (text, state, json.dumps(meta, ensure_ascii=False), message_id))

    def replace_from(self, conversation_id: int, message_id: int, role: str, text: str, state: str = "complete",
                     meta: dict[str, Any] | None = None) -> Message:
        """Begin another branch beside a turn of the path with a new turn in its place; the old turn and what follows
        it stay as they are, off the path. Both or neither."""
        with self._guard(), self._transaction():
            parent = self._db.execute("SELECT parent_id FROM message WHERE id = ?", (message_id,)).fetchone()[0]
            self._db.execute("UPDATE message SET archived = 1 WHERE conversation_id = ? AND id >= ?",
                             (conversation_id, message_id))
            return self._insert(conversation_id, role, text, state, meta, parent)

    def branches(self, conversation_id: int) -> dict[int, tuple[int, ...]]:
        """For each turn of the path that has others in its place: their ids and its own, the oldest first."""
        with self._guard():
            rows = self._db.execute("SELECT id, parent_id, archived FROM message WHERE conversation_id = ? ORDER BY id",
                                    (conversation_id,)).fetchall()
        beside: dict[int | None, list[int]] = {}
        for message_id, parent, _ in rows:
            beside.setdefault(parent, []).append(message_id)
        return {message_id: tuple(beside[parent]) for message_id, parent, archived in rows
                if not archived and len(beside[parent]) > 1}

    def show_branch(self, conversation_id: int, message_id: int) -> None:
        """Show the path through a turn: its ancestors, itself, and of what follows the turns that were shown last."""
        with self._guard(), self._transaction():
            path = [row[0] for row in self._db.execute(
                "WITH RECURSIVE up(id, parent) AS (SELECT id, parent_id FROM message WHERE id = ? UNION"
                " SELECT m.id, m.parent_id FROM message m JOIN up ON m.id = up.parent) SELECT id FROM up",
                (message_id,))]
            child: tuple[int] | None = (message_id,)
            while child is not None:
                child = self._db.execute(
                    "SELECT id FROM message WHERE parent_id = ? ORDER BY shown DESC, id DESC LIMIT 1", child).fetchone()
                path += child or ()
            self._db.execute("UPDATE message SET archived = 1 WHERE conversation_id = ? AND archived = 0",
                             (conversation_id,))
            newest = self._db.execute("SELECT max(shown) + 1 FROM message").fetchone()[0]
            self._db.executemany("UPDATE message SET archived = 0, shown = ? WHERE id = ?", [(newest, i) for i in path])

    # ------------------------------------------------------------------------------------------------------- drafts

    def draft(self, conversation_id: int) -> dict[str, Any]:
        """What was written and not sent in a conversation (or NEW_CHAT), as save_draft() was given it."""
        with self._guard():
            row = self._db.execute("SELECT data FROM draft WHERE conversation_id = ?", (conversation_id,)).fetchone()
        found: dict[str, Any] = json.loads(row[0]) if row is not None else {}
        return found

    def save_draft(self, conversation_id: int, data: dict[str, Any]) -> None:
        """Keep what is written and not sent; an empty one is forgotten."""
        with self._guard():
            if data:
                self._db.execute("INSERT OR REPLACE INTO draft (conversation_id, data) VALUES (?, ?)",
                                 (conversation_id, json.dumps(data, ensure_ascii=False)))
            else:
                self._db.execute("DELETE FROM draft WHERE conversation_id = ?", (conversation_id,))

    # ------------------------------------------------------------------------------------------------- maintenance

    def checkpoint(self) -> None:
        """Flush the log into the database file, on a thread and a connection of its own: a slow disk takes its time."""
        if self._flusher is None or not self._flusher.is_alive():
            self._flusher = threading.Thread(target=_flush, args=(self.path,), name="flush", daemon=True)
            self._flusher.start()

    def close(self) -> None:
        """Flush and close."""
        if self._flusher is not None:
            self._flusher.join()
        with self._guard():
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        self._db.close()

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            full = "full" in str(error)
            raise DynoError("The disk is full, so the conversation could not be saved." if full else
                            f"The conversation could not be saved: {error}.",
                            "Free some space; the text stays here and is saved again with the next change." if full else
                            "Make sure the data folder can be written.") from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def _flush(path: Path) -> None:
    try:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    except sqlite3.Error as error:
        log.warning("the conversations were not flushed to the disk: %s", error)  # the log keeps them all the same
