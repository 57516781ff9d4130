"""The words of the Models page that are made from facts: a model in a line, a verdict, a download's state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PySide6.QtCore import QCoreApplication

from engine.hub.fits import FITS, TIGHT, TOO_LARGE, RecipeFit
from engine.hub.records import (
    ADDED,
    APP,
    BUNDLED,
    CACHE,
    CHECKING,
    DONE,
    FAILED,
    PAUSED,
    RUNNING,
    WAITING,
    DownloadView,
    ModelOnDisk,
    SearchHit,
)
from gui.widgets.words import count_text, size_text

DOT = "  ·  "


@dataclass(frozen=True)
class Verdict:
    """A few words, an icon's name, and the field of Colours in which it is drawn."""

    text: str
    icon: str = ""
    colour: str = "muted"


NO_VERDICT = Verdict("")


def tr(text: str) -> str:
    """A sentence of this page in the app's language."""
    return QCoreApplication.translate("models", text)


def place_text(place: str) -> str:
    """Where a model lies."""
    return {BUNDLED: tr("comes with the app"), APP: tr("in the app’s folder"), CACHE: tr("Hugging Face cache"),
            ADDED: tr("in an added folder")}.get(place, tr("opened before"))


def facts_text(model: ModelOnDisk) -> str:
    """"llama · 135 M · 8,192 tokens · 269 MB · apache-2.0 · Hugging Face cache"."""
    parts = [model.architecture, count_text(model.parameters) if model.parameters else "",
             tr("{count} tokens").format(count=f"{model.context:,}") if model.context else "",
             size_text(model.nbytes), model.licence, place_text(model.place)]
    return DOT.join(part for part in parts if part)


def added_text(models: Sequence[ModelOnDisk]) -> str:
    """"3 models found, 4 cannot be opened", of a folder that was added."""
    broken = sum(not model.ready for model in models)
    if not models:
        return tr("No model was found in this folder or in the folders directly in it.")
    ready = len(models) - broken
    found = tr("1 model found") if ready == 1 else tr("{count} models found").format(count=ready)
    if not ready:
        return tr("1 model found; it cannot be opened.") if broken == 1 else tr(
            "{count} models found; none can be opened.").format(count=broken)
    if not broken:
        return tr("{found}.").format(found=found)
    rest = tr("1 cannot be opened") if broken == 1 else tr("{count} cannot be opened").format(count=broken)
    return tr("{found}, {rest}.").format(found=found, rest=rest)


def hit_text(hit: SearchHit) -> str:
    """"135 M · about 269 MB · apache-2.0 · gated"."""
    parts = [count_text(hit.parameters) if hit.parameters else "",
             tr("about {size}").format(size=size_text(hit.nbytes)) if hit.nbytes else "", hit.licence,
             tr(hit.note) if hit.note else "",
             tr("{count} downloads a month").format(count=count_text(hit.downloads)) if hit.downloads else ""]
    return DOT.join(part for part in parts if part)


def fit_verdict(fit: RecipeFit) -> Verdict:
    """One recipe's."""
    if fit.verdict == FITS:
        return Verdict(tr("fits"), "check", "good")
    if fit.verdict == TIGHT:
        return Verdict(tr("tight"), "warning", "warning")
    if fit.verdict == TOO_LARGE:
        return Verdict(tr("does not fit"), "unavailable", "error")
    return Verdict(tr("unknown"), "dash", "muted")


def model_verdict(model: ModelOnDisk, fits: Sequence[RecipeFit] | None) -> Verdict:
    """The best there is: "fits", "fits as int8", "tight as int4", "does not fit"."""
    if not model.ready:
        return Verdict(tr("cannot be opened"), "warning", "warning")
    if fits is None:
        return Verdict("")
    for wanted in (FITS, TIGHT):
        for place, fit in enumerate(fits):
            if fit.verdict == wanted:
                verdict = fit_verdict(fit)
                text = verdict.text if place == 0 else tr("{fits} as {recipe}").format(
                    fits=verdict.text, recipe=fit.recipe)
                return Verdict(text, verdict.icon, verdict.colour)
    return fit_verdict(fits[-1]) if fits else Verdict("")


def time_left(seconds: float) -> str:
    """"45 s left", "3 min left", "2 h 10 min left"; "" while unknown."""
    if seconds < 0:
        return ""
    if seconds < 60:
        return tr("{count} s left").format(count=max(1, round(seconds)))
    minutes = round(seconds / 60)
    if minutes < 100:
        return tr("{count} min left").format(count=minutes)
    return tr("{hours} h {minutes} min left").format(hours=minutes // 60, minutes=minutes % 60)


def download_text(view: DownloadView) -> str:
    """Where a download stands, in one line."""
    total = size_text(view.plan.nbytes)
    done = tr("{done} of {total}").format(done=size_text(view.done), total=total)
    if view.note:
        return f"{done}{DOT}{QCoreApplication.translate('engine', view.note)}"
    if view.state == RUNNING:
        speed = tr("{size}/s").format(size=size_text(view.speed)) if view.speed > 0 else ""
        return DOT.join(part for part in (done, speed, time_left(view.left_s)) if part)
    states = {WAITING: tr("{done}, waits for the one before").format(done=done),
              CHECKING: tr("checking what has arrived"), PAUSED: tr("{done}, paused").format(done=done),
              DONE: tr("{total}, ready").format(total=total)}
    if view.state == FAILED:
        sentences = (QCoreApplication.translate("engine", text) for text in (view.summary, view.hint) if text)
        return " ".join(sentences)
    return states.get(view.state, done)
