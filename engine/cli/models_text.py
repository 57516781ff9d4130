"""Models in the lines that `models` prints for people. What is asked and done stands in engine.cli.models."""

from __future__ import annotations

import time
from typing import Any

from engine.hub.records import (
    ADDED,
    APP,
    BUNDLED,
    CACHE,
    RECENT,
    UNLISTED,
    FileChoice,
    ModelOnDisk,
    RemoteModel,
    SearchHit,
)
from engine.units import count, size
from engine.words import counted

_PLACES = {BUNDLED: "comes with the app", APP: "in the app's folder", CACHE: "in the Hugging Face cache",
           ADDED: "in an added folder", RECENT: "opened before", UNLISTED: "not on the list"}


def model_text(model: ModelOnDisk, fits: list[dict[str, Any]]) -> str:
    """Everything about a model on this computer, a line each; what is not known is left out."""
    stored = f", {size(model.weight_bytes)} as {model.dtype}" if model.dtype else ""
    used = time.strftime("%d %B %Y, %H:%M", time.localtime(model.used_s)) if model.used_s else "never, as far as known"
    lines = [("name", model.name), ("state", f"cannot be opened: {model.problem}" if model.problem else "ready"),
             ("place", _PLACES.get(model.place, model.place)), ("path", model.path),
             ("repository", f"{model.repo} @ {model.revision[:8]}" if model.repo else ""),
             ("licence", model.licence or "none is named"), ("architecture", model.architecture),
             ("weights", f"{count(model.parameters)}{stored}" if model.parameters else ""),
             ("context", counted(model.context, "token") if model.context else ""),
             ("on the disk", size(model.nbytes)), ("last opened", used)]
    lines += [("fit", fit_line(fit)) for fit in fits]
    return "".join(f"{name:14} {value}\n" for name, value in lines if value)


def remote_text(model: RemoteModel) -> str:
    """Everything about a model of the hub."""
    lines = [f"{'repository':14} {model.repo}", f"{'revision':14} {model.revision}",
             f"{'licence':14} {model.licence or 'not said'}", f"{'gated':14} {'yes' if model.gated else 'no'}"]
    lines += [f"{'choice':14} {_choice_text(choice)}" for choice in model.choices]
    return "\n".join([*lines, *([model.problem] if model.problem else [])]) + "\n"


def _choice_text(choice: FileChoice) -> str:
    return f"{choice.key}: {counted(len(choice.files), 'file')}, {size(choice.nbytes)}"


def line(model: ModelOnDisk) -> str:
    """A model of the list; "-" for what its files do not tell."""
    facts = [f"{model.architecture or '-'} {count(model.parameters) if model.parameters else '-'}",
             counted(model.context, "token") if model.context else "-", size(model.nbytes) if model.nbytes else "-",
             model.licence or "no licence named", model.place]
    tail = f"  NOT READY: {model.problem}" if model.problem else ""
    return f"{model.name:44} {', '.join(facts)}{tail}"


def fit_line(fit: dict[str, Any]) -> str:
    """What a recipe needs, and whether there is room."""
    if fit["reason"]:
        return f"{fit['recipe']:6} {fit['verdict']}: {fit['reason']}"
    return (f"{fit['recipe']:6} {fit['verdict']}: {size(fit['needed'])} at the most with {fit['context']:,} tokens, "
            f"{size(fit['free'])} free")


def hit_line(hit: SearchHit) -> str:
    """A model of the hub that was found."""
    about = f"about {size(hit.nbytes)}" if hit.nbytes else "size not said"
    parts = [count(hit.parameters) if hit.parameters else "", about, hit.licence,
             "gated" if hit.gated else "", hit.note]
    return f"{hit.repo:44} {', '.join(part for part in parts if part)}"
