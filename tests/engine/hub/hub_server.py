"""A hub on 127.0.0.1: search, repository facts, files with ranges and redirects to a CDN on another port, and faults on
demand. It speaks the protocol as huggingface_hub's client expects it; the names of headers are those of the real one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "5f0b02c75b57c5855da9ae460ce51323ea669d8a"
TOKEN = "hf_the_right_one"


@dataclass
class Repository:
    """files: name -> content; those of `large` lie on the CDN and are known by sha256, the others by git's sha1."""

    files: dict[str, bytes]
    large: tuple[str, ...] = (".safetensors", ".gguf", ".bin")
    gated: bool = False
    granted: bool = False
    private: bool = False
    licence: str = "apache-2.0"
    claimed: dict[str, int] = field(default_factory=dict)  # sizes that are said, where they are not the true ones
    commit: str = COMMIT


@dataclass(eq=False)
class Fault:
    """What happens to one request for a file's bytes. file: only to one whose path ends like this. after: bytes sent
    before the connection is cut. hold: instead of cutting, keep it open without a byte until the server stops, setting
    `held`. mute: say nothing at all until the server stops, setting `held`. reset: cut by RST. status: answer with this
    error. body: send these bytes for the right ones. plain: ignore the range."""

    after: int | None = None
    hold: bool = False
    mute: bool = False
    reset: bool = False
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    plain: bool = False
    file: str = ""
    held: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Request:
    """One that came. sent: bytes of the body that went out."""

    method: str
    path: str
    range: str
    authorization: str
    agent: str


class HubServer:
    """repositories by name; `faults` are used up one per request for bytes, `api_faults` one per question."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.faults: list[Fault] = []
        self.api_faults: list[Fault] = []
        self.requests: list[Request] = []
        self.sent = 0  # bytes of files
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.arrived = threading.Condition(self.lock)
        self._servers = [_server(self, cdn=False), _server(self, cdn=True)]
        self.url, self.cdn = (f"http://127.0.0.1:{s.server_address[1]}" for s in self._servers)

    def add(self, name: str, folder: Path | None = None, **facts: Any) -> Repository:
        """A repository of a folder's files, or of the `files` given."""
        files = facts.pop("files", {})
        if folder is not None:
            files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())} | files
        self.repositories[name] = Repository(files, **facts)
        return self.repositories[name]

    def asked(self, part: str) -> list[Request]:
        """The requests whose path holds `part`."""
        with self.lock:
            return [request for request in self.requests if part in request.path]

    def wait_for(self, part: str, number: int, timeout_s: float = 30.0) -> None:
        """Until so many requests for a path have come."""
        with self.arrived:
            enough = self.arrived.wait_for(
                lambda: sum(part in request.path for request in self.requests) >= number, timeout_s)
        assert enough, f"{part} was asked for too seldom"

    def stop(self) -> None:
        """Close everything."""
        self.stopping.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()


@contextlib.contextmanager
def hub_server() -> Iterator[HubServer]:
    """A hub for the length of a test."""
    server = HubServer()
    try:
        yield server
    finally:
        server.stop()


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is what the tests are about."""


def _server(hub: HubServer, cdn: bool) -> ThreadingHTTPServer:
    handler = type("Handler", (_Handler,), {"hub": hub, "is_cdn": cdn})
    server = _Quiet(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), name="hub server", daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    is_cdn: bool
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on standard error."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        request = Request(self.command, unquote(self.path), self.headers.get("Range", ""),
                          self.headers.get("Authorization", ""), self.headers.get("User-Agent", ""))
        with self.hub.arrived:
            self.hub.requests.append(request)
            self.hub.arrived.notify_all()
        if self.is_cdn:
            self._content(unquote(url.path).removeprefix("/"), parse_qs(url.query))
        elif url.path.startswith("/api/models"):
            self._api(url.path.removeprefix("/api/models").strip("/"), parse_qs(url.query))
        elif "/resolve/" in url.path:
            self._resolve(unquote(url.path))
        else:
            self._answer(404, b"")

    # --------------------------------------------------------------------------------------------------------- answers

    def _api(self, path: str, query: dict[str, list[str]]) -> None:
        with self.hub.lock:
            fault = self.hub.api_faults.pop(0) if self.hub.api_faults else None
        if fault is not None:
            self._answer(fault.status or 200, fault.body or b"", fault.headers)
        elif not path:
            words, limit = query.get("search", [""])[0].casefold(), int(query.get("limit", ["100"])[0])
            found = [self._facts(name, repo, query) for name, repo in self.hub.repositories.items()
                     if words in name.casefold() and not repo.private]
            self._json(found[:limit])
        else:
            name, _, revision = path.partition("/revision/")
            repo = self._allowed(name, facts=True)
            if repo is not None:
                if revision not in ("main", repo.commit):
                    self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                else:
                    self._json(self._facts(name, repo, query))

    def _facts(self, name: str, repo: Repository, query: dict[str, list[str]]) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "id": name, "modelId": name, "sha": repo.commit, "gated": "manual" if repo.gated else False,
            "private": repo.private, "downloads": 1000, "tags": ["transformers", f"license:{repo.licence}"],
            "cardData": {"license": repo.licence}, "pipeline_tag": "text-generation",
            "safetensors": {"parameters": {"F32": 1000}, "total": 1000}}
        blobs = "blobs" in query
        facts["siblings"] = [self._sibling(repo, file, body, blobs) for file, body in repo.files.items()]
        return facts

    def _sibling(self, repo: Repository, name: str, body: bytes, blobs: bool) -> dict[str, Any]:
        if not blobs:
            return {"rfilename": name}
        size = repo.claimed.get(name, len(body))
        facts: dict[str, Any] = {"rfilename": name, "size": size,
                                 "blobId": hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()}
        if name.endswith(repo.large):
            facts["lfs"] = {"size": size, "sha256": hashlib.sha256(body).hexdigest(), "pointerSize": 134}
        return facts

    def _allowed(self, name: str, facts: bool = False) -> Repository | None:
        """The repository, or None after the answer that the hub would give."""
        repo, sent = self.hub.repositories.get(name), self.headers.get("Authorization", "")
        if sent and sent != f"Bearer {TOKEN}":
            self._answer(401, b'{"error": "Invalid credentials in Authorization header"}',
                         {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif repo is None or (repo.private and not sent):
            self._answer(404 if sent else 401, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
        elif repo.gated and not facts and not (sent and repo.granted):
            self._answer(403 if sent else 401, b'{"error": "gated"}', {"X-Error-Code": "GatedRepo"})
        else:
            return repo
        return None

    def _resolve(self, path: str) -> None:
        name, _, rest = path.strip("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        repo = self._allowed(name)
        if repo is None:
            return
        if file not in repo.files or revision not in ("main", repo.commit):
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        body = repo.files[file]
        headers = {"X-Repo-Commit": repo.commit}
        if not file.endswith(repo.large):
            headers["ETag"] = f'"{hashlib.sha1(b"blob %d" % len(body) + bytes(1) + body).hexdigest()}"'
            self._bytes(body, headers)
            return
        digest = hashlib.sha256(body).hexdigest()
        headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(body)),
                    "Location": f"{self.hub.cdn}/{name}/{file}?sig=abc"}
        self._answer(302, b"", headers)

    def _content(self, path: str, query: dict[str, list[str]]) -> None:
        name, _, file = path.rpartition("/")
        if query.get("sig") != ["abc"] or name not in self.hub.repositories:
            self._answer(403, b"no signature")
            return
        body = self.hub.repositories[name].files[file]
        self._bytes(body, {"ETag": f'"{hashlib.sha256(body).hexdigest()}"'})

    def _bytes(self, body: bytes, headers: dict[str, str]) -> None:
        path = urlsplit(self.path).path
        with self.hub.lock:
            fault = next((f for f in self.hub.faults if self.command == "GET" and path.endswith(f.file)), None)
            if fault is not None:
                self.hub.faults.remove(fault)
        if fault is not None and fault.mute:
            fault.held.set()
            self.hub.stopping.wait()
            self.close_connection = True
            return
        if fault is not None and fault.status:
            self._answer(fault.status, b"", fault.headers)
            return
        body = fault.body if fault is not None and fault.body is not None else body
        start, status = 0, 200
        asked = self.headers.get("Range", "")
        if asked and not (fault is not None and fault.plain):
            start, status = int(asked.removeprefix("bytes=").rstrip("-")), 206
            if start >= len(body):
                self._answer(416, b"", {"Content-Range": f"bytes */{len(body)}"})
                return
            headers |= {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
        headers |= {"Accept-Ranges": "bytes"} | (fault.headers if fault is not None else {})
        rest = body[start:]
        cut = fault is not None and fault.after is not None and fault.after < len(rest)
        self._answer(status, rest[:fault.after] if cut and fault is not None else rest, headers, len(rest))
        if cut and fault is not None:
            if fault.hold:
                fault.held.set()
                self.hub.stopping.wait()
            if fault.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.close() if fault.reset else self.connection.shutdown(socket.SHUT_RDWR)

    def _json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None,
                length: int | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body)
        self.wfile.flush()
        if status in (200, 206) and length is not None:
            with self.hub.lock:
                self.hub.sent += len(body)
