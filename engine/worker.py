"""The engine thread: it owns the model and every tensor, runs jobs in order, and looks at control between their steps.

Imports torch only on its own thread, after start(), so that a window can show first.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.comparing import ComparisonResult
from engine.errors import DynoError, for_people
from engine.measurements import BenchResult
from engine.messages import (
    ApplyRecipe,
    Cancel,
    Cancelled,
    Command,
    Compiling,
    CountContext,
    Failed,
    Finished,
    FinishTraining,
    GenerationStats,
    Job,
    JobStarted,
    LoadModel,
    Progress,
    QualityProbe,
    RecipeApplied,
    RecipeFailed,
    SetThreads,
    Shutdown,
    TrainResult,
)
from engine.monitor.monitor import Monitor
from engine.outbox import Outbox
from engine.paths import PROBE_TEXT
from engine.recipe import Recipe
from engine.torch_start import preload_torch

if TYPE_CHECKING:
    from engine.jobs import EngineState
    from engine.variant import Variant

log = logging.getLogger(__name__)

PROBE_CHUNKS = 4
PROBE_CONTEXT = 256
_COMPILE_TICK_S = 1.0


@dataclass(frozen=True)
class _CompilerTold:
    """Control, from the compiler's thread: the state of a variant's compilation changed."""

    variant: Variant


class Worker:
    """The engine behind a queue: submit() from any thread, read events from the outbox.

    probe: score the fixed probe text whenever the engine is idle after a change of recipe.
    """

    def __init__(self, outbox: Outbox, monitor: Monitor | None = None, probe: bool = True) -> None:
        self._outbox = outbox
        self._monitor = monitor
        self._probe_wanted = False
        self._probe_enabled = probe
        self._condition = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._control: deque[Command | _CompilerTold] = deque()
        self._compiling_told_s = 0.0
        self._wanted: Recipe | None = None
        self._stopping = False
        self._building = False
        self._running = 0
        self._ids = itertools.count(1)
        self._state: EngineState | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread; torch is loaded there."""
        self._thread.start()

    def next_id(self) -> int:
        """A fresh job id."""
        return next(self._ids)

    def submit(self, command: Command) -> None:
        """Queue a job, or hand over control. Returns at once."""
        with self._condition:
            if isinstance(command, Job):
                self._jobs.append(command)
            else:
                self._control.append(command)
            self._condition.notify()

    def _tell(self, told: _CompilerTold) -> None:
        with self._condition:
            self._control.append(told)
            self._condition.notify()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Shut down and wait; whether the thread ended in time."""
        if not self._thread.is_alive():
            return True
        self.submit(Shutdown())
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # ------------------------------------------------------------------------------------------------- the thread

    def _run(self) -> None:
        try:
            self._serve()
        except Exception as error:
            log.error("the engine thread failed", exc_info=error)
            self._refuse_everything(error)

    def _refuse_everything(self, error: Exception) -> None:
        """The engine cannot go on: end every job, now and later, with the reason."""
        summary = f"The engine has stopped: {str(error).strip() or type(error).__name__}."
        details = "".join(traceback.format_exception(error))
        while not self._stopping:
            with self._condition:
                self._condition.wait_for(lambda: self._jobs or self._control)
                jobs, control = list(self._jobs), list(self._control)
                self._jobs.clear()
                self._control.clear()
            for job in jobs:
                self._outbox.put(JobStarted(job.job_id, time.monotonic(), type(job).__name__))
                self._outbox.put(Failed(job.job_id, time.monotonic(), summary,
                                        "Start the app again; if it happens again, run the setup anew.", details))
            self._stopping = any(isinstance(command, Shutdown) for command in control)

    def _serve(self) -> None:
        preload_torch()
        from engine.jobs import EngineState

        self._state = EngineState(self._monitor, wait=self._wait_on_control)
        while not self._stopping:
            with self._condition:
                self._condition.wait_for(lambda: self._jobs or self._control or self._probe_wanted
                                         or self._can_apply_wanted(),
                                         _COMPILE_TICK_S if self._tell_compiling() else None)
                job = self._jobs.popleft() if self._jobs and not self._control else None
            self._poll()
            if self._stopping:
                if job is not None:
                    self._jobs.appendleft(job)
                break
            if job is not None:
                self._run_job(job)
            elif self._probe_wanted and not self._jobs and not self._control:
                self._probe()
        self._end_waiting_jobs()

    def _run_job(self, job: Job) -> None:
        """Run a job to its end; exactly one of Finished, Cancelled, Failed follows JobStarted."""
        from engine.all_jobs import kind_of

        assert self._state is not None
        kind = kind_of(job)
        self._running = job.job_id
        self._outbox.put(JobStarted(job.job_id, time.monotonic(), type(job).__name__))
        if self._monitor is not None:
            self._monitor.mark(kind.mark, job=True)
        steps = kind.steps(self._state, job)
        try:
            while not self._is_cancelled(job.job_id):
                self._outbox.put(next(steps))
                self._poll()
            # One more step lets the job sum up what it has; a job that goes on instead is closed.
            self._outbox.put(next(steps))
            steps.close()
            self._outbox.put(Cancelled(job.job_id, time.monotonic()))
        except StopIteration as done:
            self._finish(job, done.value)
        except Exception as error:
            self._fail(job, error)
        finally:
            self._state.cancelled.discard(job.job_id)
            self._running = 0

    def _finish(self, job: Job, result: Any) -> None:
        now_s = time.monotonic()
        stopped = ((isinstance(result, GenerationStats) and result.finish == "stopped")
                   or (isinstance(result, (BenchResult, ComparisonResult)) and not result.complete)
                   or (isinstance(result, TrainResult) and result.state == "paused"))
        if stopped or (self._is_cancelled(job.job_id) and result is None):
            self._outbox.put(Cancelled(job.job_id, now_s, result))
            return
        self._outbox.put(Finished(job.job_id, now_s, result))
        if isinstance(job, LoadModel):
            self._probe_wanted = self._probe_enabled
            self._listen_to_compiler()
            self._apply_wanted()

    def _fail(self, job: Job, error: Exception) -> None:
        summary, hint = for_people(error)
        if not isinstance(error, DynoError):
            log.error("job %s failed", type(job).__name__, exc_info=error)
        self._outbox.put(Failed(job.job_id, time.monotonic(), summary, hint, _traceback_text(error)))

    def _is_cancelled(self, job_id: int) -> bool:
        assert self._state is not None
        return self._stopping or job_id in self._state.cancelled

    # --------------------------------------------------------------------------------------------------- control

    def _poll(self) -> None:
        """Carry out waiting control commands. Called between any two steps."""
        while self._control:
            command = self._control.popleft()
            if isinstance(command, Shutdown):
                assert self._state is not None
                self._stopping = self._state.stopping = True
            elif isinstance(command, Cancel):
                self._cancel(command.job_id)
            elif isinstance(command, FinishTraining):
                assert self._state is not None
                if command.job_id == self._running:
                    self._state.finishing.add(command.job_id)
            elif isinstance(command, SetThreads):
                assert self._state is not None
                self._state.threads = command.threads
                self._state.set_threads()
            elif isinstance(command, CountContext):
                self._count_context(command)
            elif isinstance(command, ApplyRecipe):
                self._wanted = command.recipe
            elif isinstance(command, _CompilerTold):
                self._compiler_told(command.variant)
        self._tell_compiling()
        if not self._building and not self._stopping:
            self._apply_wanted()

    def _wait_on_control(self, seconds: float) -> None:
        """Wait for control for at most so long, and carry it out; called by a job between two tokens."""
        with self._condition:
            self._condition.wait_for(lambda: bool(self._control), seconds)
        self._poll()

    def _count_context(self, command: CountContext) -> None:
        """Answer, unless a newer question waits or there is no model yet."""
        from engine.context import count_context

        session = self._state.session if self._state is not None else None
        if session is not None and not any(isinstance(waiting, CountContext) for waiting in self._control):
            self._outbox.put(count_context(session.tokenizer, session.config.context, command))

    def _tell_compiling(self) -> bool:
        """Say once a second how long the compiler has been at work; whether it is."""
        session = self._state.session if self._state is not None else None
        step = session.active.compiled if session is not None and session.active is not None else None
        if step is None or step.state != "compiling":
            return False
        now_s = time.monotonic()
        if now_s - self._compiling_told_s >= _COMPILE_TICK_S:
            self._compiling_told_s = now_s
            self._outbox.put(Compiling(now_s, step.elapsed_s))
        return True

    def _listen_to_compiler(self) -> None:
        assert self._state is not None and self._state.session is not None
        session = self._state.session
        session.compiler_told = lambda variant: self._tell(_CompilerTold(variant))
        if session.active is not None and session.active.compiled is not None:
            self._tell(_CompilerTold(session.active))  # it may have ended before anyone listened

    def _compiler_told(self, variant: Variant) -> None:
        """The compiler is ready or has failed: the report changes, the recipe does not."""
        assert self._state is not None
        variant.note_compilation()
        session = self._state.session
        if session is not None and variant is session.active:
            self._probe_wanted = self._probe_enabled
            self._outbox.put(RecipeApplied(time.monotonic(), variant.report))

    def _cancel(self, job_id: int) -> None:
        assert self._state is not None
        with self._condition:
            waiting = next((job for job in self._jobs if job.job_id == job_id), None)
            if waiting is not None:
                self._jobs.remove(waiting)
        if waiting is not None:
            self._outbox.put(JobStarted(job_id, time.monotonic(), type(waiting).__name__))
            self._outbox.put(Cancelled(job_id, time.monotonic()))
        elif job_id == self._running:
            self._state.cancelled.add(job_id)

    def _can_apply_wanted(self) -> bool:
        session = self._state.session if self._state is not None else None
        return self._wanted is not None and session is not None and session.active is not None

    def _apply_wanted(self) -> None:
        """Build and activate the wanted recipe; a newer wish that arrives meanwhile starts the build afresh."""
        assert self._state is not None
        session = self._state.session
        while self._wanted is not None and session is not None and session.active is not None:
            recipe, self._wanted = self._wanted, None
            if recipe == session.active.recipe:
                self._outbox.put(RecipeApplied(time.monotonic(), session.active.report))
                continue
            self._building = True
            try:
                if not self._build(recipe):
                    break
            except Exception as error:
                summary, hint = for_people(error)
                self._outbox.put(RecipeFailed(time.monotonic(), recipe, session.active.recipe, summary, hint,
                                              _traceback_text(error)))
            finally:
                self._building = False

    def _build(self, recipe: Recipe) -> bool:
        """Build and activate. False where the reply under way was stopped: that comes first, the recipe after it."""
        assert self._state is not None and self._state.session is not None
        session, started_s = self._state.session, time.perf_counter()
        steps = session.build(recipe)
        try:
            while True:
                stage, done, total = next(steps)
                self._outbox.put(Progress(0, time.monotonic(), stage, done, total))
                self._poll()
                if self._wanted is not None or self._stopping:
                    steps.close()
                    return True
                if self._running and self._is_cancelled(self._running):
                    steps.close()
                    self._wanted = recipe
                    return False
        except StopIteration as finished:
            session.activate(finished.value)
        self._state.build_s = time.perf_counter() - started_s
        self._state.set_threads()
        session.compile_in_background()
        self._probe_wanted = self._probe_enabled
        assert session.active is not None
        now_s = time.monotonic()
        if self._monitor is not None:
            self._monitor.mark(recipe.label, now_s)
        self._outbox.put(RecipeApplied(now_s, session.active.report))
        return True

    # ----------------------------------------------------------------------------------------------------- probe

    def _probe(self) -> None:
        """Score the probe text with the active recipe; give way as soon as anything is asked of the engine."""
        from engine.bench.quality import perplexity

        assert self._state is not None
        self._probe_wanted = False
        session = self._state.session
        if session is None or session.active is None:
            return
        steps: Generator[tuple[int, int], None, Any] | None = None
        try:
            ids = session.tokenizer.encode(_probe_text(), special_tokens=False)
            context = min(PROBE_CONTEXT, session.config.context, len(ids))
            steps = perplexity(session.active, session.tokenizer, ids, context, PROBE_CHUNKS)
            while not self._jobs and not self._control:
                next(steps)
            steps.close()
            self._probe_wanted = True
        except StopIteration as done:
            now_s = time.monotonic()
            if self._monitor is not None:
                self._monitor.record("probe_perplexity", now_s, done.value.perplexity)
            self._outbox.put(QualityProbe(now_s, done.value))
        except DynoError as error:
            log.info("no quality probe: %s", error)
        except Exception as error:  # the engine must outlive a probe that fails
            log.error("the quality probe failed", exc_info=error)

    def _end_waiting_jobs(self) -> None:
        while self._jobs:
            job = self._jobs.popleft()
            self._outbox.put(JobStarted(job.job_id, time.monotonic(), type(job).__name__))
            self._outbox.put(Cancelled(job.job_id, time.monotonic()))


def _probe_text(path: Path = PROBE_TEXT) -> str:
    return path.read_text(encoding="utf-8")


def _traceback_text(error: Exception) -> str:
    """The traceback as text; empty for an error that says all there is to say."""
    if isinstance(error, DynoError) and error.__cause__ is None:
        return ""
    return "".join(traceback.format_exception(error))
