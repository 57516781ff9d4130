"""Removing models, so that only what is meant goes.

The app's own models are first moved aside, so that a removal can be undone until it is settled. Those of the
Hugging Face cache go by the cache's own strategy, which knows what several revisions share. A folder from anywhere
else is never deleted, it is only listed no longer.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from engine.errors import DynoError
from engine.hub.catalogue import is_weights
from engine.hub.library import Library, cache_folder
from engine.hub.records import APP, BUNDLED, CACHE, ModelOnDisk
from engine.removing import Removed, move_aside


def remove(model: ModelOnDisk, models: Path, library: Library, cache: Path | None = None) -> Removed | None:
    """Remove a model. Returns what can be undone, None where nothing can or need. Raises DynoError."""
    path = Path(model.path)
    if model.place == BUNDLED:
        raise DynoError("The bundled model is part of the app.", "It can be left unused.")
    if model.place == APP:
        removed = move_aside(_own(path, models), models)
        library.forget(path)
        return removed
    if model.place == CACHE:
        _remove_cached(model, cache)
    library.forget(path)
    return None


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
