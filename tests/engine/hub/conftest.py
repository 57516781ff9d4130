"""What tests of the hub share: a hub on this machine, and an environment without anybody's token or cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend

from engine.hub.client import Hub, Patience
from tests.engine.hub.hub_server import HubServer, hub_server

QUICK = Patience(connect_s=5.0, read_s=5.0, tries=4, first_wait_s=0.0, longest_wait_s=0.0, longest_asked_s=0.05)


class MemoryKeyring(KeyringBackend):
    """A keyring as backends are written, for the length of a test."""

    priority = 1  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        """What was kept."""
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        """Keep it."""
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        """Forget it."""
        del self.kept[service, username]


@pytest.fixture(autouse=True)
def nobodys_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a token nor a proxy of whoever runs the tests, and no way to the real hub."""
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "GPT_DYNO_MODELS", "HTTP_PROXY", "http_proxy", "ALL_PROXY",
                 "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def keys() -> Iterator[MemoryKeyring]:
    """A keyring that works."""
    before, backend = keyring.get_keyring(), MemoryKeyring()
    keyring.set_keyring(backend)
    yield backend
    keyring.set_keyring(before)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub, to which HF_ENDPOINT leads."""
    with hub_server() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def hub(server: HubServer) -> Hub:
    """The hub as somebody without a token sees it, in no mood to wait."""
    return Hub(server.url, patience=QUICK)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """An empty folder for models."""
    return tmp_path / "models"
