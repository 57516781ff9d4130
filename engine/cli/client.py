"""A worker whose events are read on the calling thread, and the arguments that all subcommands share."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from engine.cli.arguments import threads
from engine.errors import DynoError
from engine.measurements import BenchResult, BenchRow
from engine.messages import (
    BenchRowDone,
    BenchStarted,
    Cancel,
    Cancelled,
    Event,
    Explain,
    Failed,
    Finished,
    Generate,
    GenerationStats,
    Job,
    LoadModel,
    ModelLoaded,
    Progress,
    RecipeFailed,
    RunBenchmark,
    SetThreads,
    SpeedReport,
    Tokens,
)
from engine.outbox import Outbox
from engine.paths import bundled_model
from engine.recipe import Recipe
from engine.worker import Worker

_BAR = 24
_COLUMNS = shutil.get_terminal_size().columns - 1


def add_model(parser: argparse.ArgumentParser) -> None:
    """--model, --device, --threads and --quiet."""
    parser.add_argument("--model", metavar="PATH", default=str(bundled_model()),
                        help="model folder or .gguf file (default: bundled)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 or mps (default: the best there is)")
    parser.add_argument("--threads", type=threads(),
                        help="threads of the CPU kernels (default: what suits the model)")
    parser.add_argument("--quiet", action="store_true", help="nothing on standard error but failures")


def write(text: str) -> None:
    """Put text on standard output at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


class Client:
    """A worker whose events are read on this thread."""

    def __init__(self, quiet: bool) -> None:
        self.outbox = Outbox()
        self.worker = Worker(self.outbox, probe=False)
        self.worker.start()
        self._bar = not quiet and sys.stderr.isatty()
        self._job_id = 0
        self._begun_s = 0.0
        self._benchmark = False
        self._interrupted = False
        self._old_handler: Any = None
        # A KeyboardInterrupt could strike inside drain() and lose the events it holds; a handler loses nothing.
        if threading.current_thread() is threading.main_thread():
            self._old_handler = signal.signal(signal.SIGINT, self._interrupt)

    def close(self) -> None:
        """End the worker and give Ctrl+C back its meaning."""
        if self._old_handler is not None:
            signal.signal(signal.SIGINT, self._old_handler)
        self.worker.stop()

    def _interrupt(self, *_: object) -> None:
        """The first Ctrl+C ends the running job at its next step, the second one ends the program."""
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        self.worker.submit(Cancel(self._job_id))

    def set_threads(self, threads: int | None) -> None:
        """Fix the number of threads, where one is given. Raises DynoError."""
        if threads is not None:
            self.worker.submit(SetThreads(threads))

    def load(self, folder: str, recipe: Recipe, device: str | None, insist: bool = True) -> ModelLoaded:
        """Load a model and wait for it. insist: the recipe must run (a window opens the model plain otherwise; a script
        must not take its figures for the recipe's). Raises DynoError, and KeyboardInterrupt where Ctrl+C ended it."""
        job = LoadModel(self.worker.next_id(), folder, recipe, device)
        self._submit(job)
        loaded: ModelLoaded | None = None
        for event in self._events(job.job_id):
            if isinstance(event, RecipeFailed) and insist:
                raise DynoError(event.summary, event.hint)
            if isinstance(event, ModelLoaded):
                loaded = event
        if loaded is None or self._interrupted:
            raise KeyboardInterrupt
        return loaded

    def stream(self, command: Generate) -> GenerationStats:
        """Run a Generate, printing its text as it comes; Ctrl+C stops the reply. Raises DynoError, and
        KeyboardInterrupt where it ended before it began."""
        self._submit(command)
        for event in self._events(command.job_id):
            if isinstance(event, Tokens):
                write(event.text)
            elif isinstance(event, (Finished, Cancelled)) and isinstance(event.result, GenerationStats):
                return event.result
        raise KeyboardInterrupt

    def explain(self, command: Explain) -> SpeedReport:
        """Run an Explain. Raises DynoError, and KeyboardInterrupt where it was ended."""
        self._submit(command)
        for event in self._events(command.job_id):
            if isinstance(event, Finished) and isinstance(event.result, SpeedReport):
                return event.result
        raise KeyboardInterrupt

    def benchmark(self, command: RunBenchmark, finished: Callable[[BenchRow], None]) -> BenchResult:
        """Run a RunBenchmark, handing over each row as it is finished. Ctrl+C stops it, and what is finished stands.
        Raises DynoError, and KeyboardInterrupt where it ended before it began."""
        self._submit(command)
        self._benchmark = True
        for event in self._events(command.job_id):
            if isinstance(event, BenchStarted):
                for row in event.rows:
                    finished(row)
            elif isinstance(event, BenchRowDone):
                finished(event.row)
            elif isinstance(event, (Finished, Cancelled)) and isinstance(event.result, BenchResult):
                return event.result
        raise KeyboardInterrupt

    def _submit(self, job: Job) -> None:
        self._job_id, self._begun_s = job.job_id, time.monotonic()
        self.worker.submit(job)

    def _events(self, job_id: int) -> Iterator[Event]:
        while True:
            for event in self.outbox.drain(timeout_s=None):
                if isinstance(event, Failed):
                    raise DynoError(event.summary, event.hint)
                if isinstance(event, Progress) and self._bar:
                    print(f"\r\x1b[K{self._progress(event)}", end="", file=sys.stderr, flush=True)
                elif self._bar:
                    print("\r\x1b[K", end="", file=sys.stderr, flush=True)
                yield event
                if isinstance(event, (Finished, Cancelled)) and event.job_id == job_id:
                    return

    def _progress(self, event: Progress) -> str:
        """A line for the terminal; a benchmark has a bar and the time left, by its pace so far."""
        if not self._benchmark or not event.total:
            return event.stage + (f" {event.done}/{event.total}" if event.total else "")
        share = min(1.0, event.done / event.total)
        elapsed_s = time.monotonic() - self._begun_s
        left = f", {elapsed_s * (1 - share) / share:.0f} s left" if share > 0.02 else ""
        filled = round(_BAR * share)
        return f"[{'#' * filled}{'.' * (_BAR - filled)}] {100 * share:3.0f} %{left}  {event.stage}"[:_COLUMNS]
