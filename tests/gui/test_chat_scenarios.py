"""Scenarios in the chat page: what is asked, how it is shown, and what is said where a model cannot do it."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import QPoint, QPointF, Qt
from PySide6.QtGui import QColor, QImage, QWheelEvent
from PySide6.QtWidgets import QApplication, QFileDialog
from pytestqt.qtbot import QtBot

from engine.messages import Generate, GenerationStats, PartBegun, TokenPiece, WorkOnText
from engine.scenarios import read_scenarios
from engine.storage import Message
from engine.triples import parse_triples
from gui.app import Application
from gui.chat.message_view import PromptView
from gui.chat.page import ChatPage
from gui.chat.reply_view import ReplyView
from gui.chat.results.graph import make
from gui.chat.results.layout import place
from gui.chat.turns import Turn, Way, command, turns_of
from gui.theme import theme
from tests.conftest import LLAMA, TEXT, write_model
from tests.gui.conftest import end_application, start_application, until
from tests.gui.test_chat_branches import TEMPLATE, ask, button

SCENARIOS = {scenario.key: scenario for scenario in read_scenarios()[0]}
FACTS = "Ada | knew | Babbage\nBabbage | designed | the engine\nAda | wrote about | the engine\nAda | admired | Ada"


@pytest.fixture
def chat(application: Application, qapp: QApplication) -> ChatPage:
    """The page over a base model."""
    page = application.window.pages["chat"]
    assert isinstance(page, ChatPage)
    until(qapp, lambda: page._model is not None, "the model")
    return page


@pytest.fixture
def instruct(qapp: QApplication, tmp_path: Path) -> Iterator[ChatPage]:
    """The page over a model with a chat template and room for instructions."""
    folder = write_model(tmp_path / "tiny-chat", LLAMA | {"max_position_embeddings": 1024})
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    application = start_application(qapp, tmp_path, folder)
    page = application.window.pages["chat"]
    assert isinstance(page, ChatPage)
    until(qapp, lambda: page._model is not None, "the model")
    yield page
    end_application(qapp, application)


def test_a_base_model_continues_a_text_as_it_stands_and_refuses_the_rest_in_a_sentence(
        chat: ChatPage, qapp: QApplication) -> None:
    chat.composer.scenarios.choose("translate", {})
    chat.composer.field.setPlainText("The wind")
    assert "no chat template" in chat.composer.scenarios._note.text()
    assert not chat.composer._send.isEnabled()
    chat.composer.field.submitted.emit()
    assert chat._conversation is None and chat.composer.field.toPlainText() == "The wind"
    chat.composer.scenarios.choose("continue", {})
    assert chat.composer.scenarios._note.text() == ""
    reply = ask(chat, qapp, "The wind")
    assert reply.text and f"{chat._model.name}  ·  fp32" in reply._foot.text()
    chat.composer.scenarios.choose("chat", {})
    assert "sees neither the turns before it" in chat.composer.scenarios._note.text()
    assert chat.composer.scenarios.problem == ""  # it may be asked all the same
    assert chat._thread.message(reply).meta["stats"]["prompt_tokens"] == len("x") + _tokens(chat, "The wind")


def _tokens(chat: ChatPage, text: str) -> int:
    from engine.models.tokenizer import Tokenizer

    return len(Tokenizer.from_folder(Path(chat._model.folder)).encode(text, special_tokens=False))


def test_a_small_model_may_try_and_is_doubted(instruct: ChatPage, qapp: QApplication) -> None:
    instruct.composer.scenarios.choose("graph", {})
    assert "expect little" in instruct.composer.scenarios._note.text()
    assert "500 M" in instruct.composer.scenarios._note.text()
    reply = ask(instruct, qapp, "Ada knew Babbage.")
    assert "no triples that can be read" in reply._result.notice.text()
    assert reply._runs[0][0].isVisibleTo(reply) is bool(reply.text), "what it wrote stays to be read"
    instruct.open(instruct._conversation.id)
    shown = instruct.transcript.views()
    assert isinstance(shown[0], PromptView) and "Knowledge graph" in shown[0]._who.text()
    assert "no triples" in shown[1]._result.notice.text()


def test_a_context_that_the_instructions_fill_is_said_and_the_text_stays(
        qapp: QApplication, tmp_path: Path, llama_folder: Path) -> None:
    folder = Path(shutil.copytree(llama_folder, tmp_path / "short-chat"))
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    application = start_application(qapp, tmp_path, folder)
    try:
        chat = application.window.pages["chat"]
        until(qapp, lambda: chat._model is not None, "the model")
        chat.composer.scenarios.choose("graph", {})
        reply = ask(chat, qapp, "Ada knew Babbage.")
        assert "too short for this" in reply.notice.text()
        assert chat._store.messages(chat._conversation.id)[0].text == "Ada knew Babbage."
    finally:
        end_application(qapp, application)


def test_a_long_text_from_a_file_is_summarised_in_parts_and_looks_the_same_again(
        instruct: ChatPage, qapp: QApplication, tmp_path: Path) -> None:
    (tmp_path / "boats.txt").write_text(TEXT * 4, encoding="utf-8")
    instruct.composer.scenarios.choose("summarise", {"length": "one sentence"})
    instruct.composer.add_file(str(tmp_path / "boats.txt"))
    instruct.composer.field.submitted.emit()
    until(qapp, lambda: instruct._reply is None, "the summary")
    prompt, reply = instruct.transcript.views()
    assert not instruct.composer.attachment.text
    assert "boats.txt" in prompt._who.text() and "one sentence" in prompt._who.text()
    assert len(prompt._view.toPlainText()) < 1300 < len(TEXT * 4)
    prompt._fold.click()
    assert prompt._view.toPlainText().strip() == (TEXT * 4).strip()
    notes, text = reply._notes, reply.text
    assert notes and text and reply._switches == []
    instruct.open(instruct._conversation.id)
    again = instruct.transcript.views()[1]
    assert (again._notes, again.text) == (notes, text)
    again._notes_view.unfold()
    assert again._notes_view.shown_text
    button(instruct.transcript.views()[0], "Edit and send again").click()
    assert instruct.composer.attachment.name == "boats.txt"
    assert instruct.composer.way.values == {"length": "one sentence"}
    assert instruct.composer.text == (TEXT * 4).strip()


def test_a_translation_in_parts_stands_in_one_reply_with_a_line_for_each_part(
        instruct: ChatPage, qapp: QApplication) -> None:
    instruct.composer.scenarios.choose("translate", {"language": "Welsh"})
    reply = ask(instruct, qapp, TEXT * 4)
    parts = len(reply._switches)
    assert parts > 2 and reply._switches[0] == f"Part 1 of {parts}"
    assert reply._notes == ""
    text, lines = reply.text, list(reply._switches)
    instruct.open(instruct._conversation.id)
    again = instruct.transcript.views()[1]
    assert (again.text, again._switches, again._segments) == (text, lines, reply._segments)


def test_what_is_asked_follows_from_the_scenario() -> None:
    from engine.messages import Sampling

    turns, sampling = [Turn("user", "hi", 1)], Sampling(seed=4)
    plain = command(1, Way(SCENARIOS["chat"], {}), turns, "hi", "Be kind.", sampling, ("X",))
    assert isinstance(plain, Generate)
    assert [m.content for m in plain.messages] == ["Be kind.", "hi"] and plain.stop == ("X",)
    going_on = command(1, Way(SCENARIOS["continue"], {}), turns, "The wind ", "", sampling, ())
    assert isinstance(going_on, Generate) and going_on.prompt == "The wind "
    work = command(1, Way(SCENARIOS["translate"], {"language": "Welsh"}), turns, "Boats.", "", sampling, ())
    assert isinstance(work, WorkOnText)
    assert "into Welsh" in work.prompt and work.text == "Boats." and work.combine == ""
    assert (work.sampling.temperature, work.sampling.seed) == (0.2, 4)


def test_later_turns_see_what_the_model_was_really_asked() -> None:
    messages = [Message(1, 1, "user", "Boats.", "complete", 0.0,
                        {"scenario": "translate", "values": {"language": "Welsh"}}),
                Message(2, 1, "assistant", "Cychod.", "complete", 0.0),
                Message(3, 1, "user", "And ships?", "complete", 0.0),
                Message(4, 1, "user", "Boats too.", "complete", 0.0),
                Message(5, 1, "assistant", "half a thought", "stopped", 0.0, {"reasons_first": True})]
    turns = turns_of(messages, SCENARIOS)
    assert [(t.role, t.first) for t in turns] == [("user", 1), ("assistant", 2), ("user", 3)]
    assert "into Welsh" in turns[0].content and turns[0].content.endswith("Boats.")
    assert turns[2].content == "And ships?\n\nBoats too."


# ------------------------------------------------------------------------------------------------------- reasoning


def pieces(*texts: str) -> list[TokenPiece]:
    return [TokenPiece(text, i, 0.5, ((text, 0.5),)) for i, text in enumerate(texts)]


@pytest.fixture
def reply(themed: None, qtbot: QtBot) -> ReplyView:
    view = ReplyView()
    qtbot.addWidget(view)
    view.resize(500, 300)
    view.show()
    return view


def test_reasoning_is_folded_while_it_is_written_and_never_shown_as_the_answer(reply: ReplyView) -> None:
    said = []
    for text in ("<", "think", ">\n", "one", " two", "</thi", "nk>\n\n", "The ", "answer."):
        reply.add_pieces(pieces(text))
        reply.refresh()
        shown = reply._runs[0][0].toPlainText()
        assert "one" not in shown and "<" not in shown
        said.append(reply._reasonings[0]._fold.text())
    assert "Thinking… 2 tokens" in said[3]
    reply.finish()
    assert reply._runs[0][0].toPlainText() == "The answer." == reply.answer
    assert said[-1].startswith("Reasoning")
    assert reply._reasonings[0].shown_text == ""
    reply._reasonings[0].unfold()
    assert reply._reasonings[0].shown_text == "one two"
    assert "answer" in reply._runs[0][0].token_tip(1)
    again = ReplyView()
    again.restore(reply.text, reply.to_meta(None))
    assert (again.answer, again._reasonings[0]._fold.text()) == (reply.answer, reply._reasonings[0]._fold.text())
    again.deleteLater()


def test_a_model_whose_prompt_opens_the_block_is_folded_too(reply: ReplyView) -> None:
    reply.begins_in_reasoning(True)
    reply.add_pieces(pieces("one", "</think>", "Yes."))
    reply.finish()
    assert (reply.answer, reply._runs[0][0].toPlainText()) == ("Yes.", "Yes.")
    assert reply.to_meta(None)["reasons_first"] is True


@pytest.mark.parametrize("text", ["<", "<th", "a < b", "<b>bold", "Use <think>."])
def test_text_that_only_looks_like_a_tag_is_shown_in_the_end(reply: ReplyView, text: str) -> None:
    reply.add_pieces(pieces(*text))
    reply.refresh()
    reply.finish()
    assert reply._runs[0][0].toPlainText() == text == reply.answer or reply.answer == ""


def test_reasoning_of_each_part_is_folded_by_itself(reply: ReplyView) -> None:
    for part, text in ((1, "<think>a</think>A."), (2, "<think>b</think>B.")):
        reply.begin_part(PartBegun(1, 0.0, part, 2))
        reply.add_pieces(pieces(text))
    reply.finish()
    assert reply.answer.split() == ["A.", "B."]
    assert [r._text for r in reply._reasonings if r._text] == ["a", "b"]


def test_a_reply_of_nothing_says_so(reply: ReplyView) -> None:
    reply.finish()
    reply.show_stats(GenerationStats(9, 0, 1, 0.1, 0.0, 0.1, 1.0, 1, "end", "fp32"))
    assert "wrote nothing" in reply._foot.text()


# ----------------------------------------------------------------------------------------------------------- graph


@pytest.fixture
def graph(themed: None, qtbot: QtBot):  # type: ignore[no-untyped-def]
    view = make()
    qtbot.addWidget(view)
    view.resize(520, 420)
    assert view.read(FACTS)
    view.show()
    return view


def test_facts_are_drawn_listed_and_said(graph) -> None:  # type: ignore[no-untyped-def]
    assert graph.table.rowCount() == 4
    assert "4 facts about 3 names" in graph._said.text()
    assert "4 facts" in graph.canvas.accessibleDescription()
    boxes = [graph.canvas.box(name) for name in ("Ada", "Babbage", "the engine")]
    assert all(graph.canvas.rect().contains(box.toRect()) for box in boxes)
    assert not any(a.intersects(b) for a in boxes for b in boxes if a is not b)
    assert graph.canvas.facts_of("Babbage") == ["Ada knew Babbage", "Babbage designed the engine"]


def test_both_themes_draw_the_graph_in_their_colours(graph) -> None:  # type: ignore[no-untyped-def]
    pictures = []
    for choice in ("light", "dark"):
        theme().set_choice(choice)
        image: QImage = graph.canvas.grab().toImage()
        ground = QColor(image.pixel(6, image.height() // 2))
        pictures.append(ground.lightness())
        inked = sum(abs(QColor(image.pixel(x, y)).lightness() - ground.lightness()) > 40
                    for x in range(0, image.width(), 3) for y in range(0, image.height(), 3))
        assert inked > 60
    assert pictures[0] > 200 > 80 > pictures[1]


def test_the_graph_is_panned_and_zoomed_by_mouse_and_keyboard(graph, qtbot: QtBot) -> None:  # type: ignore[no-untyped-def]
    canvas = graph.canvas
    before = canvas.box("Ada")
    qtbot.keyClick(canvas, Qt.Key.Key_Right)
    assert canvas.box("Ada").x() == before.x() - 48
    qtbot.keyClick(canvas, Qt.Key.Key_Plus)
    assert canvas.zoom > 1.0
    qtbot.keyClick(canvas, Qt.Key.Key_0)
    assert canvas.box("Ada") == before
    qtbot.mousePress(canvas, Qt.MouseButton.LeftButton, pos=QPoint(50, 50))
    qtbot.mouseMove(canvas, QPoint(90, 60))
    qtbot.mouseRelease(canvas, Qt.MouseButton.LeftButton, pos=QPoint(90, 60))
    for modifiers, taken in ((Qt.KeyboardModifier.NoModifier, False), (Qt.KeyboardModifier.ControlModifier, True)):
        wheel = QWheelEvent(QPointF(50, 50), QPointF(50, 50), QPoint(), QPoint(0, 120), Qt.MouseButton.NoButton,
                            modifiers, Qt.ScrollPhase.NoScrollPhase, False)
        canvas.wheelEvent(wheel)
        assert wheel.isAccepted() is taken, "a wheel alone scrolls the transcript"
    graph._tools[0][0].click()
    graph._views.segment("table").click()
    assert graph._stack.currentWidget() is graph.table and not graph._tools[0][0].isEnabled()


@pytest.mark.parametrize("suffix", [".csv", ".json", ".dot"])
def test_facts_are_exported_in_the_form_of_the_ending(graph, tmp_path: Path, suffix: str,  # type: ignore[no-untyped-def]
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / f"facts{suffix}"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(target), ""))
    graph.export()
    written = target.read_text(encoding="utf-8")
    if suffix == ".csv":
        assert len(list(csv.reader(written.splitlines()))) == 5
    elif suffix == ".json":
        assert json.loads(written)[0] == {"subject": "Ada", "relation": "knew", "object": "Babbage"}
    else:
        assert '"Ada" -> "Babbage" [label="knew"];' in written
    assert "Exported" in graph.notice.text()


def test_an_export_that_the_disk_refuses_is_said(graph, tmp_path: Path,  # type: ignore[no-untyped-def]
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "no" / "facts.csv"), ""))
    graph.export()
    assert "could not be written" in graph.notice.text()


@pytest.mark.parametrize("n", [0, 1, 2, 40, 300])
def test_boxes_never_stand_on_each_other(n: int) -> None:
    sizes = [(40.0 + 13 * (i % 12), 28.0) for i in range(n)]
    edges = [(i, i // 2) for i in range(1, n)] + [(i, i) for i in range(0, n, 7)]
    at = place(sizes, edges)
    assert at.shape == (n, 2)
    overlaps = sum(abs(at[i, 0] - at[j, 0]) < (sizes[i][0] + sizes[j][0]) / 2
                   and abs(at[i, 1] - at[j, 1]) < 28.0 for i in range(n) for j in range(i))
    assert overlaps <= n // 100
    assert (place(sizes, edges) == at).all()


def test_a_graph_in_a_real_reply_can_be_walked_to_by_the_keyboard(instruct: ChatPage) -> None:
    store = instruct._store
    talk = store.new_conversation("facts").id
    store.add_message(talk, "user", "Ada knew Babbage.", meta={"scenario": "graph", "values": {}})
    store.add_message(talk, "assistant", FACTS, meta={"view": "graph"})
    instruct.open(talk)
    view = instruct.transcript.views()[1]
    assert len(parse_triples(view.answer)) == 4
    assert not view._runs[0][0].isVisibleTo(view), "what the model wrote is folded away"
    result = view._result
    for control in (result.canvas, result.table, result._export, *(tool for tool, _ in result._tools)):
        assert control.focusPolicy() & Qt.FocusPolicy.TabFocus
        assert control.accessibleName() or control.text()
