"""The tables of the conversations, and how a database of an older version becomes one of today's. Knows no queries.

Version 1 had no tree: a message was either shown or archived. Version 2 knows each message's parent, which of several
was shown last (a number that grows), and drafts.
"""

from __future__ import annotations

import sqlite3

from engine.errors import DynoError

VERSION = 2

_TABLES = (
    """CREATE TABLE IF NOT EXISTS conversation (
        id INTEGER PRIMARY KEY, title TEXT NOT NULL, created_s REAL NOT NULL, updated_s REAL NOT NULL,
        system_prompt TEXT NOT NULL DEFAULT '', deleted_s REAL)""",
    """CREATE TABLE IF NOT EXISTS message (
        id INTEGER PRIMARY KEY, conversation_id INTEGER NOT NULL REFERENCES conversation(id) ON DELETE CASCADE,
        role TEXT NOT NULL, text TEXT NOT NULL, state TEXT NOT NULL, created_s REAL NOT NULL,
        meta TEXT NOT NULL DEFAULT '{}', archived INTEGER NOT NULL DEFAULT 0,
        parent_id INTEGER, shown INTEGER NOT NULL DEFAULT 0)""",
    # Texts and statistics are long: whatever asks for the tree alone is answered from these.
    "CREATE INDEX IF NOT EXISTS message_by_conversation ON message(conversation_id, id)",
    "CREATE INDEX IF NOT EXISTS message_by_path ON message(conversation_id, archived, id, parent_id)",
    "CREATE INDEX IF NOT EXISTS message_by_parent ON message(parent_id, shown)",
    "CREATE INDEX IF NOT EXISTS message_by_shown ON message(shown)",
    "CREATE TABLE IF NOT EXISTS draft (conversation_id INTEGER PRIMARY KEY, data TEXT NOT NULL)",
)


def prepare(db: sqlite3.Connection) -> None:
    """Make the tables, or bring those of an older version up to date: all of it or nothing.

    Raises DynoError for a database of a newer app, sqlite3.Error for one that cannot be written.
    """
    found = _version(db)
    if found > VERSION:
        raise DynoError("The conversations were written by a newer GPT Dyno.", "Update the app to open them.")
    if found == VERSION:
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        found = _version(db)  # another window may have been faster
        if found < VERSION:
            if found == 1:
                _give_parents(db)
            for table in _TABLES:
                db.execute(table)
            db.execute(f"PRAGMA user_version={VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _give_parents(db: sqlite3.Connection) -> None:
    """Version 1 to 2. Messages that are shown follow each other. An archived one followed the message before it where
    the roles alternate; where they do not, it stood in the place of the last message of its role, and is its sibling.
    So every archived message hangs somewhere in the tree, after a message that is older.
    """
    db.execute("ALTER TABLE message ADD COLUMN parent_id INTEGER")
    db.execute("ALTER TABLE message ADD COLUMN shown INTEGER NOT NULL DEFAULT 0")
    rows = db.execute("SELECT id, conversation_id, role, archived FROM message ORDER BY conversation_id, id").fetchall()
    conversation, path_end, before = None, None, None  # path_end: the last shown message; before: (id, role)
    parents: dict[int, int | None] = {}
    last_of: dict[str, int] = {}
    for message_id, parent_conversation, role, archived in rows:
        if parent_conversation != conversation:
            conversation, path_end, before, last_of = parent_conversation, None, None, {}
        if not archived:
            parent = path_end
            path_end = message_id
        elif before is not None and before[1] != role:
            parent = before[0]
        else:
            parent = parents[last_of[role]] if role in last_of else None
        parents[message_id] = parent
        last_of[role], before = message_id, (message_id, role)
    db.executemany("UPDATE message SET parent_id = ?, shown = id WHERE id = ?",
                   [(parent, message_id) for message_id, parent in parents.items()])
