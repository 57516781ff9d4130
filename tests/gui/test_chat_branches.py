"""Branches one can walk, drafts that outlive the window, stop strings, the budget of the context."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QAbstractButton,
    QApplication,
    QComboBox,
    QPlainTextEdit,
    QPushButton,
    QTextBrowser,
    QToolButton,
)
from pytestqt.qtbot import QtBot

from engine.paths import bundled_model
from engine.scenarios import read_scenarios
from gui.app import Application
from gui.chat.message_view import MessageView
from gui.chat.page import ChatPage
from gui.chat.reply_view import ReplyView
from gui.chat.sampling_popover import parse_stop
from gui.chat.welcome import read_suggestions, welcome_for
from tests.gui.conftest import end_application, start_application, until

TEMPLATE = ("{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>{% endfor %}"
            "{% if add_generation_prompt %}<s>assistant\n{% endif %}")


@pytest.fixture
def chat_folder(llama_folder: Path, tmp_path: Path) -> Path:
    """The tiny Llama with a chat template."""
    folder = Path(shutil.copytree(llama_folder, tmp_path / "tiny-chat"))
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return folder


@pytest.fixture
def chat(application: Application) -> ChatPage:
    page = application.window.pages["chat"]
    assert isinstance(page, ChatPage)
    return page


def ask(chat: ChatPage, qapp: QApplication, text: str) -> ReplyView:
    chat.composer.field.setPlainText(text)
    chat.composer.field.submitted.emit()
    until(qapp, lambda: chat._reply is None, "the reply")
    view = chat.transcript.views()[-1]
    assert isinstance(view, ReplyView)
    return view


def button(view: MessageView, name: str) -> QToolButton:
    return next(b for b in view.findChildren(QToolButton) if b.accessibleName() == name)


def texts(chat: ChatPage) -> list[str]:
    return [m.text for m in chat._thread.messages]


def test_regenerated_replies_are_walked_by_arrows_and_keys(chat: ChatPage, qapp: QApplication, qtbot: QtBot) -> None:
    written = [ask(chat, qapp, "The boat came home").text]
    for _ in range(2):
        button(chat.transcript.views()[-1], "Regenerate").click()
        until(qapp, lambda: chat._reply is None, "another reply")
        written.append(chat.transcript.views()[-1].text)
    reply = chat.transcript.views()[-1]
    assert reply._branches.text() == "3/3"
    assert not button(reply, "Branch after (Alt+Right)").isEnabled()
    button(reply, "Branch before (Alt+Left)").click()
    assert texts(chat)[-1] == chat.transcript.views()[-1].text == written[1]
    chat.transcript.views()[-1]._runs[0][0].setFocus()
    qtbot.keyClick(chat.transcript.views()[-1]._runs[0][0], Qt.Key.Key_Left, Qt.KeyboardModifier.AltModifier)
    assert (texts(chat)[-1], chat.transcript.views()[-1]._branches.text()) == (written[0], "1/3")
    qtbot.keyClick(chat.transcript.views()[-1], Qt.Key.Key_Left, Qt.KeyboardModifier.AltModifier)
    assert texts(chat)[-1] == written[0], "there is nothing before the first"


def test_an_edited_prompt_keeps_its_old_branch_with_all_that_followed(chat: ChatPage, qapp: QApplication) -> None:
    ask(chat, qapp, "One")
    ask(chat, qapp, "Two")
    before = texts(chat)
    button(chat.transcript.views()[0], "Edit and send again").click()
    ask(chat, qapp, "Other")
    assert texts(chat)[0] == "Other" and len(texts(chat)) == 2
    button(chat.transcript.views()[0], "Branch before (Alt+Left)").click()
    assert texts(chat) == before
    button(chat.transcript.views()[0], "Branch after (Alt+Right)").click()
    assert texts(chat)[0] == "Other"
    chat.open(chat._conversation.id)
    assert chat.transcript.views()[0]._branches.text() == "2/2"


def test_walking_waits_for_the_reply(chat: ChatPage, application: Application, qapp: QApplication,
                                     gate: threading.Event) -> None:
    gate.set()
    ask(chat, qapp, "One")
    button(chat.transcript.views()[0], "Edit and send again").click()
    ask(chat, qapp, "Other")
    gate.clear()
    application.settings.set("sampling/max_tokens", 200)
    button(chat.transcript.views()[-1], "Regenerate").click()
    button(chat.transcript.views()[0], "Branch before (Alt+Left)").click()
    assert texts(chat)[0] == "Other"
    assert "Stop the reply" in chat.notice.text()
    gate.set()
    until(qapp, lambda: chat._reply is None, "the reply")


def restart(qapp: QApplication, application: Application, data: Path, model: Path,
            check: Callable[[ChatPage], None]) -> None:
    application.stop()
    again = start_application(qapp, data, model)
    try:
        page = again.window.pages["chat"]
        assert isinstance(page, ChatPage)
        check(page)
    finally:
        end_application(qapp, again)


def test_drafts_stay_with_their_conversation_and_come_back_after_a_restart(
        chat: ChatPage, application: Application, qapp: QApplication, tmp_path: Path, llama_folder: Path) -> None:
    ask(chat, qapp, "One")
    first = chat._conversation.id
    chat.composer.field.setPlainText("a thought about one")
    chat.new_chat()
    assert chat.composer.field.toPlainText() == ""
    chat.composer.scenarios.choose("translate", {"language": "Welsh"})
    chat.composer.field.setPlainText("something new")
    chat.open(first)
    assert (chat.composer.field.toPlainText(), chat.composer.way.scenario.key) == ("a thought about one", "chat")

    def check(page: ChatPage) -> None:
        assert page.composer.field.toPlainText() == "a thought about one"
        page.new_chat()
        assert page.composer.field.toPlainText() == "something new"
        assert page.composer.way.values == {"language": "Welsh"}

    restart(qapp, application, tmp_path, llama_folder, check)


def test_an_edit_that_was_not_sent_comes_back_with_the_draft_beside_it(
        chat: ChatPage, application: Application, qapp: QApplication, tmp_path: Path, llama_folder: Path) -> None:
    ask(chat, qapp, "The first wording")
    chat.composer.field.setPlainText("a draft")
    button(chat.transcript.views()[0], "Edit and send again").click()
    chat.composer.field.setPlainText("The first wording, better")

    def check(page: ChatPage) -> None:
        assert page.composer.field.toPlainText() == "The first wording, better"
        assert page._edit_strip.isVisible()
        page._edit_strip._close.click()
        assert page.composer.field.toPlainText() == "a draft"

    restart(qapp, application, tmp_path, llama_folder, check)


def test_a_sent_message_leaves_no_draft(chat: ChatPage, application: Application, qapp: QApplication, tmp_path: Path,
                                        llama_folder: Path) -> None:
    chat.composer.field.setPlainText("half a")
    chat._drafts.save()
    ask(chat, qapp, "half a thought")
    assert chat._store._db.execute("SELECT count(*) FROM draft").fetchone() == (0,)
    restart(qapp, application, tmp_path, llama_folder, lambda page: None)


def test_a_file_in_a_draft_is_read_again_and_a_lost_one_is_said(chat: ChatPage, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("boats and gulls", encoding="utf-8")
    chat.composer.add_file(str(path))
    chat.composer.field.setPlainText("shorten this")
    state = chat.composer.state()
    chat.composer.set_state({})
    assert chat.composer.text == ""
    chat.composer.set_state(state)
    assert chat.composer.text == "shorten this\n\nboats and gulls"
    path.unlink()
    chat.composer.set_state(state)
    assert chat.composer.text == "shorten this"
    assert "notes.txt cannot be read" in chat.notice.text()


@pytest.mark.parametrize(("raw", "said"), [(b"\x89PNG\x00\x01", "not a text file"), (b"", "is empty"),
                                           (b"\xff\xfe\x00", "not a text file"), (b" \n", "is empty")])
def test_what_is_no_text_is_refused_in_a_sentence(chat: ChatPage, tmp_path: Path, raw: bytes, said: str) -> None:
    (tmp_path / "odd.bin").write_bytes(raw)
    chat.composer.add_file(str(tmp_path / "odd.bin"))
    assert said in chat.notice.text()
    assert not chat.composer.attachment.text


def test_stop_strings_end_a_reply_and_are_remembered(chat: ChatPage, application: Application,
                                                     qapp: QApplication) -> None:
    application.settings.set("sampling/seed", "7")
    whole = ask(chat, qapp, "The boat came home").text
    mark = whole[len(whole) // 2:][:3]
    chat._sampling._stop.setPlainText(f"never written\n{mark}".replace("\n" + mark, "\n" + escaped(mark)))
    chat.new_chat()
    cut = ask(chat, qapp, "The boat came home")
    assert cut.text == whole[:whole.index(mark)]
    assert "stop string" in cut._foot.text()
    assert application.settings.get("sampling/stop", "").startswith("never written")
    chat._sampling._reset()
    assert chat._sampling.stop() == ()


def escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")


def test_stop_strings_are_one_a_line_with_escapes() -> None:
    assert parse_stop("User:\n\n\\n\\n\nUser:\na\\\\n \n") == ("User:", "\n\n", "a\\n ")


def test_the_meter_shows_what_the_next_reply_would_take_and_grows_with_it(
        qapp: QApplication, tmp_path: Path, chat_folder: Path) -> None:
    application = start_application(qapp, tmp_path, chat_folder)
    try:
        chat = application.window.pages["chat"]
        until(qapp, lambda: chat._model is not None and chat.composer.meter.isVisible(), "the meter")
        chat.composer.field.setPlainText("boats and gulls")
        until(qapp, lambda: chat.composer.meter._label.text() not in ("", "0 / 256"), "a count")
        asked = int(chat.composer.meter._label.text().split(" / ")[0])
        reply = ask(chat, qapp, "boats and gulls")
        stats = reply.to_meta(None)
        assert asked == chat._thread.message(reply).meta["stats"]["prompt_tokens"], stats
        until(qapp, lambda: int(chat.composer.meter._label.text().split(" / ")[0]) > asked, "the new turn")
        chat.composer.field.setPlainText("boats " * 300)
        until(qapp, lambda: "does not fit" in chat.composer.meter.text(), "the warning")
        assert chat.composer.meter._label.text().endswith("too long"), "colour is not the only sign"
        written, stored = chat.composer.text, len(chat._store.messages(chat._conversation.id))
        chat._send_composed(written)
        assert "does not fit" in chat.notice.text() and chat.composer.text == written
        assert len(chat._store.messages(chat._conversation.id)) == stored, "what cannot be read stays in the composer"
        chat.composer.scenarios.choose("summarise", {})
        until(qapp, lambda: not chat.composer.meter.isVisible(), "no meter for texts of any length")
    finally:
        end_application(qapp, application)


def test_turns_that_no_longer_fit_are_marked_in_the_transcript_and_again_after_a_restart(
        qapp: QApplication, tmp_path: Path, chat_folder: Path) -> None:
    application = start_application(qapp, tmp_path, chat_folder)
    chat = application.window.pages["chat"]
    until(qapp, lambda: chat._model is not None, "the model")
    for _ in range(9):
        ask(chat, qapp, "boats and gulls " * 6)
        if chat.transcript._mark is not None:
            break
    place = chat.transcript._turns.indexOf(chat.transcript._mark)
    above = [v for v in chat.transcript.views() if chat.transcript._turns.indexOf(v) < place]
    assert len(above) >= 2 and len(above) % 2 == 0

    def check(page: ChatPage) -> None:
        assert page.transcript._mark is not None
        assert page.transcript._turns.indexOf(page.transcript._mark) == place

    restart(qapp, application, tmp_path, chat_folder, check)
    end_application(qapp, application)


def test_a_suggestion_that_cannot_be_sent_now_never_takes_the_place_of_a_draft(
        chat: ChatPage, qapp: QApplication, gate: threading.Event) -> None:
    chat._context.settings.set("sampling/max_tokens", 200)
    chat.send("The boat came home")
    until(qapp, lambda: chat._reply is not None and chat._reply.view.text, "some text")
    chat.new_chat()
    chat.composer.field.setPlainText("mine")
    chat.transcript.suggestion_chosen.emit("theirs")
    assert chat.composer.text == "mine"
    chat.composer.clear()
    chat.transcript.suggestion_chosen.emit("theirs")
    assert chat.composer.text == "theirs" and chat._conversation is None
    gate.set()
    until(qapp, lambda: chat._reply is None, "the reply")


def test_every_control_of_the_chat_has_a_name_and_the_keyboard_reaches_it(chat: ChatPage, qapp: QApplication) -> None:
    ask(chat, qapp, "The boat came home")
    button(chat.transcript.views()[-1], "Regenerate").click()
    until(qapp, lambda: chat._reply is None, "the second reply")
    chat.composer.scenarios.choose("translate", {})
    kinds = (QAbstractButton, QComboBox, QPlainTextEdit, QTextBrowser)
    controls = [w for kind in kinds for w in chat.findChildren(kind) if w.isVisibleTo(chat)]
    assert len(controls) > 12
    for control in controls:
        name = control.accessibleName() or (control.text() if isinstance(control, QAbstractButton) else "")
        assert name, f"{control} has no name"
        assert control.focusPolicy() & Qt.FocusPolicy.TabFocus, f"{name} is out of the keyboard's reach"


def test_a_scenario_proposes_its_own_examples_and_what_is_clicked_is_for_it(chat: ChatPage, qapp: QApplication) -> None:
    chat.composer.scenarios.choose("summarise", {})
    example = next(s for s in read_scenarios()[0] if s.key == "summarise").examples[0]
    next(b for b in chat.transcript.findChildren(QPushButton) if b.accessibleName() == example).click()
    until(qapp, lambda: chat._conversation is not None and chat._reply is None, "the summary")
    assert chat._conversation is not None
    asked = chat._store.messages(chat._conversation.id)[0]
    assert asked.text == example
    assert asked.meta["scenario"] == "summarise"


def test_suggestions_come_with_the_model_and_broken_ones_do_no_harm(tmp_path: Path) -> None:
    own = read_suggestions(bundled_model())
    chat = next(scenario for scenario in read_scenarios()[0] if scenario.key == "chat")
    assert welcome_for(None, chat).suggestions == own.suggestions
    assert 3 <= len(own.suggestions) <= 4
    for raw in ("{", "[]", '{"suggestions": 3}', '{"suggestions": [1, ""]}'):
        (tmp_path / "suggestions.json").write_text(raw, encoding="utf-8")
        assert read_suggestions(tmp_path).suggestions == ()
    (tmp_path / "suggestions.json").write_text('{"suggestions": ["a\\nb", "' + "x" * 300 + '", "c", "d", "e", "f"]}')
    assert read_suggestions(tmp_path).suggestions == ("a b", "c", "d", "e")
