"""Conversations as trees, drafts, and databases of older versions."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from engine.errors import DynoError
from engine.storage import NEW_CHAT, Store

VERSION_1 = """
CREATE TABLE conversation (
    id INTEGER PRIMARY KEY, title TEXT NOT NULL, created_s REAL NOT NULL, updated_s REAL NOT NULL,
    system_prompt TEXT NOT NULL DEFAULT '', deleted_s REAL);
CREATE TABLE message (
    id INTEGER PRIMARY KEY, conversation_id INTEGER NOT NULL REFERENCES conversation(id) ON DELETE CASCADE,
    role TEXT NOT NULL, text TEXT NOT NULL, state TEXT NOT NULL, created_s REAL NOT NULL,
    meta TEXT NOT NULL DEFAULT '{}', archived INTEGER NOT NULL DEFAULT 0);
CREATE INDEX message_by_conversation ON message(conversation_id, id);
PRAGMA user_version=1;
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "db")
    yield store
    store.close()


def old_database(path: Path, *conversations: list[tuple[str, str, int]]) -> None:
    """A database of version 1: conversations of (role, text, archived)."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript(VERSION_1)
        for number, turns in enumerate(conversations, 1):
            db.execute("INSERT INTO conversation VALUES (?, ?, 1.0, 2.0, 'Be kind.', NULL)", (number, f"talk {number}"))
            db.executemany("INSERT INTO message (conversation_id, role, text, state, created_s, meta, archived)"
                           " VALUES (?, ?, ?, 'complete', 3.0, '{\"k\": 1}', ?)",
                           [(number, *turn) for turn in turns])
        db.commit()


def shown(store: Store, conversation_id: int = 1) -> list[str]:
    return [message.text for message in store.messages(conversation_id)]


def reachable(store: Store, conversation_id: int = 1) -> set[str]:
    """Texts of every turn that one gets to by walking from branch to branch."""
    seen: set[str] = set()
    visited: set[int] = set()
    waiting = [0]
    while waiting:
        target = waiting.pop()
        if target:
            store.show_branch(conversation_id, target)
        seen |= set(shown(store, conversation_id))
        for siblings in store.branches(conversation_id).values():
            waiting += [s for s in siblings if s not in visited]
            visited |= set(siblings)
    return seen


def test_a_regenerated_reply_is_a_branch_and_both_can_be_shown(store: Store) -> None:
    talk = store.new_conversation("t").id
    store.add_message(talk, "user", "U1")
    first = store.add_message(talk, "assistant", "A1")
    store.add_message(talk, "user", "U2")
    second = store.replace_from(talk, first.id, "assistant", "A1b")
    assert shown(store, talk) == ["U1", "A1b"]
    assert store.branches(talk) == {second.id: (first.id, second.id)}
    store.show_branch(talk, first.id)
    assert shown(store, talk) == ["U1", "A1", "U2"]
    assert store.branches(talk) == {first.id: (first.id, second.id)}


def test_a_branch_of_a_branch_comes_back_as_it_was_left(store: Store) -> None:
    talk = store.new_conversation("t").id
    u1 = store.add_message(talk, "user", "U1")
    a1 = store.add_message(talk, "assistant", "A1")
    a2 = store.replace_from(talk, a1.id, "assistant", "A2")
    store.replace_from(talk, a2.id, "assistant", "A3")
    store.show_branch(talk, a2.id)
    u2 = store.replace_from(talk, u1.id, "user", "other")
    assert shown(store, talk) == ["other"]
    store.show_branch(talk, u1.id)
    assert shown(store, talk) == ["U1", "A2"]
    store.show_branch(talk, u2.id)
    assert shown(store, talk) == ["other"]
    assert reachable(store, talk) == {"U1", "A1", "A2", "A3", "other"}


def test_a_turn_added_after_walking_to_a_branch_follows_that_branch(store: Store) -> None:
    talk = store.new_conversation("t").id
    store.add_message(talk, "user", "U1")
    a1 = store.add_message(talk, "assistant", "A1")
    store.replace_from(talk, a1.id, "assistant", "A2")
    store.show_branch(talk, a1.id)
    assert store.add_message(talk, "user", "U2").parent_id == a1.id
    assert shown(store, talk) == ["U1", "A1", "U2"]


def test_a_branch_that_the_disk_refuses_changes_nothing(store: Store) -> None:
    talk = store.new_conversation("t").id
    u1 = store.add_message(talk, "user", "U1")
    store._db.execute("CREATE TRIGGER refuse BEFORE INSERT ON message BEGIN SELECT RAISE(FAIL, 'disk is full'); END")
    with pytest.raises(DynoError, match="full"):
        store.replace_from(talk, u1.id, "user", "another")
    assert shown(store, talk) == ["U1"]
    assert store.branches(talk) == {}


OLD = {
    "straight": [("user", "U1", 0), ("assistant", "A1", 0), ("user", "U2", 0), ("assistant", "A2", 0)],
    "a reply regenerated twice": [("user", "U1", 0), ("assistant", "A1", 1), ("assistant", "A2", 1),
                                  ("assistant", "A3", 0)],
    "a prompt edited": [("user", "U1", 1), ("assistant", "A1", 1), ("user", "U2", 0), ("assistant", "A2", 0)],
    "all edited, edited again": [("user", "U1", 1), ("assistant", "A1", 1), ("user", "U2", 1), ("assistant", "A2", 1),
                                 ("assistant", "A3", 1), ("user", "U3", 0), ("assistant", "A4", 0)],
    "an early reply regenerated": [("user", "U1", 0), ("assistant", "A1", 1), ("user", "U2", 1), ("assistant", "A2", 1),
                                   ("assistant", "A3", 0), ("user", "U3", 0)],
    "prompts without a reply": [("user", "U1", 0), ("user", "U2", 1), ("user", "U3", 0)],
    "everything archived": [("user", "U1", 1), ("assistant", "A1", 1)],
}


@pytest.mark.parametrize("turns", OLD.values(), ids=list(OLD))
def test_an_old_database_opens_with_the_same_path_and_every_archived_turn_reachable(
        tmp_path: Path, turns: list[tuple[str, str, int]]) -> None:
    old_database(tmp_path / "db", [("user", "before", 0)], turns, [("assistant", "after", 1), ("user", "end", 0)])
    with closing(Store(tmp_path / "db")) as store:
        path = [text for _, text, archived in turns if not archived]
        assert shown(store, 2) == path
        assert shown(store, 1) == ["before"]
        if path:
            assert reachable(store, 2) == {text for _, text, _ in turns}
        rows = store._db.execute("SELECT id, conversation_id, parent_id FROM message").fetchall()
        where = {i: conversation for i, conversation, _ in rows}
        assert all(parent is None or (parent < i and where[parent] == conversation) for i, conversation, parent in rows)
        assert store.conversations()[0].system_prompt == "Be kind."
        assert store.messages(1)[0].meta == {"k": 1}
        assert store.add_message(1, "assistant", "new").parent_id == store.messages(1)[0].id


def test_an_upgraded_database_opens_again_and_an_upgrade_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    old_database(tmp_path / "db", OLD["a prompt edited"])
    with closing(sqlite3.connect(tmp_path / "db")) as db:
        db.execute("CREATE TABLE draft (something_else)")
        db.execute("CREATE TRIGGER refuse BEFORE UPDATE ON message BEGIN SELECT RAISE(FAIL, 'no'); END")
        db.commit()
    with pytest.raises(DynoError, match="cannot be opened"):
        Store(tmp_path / "db")
    with closing(sqlite3.connect(tmp_path / "db")) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert "parent_id" not in str(db.execute("SELECT sql FROM sqlite_master WHERE name = 'message'").fetchone())
        db.executescript("DROP TRIGGER refuse; DROP TABLE draft")
    for _ in range(2):
        with closing(Store(tmp_path / "db")) as store:
            assert reachable(store) == {"U1", "A1", "U2", "A2"}


def test_a_database_of_a_newer_app_is_left_alone(tmp_path: Path) -> None:
    Store(tmp_path / "db").close()
    with closing(sqlite3.connect(tmp_path / "db")) as db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(DynoError, match="newer"):
        Store(tmp_path / "db")


def test_drafts_are_kept_for_each_conversation_and_go_with_it(store: Store, tmp_path: Path) -> None:
    talk = store.new_conversation("t").id
    store.save_draft(talk, {"text": "grüße"})
    store.save_draft(NEW_CHAT, {"text": "new"})
    assert (store.draft(talk), store.draft(NEW_CHAT)) == ({"text": "grüße"}, {"text": "new"})
    store.save_draft(NEW_CHAT, {})
    assert store.draft(NEW_CHAT) == {}
    store._db.execute("DELETE FROM conversation")
    with closing(Store(tmp_path / "db")) as again:
        assert again.draft(talk) == {}


def test_a_search_finds_what_stands_in_another_branch(store: Store) -> None:
    one = store.new_conversation("First")
    asked = store.add_message(one.id, "user", "about walruses")
    store.replace_from(one.id, asked.id, "user", "about seals")
    store.add_message(store.new_conversation("Second").id, "user", "about nothing")
    assert [c.title for c in store.conversations("walrus")] == ["First"]
    assert [c.title for c in store.conversations("seals")] == ["First"]
