"""Removing folders and files that the user may want back: moved aside within their own disk, which costs nothing, and
deleted later. Knows neither models nor runs."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from engine.errors import DynoError, reason
from engine.processes import runs_still, this_process

ASIDE = ".removed"


@dataclass(frozen=True)
class Removed:
    """What was moved aside. restore() brings it back, settle() frees its space."""

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
            raise _refused(error, self.path) from error
        self._leave()

    def settle(self) -> None:
        """Delete it for good. Raises DynoError."""
        _delete(self.aside)
        self._leave()

    def _leave(self) -> None:
        """The folder that this program made goes with the last thing in it."""
        with contextlib.suppress(OSError):
            self.aside.parent.rmdir()


def move_aside(path: Path, home: Path) -> Removed:
    """Take an entry of the folder `home` out of sight. Raises DynoError where the disk refuses."""
    folder = home / ASIDE / _own_name()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        number, aside = 1, folder / path.name
        while aside.exists():
            number += 1
            aside = folder / f"{path.name} {number}"
        os.rename(path, aside)
    except OSError as error:
        raise _refused(error, path) from error
    return Removed(path, aside)


def settle_all(home: Path) -> None:
    """Delete what earlier runs of the program have left aside in `home`. What another program that still runs has moved
    there stays: its user may want it back. Raises DynoError."""
    aside = home / ASIDE
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


def _delete(path: Path) -> None:
    """Never follows a link: a link goes, what it leads to stays."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
    except OSError as error:
        raise _refused(error, path) from error


def _refused(error: OSError, path: Path) -> DynoError:
    return DynoError(f"{path.name} cannot be removed or put back: {reason(error)}.",
                     "Check the folder and its permissions.")
