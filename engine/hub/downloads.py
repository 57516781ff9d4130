"""Downloads one after the other, on a thread of their own, so that chatting goes on meanwhile.

What is on the disk is the truth: after a restart the unfinished ones stand here again, paused.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from engine.errors import DynoError, for_people
from engine.hub.client import Hub
from engine.hub.download import Step, arrived, begin, discard, run, unfinished
from engine.hub.records import CHECKING, DONE, FAILED, PAUSED, RUNNING, WAITING, DownloadPlan, DownloadView
from engine.hub.transfer import Pace, Stopped, Stopper

log = logging.getLogger(__name__)
_TELL_EVERY_S = 0.1
_TICK_S = 0.5


@dataclass
class _Item:
    view: DownloadView
    stopper: Stopper = field(default_factory=Stopper)
    unwanted: bool = False  # to be thrown away as soon as it stands still


class Downloads:
    """hub: asked for at each start, so that a new token counts. tell, gone: called on any thread."""

    def __init__(self, models: Path, hub: Callable[[], Hub], tell: Callable[[DownloadView], None],
                 gone: Callable[[str], None]) -> None:
        self._models, self._hub, self._tell, self._gone = models, hub, tell, gone
        self._changed = threading.Condition()
        self._items: dict[str, _Item] = {}
        self._queue: list[str] = []
        self._ended = False
        self._thread: threading.Thread | None = None

    def find(self) -> None:
        """List what earlier runs have left unfinished."""
        for plan in unfinished(self._models):
            with self._changed:
                if plan.folder in self._items:
                    continue
                view = DownloadView(plan, PAUSED, arrived(self._models, plan))
                self._items[plan.folder] = _Item(view)
            self._tell(view)

    def add(self, plan: DownloadPlan) -> None:
        """Queue a download. Raises DynoError where it cannot even begin."""
        with self._changed:
            item = self._items.get(plan.folder)
            busy = item is not None and item.view.state in (WAITING, RUNNING, CHECKING)
        if not busy:
            begin(self._models, plan)
            self._put(plan)

    def resume(self, key: str) -> None:
        """Go on with one that is paused or has failed."""
        with self._changed:
            item = self._items.get(key)
        if item is not None and item.view.state in (PAUSED, FAILED):
            self._put(item.view.plan)

    def pause(self, key: str) -> None:
        """Stop one where it is; what has come is kept."""
        with self._changed:
            item = self._items.get(key)
            if item is None or item.view.state not in (WAITING, RUNNING, CHECKING):
                return
            item.stopper.stop()
            waiting = key in self._queue
            if waiting:
                self._queue.remove(key)
        if waiting:
            self._show(item, state=PAUSED, note="")

    def discard(self, key: str) -> None:
        """Throw one away with what has come. Raises DynoError."""
        with self._changed:
            item = self._items.get(key)
            if item is None:
                return
            if item.view.state in (RUNNING, CHECKING):
                item.unwanted = True
                item.stopper.stop()
                return
            if key in self._queue:
                self._queue.remove(key)
        if item.view.state != DONE:
            discard(self._models, item.view.plan)
        with self._changed:
            self._items.pop(key, None)
        self._gone(key)

    def stop(self, timeout_s: float = 3.0) -> bool:
        """Pause everything and end the thread; whether it ended in time. A thread that hangs in the network loses
        nothing: what has come is on the disk."""
        with self._changed:
            self._ended = True
            self._queue.clear()
            for item in self._items.values():
                item.stopper.stop()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)
            return not self._thread.is_alive()
        return True

    def _put(self, plan: DownloadPlan) -> None:
        item = _Item(DownloadView(plan, WAITING, arrived(self._models, plan)))
        with self._changed:
            if self._ended:
                return
            self._items[plan.folder] = item
            self._queue.append(plan.folder)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="downloads", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        self._show(item)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or bool(self._queue))
                if self._ended:
                    return
                item = self._items[self._queue.pop(0)]
                item.view = replace(item.view, state=RUNNING)
            self._carry_out(item)
            if item.unwanted:
                try:
                    self.discard(item.view.key)
                except DynoError as error:
                    self._show(item, state=FAILED, summary=error.summary, hint=error.hint)

    def _carry_out(self, item: _Item) -> None:
        plan = item.view.plan
        progress = _Progress(plan.nbytes, lambda **changes: self._show(item, **changes))
        try:
            self._show(item, state=RUNNING)
            with progress:
                path = run(self._models, plan, self._hub(), item.stopper, progress.tell)
        except Stopped:
            self._show(item, state=PAUSED, done=arrived(self._models, plan), note="", speed=0.0, left_s=-1.0)
        except Exception as error:  # told to the user in words, and the next one gets its turn
            summary, hint = for_people(error)
            details = "" if isinstance(error, DynoError) else traceback.format_exc()
            if details:
                log.error("a download failed\n%s", details)
            self._show(item, state=FAILED, done=arrived(self._models, plan), note="", speed=0.0, left_s=-1.0,
                       summary=summary, hint=hint, details=details)
        else:
            whole = path / plan.choice if plan.choice.endswith(".gguf") else path
            self._show(item, state=DONE, done=plan.nbytes, note="", speed=0.0, left_s=-1.0, path=str(whole))

    def _show(self, item: _Item, **changes: object) -> None:
        with self._changed:
            item.view = replace(item.view, **changes)  # type: ignore[arg-type]
            view = item.view
        self._tell(view)


class _Progress:
    """How far a download is, shown a few times a second; and when nothing comes too, so that the last bytes before a
    silence are counted and the speed falls to nothing."""

    def __init__(self, nbytes: int, show: Callable[..., None]) -> None:
        self._nbytes, self._show = nbytes, show
        self._pace, self._shown_s, self._last = Pace(), 0.0, Step(0)
        self._lock, self._end = threading.Lock(), threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="download progress", daemon=True)

    def __enter__(self) -> None:
        self._ticker.start()

    def __exit__(self, *_error: object) -> None:
        self._end.set()
        self._ticker.join()

    def tell(self, step: Step) -> None:
        """A step was made."""
        with self._lock:
            news = step.note != self._last.note
            self._last = step
            self._note(_TELL_EVERY_S if not news else 0.0)

    def _tick(self) -> None:
        while not self._end.wait(_TICK_S):
            with self._lock:
                self._note(_TICK_S)

    def _note(self, every_s: float) -> None:
        step, now_s = self._last, time.monotonic()
        if not step.checking:
            self._pace.note(step.done, now_s)
        if now_s - self._shown_s < every_s:
            return
        self._shown_s = now_s
        self._show(state=CHECKING if step.checking else RUNNING, done=step.done, speed=self._pace.speed(),
                   left_s=self._pace.left_s(self._nbytes - step.done), note=step.note)
