"""The Models page over a hub on this machine: what a user sees and does, from the list to a model that chats."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import QMimeData, QPointF, Qt, QUrl
from PySide6.QtGui import QAction, QDropEvent
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from engine.hub.fits import FITS, TIGHT, TOO_LARGE, RecipeFit
from engine.hub.records import (
    RUNNING,
    DownloadPlan,
    DownloadView,
    FileChoice,
    ModelOnDisk,
    RemoteModel,
    SearchHit,
)
from gui.app import Application
from gui.context import find_pages
from gui.models.fit_table import FitTable
from gui.models.hub_card import HubCard
from gui.models.page import ModelsPage
from gui.models.words import added_text, download_text, model_verdict
from tests.engine.hub.conftest import QUICK
from tests.engine.hub.hub_server import TOKEN, Fault, HubServer, hub_server
from tests.gui.conftest import end_application, start_application, until

REPO = "someone/tiny-gpt2"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, gpt2_folder: Path, tmp_path: Path) -> Iterator[HubServer]:
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "GPT_DYNO_MODELS"):
        monkeypatch.delenv(name, raising=False)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "no cache"))
    with hub_server() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.add(REPO, gpt2_folder)
        yield hub


@pytest.fixture
def application(qapp: QApplication, tmp_path: Path, llama_folder: Path, server: HubServer) -> Iterator[Application]:
    app = start_application(qapp, tmp_path, llama_folder)
    yield app
    end_application(qapp, app)


@pytest.fixture
def page(qapp: QApplication, application: Application) -> ModelsPage:
    page = application.window.pages["models"]
    assert isinstance(page, ModelsPage)
    page.service._patience = QUICK
    application.window.show_page(list(application.window.pages).index("models"))
    until(qapp, lambda: page.local.models, "the list")
    return page


def pointed_at(qapp: QApplication, page: ModelsPage, repo: str = REPO) -> None:
    page.tabs.setCurrentWidget(page.hub)
    page.hub.search.setText(repo)
    until(qapp, lambda: page.hub.card.model is not None and page.hub.card.repo == repo, "the hub's answer")


def test_the_page_stands_between_train_and_settings() -> None:
    keys = [page.key for page in find_pages()]
    assert keys.index("training") < keys.index("models") < keys.index("settings")


def test_a_search_is_downloaded_opened_and_shown_as_open(
        qapp: QApplication, qtbot: QtBot, application: Application, page: ModelsPage) -> None:
    assert page.hub.list.rows()[0].title == "HuggingFaceTB/SmolLM2-135M-Instruct"  # the short list comes first
    page.tabs.setCurrentWidget(page.hub)
    page.hub.search.setText("tiny")
    until(qapp, lambda: [row.title for row in page.hub.list.rows()] == [REPO], "the results")
    until(qapp, lambda: page.hub.card.model is not None, "the hub's answer")
    assert "safetensors, 4 files" in page.hub.card.choice.currentText()
    qtbot.mouseClick(page.hub.card.download, Qt.MouseButton.LeftButton)
    key = "someone--tiny-gpt2"
    until(qapp, lambda: key in page.downloads.lines and page.downloads.lines[key].open.isVisible(), "the download")
    line = page.downloads.lines[key]
    assert "ready" in line.text.text() and line.open.isVisible() and not line.bar.isVisible()
    until(qapp, lambda: REPO in [m.name for m in page.local.models.values()], "the list")
    line.open.click()
    until(qapp, lambda: f"{REPO} (open)" in [row.title for row in page.local.list.rows()], "the model")
    assert application.window._stack.currentWidget() is application.window.pages["chat"]
    until(qapp, lambda: page.local.list.rows()[0].title == f"{REPO} (open)", "its place: the last one opened is first")
    line.close_button.click()
    assert not page.downloads.lines and REPO in [m.name for m in page.local.models.values()]


def test_the_fit_stands_in_the_list_and_by_recipe_in_the_card(qapp: QApplication, page: ModelsPage) -> None:
    until(qapp, lambda: page.local.list.rows()[0].verdict.text == "fits", "the fit")
    until(qapp, page.local.fit_table.isVisible, "the table")
    assert page.local.fit_table.accessibleDescription().count("fits") == 4


def test_a_download_is_paused_resumed_and_outlives_the_window(
        qapp: QApplication, qtbot: QtBot, server: HubServer, application: Application, page: ModelsPage,
        tmp_path: Path, llama_folder: Path) -> None:
    server.faults = [Fault(file="model.safetensors", after=5000, hold=True) for _ in range(2)]
    pointed_at(qapp, page)
    page.hub.card.download.click()
    key = "someone--tiny-gpt2"
    until(qapp, lambda: key in page.downloads.lines and page.downloads.lines[key].pause.isVisible(), "the start")
    line = page.downloads.lines[key]
    line.pause.setFocus()
    line.pause.click()
    until(qapp, lambda: "paused" in line.text.text(), "the pause")
    assert line.resume.hasFocus(), "the next key would throw the download away"
    line.resume.click()
    until(qapp, lambda: len(server.faults) == 0, "the second request")
    application.stop()
    again = start_application(qapp, tmp_path, llama_folder)
    try:
        page = again.window.pages["models"]
        again.window.show_page(list(again.window.pages).index("models"))
        until(qapp, lambda: key in page.downloads.lines, "what was left")
        assert "paused" in page.downloads.lines[key].text.text()
        page.downloads.lines[key].resume.click()
        until(qapp, lambda: page.downloads.lines[key].path, "the rest")
    finally:
        end_application(qapp, again)


def test_a_gated_model_says_what_to_do_and_a_token_opens_it(
        qapp: QApplication, server: HubServer, page: ModelsPage) -> None:
    repository = server.repositories[REPO]
    repository.gated = repository.granted = True
    pointed_at(qapp, page)
    assert page.hub.card._gate.isVisible() and page.hub.card.token.isVisible()
    page.hub.card.download.click()
    key = "someone--tiny-gpt2"
    until(qapp, lambda: key in page.downloads.lines and page.downloads.lines[key].mark.isVisible(), "the refusal")
    line = page.downloads.lines[key]
    assert "is gated" in line.text.text() and "Accept its terms" in line.text.text() and line.resume.isVisible()
    page.hub.card.token.setText(TOKEN)
    page.hub.card.keep.click()
    until(qapp, page.hub.card.kept.text, "where the token is kept")
    assert page.hub.card.token.text() == ""
    line.resume.click()
    until(qapp, lambda: line.path, "the download")


def test_offline_and_failing_searches_say_so(qapp: QApplication, server: HubServer, page: ModelsPage) -> None:
    page.tabs.setCurrentWidget(page.hub)
    server.api_faults = [Fault(status=503)] * 5
    page.hub.search.setText("tiny")
    until(qapp, lambda: page.hub.heading.text() == "The search failed", "the failure")
    assert "has trouble of its own" in page.hub.note.text()
    asked = len(server.requests)
    page.hub.offline.setChecked(True)
    page.hub.search.setText("small")
    until(qapp, lambda: page.hub.heading.text() == "Offline", "the words")
    assert len(server.requests) == asked
    page.hub.offline.setChecked(False)
    server.api_faults.clear()
    page.hub.search.setText("nothing like it")
    until(qapp, lambda: page.hub.heading.text().startswith("Nothing on the hub"), "the answer")


def test_a_narrow_card_cuts_no_choice_and_a_wide_one_wastes_no_line(qapp: QApplication, page: ModelsPage) -> None:
    card = HubCard()
    card.resize(300, 400)
    card.show_hit(SearchHit("a/model"))
    card.show_model(RemoteModel("a/model", "c" * 40, "mit", False, 0, (FileChoice("safetensors", ()),), ""))
    card.show()
    letter = card.fontMetrics().averageCharWidth()
    card.resize(40 * letter, 400)
    until(qapp, lambda: card.download.y() > card.choice.geometry().bottom() - 1, "one below the other")
    card.resize(90 * letter, 400)
    until(qapp, lambda: card.download.x() >= card.choice.geometry().right(), "side by side")
    card.close()


def test_a_fit_over_several_devices_says_which_layers_lie_where(qapp: QApplication) -> None:
    where = "Layers 1 to 20 and what surrounds them on A card (cuda:0); layers 21 to 32 on A processor (cpu)."
    table = FitTable()
    table.show_fits([RecipeFit("bf16", FITS, 1 << 30, 1 << 33, 4096, placement=where)])
    assert table.accessibleDescription().endswith(f"free. {where}")
    table.close()


def test_a_token_is_asked_for_only_where_it_would_help(qapp: QApplication, page: ModelsPage) -> None:
    pointed_at(qapp, page)
    card = page.hub.card
    card.show_problem("It is not on the hub.", "Enter an access token.")
    assert card.token.isVisibleTo(card)
    card.show_problem("The app works offline.", "Switch offline mode off.")
    assert not card.token.isVisibleTo(card)


def test_a_deleted_model_is_no_longer_offered_among_the_downloads(qapp: QApplication, page: ModelsPage) -> None:
    pointed_at(qapp, page)
    page.hub.card.download.click()
    key = "someone--tiny-gpt2"
    until(qapp, lambda: key in page.downloads.lines and page.downloads.lines[key].path, "the download")
    path = page.downloads.lines[key].path
    until(qapp, lambda: path in page.local.models, "the list")
    page.local.list.choose(path)
    page.local.remove.click()
    until(qapp, lambda: path not in page.local.models, "the removal")
    until(qapp, lambda: not page.downloads.lines, "the line's end")


def test_a_deleted_model_can_be_had_back(qapp: QApplication, page: ModelsPage, gpt2_folder: Path) -> None:
    mine = page.service.folder / "mine"
    shutil.copytree(gpt2_folder, mine)
    page.service.scan()
    until(qapp, lambda: str(mine) in page.local.models, "the list")
    page.local.list.choose(str(mine))
    assert page.local.remove.text() == "Delete"
    page.local.remove.click()
    until(qapp, lambda: str(mine) not in page.local.models and page.notice.isVisible(), "the removal")
    assert not mine.exists()
    page.notice._action.click()
    until(qapp, lambda: str(mine) in page.local.models, "the return")
    assert (mine / "model.safetensors").is_file()


def test_a_dropped_folder_of_models_is_listed_and_what_is_bundled_stays(
        qapp: QApplication, page: ModelsPage, tmp_path: Path, gpt2_folder: Path) -> None:
    shelf = tmp_path / "shelf"
    shutil.copytree(gpt2_folder, shelf / "one")
    (shelf / "half").mkdir()
    shutil.copy(gpt2_folder / "config.json", shelf / "half")
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(shelf))])
    page.dropEvent(QDropEvent(QPointF(1, 1), Qt.DropAction.CopyAction, data, Qt.MouseButton.LeftButton,
                              Qt.KeyboardModifier.NoModifier))
    page.tabs.setCurrentWidget(page.hub)
    until(qapp, lambda: str(shelf / "half") in page.local.models, "the list")
    assert page.tabs.currentWidget() is page.local and page.notice.isVisible()
    assert page.notice.text().startswith("1 model found, 1 cannot be opened.")
    assert page.local.chosen() == page.local.models[str(shelf / "one")]
    page.local.list.choose(str(shelf / "half"))
    assert not page.local.open.isEnabled() and page.local.remove.text() == "Take off the list"
    row = next(row for row in page.local.list.rows() if row.key == str(shelf / "half"))
    assert row.verdict.text == "cannot be opened" and row.verdict.icon and row.muted
    bundled = next(m for m in page.local.models.values() if m.place == "bundled")
    page.local.list.choose(bundled.path)
    assert not page.local.remove.isVisible()


def test_the_shortcut_brings_the_keyboard_to_the_list(
        qapp: QApplication, application: Application, page: ModelsPage) -> None:
    window = application.window
    number = list(window.pages).index("models")
    go = next(action for action in window.findChildren(QAction) if action.shortcut().toString() == f"Ctrl+{number + 1}")
    window.show_page(0)
    window._nav[0][0].setFocus()
    go.trigger()
    assert page.isVisible() and page.first_stop() is page.local.list
    assert window.focusWidget() is page.local.list
    page.tabs.setCurrentWidget(page.hub)
    window._nav[0][0].setFocus()
    go.trigger()
    assert window.focusWidget() is page.hub.search


def test_verdicts_and_downloads_in_words() -> None:
    model = ModelOnDisk("/m", "m", "app")
    fits = tuple(RecipeFit(name, verdict, 1, 2) for name, verdict in zip(
        ("fp32", "bf16", "int8", "int4"), (TOO_LARGE, TIGHT, FITS, FITS), strict=True))
    assert model_verdict(model, fits).text == "fits as int8"
    assert model_verdict(model, fits[:2]).text == "tight as bf16"
    assert model_verdict(model, fits[:1]).text == "does not fit"
    assert model_verdict(model, None).text == ""
    broken = ModelOnDisk("/b", "b", "added", problem="config.json is missing.")
    assert added_text([model, model, broken]) == "2 models found, 1 cannot be opened."
    assert added_text([model]) == "1 model found."
    assert added_text([broken, broken]) == "2 models found; none can be opened."
    plan = DownloadPlan("a/b", "c", "a--b", ())
    view = DownloadView(plan, RUNNING, 5_000_000, 2_000_000.0, 75.0)
    assert download_text(view).replace("\u00a0", " ") == "5.00 MB of 0 B  ·  2.00 MB/s  ·  1 min left"
