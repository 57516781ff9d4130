"""Conversations in SQLite. Nothing the user made is ever lost: a prompt is committed before the engine sees it, a
growing reply at least once a second, and what an edit or a regeneration replaces is archived, not deleted.

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

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS conversation (
    id INTEGER PRIMARY KEY, title TEXT NOT NULL, created_s REAL NOT NULL, updated_s REAL NOT NULL,
    system_prompt TEXT NOT NULL DEFAULT '', deleted_s REAL);
CREATE TABLE IF NOT EXISTS message (
    id INTEGER PRIMARY KEY, conversation_id INTEGER NOT NULL REFERENCES conversation(id) ON DELETE CASCADE,
    role TEXT NOT NULL, text TEXT NOT NULL, state TEXT NOT NULL, created_s REAL NOT NULL,
    meta TEXT NOT NULL DEFAULT '{}', archived INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS message_by_conversation ON message(conversation_id, id);
"""
_VERSION = 1
DELETED_KEPT_S = 7 * 24 * 3600.0


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

    meta: whatever the window keeps with it as JSON: statistics, tokens, switches.
    """

    id: int
    conversation_id: int
    role: str
    text: str
    state: str
    created_s: float
    meta: dict[str, Any] = field(default_factory=dict)

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
            found = int(self._db.execute("PRAGMA user_version").fetchone()[0])
            if found > _VERSION:
                raise DynoError("The conversations were written by a newer GPT Dyno.", "Update the app to open them.")
            self._db.executescript(_SCHEMA)
            self._db.execute(f"PRAGMA user_version={_VERSION}")
            self._db.execute("DELETE FROM conversation WHERE deleted_s < ?", (time.time() - DELETED_KEPT_S,))
        except sqlite3.Error as error:
            raise DynoError(f"The conversations in {path} cannot be opened: {reason(error)}.",
                            "Make sure the folder can be written, or move the file away to start afresh.") from error

    # ------------------------------------------------------------------------------------------------ conversations

    def conversations(self, search: str = "") -> list[Conversation]:
        """The newest first; with `search`, those whose title or any message contains it (a to z in either case)."""
        query = "SELECT id, title, created_s, updated_s, system_prompt FROM conversation c WHERE deleted_s IS NULL"
        values: tuple[str, ...] = ()
        if search:
            pattern = "%" + search.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
            query += (" AND (title LIKE ? ESCAPE '\\' OR EXISTS (SELECT 1 FROM message m WHERE m.conversation_id = c.id"
                      " AND m.archived = 0 AND m.text LIKE ? ESCAPE '\\'))")
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
        """The turns that stand, in order."""
        with self._guard():
            rows = self._db.execute(
                "SELECT id, conversation_id, role, text, state, created_s, meta FROM message"
                " WHERE conversation_id = ? AND archived = 0 ORDER BY id", (conversation_id,)).fetchall()
        return [Message(i, parent, role, text, state, created_s, json.loads(meta))
                for i, parent, role, text, state, created_s, meta in rows]

    def add_message(self, conversation_id: int, role: str, text: str, state: str = "complete") -> Message:
        """Append a turn; committed when this returns."""
        now_s = time.time()
        with self._guard(), self._transaction():
            return self._insert(conversation_id, role, text, state, now_s)

    def _insert(self, conversation_id: int, role: str, text: str, state: str, now_s: float) -> Message:
        cursor = self._db.execute(
            "INSERT INTO message (conversation_id, role, text, state, created_s) VALUES (?, ?, ?, ?, ?)",
            (conversation_id, role, text, state, now_s))
        self._db.execute("UPDATE conversation SET updated_s = ? WHERE id = ?", (now_s, conversation_id))
        assert cursor.lastrowid is not None
        return Message(cursor.lastrowid, conversation_id, role, text, state, now_s)

    def save_message(self, message_id: int, text: str, state: str, meta: dict[str, Any] | None = None) -> None:
        """Replace a turn's text (a reply that grows); committed when this returns."""
        with self._guard():
            if meta is None:
                self._db.execute("UPDATE message SET text = ?, state = ? WHERE id = ?", (text, state, message_id))
            else:
                self._db.execute("UPDATE message SET text = ?, state = ?, meta = ? WHERE id = ?",
                                 (text, state, json.dumps(meta, ensure_ascii=False), message_id))

    def replace_from(self, conversation_id: int, message_id: int, role: str, text: str,
                     state: str = "complete") -> Message:
        """Archive a turn and all after it and append another one: both or neither."""
        now_s = time.time()
        with self._guard(), self._transaction():
            self._db.execute("UPDATE message SET archived = 1 WHERE conversation_id = ? AND id >= ?",
                             (conversation_id, message_id))
            return self._insert(conversation_id, role, text, state, now_s)

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
