"""The chat page over a real engine thread and a tiny model."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QApplication, QFileDialog, QToolButton

from engine.errors import DynoError
from engine.messages import ApplyRecipe
from engine.recipe import parse_recipe
from gui.app import Application
from gui.chat.message_view import PromptView
from gui.chat.page import ChatPage
from gui.chat.reply_view import ReplyView
from gui.chat.text_view import TextView, align
from tests.gui.conftest import end_application, start_application, until


@pytest.fixture
def chat(application: Application, qapp: QApplication) -> ChatPage:
    page = application.window.pages["chat"]
    assert isinstance(page, ChatPage)
    return page


def ask(chat: ChatPage, qapp: QApplication, text: str = "The boat came home") -> ReplyView:
    """Send a prompt and wait for the whole reply."""
    chat.composer.field.setPlainText(text)
    chat.composer.field.submitted.emit()
    until(qapp, lambda: chat._reply is None, "the reply")
    return replies(chat)[-1]


def replies(chat: ChatPage) -> list[ReplyView]:
    return [view for view in chat.transcript.views() if isinstance(view, ReplyView)]


def press(view: object, name: str) -> None:
    """Click the button of that accessible name."""
    buttons = [b for b in view.findChildren(QToolButton) if b.accessibleName() == name]  # type: ignore[attr-defined]
    assert buttons, f"no button {name!r}"
    buttons[0].click()


def test_a_prompt_typed_while_the_model_loads_is_answered(chat: ChatPage, qapp: QApplication) -> None:
    assert chat._model is None
    reply = ask(chat, qapp)
    assert reply.text
    assert "tok/s" in reply._foot.text()


def test_prompt_and_reply_are_stored_and_shown_again_at_the_next_start(
        chat: ChatPage, application: Application, qapp: QApplication, tmp_path: Path, llama_folder: Path) -> None:
    written = ask(chat, qapp).text
    application.stop()
    again = start_application(qapp, tmp_path, llama_folder)
    try:
        page = again.window.pages["chat"]
        assert [type(v) for v in page.transcript.views()] == [PromptView, ReplyView]
        assert replies(page)[0].text == written
        assert "tok/s" in replies(page)[0]._foot.text()
    finally:
        end_application(qapp, again)


def test_stop_keeps_what_was_written(chat: ChatPage, application: Application, qapp: QApplication,
                                     gate: threading.Event) -> None:
    application.settings.set("sampling/max_tokens", 200)
    chat.send("The boat came home")
    until(qapp, lambda: chat._reply is not None and len(chat._reply.view.text) > 20, "some text")
    chat.stop()
    gate.set()
    until(qapp, lambda: chat._reply is None, "the stop")
    stored = chat._store.messages(chat._conversation.id)[-1]
    assert stored.state == "stopped"
    assert stored.text == replies(chat)[-1].text != ""


def test_a_switch_in_mid_reply_draws_a_line_and_the_reply_goes_on(
        chat: ChatPage, application: Application, qapp: QApplication, gate: threading.Event) -> None:
    application.settings.set("sampling/max_tokens", 230)
    chat.send("The boat")
    until(qapp, lambda: chat._reply is not None and len(chat._reply.view.text) > 10, "some text")
    application.bridge.submit(ApplyRecipe(parse_recipe("int8")))
    gate.set()
    until(qapp, lambda: chat._reply is None, "the end of the reply")
    reply = replies(chat)[-1]
    assert len(reply._switches) == 1
    assert "fp32 → int8" in reply._switches[0]
    assert all(reply._texts)
    assert "int8" in reply._foot.text()


def test_regenerating_archives_the_old_reply_and_writes_another(chat: ChatPage, qapp: QApplication) -> None:
    first = ask(chat, qapp)
    press(first, "Regenerate")
    until(qapp, lambda: chat._reply is None, "the second reply")
    assert len(replies(chat)) == 1
    rows = chat._store._db.execute("SELECT archived FROM message ORDER BY id").fetchall()
    assert rows == [(0,), (1,), (0,)]


def test_editing_replaces_a_prompt_only_when_the_new_one_is_sent(chat: ChatPage, qapp: QApplication) -> None:
    ask(chat, qapp, "The first wording")
    press(chat.transcript.views()[0], "Edit and send again")
    assert chat.composer.field.toPlainText() == "The first wording"
    assert next(m.text for m in chat._store.messages(chat._conversation.id)) == "The first wording"
    ask(chat, qapp, "The second wording")
    assert next(m.text for m in chat._store.messages(chat._conversation.id)) == "The second wording"
    assert len(chat.transcript.views()) == 2


def test_a_reply_goes_on_while_another_conversation_is_open(
        chat: ChatPage, application: Application, qapp: QApplication, gate: threading.Event) -> None:
    application.settings.set("sampling/max_tokens", 150)
    chat.send("The boat came home")
    until(qapp, lambda: chat._reply is not None and chat._reply.view.text, "some text")
    first = chat._conversation.id
    chat.new_chat()
    gate.set()
    until(qapp, lambda: chat._reply is None, "the end of the hidden reply")
    assert chat._store.messages(first)[-1].state == "complete"
    chat.open(first)
    assert replies(chat)[0].text == chat._store.messages(first)[-1].text


def test_search_finds_text_inside_messages(chat: ChatPage, qapp: QApplication) -> None:
    ask(chat, qapp, "A needle in the hay")
    chat.new_chat()
    ask(chat, qapp, "Something else")
    chat.list.search.setText("needle")
    chat.list.refresh()
    assert [chat.list._list.item(i).text() for i in range(chat.list._list.count())] == ["A needle in the hay"]


def test_deleting_a_conversation_can_be_undone(chat: ChatPage, qapp: QApplication) -> None:
    ask(chat, qapp, "Keep me")
    chat.list._delete_current()
    assert chat._store.conversations() == []
    chat.notice._action.click()
    assert [c.title for c in chat._store.conversations()] == ["Keep me"]
    assert len(chat.transcript.views()) == 2


def test_renaming_is_stored(chat: ChatPage, qapp: QApplication) -> None:
    ask(chat, qapp, "Old name")
    chat.list._list.currentItem().setText("New name")
    assert chat._store.conversations()[0].title == "New name"


@pytest.mark.parametrize("suffix", [".md", ".json"])
def test_export_writes_the_whole_conversation(chat: ChatPage, qapp: QApplication, tmp_path: Path, suffix: str,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    reply = ask(chat, qapp, "Grüße 🚢")
    target = tmp_path / f"chat{suffix}"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(target), ""))
    chat.export()
    text = target.read_bytes().decode()  # read_text would change a carriage return that the model wrote
    if suffix == ".json":
        turns = json.loads(text)["messages"]
        assert [t["content"] for t in turns] == ["Grüße 🚢", reply.text]
    else:
        assert "Grüße 🚢" in text
        assert reply.text in text


def test_a_prompt_longer_than_the_context_says_so_and_loses_nothing(chat: ChatPage, qapp: QApplication) -> None:
    long = "boats and gulls " * 400
    reply = ask(chat, qapp, long)
    assert "context" in reply.notice.text()
    assert chat._store.messages(chat._conversation.id)[0].text == long.strip()
    assert ask(chat, qapp, "short") is not reply


def test_an_empty_prompt_is_not_sent(chat: ChatPage) -> None:
    chat.composer.field.setPlainText("   \n ")
    chat.composer.field.submitted.emit()
    assert chat._conversation is None
    assert not chat.composer._send.isEnabled()


def test_a_full_disk_keeps_the_prompt_in_the_composer(chat: ChatPage, qapp: QApplication,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    ask(chat, qapp, "first")
    db = chat._store._db
    db.execute(f"PRAGMA max_page_count={db.execute('PRAGMA page_count').fetchone()[0]}")
    chat.composer.field.setPlainText("too much " * 5000)
    chat.composer.field.submitted.emit()
    assert "disk is full" in chat.notice.text()
    assert chat.composer.field.toPlainText().startswith("too much")
    db.execute("PRAGMA max_page_count=1073741823")
    assert ask(chat, qapp, "it fits again").text


def test_a_reply_that_the_disk_refuses_is_saved_when_there_is_room_again(
        chat: ChatPage, application: Application, qapp: QApplication, gate: threading.Event) -> None:
    application.settings.set("sampling/max_tokens", 200)
    chat.send("The boat came home")
    until(qapp, lambda: chat._reply is not None and chat._reply.view.text, "some text")
    db, message_id = chat._store._db, chat._reply.message_id
    db.execute("CREATE TRIGGER refuse BEFORE UPDATE OF text ON message BEGIN SELECT RAISE(FAIL, 'disk is full'); END")
    gate.set()
    until(qapp, lambda: chat._reply is None, "the end of the reply")
    assert "disk is full" in chat.notice.text()
    text, conversation_id = replies(chat)[-1].text, chat._conversation.id
    chat.new_chat()
    chat.open(conversation_id)
    assert replies(chat)[-1].text == text != ""
    db.execute("DROP TRIGGER refuse")
    chat._unsaved.save_again()
    assert db.execute("SELECT text, state FROM message WHERE id = ?", (message_id,)).fetchone() == (text, "complete")


def test_cancelling_an_edit_brings_the_draft_back_and_changes_nothing(chat: ChatPage, qapp: QApplication) -> None:
    ask(chat, qapp, "The first wording")
    chat.composer.field.setPlainText("a draft")
    press(chat.transcript.views()[0], "Edit and send again")
    chat._edit_strip._close.click()
    assert chat.composer.field.toPlainText() == "a draft"
    ask(chat, qapp, "Something new")
    assert [m.text for m in chat._store.messages(chat._conversation.id) if m.role == "user"] == [
        "The first wording", "Something new"]


def test_a_bad_model_folder_shows_a_sentence_and_the_old_model_goes_on(
        chat: ChatPage, application: Application, qapp: QApplication, tmp_path: Path) -> None:
    until(qapp, lambda: chat._model is not None, "the model")
    bad = tmp_path / "nothing"
    bad.mkdir()
    application.window.load_model(str(bad))
    until(qapp, lambda: application.window.notice.isVisible(), "the notice")
    assert "There is no model in" in application.window.notice.text()
    assert ask(chat, qapp).text


def test_hovering_a_token_tells_its_probability_and_the_likeliest_ones(chat: ChatPage, qapp: QApplication) -> None:
    reply = ask(chat, qapp)
    view = reply.findChildren(TextView)[0]
    tip = view.token_tip(0)
    assert "% likely" in tip
    assert tip.count("<tr>") == 5


def test_tokens_are_found_in_the_shown_text_behind_markdown_marks() -> None:
    shown = "Bold and code 🚢 end"
    pieces = ["**Bo", "ld**", " and ", "`code`", " 🚢", " end"]
    spans = align(shown, pieces)
    utf16 = shown.encode("utf-16-le")
    texts = [utf16[2 * a:2 * b].decode("utf-16-le").strip() for a, b in spans]
    assert texts == ["Bo", "ld", "and", "code", "🚢", "end"]


def test_code_is_highlighted_and_copied_by_its_button(chat: ChatPage, qapp: QApplication) -> None:
    view = TextView(markdown=True, parent=chat)
    view.resize(400, 100)
    view.set_text("Look:\n\n```python\ndef f(x):\n    return 'é🚢'\n```\n\nDone.")
    view.show()
    button = view.findChildren(QToolButton)[0]
    button.click()
    assert QGuiApplication.clipboard().text() == "def f(x):\n    return 'é🚢'"
    colours = {f.format.foreground().color().name() for b in _blocks(view) for f in b.textFormats()}
    assert len(colours) > 2
    assert "<b>" in view_text(chat, "Not <b>bold</b>")


def _blocks(view: TextView) -> list:
    blocks, block = [], view.document().begin()
    while block.isValid():
        blocks.append(block)
        block = block.next()
    return blocks


def view_text(parent: ChatPage, text: str) -> str:
    view = TextView(markdown=True, parent=parent)
    view.set_text(text)
    return view.toPlainText()


def test_the_system_prompt_reaches_the_store(chat: ChatPage, qapp: QApplication) -> None:
    chat._set_system_prompt("Be brief.")
    ask(chat, qapp)
    assert chat._store.conversations()[0].system_prompt == "Be brief."
    chat._set_system_prompt("Be long.")
    assert chat._store.conversations()[0].system_prompt == "Be long."


def test_enter_sends_and_shift_enter_breaks_the_line(chat: ChatPage, qtbot) -> None:
    sent: list[str] = []
    chat.composer.sent.disconnect()
    chat.composer.sent.connect(sent.append)
    qtbot.keyClicks(chat.composer.field, "one")
    qtbot.keyClick(chat.composer.field, Qt.Key.Key_Return, Qt.KeyboardModifier.ShiftModifier)
    qtbot.keyClicks(chat.composer.field, "two")
    qtbot.keyClick(chat.composer.field, Qt.Key.Key_Return)
    assert sent == ["one\ntwo"]


def test_the_store_says_so_when_it_cannot_be_opened(tmp_path: Path) -> None:
    from engine.storage import Store

    (tmp_path / "db").write_bytes(b"this is not a database" * 100)
    with pytest.raises(DynoError, match="cannot be opened"):
        Store(tmp_path / "db")
