"""What the engine thread does for each kind of job. A job is a generator of events that returns its result."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from engine.bench.history import History
from engine.bench.quality import perplexity
from engine.bench.run import Doing, Measured, RowDone, Setting, model_fingerprint, run_plan, still_true
from engine.comparing import ComparisonResult
from engine.context import check_prompt, fit_messages, reply_reserve, with_known_tokens
from engine.errors import DynoError
from engine.generation import NewToken, PromptRead, Reread, Step, SwitchRefused, generate
from engine.measurements import HEADLESS, IN_WINDOW, BenchResult, BenchRow
from engine.messages import (
    BenchRowDone,
    BenchSample,
    BenchStarted,
    Evaluate,
    Event,
    Explain,
    ExportModel,
    Generate,
    GenerationStats,
    LoadModel,
    ModelInfo,
    ModelLoaded,
    PerplexityResult,
    Progress,
    RecipeFailed,
    RunBenchmark,
    Sampling,
    SpeedReport,
    Switched,
    Tokens,
    TurnsDropped,
)
from engine.models.chat import ChatMessage
from engine.models.config import ModelConfig
from engine.models.devices import DeviceFacts, pick_device
from engine.models.opening import weight_paths
from engine.models.reasoning import opens_reasoning
from engine.monitor.monitor import Monitor
from engine.pace import Pace
from engine.profile import explain
from engine.recipe import Recipe
from engine.sampling import check_sampling
from engine.session import Session
from engine.techniques import all_techniques
from engine.techniques.base import cases
from engine.train_events import DataPreview, ProbeReport, TrainResult
from engine.variant import Variant

Result = (GenerationStats | PerplexityResult | SpeedReport | BenchResult | ComparisonResult | TrainResult | DataPreview
          | ProbeReport | None)
JobSteps = Generator[Event, None, Result]
# A decode step that reads less than this from memory is limited by calls, not by reading: one thread is fastest, and
# the other cores stay free for the window (measured, docs/design.md).
_ONE_THREAD_BELOW_BYTES = 24 << 20


@dataclass
class EngineState:
    """What jobs share: the loaded model, the monitor, the user's choice of threads, the last build's time, and the
    model's folder and how long it took to open."""

    monitor: Monitor | None = None
    session: Session | None = None
    threads: int | None = None
    build_s: float = 0.0
    folder: Path | None = None
    load_s: float = 0.0
    cancelled: set[int] = field(default_factory=set)
    finishing: set[int] = field(default_factory=set)
    stopping: bool = False
    wait: Callable[[float], object] = time.sleep  # the engine thread's returns as soon as it has carried out control

    def loaded(self) -> Session:
        """The session, or a DynoError that says there is none."""
        if self.session is None or self.session.active is None:
            raise DynoError("No model is loaded.", "Open one with Ctrl+O.")
        return self.session

    def set_threads(self) -> int:
        """Give the CPU kernels the threads that suit the active variant (or the user's number); returns them."""
        return self.set_threads_for(self.session.active if self.session is not None else None)

    def set_threads_for(self, variant: Variant | None) -> int:
        """Give the CPU kernels the threads that suit a variant (or the user's number); returns them."""
        threads = self.threads
        if threads is None:
            small = variant is not None and variant.report.weight_bytes < _ONE_THREAD_BELOW_BYTES
            threads = 1 if small else (self.session.device.cores if self.session is not None else 1)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        return threads


def load_job(state: EngineState, command: LoadModel) -> JobSteps:
    """Open a folder and build its first recipe; the model before it stays until the new one is ready."""
    folder = Path(command.folder).expanduser()
    yield Progress(command.job_id, time.monotonic(), "Opening the model", 0, 0)
    device = pick_device(command.device)
    started_s = time.perf_counter()
    session = yield from _opened(folder, device, command.job_id)
    load_s = time.perf_counter() - started_s
    try:
        yield from _first_build(session, command.recipe, command.job_id)
    except DynoError as error:
        if not command.recipe.options:
            raise
        # A recipe remembered from another machine or model must not keep this one from opening.
        yield RecipeFailed(time.monotonic(), command.recipe, Recipe(), error.summary, error.hint)
        yield from _first_build(session, Recipe(), command.job_id)
    state.session, state.folder, state.load_s = session, folder, load_s
    state.set_threads()
    session.compile_in_background()
    if state.monitor is not None:
        _watch_torch_memory(state.monitor, device)
    assert session.active is not None
    yield ModelLoaded(command.job_id, time.monotonic(), model_info(session, folder, device), session.active.report)
    return None


def _opened(folder: Path, device: DeviceFacts, job_id: int) -> Generator[Event, None, Session]:
    steps = Session.opening(folder, device)
    while True:
        try:
            stage, done, total = next(steps)
        except StopIteration as finished:
            session: Session = finished.value
            return session
        yield Progress(job_id, time.monotonic(), stage, done, total)


def _first_build(session: Session, recipe: Recipe, job_id: int) -> Generator[Event, None, None]:
    steps = session.build(recipe)
    while True:
        try:
            stage, done, total = next(steps)
        except StopIteration as finished:
            session.activate(finished.value)
            return
        yield Progress(job_id, time.monotonic(), stage, done, total)


def generate_job(state: EngineState, command: Generate) -> JobSteps:
    """Answer or continue; tokens become events, a switch in mid-reply becomes one too."""
    session = state.loaded()
    job_id, sampling = command.job_id, command.sampling
    if command.prompt is not None:
        ids = session.tokenizer.encode(command.prompt)
        check_prompt(ids, session.config.context)
    else:
        context = session.config.context
        reserve = reply_reserve(sampling.max_tokens, context)
        ids, dropped = fit_messages(session.tokenizer, command.messages, context, reserve)
        if dropped:
            yield TurnsDropped(job_id, time.monotonic(), dropped)
        if sampling.seed is None:
            known = with_known_tokens(session.tokenizer, ids, session.known_ids)
            ids = known if len(known) <= context - reserve else ids

    def stopping() -> bool:
        return state.stopping or job_id in state.cancelled

    pace = Pace(command.pace_tokens_per_s, state.wait, stopping)
    steps = generate(session, ids, sampling, stop=command.stop, alternatives=command.alternatives,
                     submitted_s=command.submitted_s or None, stopping=stopping, hold=pace.hold)
    stats = yield from reply_events(state, job_id, steps, paced=command.pace_tokens_per_s > 0)
    return replace(stats, pace_tokens_per_s=command.pace_tokens_per_s)


def reply_events(state: EngineState, job_id: int, steps: Generator[Step, None, GenerationStats],
                 reading: bool = True, paced: bool = False) -> Generator[Event, None, GenerationStats]:
    """The events of a reply's steps. reading: tell how far its prompt has been read. paced: its tokens are held back,
    so the monitor does not take their times for a speed."""
    session, monitor, first = state.loaded(), state.monitor, True
    while True:
        try:
            step = next(steps)
        except StopIteration as finished:
            stats: GenerationStats = finished.value
            assert state.folder is not None
            return replace(stats, model=model_name(state.folder))
        now_s = time.monotonic()
        if isinstance(step, NewToken):
            if monitor is not None:
                if not paced:
                    monitor.count_tokens(0 if first else 1, now_s)  # the first token only starts the clock
                monitor.observe_nll(step.nll, 1)
            first = False
            yield Tokens(job_id, now_s, step.recipe, (step.piece,))
        elif isinstance(step, Reread):
            yield Switched(job_id, now_s, step.old, step.new, state.build_s, step.tokens, step.elapsed_s)
        elif isinstance(step, SwitchRefused):
            assert session.active is not None
            yield RecipeFailed(now_s, step.recipe, session.active.recipe, step.summary, step.hint)
        elif isinstance(step, PromptRead) and reading:
            yield Progress(job_id, now_s, "Reading the prompt", step.done, step.total)


def evaluate_job(state: EngineState, command: Evaluate) -> JobSteps:
    """Perplexity of the active recipe on a text. A switch meanwhile does not touch it: it keeps its variant."""
    session = state.loaded()
    assert session.active is not None
    ids = session.tokenizer.encode(command.text, special_tokens=False)
    steps = perplexity(session.active, session.tokenizer, ids, command.context, command.chunks)
    while True:
        try:
            done, total = next(steps)
        except StopIteration as finished:
            result: PerplexityResult = finished.value
            return result
        yield Progress(command.job_id, time.monotonic(), "Scoring the text", done, total)


def benchmark_job(state: EngineState, command: RunBenchmark) -> JobSteps:
    """Measure a plan; rows go to the history as they are finished. The active recipe is not touched."""
    session, job_id, plan = state.loaded(), command.job_id, command.plan
    assert state.folder is not None
    started_s = time.perf_counter()
    fingerprint = model_fingerprint(state.folder)
    history = History(Path(command.history)) if command.history else None
    rows: dict[str, BenchRow] = {}
    run_id, complete = 0, False
    if state.monitor is not None:
        state.monitor.set_quiet(True)
    try:
        if history is not None:
            known = history.unfinished(plan, fingerprint, command.run_id) if command.resume else None
            if known is None and command.run_id:
                raise DynoError(f"Run {command.run_id} cannot go on: its model has changed since, it is complete, or "
                                "another program measures it now.", "Start its plan anew.")
            if known is not None:
                rows = still_true(history.rows(known.id), plan)
                run_id = known.id
                history.reopen(run_id)
                if command.title:
                    history.rename(run_id, command.title)
            else:
                run_id = history.begin(plan, state.folder.resolve().name, fingerprint, command.title)
        yield BenchStarted(job_id, time.monotonic(), run_id, plan, tuple(rows.values()))
        steps = run_plan(plan, Setting(
            session, state.set_threads_for, _model_facts(state, session, fingerprint),
            stopping=lambda: state.stopping or job_id in state.cancelled, done=dict(rows),
            measured_in=HEADLESS if state.monitor is None else IN_WINDOW))
        while True:
            try:
                step = next(steps)
            except StopIteration as finished:
                complete = finished.value
                break
            now_s = time.monotonic()
            if isinstance(step, RowDone):
                rows[step.row.key] = step.row
                if history is not None:
                    history.add(run_id, step.row)
                yield BenchRowDone(job_id, now_s, step.row)
            elif isinstance(step, Measured):
                yield BenchSample(job_id, now_s, step.lane, step.test, step.tokens_per_s, step.number, step.counted)
            elif isinstance(step, Doing):
                yield Progress(job_id, now_s, step.stage, step.done, step.total)
    finally:
        if state.monitor is not None:
            state.monitor.set_quiet(False)
        if history is not None:
            if run_id:
                history.end(run_id, complete)
            history.close()
        state.set_threads()
    return BenchResult(plan, tuple(rows.values()), complete, time.perf_counter() - started_s, run_id)


def _model_facts(state: EngineState, session: Session, fingerprint: str) -> dict[str, Any]:
    """The fields of a row that say which model."""
    assert state.folder is not None
    return {"model_filename": state.folder.resolve().name, "model_type": session.config.model_type,
            "model_size": sum(f.stat().st_size for f in weight_paths(state.folder)),
            "model_n_params": session.masters.parameters, "model_fingerprint": fingerprint, "load_s": state.load_s}


def explain_job(state: EngineState, command: Explain) -> JobSteps:
    """Where a token's time goes, on the active recipe."""
    session = state.loaded()
    assert session.active is not None
    steps = explain(session.active, command.context)
    while True:
        try:
            stage, done, total = next(steps)
        except StopIteration as finished:
            report: SpeedReport = finished.value
            return report
        yield Progress(command.job_id, time.monotonic(), stage, done, total)


def export_job(state: EngineState, command: ExportModel) -> JobSteps:
    """Write the loaded model as the active recipe prunes it."""
    from engine.export import export_model  # the gguf library with it

    session = state.loaded()
    assert session.active is not None
    for stage, done, total in export_model(session.masters, session.tokenizer, session.active.recipe, command.format,
                                           Path(command.path), session.device, session.calibrator()):
        yield Progress(command.job_id, time.monotonic(), stage, done, total)
    return None


def model_info(session: Session, folder: Path, device: DeviceFacts) -> ModelInfo:
    """What the window shows of a loaded model."""
    files = weight_paths(folder)
    kind = session.config.model_type
    return ModelInfo(
        name=model_name(folder), folder=str(folder),
        architecture=f"{kind}, through Transformers" if session.config.foreign else kind,
        parameters=session.masters.parameters, context=session.config.context,
        stored_dtype=session.masters.stored_name, file_bytes=sum(f.stat().st_size for f in files),
        device=device.torch_name, device_name=device.name, threads=torch.get_num_threads(),
        chat_template=session.tokenizer.chat_template is not None, sampling=_suggested(folder),
        unavailable=tuple(unavailable_techniques(device, session.config)), reasons_first=_reasons_first(session))


def _reasons_first(session: Session) -> bool:
    """Whether the chat template opens a block of reasoning for the model."""
    if session.tokenizer.chat_template is None:
        return False
    try:
        return opens_reasoning(session.tokenizer.chat_text([ChatMessage("user", "?")], answering=True))
    except DynoError:
        return False  # a template that refuses this will say so when it is asked for a reply


def model_name(folder: Path) -> str:
    """What a model is called: its folder's name; the run's where a training run made it."""
    folder = folder.resolve()
    return folder.parent.name if folder.name == "model" and (folder.parent / "plan.json").is_file() else folder.name


def unavailable_techniques(device: DeviceFacts, config: ModelConfig | None) -> Iterator[tuple[str, str]]:
    """(technique key or "key:case", reason) of everything that cannot run here."""
    for tech in all_techniques():
        verdicts = [(name, tech.usable(options, device, config)) for name, options in cases(tech)]
        refused = [(name, verdict.reason) for name, verdict in verdicts if not verdict.ok]
        if len(refused) == len(verdicts):
            yield tech.key, refused[0][1]
        else:
            yield from ((f"{tech.key}:{name}", reason) for name, reason in refused)


def _suggested(folder: Path) -> Sampling:
    """Sampling the checkpoint suggests in generation_config.json; the app's own where it says nothing usable."""
    path = folder / "generation_config.json"
    raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    sampling = Sampling()
    for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty"):
        value = raw.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            try:
                wanted = replace(sampling, **{name: type(getattr(sampling, name))(value)})
                check_sampling(wanted)
            except (DynoError, ValueError, OverflowError):
                continue
            sampling = wanted
    return sampling


def _watch_torch_memory(monitor: Monitor, device: DeviceFacts) -> None:
    """Let the monitor read what torch has reserved and allocated on the card that the model is on."""
    if device.kind != "cuda":
        monitor.set_torch_memory(None)
        return
    name = monitor.device_for_uuid(str(torch.cuda.get_device_properties(device.index).uuid)) or f"gpu{device.index}"
    monitor.set_torch_memory(lambda: {name: {"reserved": torch.cuda.memory_reserved(device.index),
                                             "allocated": torch.cuda.memory_allocated(device.index)}})
