"""Removing models, so that only what is meant goes.

The app's own models are first moved aside, so that a removal can be undone until it is settled. Those of the
Hugging Face cache go by the cache's own strategy, which knows what several revisions share. A folder from anywhere
else is never deleted, it is only listed no longer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from engine.errors import DynoError
from engine.hub import faults
from engine.hub.catalogue import is_weights
from engine.hub.library import Library, cache_folder
from engine.hub.records import APP, BUNDLED, CACHE, ModelOnDisk
from engine.processes import runs_still, this_process

ASIDE = ".removed"


@dataclass(frozen=True)
class Removed:
    """A model that was moved aside. restore() brings it back, settle() frees its space."""

    path: Path
    aside: Path

    def restore(self) -> None:
        """Put it back. Raises DynoError where its place is taken."""
        if self.path.exists():
            raise DynoError(f"There is a {self.path.name} again, so the removed one stays aside.",
                            "Move the new one elsewhere first.")
        try:
            os.rename(self.aside, self.path)
        except OSError as error:
            raise faults.disk(error, self.path) from error
        self._leave()

    def settle(self) -> None:
        """Delete it for good. Raises DynoError."""
        _delete(self.aside)
        self._leave()

    def _leave(self) -> None:
        """The folder that this program made goes with the last model in it."""
        with contextlib.suppress(OSError):
            self.aside.parent.rmdir()


def remove(model: ModelOnDisk, models: Path, library: Library, cache: Path | None = None) -> Removed | None:
    """Remove a model. Returns what can be undone, None where nothing can or need. Raises DynoError."""
    path = Path(model.path)
    if model.place == BUNDLED:
        raise DynoError("The bundled model is part of the app.", "It can be left unused.")
    if model.place == APP:
        removed = _move_aside(_own(path, models), models)
        library.forget(path)
        return removed
    if model.place == CACHE:
        _remove_cached(model, cache)
    library.forget(path)
    return None


def settle_all(models: Path) -> None:
    """Delete what earlier runs have left aside. What another program that still runs has moved there stays: its user
    may want it back. Raises DynoError."""
    aside = models / ASIDE
    if aside.is_dir() and not aside.is_symlink():
        for path in aside.iterdir():
            if not _in_use(path.name):
                _delete(path)


def _own_name() -> str:
    """The folder of this program: its number, and since when it has run, because numbers come again."""
    number, started_s = this_process()
    return f"{number}-{started_s:.0f}"


def _in_use(name: str) -> bool:
    """Whether a folder is that of another program which still runs."""
    number, _, since = name.partition("-")
    if not (number.isdigit() and since.isdigit()) or name == _own_name():
        return False
    return runs_still(int(number), int(since))


def _own(path: Path, models: Path) -> Path:
    """The entry directly below the models folder that holds the model. Raises DynoError for anything that is not
    really there."""
    own = path.parent if path.suffix == ".gguf" and path.parent != models else path
    others = (p for p in own.iterdir() if p != path) if own != path else ()
    lonely = not any(p.suffix == ".gguf" or p.name == "config.json" or is_weights(p.name) for p in others)
    entry = own if lonely else path  # one of several models in a folder goes alone
    if entry.is_symlink() or own.is_symlink() or own.resolve().parent != models.resolve():
        raise DynoError(f"{path.name} does not lie in the app's models folder itself.",
                        "Remove it with the file manager, if you mean to.")
    return entry


def _move_aside(path: Path, models: Path) -> Removed:
    folder = models / ASIDE / _own_name()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        number, aside = 1, folder / path.name
        while aside.exists():
            number += 1
            aside = folder / f"{path.name} {number}"
        os.rename(path, aside)
    except OSError as error:
        raise faults.disk(error, path) from error
    return Removed(path, aside)


def _remove_cached(model: ModelOnDisk, cache: Path | None) -> None:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        info = scan_cache_dir(cache or cache_folder())
    except (CacheNotFound, ValueError):
        return
    # A copy of a repository may hold the very same commits, and the strategy goes by commits alone: show it one only.
    repos = frozenset(repo for repo in info.repos if repo.repo_id == model.repo and repo.repo_type == "model")
    info = dataclasses.replace(info, repos=repos)
    revisions = [r for repo in repos for r in repo.revisions if r.commit_hash == model.revision]
    path = Path(model.path)
    if path.suffix == ".gguf":
        strategy = info.delete_files(*(f for revision in revisions for f in revision.files if f.file_path == path))
    else:
        strategy = info.delete_revisions(*(revision.commit_hash for revision in revisions))
    strategy.execute()
    if os.path.lexists(path):
        raise DynoError(f"{model.name} could not be removed from the Hugging Face cache.",
                        "Check the permissions of the cache folder.")


def _delete(path: Path) -> None:
    """Never follows a link: a link goes, what it leads to stays."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
    except OSError as error:
        raise faults.disk(error, path) from error
