"""The models service: nothing waits for anything else, and closing pauses."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from engine.hub.events import (
    CatalogueRead,
    DownloadChanged,
    DownloadGone,
    FitsKnown,
    ModelRemoved,
    ModelsEvent,
    RepositoryRead,
    SearchDone,
    TokenKept,
    Trouble,
)
from engine.hub.records import DONE, FAILED, PAUSED, RUNNING, WAITING
from engine.hub.service import ModelsService
from tests.engine.hub.conftest import QUICK, MemoryKeyring
from tests.engine.hub.hub_server import TOKEN, Fault, HubServer

REPO = "someone/tiny-llama"
T = TypeVar("T", bound=ModelsEvent)


class Listener:
    """A service whose events are read by a test."""

    def __init__(self, data: Path, models: Path) -> None:
        self.service = ModelsService(data, models, data / "no cache", QUICK)
        self.events: list[ModelsEvent] = []

    def wait(self, kind: type[T], fits: Callable[[T], bool] = lambda _event: True) -> T:
        """The first event of a kind that fits; those before it are dropped."""
        for _ in range(300):
            while self.events:
                event = self.events.pop(0)
                if isinstance(event, kind) and fits(event):
                    return event
            self.events += self.service.mailbox.drain(timeout_s=0.1)
        raise AssertionError(f"no {kind.__name__} came")

    def state(self, state: str) -> DownloadChanged:
        """Wait for a download in this state."""
        return self.wait(DownloadChanged, lambda event: event.view.state == state)


@pytest.fixture
def listener(tmp_path: Path, models: Path, server: HubServer, llama_folder: Path) -> Iterator[Listener]:
    server.add(REPO, llama_folder)
    listener = Listener(tmp_path, models)
    yield listener
    assert listener.service.stop()


def begin(listener: Listener, repo: str = REPO) -> None:
    listener.service.look(repo)
    found = listener.wait(RepositoryRead).model
    assert found is not None
    listener.service.download(found)


def test_a_download_is_searched_looked_up_fetched_and_listed(listener: Listener, models: Path) -> None:
    listener.service.search("tiny")
    hit, = listener.wait(SearchDone).hits
    begin(listener, hit.repo)
    done = listener.state(DONE).view
    assert done.path == str(models / "someone--tiny-llama") and done.done == done.plan.nbytes
    listed = listener.wait(CatalogueRead, lambda e: any(m.place == "app" for m in e.models))
    model = next(m for m in listed.models if m.place == "app")
    assert model.ready and model.repo == REPO and listed.free > 0
    listener.service.judge(model.path)
    assert {fit.verdict for fit in listener.wait(FitsKnown).fits} == {"fits"}
    begin(listener)  # it is there: nothing is fetched
    assert listener.state(DONE).view.path == done.path


def test_a_paused_download_goes_on_and_others_wait_their_turn(
        listener: Listener, server: HubServer, gpt2_folder: Path) -> None:
    server.add("someone/tiny-gpt2", gpt2_folder)
    hold = Fault(file="model.safetensors", after=5000, hold=True)
    server.faults = [hold]
    begin(listener)
    assert hold.held.wait(30)
    begin(listener, "someone/tiny-gpt2")
    waiting = listener.state(WAITING).view
    assert waiting.plan.repo == "someone/tiny-gpt2"
    listener.service.search("tiny")  # asked and answered while a download hangs
    assert len(listener.wait(SearchDone).hits) == 2
    listener.service.pause(waiting.key)
    assert listener.state(PAUSED).view.key == waiting.key
    key = "someone--tiny-llama"
    listener.service.pause(key)
    assert listener.state(PAUSED).view.done >= 5000
    listener.service.resume(key)
    assert listener.state(DONE).view.key == key
    listener.service.resume(waiting.key)
    assert listener.state(DONE).view.key == waiting.key


def test_what_came_before_a_silence_is_shown_and_the_speed_falls(listener: Listener, server: HubServer) -> None:
    hold = Fault(file="model.safetensors", after=5000, hold=True)
    server.faults = [hold]
    begin(listener)
    assert hold.held.wait(30)
    shown = [listener.wait(DownloadChanged, lambda event: event.view.state == RUNNING and event.view.done >= 5000).view
             for _ in range(5)]  # it is told again and again, though nothing comes
    assert shown[-1].done == shown[-2].done and 0 < shown[-1].speed < shown[-2].speed
    listener.service.pause(shown[-1].key)
    assert listener.state(PAUSED).view.speed == 0


def test_closing_pauses_and_the_next_start_finds_it(
        listener: Listener, server: HubServer, tmp_path: Path, models: Path) -> None:
    hold = Fault(file="model.safetensors", after=5000, hold=True)
    server.faults = [hold]
    begin(listener)
    assert hold.held.wait(30)
    assert listener.service.stop()
    again = Listener(tmp_path, models)
    again.service.scan()
    found = again.state(PAUSED).view
    assert found.plan.repo == REPO and found.done > 0
    again.service.resume(found.key)
    again.state(RUNNING)
    assert again.state(DONE).view.done == found.plan.nbytes
    assert again.service.stop()


def test_a_failure_has_its_sentence_and_a_second_try(listener: Listener, server: HubServer) -> None:
    server.faults = [Fault(status=403, headers={"X-Error-Code": "GatedRepo"})]
    begin(listener)
    failed = listener.state(FAILED).view
    assert "is gated" in failed.summary and "Accept its terms" in failed.hint and not failed.details
    listener.service.resume(failed.key)
    listener.state(DONE)


def test_a_download_that_runs_is_thrown_away(listener: Listener, server: HubServer, models: Path) -> None:
    hold = Fault(file="model.safetensors", after=5000, hold=True)
    server.faults = [hold]
    begin(listener)
    assert hold.held.wait(30)
    listener.service.discard("someone--tiny-llama")
    listener.wait(DownloadGone)
    assert not [p for p in models.iterdir() if p.name.endswith(".part")]


def test_a_gated_model_is_fetched_with_the_token_that_was_given(
        listener: Listener, server: HubServer, keys: MemoryKeyring) -> None:
    server.repositories[REPO].gated = server.repositories[REPO].granted = True
    begin(listener)
    assert "gated" in listener.state(FAILED).view.summary
    listener.service.keep_token(f" {TOKEN}\n")
    assert listener.wait(TokenKept).kept.where == "keyring"
    listener.service.resume("someone--tiny-llama")
    listener.state(DONE)


def test_offline_is_said_and_nothing_is_asked(listener: Listener, server: HubServer) -> None:
    listener.service.set_offline(True)
    listener.service.search("tiny")
    assert "works offline" in listener.wait(SearchDone).summary
    assert not server.requests


def test_a_removed_model_is_had_back_or_gone_for_good(listener: Listener, models: Path, llama_folder: Path) -> None:
    shutil.copytree(llama_folder, models / "mine")
    listener.service.scan()
    model = next(m for m in listener.wait(CatalogueRead).models if m.place == "app")
    listener.service.remove(model)
    removed = listener.wait(ModelRemoved).removed
    assert removed is not None and not (models / "mine").exists()
    listener.service.restore(removed)
    listener.wait(CatalogueRead, lambda e: any(m.place == "app" for m in e.models))
    listener.service.remove(model)
    removed = listener.wait(ModelRemoved).removed
    assert removed is not None
    listener.service.settle(removed)
    listener.service.scan()
    listener.wait(CatalogueRead, lambda e: not any(m.place == "app" for m in e.models))
    listener.service.scan()
    listener.wait(CatalogueRead)
    assert not removed.aside.exists()


def test_what_cannot_be_done_is_said(listener: Listener, tmp_path: Path) -> None:
    listener.service.add_folder(str(tmp_path / "nowhere"))
    assert "There is no folder" in listener.wait(Trouble).summary


def test_asking_returns_at_once_and_threads_begin_with_the_first_question(tmp_path: Path, models: Path) -> None:
    before = threading.active_count()
    service = ModelsService(tmp_path, models, tmp_path / "no cache", QUICK)
    assert threading.active_count() == before
    assert service.stop()
