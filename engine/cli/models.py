"""`models`: what is on the disk and on the hub: list, info, search, download, remove, add, forget."""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

from engine.cli.arguments import WrongArgument, whole
from engine.cli.client import write
from engine.cli.models_text import fit_line, hit_line, line, model_text, remote_text
from engine.errors import DynoError
from engine.hub.catalogue import Catalogue
from engine.hub.client import Hub, endpoint
from engine.hub.curated import shortlist
from engine.hub.download import Step, plan
from engine.hub.download import run as fetch
from engine.hub.library import Library, models_folder
from engine.hub.records import BUNDLED, CACHE, UNLISTED, ModelOnDisk, RemoteModel
from engine.hub.removal import remove
from engine.hub.token import Tokens
from engine.hub.transfer import Pace, Stopped, Stopper
from engine.models.config import no_config
from engine.units import size

HELP = "list, look at, search, download and remove models"
_TELL_EVERY_S = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its own subcommands."""
    actions = parser.add_subparsers(required=True, metavar="ACTION", dest="action", help="what to do")
    listing = actions.add_parser("list", help="models on this computer")
    listing.add_argument("--fit", action="store_true", help="with the memory each needs, by recipe")
    listing.add_argument("--all", action="store_true", help="those that are not whole, too")
    info = actions.add_parser("info", help="everything about a model: on this computer, or on the hub")
    info.add_argument("model", help="folder, .gguf file, name in the list, or a repository of the hub")
    search = actions.add_parser("search", help="search the hub by name; without words, a short list that suits the app")
    search.add_argument("words", nargs="*", help="a part of the name")
    search.add_argument("--limit", type=whole(1, 100), default=20, help="how many at most (default: 20)")
    download = actions.add_parser("download", help="fetch a model; goes on where an earlier attempt ended")
    download.add_argument("repository", help="such as HuggingFaceTB/SmolLM2-135M-Instruct")
    download.add_argument("--file", default="", metavar="NAME.gguf", help="this file for the safetensors")
    download.add_argument("--revision", default="main", help="branch, tag or commit (default: main)")
    download.add_argument("--quiet", action="store_true", help="nothing on standard error but failures")
    removing = actions.add_parser("remove", help="delete a model: the app's own, or one of the Hugging Face cache")
    removing.add_argument("model", help="its name in the list, or its folder")
    removing.add_argument("--yes", action="store_true", help="do not ask")
    adding = actions.add_parser("add", help="list a folder's models; they stay where they are")
    adding.add_argument("folder", help="a model folder, or one that holds several")
    forgetting = actions.add_parser("forget", help="take an added folder or a model opened before off the list")
    forgetting.add_argument("model", help="the folder, or a name in the list; no file is touched")
    for action in (listing, info, search, download, removing, adding, forgetting):
        action.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Run it; the exit status."""
    action = {"list": _list, "info": _info, "search": _search, "download": _download, "remove": _remove,
              "add": _add, "forget": _forget}
    return action[options.action](options)


def _list(options: argparse.Namespace) -> int:
    found = _catalogue().scan()
    models = [m for m in found if m.ready or options.all]
    fits = {m.path: _fits(m) for m in models if options.fit and m.ready}
    if options.json:
        write(_json([_facts(m) | ({"fit": fits[m.path]} if m.path in fits else {}) for m in models]))
        return 0
    for model in models:
        write(line(model) + "\n")
        for fit in fits.get(model.path, ()):
            write(f"    {fit_line(fit)}\n")
    if len(models) < len(found):
        print(f"{len(found) - len(models)} more cannot be opened: --all shows why.", file=sys.stderr)
    return 0


def _info(options: argparse.Namespace) -> int:
    model = _found(options.model)
    path = Path(options.model).expanduser()
    if model is None and path.is_dir() and not (path / "config.json").is_file():
        raise no_config(path)
    if model is None and not path.exists() and _is_path(options.model):
        raise DynoError(f"There is no such folder or file: {path}.",
                        "Give a folder, a name that `models list --all` shows, or a repository of the hub.")
    if model is None and "/" in options.model and not path.exists():
        remote = _hub().look(options.model)
        write(_json(_remote_facts(remote)) if options.json else remote_text(remote))
        return 0
    if model is None:
        raise DynoError(f"There is no model {options.model!r} on this computer.",
                        "Give a folder, a name that `models list --all` shows, or a repository of the hub.")
    fits = _fits(model) if model.ready else []
    if options.json:
        write(_json(_facts(model) | {"fit": fits}))
        return 0
    write(model_text(model, fits))
    return 0


def _search(options: argparse.Namespace) -> int:
    text = " ".join(options.words)
    hits = _hub().search(text, options.limit) if text else shortlist("")
    if options.json:
        write(_json([dataclasses.asdict(hit) for hit in hits]))
    else:
        write("".join(f"{hit_line(hit)}\n" for hit in hits))
        if not hits:
            print(f"Nothing on the hub is called {text!r}.", file=sys.stderr)
    return 0 if hits else 1


def _download(options: argparse.Namespace) -> int:
    hub, models, stopper = _hub(), models_folder(), Stopper()
    before = signal.signal(signal.SIGINT, lambda *_: stopper.stop())
    progress = _Progress(quiet=options.quiet)
    try:
        what = plan(hub.look(options.repository, options.revision), options.file, hub.url, models)
        progress.total = what.nbytes
        path = fetch(models, what, hub, stopper, progress.tell)
    except Stopped:
        progress.end()
        print("Paused; the same command goes on from here.", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGINT, before)
        progress.end()
    whole_path = path / what.choice if what.choice.endswith(".gguf") else path
    facts = {"path": str(whole_path), "repo": what.repo, "revision": what.revision, "bytes": what.nbytes}
    write(_json(facts) if options.json else f"{whole_path}\n")
    return 0


def _remove(options: argparse.Namespace) -> int:
    model = _found(options.model)
    if model is None:
        raise DynoError(f"There is no model {options.model!r} on this computer.", "`models list --all` shows them.")
    if model.place == BUNDLED:
        remove(model, models_folder(), Library())  # says why not
    if model.place not in (CACHE, "app"):
        raise DynoError(f"{model.name} does not lie in the app's folder or the Hugging Face cache.",
                        "Delete its folder yourself, if you mean to" + (
                            "." if model.place == UNLISTED else "; `models forget` takes it off the list."))
    if not options.yes:
        if not sys.stdin.isatty():
            raise WrongArgument("Deleting a model needs --yes where nobody can be asked.")
        print(f"Delete {model.name}, {size(model.nbytes)}, {model.path}? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().casefold() not in ("y", "yes"):
            return 1
    removed = remove(model, models_folder(), Library())
    if removed is not None:
        removed.settle()
    write(_json({"removed": model.path, "bytes": model.nbytes}) if options.json else f"{model.path}\n")
    return 0


def _add(options: argparse.Namespace) -> int:
    folder = Path(options.folder).expanduser().resolve()
    if folder.is_file():
        raise DynoError(f"{folder.name} is a file.", "Add the folder it lies in.")
    Library().add_folder(folder)
    models = [m for m in _catalogue().scan() if Path(m.path).resolve().is_relative_to(folder)]
    if options.json:
        write(_json([_facts(m) for m in models]))
        return 0
    write("".join(line(model) + "\n" for model in models))
    if not models:
        print("There is no model in it now; what comes there later is listed.", file=sys.stderr)
    return 0


def _forget(options: argparse.Namespace) -> int:
    library, model = Library(), _found(options.model)
    path = Path(model.path) if model is not None else Path(options.model).expanduser().resolve()
    if path not in library.folders() and str(path) not in library.recent():
        if path.parent in library.folders():
            raise DynoError(f"{path.name} is listed because the folder {path.parent} was added.",
                            "`models forget` with that folder takes all of it off the list.")
        raise DynoError(f"{options.model} is neither an added folder nor a model that was opened before.",
                        "`models remove` deletes a model of the app or of the Hugging Face cache.")
    library.forget(path)
    write(_json({"forgotten": str(path)}) if options.json else f"{path}\n")
    return 0


class _Progress:
    """One line on a terminal, a line now and then elsewhere; on standard error."""

    def __init__(self, quiet: bool) -> None:
        self.total = 0
        self._quiet, self._live = quiet, sys.stderr.isatty()
        self._pace, self._told_s, self._shown, self._note = Pace(), 0.0, False, ""

    def tell(self, step: Step) -> None:
        """Say how far it is."""
        now_s = time.monotonic()
        if not step.checking:
            self._pace.note(step.done, now_s)
        if self._quiet or (now_s - self._told_s < (_TELL_EVERY_S if self._live else 10.0) and step.note == self._note):
            return
        self._told_s, self._note = now_s, step.note
        left_s = self._pace.left_s(self.total - step.done)
        words = f"{size(step.done)} of {size(self.total)}, {size(self._pace.speed())}/s"
        words += f", {left_s:.0f} s left" if left_s >= 0 else ""
        words = step.note or (f"checking {step.file}" if step.checking else f"{words}  {step.file}")
        self._shown = self._live
        print(f"\r\x1b[K{words}" if self._live else words, end="" if self._live else "\n", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the line."""
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._shown = False


def _hub() -> Hub:
    url = endpoint()
    return Hub(url, Tokens().get(url))


def _catalogue() -> Catalogue:
    return Catalogue(Library())


def _found(name: str) -> ModelOnDisk | None:
    """A model by its name in the list, or by its place."""
    catalogue = _catalogue()
    models = catalogue.scan()
    path = Path(name).expanduser()
    if path.exists():
        known = next((m for m in models if Path(m.path).resolve() == path.resolve()), None)
        return known or catalogue.describe(path.resolve(), UNLISTED)
    found = [m for m in models if m.name.casefold() == name.casefold()]
    if len(found) > 1:
        raise WrongArgument(f"Several models are called {name!r}: {', '.join(m.path for m in found)}.",
                            "Give the folder.")
    return found[0] if found else None


def _is_path(name: str) -> bool:
    """Whether a name can only be a place on the disk: the hub's are "owner/name"."""
    return name.startswith(("/", "~", ".")) or name.count("/") > 1 or Path(name).is_absolute() or name.endswith("/")


def _fits(model: ModelOnDisk) -> list[dict[str, Any]]:
    from engine.hub.fits import recipe_fits

    return [dataclasses.asdict(fit) for fit in recipe_fits(Path(model.path))]


def _facts(model: ModelOnDisk) -> dict[str, Any]:
    return dataclasses.asdict(model) | {"ready": model.ready}


def _remote_facts(model: RemoteModel) -> dict[str, Any]:
    choices = [{"choice": c.key, "bytes": c.nbytes, "files": [f.to_json() for f in c.files]} for c in model.choices]
    return {"repo": model.repo, "revision": model.revision, "licence": model.licence, "gated": model.gated,
            "parameters": model.parameters, "choices": choices, "problem": model.problem}


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"
