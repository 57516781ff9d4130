"""The bytes of one file, from the hub to the disk: resumed where they stopped, until they are all there.

huggingface_hub's own transfer is not used, for reasons that docs/design.md gives: it cannot be stopped between two
chunks of 10 MB, and it checks lengths but no hashes. This one flushes what it received to the operating system as it
comes, so a kill at any moment loses nothing but the chunk on its way.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from engine.hub import faults
from engine.hub.client import Hub
from engine.hub.faults import HubError
from engine.hub.records import RemoteFile

if TYPE_CHECKING:
    import httpx2

_HASH_CHUNK = 1 << 22
T = TypeVar("T")
Told = Callable[[int], None]
"""Called with the number of bytes of the file that are there."""


class Stopped(Exception):
    """The user paused."""


class Stopper:
    """Ends a transfer from another thread, at once: a read that waits for the network is woken."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._wake: threading.Event | None = None

    @property
    def stopped(self) -> bool:
        """Whether stop() was called."""
        return self._event.is_set()

    def stop(self) -> None:
        """End whatever runs, now and in future."""
        self._event.set()
        with self._lock:
            if self._wake is not None:
                self._wake.set()
            if self._socket is not None:
                with contextlib.suppress(OSError):  # it may have ended by itself
                    self._socket.shutdown(socket.SHUT_RDWR)

    def check(self) -> None:
        """Raises Stopped after stop()."""
        if self._event.is_set():
            raise Stopped

    def wait(self, seconds: float) -> None:
        """Sleep, unless stopped. Raises Stopped."""
        if self._event.wait(seconds):
            raise Stopped

    def unless_stopped(self, work: Callable[[], T], late: Callable[[T], None]) -> T:
        """What `work` returns or raises, run on a thread of its own: connecting, and waiting for the first word of an
        answer, have no socket that could be shut. Raises Stopped at once after stop(); `late` is then given what still
        comes."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except BaseException as error:  # handed on to whoever waits
                future.set_exception(error)

        either = threading.Event()
        future.add_done_callback(lambda _future: either.set())
        with self._lock:
            self._wake = either
        if self._event.is_set():
            raise Stopped
        threading.Thread(target=run, name="asking the hub", daemon=True).start()
        either.wait()
        with self._lock:
            self._wake = None
        if self._event.is_set():
            future.add_done_callback(lambda done: late(done.result()) if done.exception() is None else None)
            raise Stopped
        return future.result()

    def watch(self, response: httpx2.Response | None) -> None:
        """The answer that is read now, None for none."""
        stream: Any = response.extensions.get("network_stream") if response is not None else None
        with self._lock:
            self._socket = stream.get_extra_info("socket") if stream is not None else None
        if response is not None:
            self.check()


class Transfer:
    """Fetches files of one repository at one commit. waiting: told in words what it waits for, "" when it goes on."""

    def __init__(self, hub: Hub, repo: str, revision: str, stopper: Stopper,
                 waiting: Callable[[str], None] = lambda _words: None) -> None:
        self._hub, self._repo, self._revision = hub, repo, revision
        self._stopper, self._waiting = stopper, waiting

    def fetch(self, file: RemoteFile, path: Path, told: Told) -> bool:
        """Bring `path` to the file's full length, from whatever it holds. Returns whether it was put together from
        several answers, now or before. Raises Stopped and DynoError."""
        patience, failures, pieces = self._hub.patience, 0, 2 * (_length(path) > 0)  # what lies there came earlier
        while True:
            self._stopper.check()
            have = _length(path)
            if have > file.nbytes:
                _truncate(path)
                have = 0
            told(have)
            if have == file.nbytes and (have or path.exists()):
                return pieces > 1
            pieces += 1
            try:
                self._receive(file, path, have, told)
                continue
            except HubError as error:
                failures = 1 if _length(path) > have else failures + 1
                if error.retry_s is None or failures >= patience.tries or error.retry_s > patience.longest_asked_s:
                    raise
                pause_s = error.retry_s or min(patience.longest_wait_s, patience.first_wait_s * 2 ** (failures - 1))
                self._waiting(f"{error.summary} Trying again in {pause_s:.0f} s.")
            self._stopper.wait(pause_s)
            self._waiting("")

    def _receive(self, file: RemoteFile, path: Path, have: int, told: Told) -> None:
        """One request: adds to the file what comes. Returns early or raises a HubError where it ends too soon."""
        import httpx2
        from huggingface_hub import get_session

        self._hub.allowed()
        hub, patience = self._hub, self._hub.patience
        headers = hub.headers() | ({"range": f"bytes={have}-"} if have else {})
        timeout = (patience.connect_s, patience.read_s, patience.read_s, None)
        client = get_session()
        request = client.build_request("GET", hub.file_url(self._repo, self._revision, file.name), headers=headers,
                                       timeout=timeout)
        try:
            with contextlib.closing(self._stopper.unless_stopped(
                    lambda: client.send(request, stream=True), lambda late: late.close())) as response:
                self._stopper.watch(response)
                if response.status_code == 416:  # what is here is no beginning of what is there
                    _truncate(path)
                    raise faults.unreachable(hub.url, ValueError("the rest was refused, so the file begins anew"))
                hub.check(response, self._repo, file.name)
                if have and not _goes_on(response, have):
                    _truncate(path)
                    have = 0
                self._write(response, file, path, have, told)
        except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL) as error:
            self._stopper.check()
            raise faults.unreachable(hub.url, error, kept=True) from error
        finally:
            self._stopper.watch(None)

    def _write(self, response: httpx2.Response, file: RemoteFile, path: Path, have: int, told: Told) -> None:
        try:
            with path.open("ab", buffering=0) as out:
                for chunk in response.iter_bytes():
                    self._stopper.check()
                    if have + len(chunk) > file.nbytes:
                        _truncate(path)
                        raise faults.damaged(file.name, self._hub.url)
                    _write_all(out.write, chunk)
                    have += len(chunk)
                    told(have)
        except OSError as error:
            raise faults.disk(error, path) from error
        if have < file.nbytes:
            raise faults.unreachable(self._hub.url, EOFError("the connection was cut"), kept=True)


def verify(file: RemoteFile, path: Path, stopper: Stopper, told: Told) -> bool:
    """Whether the bytes on the disk are the hub's: by sha256, or by git's sha1 of small files. A file for which the
    hub names neither counts by its length. Raises Stopped and DynoError."""
    if file.sha256:
        digest, wanted = hashlib.sha256(), file.sha256
    elif file.git_sha1:
        digest, wanted = hashlib.sha1(b"blob %d\0" % file.nbytes, usedforsecurity=False), file.git_sha1
    else:
        return _length(path) == file.nbytes
    done = 0
    try:
        with path.open("rb") as content:
            while chunk := content.read(_HASH_CHUNK):
                stopper.check()
                digest.update(chunk)
                done += len(chunk)
                told(done)
    except OSError as error:
        raise faults.disk(error, path) from error
    return done == file.nbytes and digest.hexdigest() == wanted.lower()


class Pace:
    """Bytes/s over the last few seconds, and the time that is left at that pace."""

    def __init__(self, window_s: float = 5.0) -> None:
        self._window_s = window_s
        self._marks: list[tuple[float, int]] = []

    def note(self, done: int, now_s: float | None = None) -> None:
        """`done` bytes are there."""
        now_s = time.monotonic() if now_s is None else now_s
        if self._marks and done < self._marks[-1][1]:
            self._marks.clear()  # thrown away, begun anew
        self._marks.append((now_s, done))
        while len(self._marks) > 2 and self._marks[0][0] < now_s - self._window_s:
            self._marks.pop(0)

    def speed(self) -> float:
        """Bytes/s, 0 while unknown."""
        if len(self._marks) < 2:
            return 0.0
        (first_s, first), (last_s, last) = self._marks[0], self._marks[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else 0.0

    def left_s(self, rest: int) -> float:
        """Seconds for the rest, -1 while unknown."""
        speed = self.speed()
        return rest / speed if speed > 0 else -1.0


def _goes_on(response: httpx2.Response, have: int) -> bool:
    """Whether an answer to a request for the rest is the rest: status 206, from the byte that was asked for, and as it
    is (a compressed rest cannot be read alone)."""
    said, packed = response.headers.get("Content-Range", ""), response.headers.get("Content-Encoding", "identity")
    return response.status_code == 206 and packed == "identity" and said.startswith(f"bytes {have}-")


def _write_all(write: Callable[[memoryview], int | None], chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[write(view) or 0:]


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise faults.disk(error, path) from error


def _truncate(path: Path) -> None:
    try:
        if path.exists():
            os.truncate(path, 0)
    except OSError as error:
        raise faults.disk(error, path) from error
