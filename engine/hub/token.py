"""The user's access token, kept where the system keeps secrets.

Where no keyring works (a bare server, a container) the token is held in memory until the program ends, and whoever
asks is told so: it is never written to a file. A token is kept for one hub and sent to no other.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from engine.hub.records import DEFAULT_ENDPOINT

_SERVICE = "gpt-dyno"


@dataclass(frozen=True)
class Kept:
    """How a token is kept. where: "keyring", "memory" or "" for none. reason: why not in the keyring."""

    where: str
    reason: str = ""


class Tokens:
    """Tokens by hub. Its calls may take a moment (a locked keyring asks the user): never from the window's thread."""

    def __init__(self) -> None:
        self._memory: dict[str, str] = {}
        self.reason = ""  # why the keyring does not work, "" while it does

    def get(self, endpoint: str) -> str:
        """The token for a hub: the app's own, else the one of huggingface.co's command line or HF_TOKEN, for that hub
        alone; "" for none, and for a hub that would hear it in clear text."""
        if not _is_private(endpoint):
            return ""
        if endpoint in self._memory:
            return self._memory[endpoint]
        return self._stored(endpoint) or (_borrowed() if endpoint == DEFAULT_ENDPOINT else "")

    def keep(self, endpoint: str, token: str) -> Kept:
        """Keep a token for a hub, or forget it ("")."""
        self._memory.pop(endpoint, None)
        try:
            import keyring

            if token:
                keyring.set_password(_SERVICE, endpoint, token)
            elif keyring.get_password(_SERVICE, endpoint) is not None:
                keyring.delete_password(_SERVICE, endpoint)
        except Exception as error:  # backends raise what they like: D-Bus, Windows, macOS
            self.reason = _why(error)
            if token:
                self._memory[endpoint] = token
            return Kept("memory" if token else "", self.reason)
        self.reason = ""
        return Kept("keyring" if token else "")

    def own(self, endpoint: str) -> Kept:
        """Whether a token was given to this app for a hub, and how it is kept."""
        if endpoint in self._memory:
            return Kept("memory", self.reason)
        return Kept("keyring") if self._stored(endpoint) else Kept("", self.reason)

    def _stored(self, endpoint: str) -> str:
        try:
            import keyring

            stored = keyring.get_password(_SERVICE, endpoint)
        except Exception as error:  # as above
            self.reason = _why(error)
            return ""
        self.reason = ""
        return stored or ""


def _is_private(endpoint: str) -> bool:
    """Whether what is sent there stays between the two: encrypted, or never leaving this machine."""
    parts = urlsplit(endpoint)
    return parts.scheme == "https" or parts.hostname in ("127.0.0.1", "localhost", "::1")


def _borrowed() -> str:
    """What `hf auth login` or HF_TOKEN left, unless HF_HUB_DISABLE_IMPLICIT_TOKEN forbids to send it unasked."""
    if os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").casefold() in ("1", "on", "yes", "true"):
        return ""
    from huggingface_hub import get_token

    return get_token() or ""


def _why(error: Exception) -> str:
    name = type(error).__name__
    return "no keyring was found on this system" if name == "NoKeyringError" else (
        f"the keyring refused ({str(error).strip().splitlines()[0][:100] if str(error).strip() else name})")
