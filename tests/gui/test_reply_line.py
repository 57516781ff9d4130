"""The quiet line under a reply, the lines of switches within it, and the status line at the bottom."""

from __future__ import annotations

import math
import threading
from pathlib import Path

from PySide6.QtWidgets import QApplication, QLabel
from pytestqt.qtbot import QtBot

from engine.messages import ApplyRecipe, GenerationStats, RecipeApplied
from engine.monitor.monitor import Monitor
from engine.recipe import parse_recipe
from gui.app import Application
from gui.chat.page import ChatPage
from gui.chat.reply_view import ReplyView
from gui.widgets.labels import ElidedLabel
from tests.gui.conftest import end_application, start_application, until

REPEATS = "the boat and the boat and the boat and the boat and the boat and the boat and the"


def chat_of(application: Application) -> ChatPage:
    page = application.window.pages["chat"]
    assert isinstance(page, ChatPage)
    return page


def last_reply(chat: ChatPage) -> ReplyView:
    return [view for view in chat.transcript.views() if isinstance(view, ReplyView)][-1]


def apply(application: Application, qapp: QApplication, recipe: str) -> None:
    """Have the engine switch, and wait until the window knows."""
    wanted = parse_recipe(recipe)
    until(qapp, lambda: application.window._model is not None, "the model")
    application.bridge.submit(ApplyRecipe(wanted))
    until(qapp, lambda: application.window._recipe == wanted.label, "the switch")


def line(drafted: int, accepted: int, themed: None, qtbot: QtBot) -> str:
    view = ReplyView()
    qtbot.addWidget(view)
    view.show_stats(GenerationStats(9, 0, 40, 0.1, 0.01, 0.5, 3.0, 1, "end", "lookup", drafted, accepted))
    return view._foot.text()


def test_the_share_of_right_guesses_stands_under_the_reply_where_there_were_any(themed: None, qtbot: QtBot) -> None:
    assert "lookup 62 % of 120 right" in line(120, 74, themed, qtbot)
    assert "right" not in line(0, 0, themed, qtbot)
    assert "lookup 0 % of 7 right" in line(7, 0, themed, qtbot)


def test_guesses_of_a_real_reply_are_shown_again_at_the_next_start(
        application: Application, qapp: QApplication, tmp_path: Path, llama_folder: Path) -> None:
    chat = chat_of(application)
    application.settings.set("sampling/temperature", 0.0)
    apply(application, qapp, "lookup")
    chat.send(REPEATS)
    until(qapp, lambda: chat._reply is None, "the reply")
    shown = last_reply(chat)._foot.text()
    assert "lookup" in shown and "right" in shown
    application.stop()
    again = start_application(qapp, tmp_path, llama_folder)
    try:
        assert last_reply(chat_of(again))._foot.text() == shown
    finally:
        end_application(qapp, again)


def test_statistics_stored_before_there_was_prompt_lookup_are_still_shown(themed: None, qtbot: QtBot) -> None:
    stats = GenerationStats(9, 0, 40, 0.1, 0.01, 0.5, 3.0, 1, "end", "fp32").__dict__.copy()
    del stats["drafted_tokens"], stats["accepted_tokens"]
    view = ReplyView()
    qtbot.addWidget(view)
    view.restore("Text.", {"stats": stats})
    assert "40 tokens" in view._foot.text() and "right" not in view._foot.text()


def test_news_of_the_active_recipe_draw_no_line_in_the_reply_and_no_mark(
        application: Application, qapp: QApplication, gate: threading.Event) -> None:
    chat, reports = chat_of(application), []
    application.settings.set("sampling/max_tokens", 800)
    application.bridge.received.connect(lambda e: reports.append(e.report) if isinstance(e, RecipeApplied) else None)
    apply(application, qapp, "bf16")
    marks = switch_marks(application.monitor)
    chat.send("The boat came home")
    until(qapp, lambda: chat._reply is not None and len(chat._reply.view.text) > 20, "some text")
    application.bridge.submit(ApplyRecipe(parse_recipe("bf16")))
    gate.set()
    until(qapp, lambda: len(reports) == 2, "the answer")
    application.outbox.put(RecipeApplied(0.0, reports[0]))  # as the compiler's news come
    until(qapp, lambda: chat._reply is None and len(reports) == 3, "the reply and the news")
    assert len(reports) == 3
    view = last_reply(chat)
    assert view._switches == [] and len(view._runs) == 1
    assert switch_marks(application.monitor) == marks


def switch_marks(monitor: Monitor) -> list[str]:
    return [marker.label for marker in monitor.markers() if not marker.job]


def test_the_status_line_shortens_the_recipe_and_never_the_figures(themed: None, qtbot: QtBot) -> None:
    label = ElidedLabel("dyno-small-1  ·  AMD EPYC  ·  " + "neurons -30 % + int8 weights + KV int8 + lookup")
    qtbot.addWidget(label)
    label.resize(120, 24)
    label.show()
    assert label.minimumSizeHint().width() < 120 < label.sizeHint().width()
    label.grab()
    assert label.toolTip() == label.text(), "the whole is the tool tip"
    label.resize(label.sizeHint())
    label.grab()
    assert label.toolTip() == ""


def test_speed_and_memory_stand_beside_the_button_that_explains_them(application: Application,
                                                                   qapp: QApplication) -> None:
    chat, window = chat_of(application), application.window
    chat.send("The boat came home")
    until(qapp, lambda: chat._reply is None, "the reply")
    shown = window._status_speed
    assert isinstance(shown, QLabel)
    until(qapp, lambda: "tok/s" in shown.text(), "the speed")
    assert "MB" in shown.text() or "GB" in shown.text()
    assert window._why.isVisible()
    until(qapp, lambda: 0 <= window._why.x() - (shown.x() + shown.width()) < 20, "the layout")


def test_a_reply_that_is_held_back_says_so_and_gives_its_own_speed(application: Application,
                                                                  qapp: QApplication) -> None:
    chat = chat_of(application)
    until(qapp, lambda: application.window._model is not None, "the model")
    application.settings.set("sampling/pace", 30.0)
    application.settings.set("sampling/max_tokens", 4)
    chat.send("The boat came home")
    until(qapp, lambda: chat._reply is None, "the reply")
    assert "of its own, held back to 30.0 tok/s" in last_reply(chat)._foot.text()
    assert math.isnan(application.monitor.latest("tokens_per_s") or math.nan), "no speed of the engine"
