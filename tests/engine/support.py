"""Helpers of the engine's tests: sessions, greedy decoding by hand, and an engine thread to talk to."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from engine.messages import Cancelled, Command, Event, Failed, Finished, Job, LoadModel, ModelLoaded, Tokens
from engine.models.checkpoint import Masters
from engine.models.devices import DeviceFacts, pick_device
from engine.outbox import Outbox
from engine.recipe import Recipe
from engine.session import Session
from engine.worker import Worker

PATIENCE_S = 60.0  # only a broken engine waits this long


def cpu() -> DeviceFacts:
    """The processor, whatever else there is."""
    return pick_device("cpu")


def open_session(folder: Path, recipe: Recipe = Recipe()) -> Session:  # noqa: B008 (frozen)
    """A session on the CPU with an active recipe."""
    session = Session.open(folder, cpu())
    session.apply(recipe)
    return session


def read_logits(session: Session, ids: Sequence[int]) -> torch.Tensor:
    """Logits (T, V) of a whole sequence in one prefill."""
    assert session.active is not None
    cache = session.active.new_cache(len(ids))
    return session.active.forward(torch.tensor([list(ids)]), cache, last_only=False)[0]


def decode_logits(session: Session, ids: Sequence[int], chunk: int = 1) -> torch.Tensor:
    """Logits (T / chunk, V) after each chunk of a sequence read through the session's cache."""
    session.begin(ids, len(ids), reuse=False)
    return torch.stack([session.step(ids[i:i + chunk]) for i in range(0, len(ids), chunk)])


def hash_of(masters: Masters) -> str:
    """A fingerprint of every bit of the master weights."""
    digest = hashlib.sha256()
    for name in masters:
        digest.update(name.encode())
        digest.update(masters[name].contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class WatchedOutbox(Outbox):
    """An outbox that lets a test act on the engine thread right after an event, so that nothing depends on timing."""

    react: Callable[[Event], None] | None = None

    def put(self, event: Event) -> None:
        """Add an event, then let the test react to it."""
        super().put(event)
        if self.react is not None:
            self.react(event)


class Engine:
    """A real engine thread and everything it has said so far."""

    def __init__(self, probe: bool = False) -> None:
        self.outbox = WatchedOutbox()
        self.worker = Worker(self.outbox, probe=probe)
        self.seen: list[Event] = []
        self.worker.start()

    def submit(self, command: Command) -> None:
        """Hand over a command."""
        self.worker.submit(command)

    def wait(self, condition: Callable[[Event], bool]) -> Event:
        """The first event from now on for which `condition` holds; everything up to then is in `seen`."""
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            events = self.outbox.drain(timeout_s=1.0)
            self.seen += events
            for event in events:
                if condition(event):
                    return event
        raise AssertionError(f"the event never came; last seen: {self.seen[-5:]}")

    def end_of(self, job_id: int) -> Finished | Cancelled | Failed:
        """The event that ends a job, waited for if it has not come yet."""
        def ends(event: Event) -> bool:
            return isinstance(event, (Finished, Cancelled, Failed)) and event.job_id == job_id

        event = next((e for e in self.seen if ends(e)), None) or self.wait(ends)
        assert isinstance(event, (Finished, Cancelled, Failed))
        return event

    def run(self, job: Job) -> Finished | Cancelled | Failed:
        """Submit a job and wait for its end."""
        self.submit(job)
        return self.end_of(job.job_id)

    def at(self, commands: dict[int, Command],
           counts: Callable[[Event], bool] = lambda event: isinstance(event, Tokens)) -> None:
        """From now on, submit commands[n] when the n-th token has come (or the n-th event that `counts`)."""
        count = 0

        def react(event: Event) -> None:
            nonlocal count
            if counts(event):
                count += 1
                if count in commands:
                    self.submit(commands[count])

        self.outbox.react = react

    def next_id(self) -> int:
        """A fresh job id."""
        return self.worker.next_id()

    def load(self, folder: Path, recipe: Recipe = Recipe()) -> ModelLoaded:  # noqa: B008 (frozen)
        """Load a model on the CPU and wait for it."""
        job = LoadModel(self.next_id(), str(folder), recipe, "cpu")
        end = self.run(job)
        assert isinstance(end, Finished), end
        return next(e for e in self.seen if isinstance(e, ModelLoaded) and e.job_id == job.job_id)

    @property
    def session(self) -> Session:
        """The engine's session; look at it only while the engine is idle or has stopped."""
        assert self.worker._state is not None and self.worker._state.session is not None
        return self.worker._state.session

    def stop(self) -> None:
        """End the thread."""
        assert self.worker.stop(timeout_s=PATIENCE_S), "the engine thread did not end"
