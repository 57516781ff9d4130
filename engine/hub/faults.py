"""What can go wrong between here and the hub, each in a sentence with its remedy.

The hub answers 401 for what is not there as well as for what is not open to everybody, so its words say both.
"""

from __future__ import annotations

import errno
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

from engine.errors import DynoError, reason

FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}

_NUMBER = re.compile(r"\[Errno -?\d+\] ?")
_LONGEST_WHY = 120  # characters


class HubError(DynoError):
    """A fault of the hub or of the way to it. retry_s: seconds to wait before another try, None where another try
    would end the same way."""

    def __init__(self, summary: str, hint: str, retry_s: float | None = None) -> None:
        super().__init__(summary, hint)
        self.retry_s = retry_s


def host(endpoint: str) -> str:
    """The name of a hub, for a sentence: "huggingface.co"."""
    return urlsplit(endpoint).netloc or endpoint


def offline() -> HubError:
    """Nothing may be asked of the network."""
    return HubError("The app works offline, so the hub was not asked.",
                    "Switch offline mode off (or unset HF_HUB_OFFLINE); models on this computer open as ever.")


def unreachable(endpoint: str, error: Exception, kept: bool = False) -> HubError:
    """No connection, or one that broke off. kept: what has come of a file stays."""
    rest = "then resume: what has arrived is kept." if kept else "then try again."
    return HubError(f"{host(endpoint)} cannot be reached: {_why(error)}.",
                    f"Check the network, a proxy or HF_ENDPOINT, {rest}", retry_s=0.0)


def _why(error: Exception) -> str:
    """In plain words; HTTP libraries wrap the system's error in several of their own."""
    inner: BaseException | None = error
    seen: list[BaseException] = []
    while inner is not None and inner not in seen:
        seen.append(inner)
        inner = inner.__cause__ or inner.__context__
    for each in seen:
        if isinstance(each, socket.gaierror):
            return "its address cannot be found, so this computer seems to be offline"
        if isinstance(each, ConnectionRefusedError):
            return "nothing answers there"
        if isinstance(each, OSError) and each.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
            return "there is no way to it from this network"
        if isinstance(each, TimeoutError) or "Timeout" in type(each).__name__:
            return "it did not answer in time"
    plain = " ".join(_NUMBER.sub("", str(error)).split()).rstrip(".")
    return plain[:_LONGEST_WHY] or type(error).__name__


def not_the_hub(endpoint: str) -> HubError:
    """An answer that makes no sense: a login page of a network, a mirror that is none."""
    return HubError(f"{host(endpoint)} does not answer as the hub does.",
                    "Check HF_ENDPOINT, and whether this network asks for a login first.")


def refused(status: int, code: str, repo: str, file: str, endpoint: str, token: bool,
            retry_after_s: float | None) -> HubError:
    """An answer with an error's status. code: the hub's X-Error-Code. token: one was sent."""
    if not repo and status in (401, 403, 404) and not token:
        return HubError(f"{host(endpoint)} refuses to be searched ({status}).",
                        "Check HF_ENDPOINT; a mirror may ask for an access token.")
    if not repo and status == 404:
        return not_the_hub(endpoint)
    page = f"{endpoint}/{repo}"
    if not repo and status == 403:
        return HubError(f"{host(endpoint)} refuses to be searched (403).", "Enter a token that may search there.")
    if code == "GatedRepo" or status == 403:
        return HubError(f"{repo} is gated: its owner has to grant access first.",
                        f"Accept its terms at {page}, " + (
                            "with the account of the token you gave, and try again." if token else
                            "then enter an access token of that account."))
    if status == 401 and token:
        return HubError(f"The hub does not accept the access token for {repo or 'this search'}.",
                        "Enter a token that is valid and may read this model.")
    if status == 401:
        return HubError(f"{repo} is not on the hub, or not open to everybody.",
                        "Check the name; for a private or gated model enter an access token.")
    if code == "RevisionNotFound":
        return HubError(f"{repo} has no such revision.", "Choose another one, or leave it to the newest.")
    if status == 404 and file:
        return HubError(f"{repo} has no file {file} any more.", "Look the model up again and start anew.")
    if status == 404:
        return HubError(f"There is no model {repo} on {host(endpoint)}.", "Check the name, or search for it.")
    if status == 429:
        wait = f"Resume in {retry_after_s:.0f} s or later" if retry_after_s else "Resume in a few minutes"
        return HubError("The hub asks for fewer requests (429).", f"{wait}; an access token raises the limit.",
                        retry_s=retry_after_s or 0.0)
    if status >= 500 or status == 408:
        return HubError(f"{host(endpoint)} has trouble of its own ({status}).", "Try again in a while.",
                        retry_s=retry_after_s or 0.0)
    return HubError(f"{host(endpoint)} refused the request ({status}).", "Try again; a newer version may be needed.")


def damaged(file: str, endpoint: str) -> HubError:
    """A file that is not what the hub says it is."""
    return HubError(f"{file} arrived damaged: its checksum is not the one the hub gives, so it was thrown away.",
                    f"Resume to fetch it again; if that repeats, {host(endpoint)} holds another file.")


def no_space(folder: Path, needed: int, free: int) -> DynoError:
    """Not enough room for what is to come."""
    return DynoError(f"The download needs {needed / 1e9:.2f} GB more, and {folder} has {free / 1e9:.2f} GB free.",
                     "Free some space, or choose another folder for models with GPT_DYNO_MODELS.")


def disk(error: OSError, path: Path) -> DynoError:
    """The disk refuses."""
    if error.errno in FULL:
        return DynoError("The disk is full.", "Free some space and resume: what has arrived is kept.")
    return DynoError(f"{path.name} cannot be written: {reason(error)}.",
                     "Check the models folder and its permissions, then resume.")
