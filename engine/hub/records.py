"""What is known of models, on the disk and on the hub: plain data that crosses threads.

Sizes are bytes. Nothing here reads a disk or a network.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from engine.errors import DynoError

BUNDLED, APP, CACHE, ADDED, RECENT = "bundled", "app", "cache", "added", "recent"
"""Places of a model: shipped, in the app's folder, in the Hugging Face cache, in a folder the user added, or opened
once from anywhere."""
DEFAULT_ENDPOINT = "https://huggingface.co"
UNLISTED = ""
"""The place of one that was named by its path and stands in no list."""


@dataclass(frozen=True)
class ModelOnDisk:
    """A model folder, or a GGUF file. problem: why it cannot be opened, "" where it is ready.

    architecture: `model_type` of the configuration. parameters: weights the files hold. context: tokens, 0 where the
    files do not say. dtype: of most bytes of the weights. repo, revision: where it came from, "" where unknown.
    used_s: when it was last opened, seconds since the epoch, 0 for never.
    """

    path: str
    name: str
    place: str
    kind: str = "safetensors"  # or "gguf"
    architecture: str = ""
    parameters: int = 0
    context: int = 0
    nbytes: int = 0
    weight_bytes: int = 0
    dtype: str = ""
    licence: str = ""
    repo: str = ""
    revision: str = ""
    problem: str = ""
    used_s: float = 0.0

    @property
    def ready(self) -> bool:
        """Whether every file it needs is whole."""
        return not self.problem


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository at one revision. sha256: of large files, as the hub names them; git_sha1: of the others,
    over git's header and the content."""

    name: str
    nbytes: int
    sha256: str = ""
    git_sha1: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON data."""
        return {"name": self.name, "bytes": self.nbytes, "sha256": self.sha256, "git_sha1": self.git_sha1}


@dataclass(frozen=True)
class FileChoice:
    """One way to take a model: its safetensors with what belongs to them, or a single GGUF file. key: "safetensors"
    or the file's name."""

    key: str
    files: tuple[RemoteFile, ...]

    @property
    def nbytes(self) -> int:
        """All of its files together."""
        return sum(file.nbytes for file in self.files)


@dataclass(frozen=True)
class RemoteModel:
    """A repository at one revision, and what can be taken from it. gated: its owner grants access. problem: why
    nothing of it can be taken."""

    repo: str
    revision: str
    licence: str = ""
    gated: bool = False
    parameters: int = 0
    choices: tuple[FileChoice, ...] = ()
    problem: str = ""

    def choice(self, key: str = "") -> FileChoice:
        """The choice of that name, the first one for "". Raises DynoError."""
        if not self.choices:
            raise DynoError(f"{self.repo} offers nothing this app can open. {self.problem}".strip(),
                            "Choose a model with safetensors or GGUF files.")
        for choice in self.choices:
            if key in ("", choice.key):
                return choice
        raise DynoError(f"{self.repo} has no file {key} that could be taken alone.",
                        f"It offers {', '.join(choice.key for choice in self.choices)}.")


@dataclass(frozen=True)
class SearchHit:
    """A model that a search found, or one of the short list. nbytes: about how much its download is, 0 where unknown.
    """

    repo: str
    parameters: int = 0
    nbytes: int = 0
    licence: str = ""
    gated: bool = False
    downloads: int = 0
    note: str = ""


def _size(value: Any) -> int:
    """Bytes of a file, as a manifest that anybody may have written says. Raises ValueError."""
    if type(value) is not int or not 0 <= value < 1 << 60:
        raise ValueError("a file's size is no number of bytes")
    return value


@dataclass(frozen=True)
class DownloadPlan:
    """What to fetch, pinned to one commit. folder: its name below the models folder. endpoint: the hub that named the
    files; with their hashes known, the bytes may come from any mirror."""

    repo: str
    revision: str
    folder: str
    files: tuple[RemoteFile, ...]
    licence: str = ""
    choice: str = "safetensors"
    endpoint: str = field(default="", compare=False)

    @property
    def nbytes(self) -> int:
        """All files together."""
        return sum(file.nbytes for file in self.files)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON data."""
        return {"repo": self.repo, "revision": self.revision, "endpoint": self.endpoint, "folder": self.folder,
                "licence": self.licence, "choice": self.choice, "files": [file.to_json() for file in self.files]}

    @classmethod
    def from_json(cls, raw: Any) -> DownloadPlan:
        """Raises ValueError where it is none."""
        try:
            files = tuple(RemoteFile(checked_name(str(f["name"])), _size(f["bytes"]), str(f["sha256"]),
                                     str(f["git_sha1"])) for f in raw["files"])
            return cls(str(raw["repo"]), str(raw["revision"]), checked_name(str(raw["folder"])), files,
                       str(raw.get("licence", "")), str(raw.get("choice", "safetensors")),
                       str(raw.get("endpoint", "")))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no plan of a download: {error}") from error


WAITING, RUNNING, CHECKING, PAUSED, FAILED, DONE = "waiting", "running", "checking", "paused", "failed", "done"


@dataclass(frozen=True)
class DownloadView:
    """Where a download stands. speed: bytes/s over the last seconds; left_s: -1 while unknown. note: what it waits
    for. summary, hint: what went wrong and what to do, of a failed one. path: the model, of one that is done."""

    plan: DownloadPlan
    state: str
    done: int = 0
    speed: float = 0.0
    left_s: float = -1.0
    note: str = ""
    summary: str = ""
    hint: str = ""
    path: str = ""
    details: str = field(default="", repr=False)

    @property
    def key(self) -> str:
        """What tells it from other downloads."""
        return self.plan.folder


def checked_name(name: str) -> str:
    """A name of a file or folder that stays where it is put. Raises ValueError for any other."""
    if (not name or name in (".", "..") or len(name.encode()) > 240 or any(c in name for c in '/\\:\0')
            or not name.isprintable()):
        raise ValueError(f"{name[:60]!r} is no plain file name")
    return name
