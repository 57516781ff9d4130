"""A whole download: a folder that fills up beside the models, and becomes one of them in a single rename.

Below the models folder stands NAME.part while a model is on its way:

    download.json          the plan: which files of which commit, with sizes and hashes
    FILE.incomplete        what has come of a file so far
    FILE                   a file that is all there and whose hash was checked

The rename from FILE.incomplete to FILE comes after the check, and the one from NAME.part to NAME after the last file,
so whatever moment the power goes, what stands under a final name is whole. A kill needs no clean-up: the next run
reads the plan and goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import DynoError, reason
from engine.hub import faults
from engine.hub.client import Hub
from engine.hub.records import DownloadPlan, RemoteModel
from engine.hub.transfer import Stopper, Transfer, verify

PART = ".part"
SOURCE = "gpt-dyno.json"
"""In a finished folder: the plan it came by."""
_PLAN = "download.json"
_UNFINISHED = ".incomplete"
_MARGIN = 64 << 20  # of the disk, left for everybody else
_MAX_PLAN = 4 << 20


@dataclass(frozen=True)
class Step:
    """How far a download is. checking: reads what has come, to compare its hash. file: on which it works."""

    done: int
    checking: bool = False
    file: str = ""
    note: str = ""


def plan(model: RemoteModel, key: str, endpoint: str, models: Path) -> DownloadPlan:
    """The plan for a choice of a model's files. Raises DynoError."""
    choice = model.choice(key)
    name = model.repo.replace("/", "--")
    if choice.key != "safetensors":
        name = f"{name}--{choice.key.removesuffix('.gguf')}"
    here = source(models / name)
    if (models / name).exists() and (here is None or here.revision != model.revision):
        name = f"{name}@{model.revision[:8]}"  # another revision stands there: it may be in use
    return DownloadPlan(model.repo, model.revision, name, choice.files, model.licence, choice.key, endpoint)


def source(folder: Path) -> DownloadPlan | None:
    """The plan by which a finished folder came, None for a folder from elsewhere."""
    return _read(folder / SOURCE)


def unfinished(models: Path) -> tuple[DownloadPlan, ...]:
    """Downloads that were begun and not finished."""
    try:
        parts = sorted(p for p in models.iterdir() if p.name.endswith(PART) and p.is_dir() and not p.is_symlink())
    except OSError:
        return ()
    plans = ((part, _read(part / _PLAN)) for part in parts)
    return tuple(p for part, p in plans if p is not None and part.name == f"{p.folder}{PART}")


def arrived(models: Path, what: DownloadPlan) -> int:
    """Bytes of a download that are on the disk."""
    part, total = models / f"{what.folder}{PART}", 0
    for file in what.files:
        for name in (file.name, f"{file.name}{_UNFINISHED}"):
            with contextlib.suppress(OSError):
                total += min(file.nbytes, (part / name).stat().st_size)
                break
    return total


def discard(models: Path, what: DownloadPlan) -> None:
    """Throw an unfinished download away. Raises DynoError, also while another program works on it."""
    with _locked(models, what):
        part = models / f"{what.folder}{PART}"
        try:
            if part.is_dir() and not part.is_symlink():
                shutil.rmtree(part)
        except OSError as error:
            raise faults.disk(error, part) from error


def begin(models: Path, what: DownloadPlan) -> None:
    """Write the plan down, so that the download is known from now on. Raises DynoError where the disk has no room."""
    with _locked(models, what):
        _prepare(models, what)


def _prepare(models: Path, what: DownloadPlan) -> None:
    part = models / f"{what.folder}{PART}"
    try:
        part.mkdir(parents=True, exist_ok=True)
        known = _read(part / _PLAN)
        if known != what:
            # Of another commit: of its bytes only those are ours that belong to a file with the same hash.
            same = {f.name for f in what.files if known is not None and f in known.files and (f.sha256 or f.git_sha1)}
            for path in part.iterdir():
                if path.name.removesuffix(_UNFINISHED) not in same:
                    path.unlink()
            _write(part / _PLAN, what)
    except OSError as error:
        raise faults.disk(error, part) from error
    _check_space(models, what)


def run(models: Path, what: DownloadPlan, hub: Hub, stopper: Stopper, tell: Callable[[Step], None]) -> Path:
    """Fetch what is missing, check it, and put the folder in its place; returns it. Raises Stopped and DynoError;
    what has come is kept then."""
    final, part = models / what.folder, models / f"{what.folder}{PART}"
    if source(final) == what:
        return final
    with _locked(models, what):
        if source(final) == what:  # another program was quicker
            return final
        _prepare(models, what)
        done = 0
        for file in what.files:
            path = part / file.name
            if not path.exists():
                _bring(what, file, path, hub, stopper, tell, done)
            done += file.nbytes
        return _finish(what, part, final)


def _bring(what: DownloadPlan, file: Any, path: Path, hub: Hub, stopper: Stopper, tell: Callable[[Step], None],
           before: int) -> None:
    """One file: fetch, check, rename. A file that fails its check is thrown away; one that was put together from
    several connections is fetched a second time first, because the pieces may not have been one file's."""
    growing = path.with_name(f"{path.name}{_UNFINISHED}")
    again = False
    here = before
    transfer = Transfer(hub, what.repo, what.revision, stopper,
                        lambda words: tell(Step(here, file=file.name, note=words)))

    def fetched(nbytes: int) -> None:
        nonlocal here
        here = before + nbytes
        tell(Step(here, file=file.name))

    while True:
        pieced = transfer.fetch(file, growing, fetched)
        if verify(file, growing, stopper, lambda n: tell(Step(before + n, checking=True, file=file.name))):
            break
        _remove(growing)
        if again or not pieced:
            raise faults.damaged(file.name, hub.url)
        again = True
    try:
        _settle(growing)
        os.replace(growing, path)
    except OSError as error:
        raise faults.disk(error, path) from error


def _finish(what: DownloadPlan, part: Path, final: Path) -> Path:
    try:
        _write(part / SOURCE, what)
        (part / _PLAN).unlink(missing_ok=True)
        _settle(part)
        os.rename(part, final)
        _settle(final.parent)
    except OSError as error:
        if final.exists():
            raise DynoError(f"There is a folder {final.name} already, and it is not this download.",
                            "Move it elsewhere and resume.") from error
        raise faults.disk(error, final) from error
    return final


def _check_space(models: Path, what: DownloadPlan) -> None:
    try:
        free = shutil.disk_usage(models).free
    except OSError as error:
        raise faults.disk(error, models) from error
    needed = what.nbytes - arrived(models, what)
    if needed + (_MARGIN if needed > _MARGIN else 0) > free:
        raise faults.no_space(models, needed, free)


@contextlib.contextmanager
def _locked(models: Path, what: DownloadPlan) -> Iterator[None]:
    """One program at a time; a program that was killed holds no lock."""
    from filelock import FileLock, Timeout

    folder = models / ".locks"
    lock = FileLock(folder / f"{what.folder}.lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise DynoError(f"Another program downloads {what.repo} already.", "Wait for it, or stop it there.") from None
    except OSError as error:
        raise DynoError(f"The models folder cannot be used: {reason(error)}.",
                        "Check its permissions, or choose another one with GPT_DYNO_MODELS.") from error
    try:
        yield
    finally:
        lock.release()


def _read(path: Path) -> DownloadPlan | None:
    try:
        with path.open("rb") as file:
            return DownloadPlan.from_json(json.loads(file.read(_MAX_PLAN)))
    except (OSError, ValueError, RecursionError):
        return None


def _write(path: Path, what: DownloadPlan) -> None:
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(what.to_json(), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _settle(path: Path) -> None:
    """Have the disk hold what was written, before a name says that it does."""
    if path.is_dir() and os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise faults.disk(error, path) from error
