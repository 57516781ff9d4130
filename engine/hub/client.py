"""Questions to the hub: search, and what a repository holds.

Requests go through huggingface_hub's session (its proxies, certificates and offline mode), names and answers through
its own functions and classes. They are sent here and not by HfApi, because HfApi.list_models waits without a limit
and retries without a way to stop it, and because its headers tell which programs are installed; see docs/design.md.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from engine.errors import DynoError
from engine.hub import faults
from engine.hub.records import DEFAULT_ENDPOINT, FileChoice, RemoteFile, RemoteModel, SearchHit, checked_name

if TYPE_CHECKING:
    import httpx2

_BESIDE = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
           "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model",
           "chat_template.jinja", "chat_template.json", "README.md"}
_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_SHARD = re.compile(r"(.*?)(\d{1,6})-of-(\d{1,6})\.safetensors", re.ASCII)
_REPO = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?", re.ASCII)
_LONGEST_ANSWER = 32 << 20  # bytes; a repository of ten thousand files takes two million
_TRUE = {"1", "on", "yes", "true"}


def endpoint() -> str:
    """The hub, or the mirror that HF_ENDPOINT names."""
    return os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or DEFAULT_ENDPOINT


def offline_by_environment() -> bool:
    """Whether HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) forbids the network."""
    return any(os.environ.get(name, "").casefold() in _TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


@dataclass(frozen=True)
class Patience:
    """How long to wait and how often to try. connect_s, read_s: for a connection, and for the next bytes. tries: in a
    row without a single new byte. Waits between them double from first_wait_s to longest_wait_s; a hub that asks for
    a longer pause than longest_asked_s ends the attempt with a sentence that says so."""

    connect_s: float = 10.0
    read_s: float = 20.0
    tries: int = 6
    first_wait_s: float = 1.0
    longest_wait_s: float = 30.0
    longest_asked_s: float = 120.0


@dataclass(frozen=True)
class Hub:
    """A hub as one user sees it. token: "" for none."""

    url: str = field(default_factory=endpoint)
    token: str = field(default="", repr=False)
    offline: bool = False
    patience: Patience = Patience()

    def search(self, text: str, limit: int = 30) -> tuple[SearchHit, ...]:
        """Models for generating text whose name holds `text`, the most downloaded first. Raises DynoError."""
        from huggingface_hub import ModelInfo

        # The fields wanted are named: without that, neither size nor licence comes with a list.
        wanted = ["downloads", "gated", "tags", "safetensors", "gguf"]
        answer = self._json("/api/models", {"search": text, "pipeline_tag": "text-generation", "sort": "downloads",
                                            "limit": limit, "expand": wanted})
        if not isinstance(answer, list):
            raise faults.not_the_hub(self.url)
        try:
            return tuple(_hit(ModelInfo(**item)) for item in answer[:limit])  # type: ignore[no-untyped-call]
        except (TypeError, ValueError, KeyError, AttributeError):
            raise faults.not_the_hub(self.url) from None

    def look(self, repo: str, revision: str = "main") -> RemoteModel:
        """What a repository holds at a revision. Raises DynoError."""
        from huggingface_hub import ModelInfo

        if not _REPO.fullmatch(repo) or ".." in repo or "--" in repo:
            raise DynoError(f"{repo[:80]!r} is no name of a model on the hub.",
                            "Write it as the hub does, such as HuggingFaceTB/SmolLM2-135M-Instruct.")
        answer = self._json(f"/api/models/{repo}/revision/{quote(revision, safe='')}", {"blobs": True}, repo)
        try:
            info = ModelInfo(**answer)  # type: ignore[no-untyped-call]
            files = [_file(sibling) for sibling in info.siblings or ()]
            licence = str(getattr(info.card_data, "license", None) or _tagged(info.tags or ()))
            total = info.safetensors.total if info.safetensors is not None else 0
            commit = checked_name(str(info.sha or ""))
        except (TypeError, ValueError, KeyError, AttributeError):
            raise faults.not_the_hub(self.url) from None
        choices = _choices([file for file in files if file is not None])
        pickles = any(s.rfilename.endswith((".bin", ".pt", ".pth", ".ckpt")) for s in info.siblings or ())
        problem = "" if choices else (
            "It has only pickled weights, which can run code when they are opened." if pickles else
            "It has neither safetensors nor GGUF files.")
        if not _REPO.fullmatch(str(info.id)) or ".." in str(info.id):
            raise faults.not_the_hub(self.url)
        return RemoteModel(str(info.id), commit, licence, bool(info.gated), int(total or 0), choices, problem)

    def file_url(self, repo: str, revision: str, name: str) -> str:
        """Where a file's bytes are."""
        from huggingface_hub import hf_hub_url

        return hf_hub_url(repo, name, revision=revision, endpoint=self.url)

    def headers(self) -> dict[str, str]:
        """Of every request: who asks, and the token. No list of what is installed."""
        headers = {"user-agent": "gpt-dyno", "accept-encoding": "identity"}
        return headers | ({"authorization": f"Bearer {self.token}"} if self.token else {})

    def allowed(self) -> None:
        """Raises HubError where the app is offline."""
        if self.offline or offline_by_environment():
            raise faults.offline()

    def check(self, response: httpx2.Response, repo: str, file: str = "") -> None:
        """Raises HubError for an answer that is an error."""
        if response.status_code >= 400:
            raise faults.refused(response.status_code, response.headers.get("X-Error-Code", ""), repo, file, self.url,
                                 bool(self.token), _asked_wait_s(response))

    def _json(self, path: str, params: dict[str, Any], repo: str = "") -> Any:
        import httpx2
        from huggingface_hub import get_session
        from huggingface_hub.errors import OfflineModeIsEnabled

        self.allowed()
        patience = self.patience
        try:
            with get_session().stream("GET", f"{self.url}{path}", params=params, headers=self.headers(),
                                      timeout=(patience.connect_s, patience.read_s, patience.read_s, None)) as response:
                self.check(response, repo)
                raw = bytearray()
                for chunk in response.iter_bytes():
                    raw += chunk
                    if len(raw) > _LONGEST_ANSWER:
                        raise faults.not_the_hub(self.url)
        except OfflineModeIsEnabled:
            raise faults.offline() from None
        except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, OSError) as error:
            raise faults.unreachable(self.url, error) from error
        try:
            return json.loads(raw)
        except (ValueError, RecursionError):
            raise faults.not_the_hub(self.url) from None


def _asked_wait_s(response: httpx2.Response) -> float | None:
    """Seconds that Retry-After or the hub's own RateLimit header asks for, None for none."""
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

    asked = response.headers.get("Retry-After", "").strip()
    if asked.isdigit():
        return float(asked)
    limit = parse_ratelimit_headers(response.headers)
    return float(limit.reset_in_seconds) if limit is not None and limit.remaining == 0 else None


def _hit(info: Any) -> SearchHit:
    parameters = nbytes = 0
    if info.safetensors is not None:
        parameters = int(info.safetensors.total or 0)
        sizes = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I8": 1, "U8": 1}
        nbytes = sum(int(n) * sizes.get(kind, 1) for kind, n in (info.safetensors.parameters or {}).items())
    elif isinstance(info.gguf, dict):
        parameters = int(info.gguf.get("total") or 0)
    return SearchHit(str(info.id), parameters, nbytes, _tagged(info.tags or ()), bool(info.gated),
                     int(info.downloads or 0))


def _tagged(tags: Any) -> str:
    return next((str(tag).removeprefix("license:") for tag in tags if str(tag).startswith("license:")), "")


def _file(sibling: Any) -> RemoteFile | None:
    """A file that may be taken, or None: only those at the root, under plain names and of known size."""
    try:
        name = checked_name(sibling.rfilename)
    except ValueError:
        return None
    lfs = sibling.lfs
    size = lfs.size if lfs is not None else sibling.size
    if not isinstance(size, int) or size < 0:
        return None
    return RemoteFile(name, size, str(lfs.sha256) if lfs is not None else "",
                      "" if lfs is not None else str(sibling.blob_id or ""))


def _shards(names: list[str]) -> set[str]:
    """The files that belong to the index: "model-00001-of-00004" and its fellows; where there is no such set, the
    largest one under another name, or all that are named otherwise. Other tools' whole copies beside them are none."""
    sets: dict[tuple[str, str], set[str]] = {}
    for name in names:
        found = _SHARD.fullmatch(name)
        if found is not None:
            sets.setdefault((found[1], found[3]), set()).add(name)
    whole = {key: held for key, held in sets.items() if len(held) == int(key[1])}
    if whole:
        return max(whole.items(), key=lambda item: (item[0][0] in ("model-", "model"), len(item[1])))[1]
    return {name for name in names if not name.startswith(("consolidated", _SINGLE))}


def _choices(files: list[RemoteFile]) -> tuple[FileChoice, ...]:
    by_name = {file.name: file for file in files}
    choices = []
    weights = [f for f in files if f.name.endswith(".safetensors") and not f.name.startswith("adapter_")]
    if _INDEX in by_name:
        # Which shards there are stands in the index; a whole set that is named alike is the same, one request earlier.
        shards = _shards([f.name for f in weights])
        weights = [f for f in weights if f.name in shards]
        weights += [by_name[_INDEX]] if weights else []
    elif _SINGLE in by_name:
        weights = [by_name[_SINGLE]]
    if weights and "config.json" in by_name:
        beside = [f for f in files if f.name in _BESIDE or f.name.upper().startswith(("LICENSE", "LICENCE", "NOTICE"))]
        choices.append(FileChoice("safetensors", (*beside, *weights)))
    for file in sorted(files, key=lambda file: file.nbytes):
        if file.name.endswith(".gguf") and "-of-" not in file.name:
            card = [by_name[name] for name in ("README.md",) if name in by_name]
            choices.append(FileChoice(file.name, (*card, file)))
    return tuple(choices)
