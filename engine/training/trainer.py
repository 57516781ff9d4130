"""The training loop, a generator of events: whoever calls next() decides when the next step is made.

Everything random in a step follows from the seed and the step's number, and all else is in the checkpoint, so a run
that was killed goes on as if nothing had happened. A window's job, the command line and a probe run the same loop.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.errors import DynoError
from engine.models.checkpoint import load_decoder, load_masters, write_text
from engine.models.devices import DeviceFacts
from engine.train_events import (
    EvalPoint,
    Finding,
    Notice,
    Pruned,
    RunStarted,
    Saved,
    Stepped,
    TrainEvent,
    TrainPoint,
    TrainResult,
)
from engine.train_plan import TrainPlan
from engine.training.checkpoints import has_state, load_state, save_state
from engine.training.chronicle import TrainSteps, refuse_a_second_process, told
from engine.training.curves import Curves
from engine.training.dataset import IGNORED, Order, Stream, fingerprint
from engine.training.diagnosis import diagnose, explosion
from engine.training.logs import Logs
from engine.training.network import Network, used_bytes
from engine.training.optimizing import Stepper
from engine.training.records import MODEL, PLAN, TRAIN, read_curve, read_plan
from engine.training.setup import Ready, set_up, unless_paused
from engine.training.sharding import gathered, sharded_like, spread, synchronise
from engine.training.team import Team
from engine.training.techniques import Techniques

_SAMPLE_TOKENS = 48
_MAY_DIFFER = {"save_every_s"}  # between the plan of a checkpoint and that of the run that goes on from it
Asked = Callable[[], str]


def train(plan: TrainPlan, folder: Path, device: DeviceFacts, team: Team | None = None, resume: bool = False,
          asked: Asked = lambda: "") -> TrainSteps:
    """Run a plan in a folder of its own: tokens, checkpoint, curves and the exported model lie there afterwards.

    resume: go on from the folder's checkpoint, where there is one. asked: called between steps; "pause" saves and
    ends, "finish" ends with the best so far. Raises DynoError.
    """
    team = team or Team()
    if has_state(folder) and not resume:
        raise DynoError(f"{folder} holds an unfinished or finished run.", "Resume it, or choose another folder.")
    if team.leads:
        refuse_a_second_process(folder)
        _write_plan(plan, folder)
    steps = _steps(plan, folder, device, team, resume, asked)
    return (yield from told(folder, steps) if team.leads else steps)


def _steps(plan: TrainPlan, folder: Path, device: DeviceFacts, team: Team, resume: bool, asked: Asked) -> TrainSteps:
    alone = team.world == 1  # several processes wait for one another here
    ready = yield from unless_paused(set_up(plan, folder, device, team), asked if alone else lambda: "")
    if ready is None:
        return TrainResult("paused", 0, math.nan, math.nan, -1, 0.0, "", ())
    if plan.sharding == "on" and (team.world == 1 or plan.sample):
        yield Notice("There is one process, so nothing is sharded." if team.world == 1 else
                     "A sharded model writes no samples while it trains.")
    run = _Run(plan, folder, ready, team, asked)
    try:
        return (yield from run.steps(resume))
    finally:
        run.close()


def _write_plan(plan: TrainPlan, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / PLAN).is_file() and (old := read_plan(folder)) != plan:
            names = [n for n, v in plan.to_json().items() if v != old.to_json()[n] and n not in _MAY_DIFFER]
            begun = has_state(folder) or read_curve(folder / TRAIN)  # a start that failed holds nobody to its plan
            if names and begun:
                raise DynoError(f"{folder} holds a run with another {names[0].replace('_', ' ')}.",
                                "Resume it as it was planned, or choose another folder.")
        write_text(folder / PLAN, json.dumps(plan.to_json(), indent=1))
    except OSError as error:
        raise DynoError(f"{folder} cannot be written ({error.strerror}).", "Choose another folder.") from error


class _Run:
    """One run between its setup and its end."""

    def __init__(self, plan: TrainPlan, folder: Path, ready: Ready, team: Team, asked: Asked) -> None:
        self.plan, self.folder, self.ready, self.team, self.asked = plan, folder, ready, team, asked
        self.length = ready.data.sequence
        self.techniques = Techniques(ready.decoder, plan)
        self.sharded = plan.sharding == "on" and team.world > 1
        self.wrapped: nn.Module = spread(ready.network, team, self.sharded, ready.device)
        self.stepper = Stepper(plan, ready.network.trained, ready.device)
        self.order = Order(max(1, ready.data.train.windows(self.length)), plan.seed, plan.data_share)
        self.curves = Curves()
        self.logs: Logs | None = None
        self._losses: list[Tensor] = []  # of the steps since the last look, still on the device
        self._norm = torch.zeros(())
        self._looked_s = self._saved_s = time.perf_counter()
        self._looked_step = 0
        self._told_of: set[str] = set()  # kinds of findings

    # ---------------------------------------------------------------------------------------------------- the loop

    def steps(self, resume: bool) -> TrainSteps:
        """All of it, from the first step or the checkpoint's to the export."""
        plan, curves = self.plan, self.curves
        if resume and has_state(self.folder):
            self._load()
            curves = self.curves
        if self.team.leads:
            self.logs = Logs(self.folder, curves.step, curves.evaluated == curves.step)
        yield self._started()
        state = "done"
        self._looked_s, self._looked_step = time.perf_counter(), curves.step
        while curves.step < plan.steps:
            if curves.step % plan.evaluate_every == 0 and curves.evaluated != curves.step:
                yield from self._evaluate("") if curves.step else self._first_look()
                if plan.patience and curves.stale >= plan.patience:
                    state = "stopped early"
                    break
            if self.techniques.tighten(curves.step):
                yield Pruned(curves.step, self.techniques.zeros, self.techniques.prunable)
                if self.techniques.complete(curves.step):
                    yield from self._evaluate("pruned")
            self._one_step()
            yield Stepped(curves.step, plan.steps)
            told = curves.step % plan.log_every == 0 or curves.step == plan.steps
            if told:
                yield from self._look()
            if not told and self.team.world > 1:
                continue  # processes agree on what is asked for, which costs them a message
            wish = self._wish()
            if wish == "pause":
                yield from self._save(True)
                return self._result("paused")
            if wish == "finish":
                state = "finished early"
                break
            yield from self._save(False)
        return (yield from self._end(state))

    def _end(self, state: str) -> TrainSteps:
        if self.curves.waiting or self._losses:
            yield from self._look()
        if self.curves.evaluated != self.curves.step:
            yield from self._evaluate("")
        if self.curves.best is None:
            yield from self._export(None)
        yield from self._save(True)
        return self._result(state)

    def _started(self) -> RunStarted:
        decoder, data = self.ready.decoder, self.ready.data
        trained = sum(p.numel() for p in self.ready.network.trained.values())
        return RunStarted(self.plan, str(self.folder), self.curves.step, sum(p.numel() for p in decoder.parameters()),
                          trained, len(data.train.ids), data.train.learned, len(data.validation.ids),
                          self.ready.device.type, self.team.world, self.length)

    def _wish(self) -> str:
        """What is asked for, the same on every process."""
        asked = self.asked()
        for wish in ("pause", "finish"):
            if self.team.any(asked == wish, self.ready.device):
                return wish
        return ""

    # ------------------------------------------------------------------------------------------------------- a step

    def _one_step(self) -> None:
        plan, step, team = self.plan, self.curves.step, self.team
        each = plan.batch * plan.accumulate
        windows = self.order.at(step * each * team.world, each * team.world)
        count = self._learned(windows)
        mine = windows[team.rank * each:(team.rank + 1) * each]
        self.wrapped.train()
        total = torch.zeros((), device=self.ready.device)
        with _seeded(plan.seed, step * team.world + team.rank, self.ready.device):
            for i in range(plan.accumulate):
                ids, targets = self._batch(self.ready.data.train, mine[i * plan.batch:(i + 1) * plan.batch])
                synchronise(self.wrapped, i == plan.accumulate - 1)
                loss = self.wrapped(ids, targets)
                self.stepper.backward(loss * (team.world / count))
                total += loss.detach()
        self.stepper.unscale()
        self.techniques.before_update()
        self._norm, skipped = self.stepper.update(step)
        self.techniques.after_update()
        self._losses.append(total / count)
        if skipped:
            self.curves.skipped.append(step)
        self.curves.step += 1

    def _learned(self, windows: list[int]) -> int:
        """Tokens that carry loss in these windows, at least 1."""
        stream, length = self.ready.data.train, self.length
        if stream.marks is None:
            return len(windows) * length
        return max(1, sum(int((stream.marks[w * length + 1:(w + 1) * length + 1] > 0).sum()) for w in windows))

    def _batch(self, stream: Stream, windows: list[int]) -> tuple[Tensor, Tensor]:
        ids, targets = stream.batch(windows, self.length)
        return ids.to(self.ready.device), targets.to(self.ready.device)

    def _gather(self) -> None:
        """Bring the losses of the last steps here, and stop where they are no numbers."""
        if self._losses:
            self.curves.waiting += [float(v) for v in self.team.total(torch.stack(self._losses))]
            self._losses.clear()
        first = self.curves.step - len(self.curves.waiting)
        bad = [first + i for i, loss in enumerate(self.curves.waiting)
               if not math.isfinite(loss) and first + i not in self.curves.skipped]
        if bad or not (self.stepper.scaled or math.isfinite(float(self._norm))):
            raise explosion(self.plan, bad[0] if bad else self.curves.step - 1)

    def _look(self) -> Iterator[TrainEvent]:
        """A point of the curve from the steps since the last one."""
        self._gather()
        now_s, curves = time.perf_counter(), self.curves
        tokens = (curves.step - self._looked_step) * self.plan.tokens_per_batch * self.plan.accumulate * self.team.world
        tokens = tokens * self.length // self.plan.sequence
        point = TrainPoint(curves.step, curves.mean_waiting(), self.stepper.rate.at(curves.step - 1),
                           float(self._norm), tokens / max(now_s - self._looked_s, 1e-9), self.stepper.scale,
                           tuple(curves.skipped), self.techniques.zeros / max(1, self.techniques.prunable),
                           used_bytes(self.ready.device))
        curves.elapsed_s += now_s - self._looked_s
        self._looked_s, self._looked_step = now_s, curves.step
        curves.waiting.clear()
        curves.skipped.clear()
        curves.train.append(point)
        if self.logs is not None:
            yield from self.logs.train(point)
        yield point

    # -------------------------------------------------------------------------------------------------- evaluation

    def _first_look(self) -> Iterator[TrainEvent]:
        """The model before its first step; where a technique is about to change it, with and without."""
        plan = self.plan
        if plan.prune in ("neurons", "heads", "layers"):  # what is trained has been cut already
            dense = load_decoder(load_masters(Path(plan.model).expanduser()))
            yield from self._evaluate("dense baseline", Network(dense, plan, self.ready.device))
            yield from self._evaluate("pruned")
        elif plan.qat != "off" and plan.model:
            with self.techniques.unrounded():
                yield from self._evaluate("full precision")
            yield from self._evaluate("rounded after training")
        else:
            yield from self._evaluate("dense baseline" if plan.prune == "weights" else "")

    def _evaluate(self, label: str, network: nn.Module | None = None) -> Iterator[TrainEvent]:
        stream, began_s, curves = self.ready.data.validation, time.perf_counter(), self.curves
        curves.evaluated = curves.step
        windows = -(-max(0, len(stream.ids) - 1) // self.length)
        if not windows:
            return
        if self.plan.evaluation_batches:
            windows = min(windows, self.plan.evaluation_batches * self.plan.batch)
        judged, sums = network or self.ready.network, torch.zeros(2, dtype=torch.float64)
        judged.eval()
        # Every process makes as many passes as the first: shards are gathered by all of them or not at all.
        for start in range(0, windows, self.plan.batch * self.team.world):
            first = start + self.team.rank * self.plan.batch
            mine = list(range(first, min(first + self.plan.batch, windows)))
            ids, targets = self._batch(stream, mine or [0])
            if not mine:
                targets.fill_(IGNORED)
            with torch.no_grad():
                sums += torch.tensor([float(judged(ids, targets)), float((targets != IGNORED).sum())])
            yield Stepped(curves.step, self.plan.steps)
        nll, tokens = self.team.total(sums.to(self.ready.device)).tolist()
        loss = nll / max(1.0, tokens)
        point = EvalPoint(curves.step, loss, math.exp(min(loss, 700.0)), int(tokens), label=label,
                          sample="" if network is not None else self._sample())
        before = curves.best, curves.stale
        point = curves.add_evaluation(point, label == "" and self.techniques.complete(curves.step))
        if point.best:
            try:
                yield from self._export(point)
            except DynoError as error:  # a full disk does not end the run, and the best is what lies in the folder
                point = curves.not_kept(*before)
                yield Notice(f"{error.summary} The run goes on; the next evaluation that is better is kept.")
        if self.logs is not None:
            yield from self.logs.evaluation(point)
        if self.plan.histograms == "on" and not label:
            weights = gathered(self.ready.network.trained)
            if self.logs is not None:
                yield from self.logs.weights(weights, curves.step)
        self._looked_s += time.perf_counter() - began_s  # the tokens/s of training are not those of evaluating
        curves.elapsed_s += time.perf_counter() - began_s
        yield point
        for finding in self._findings(ended=False):
            # A plateau goes on; over-fitting may begin again at another minimum.
            news = f"{finding.kind} {finding.since if finding.kind == 'over-fitting' else ''}"
            if news not in self._told_of:
                self._told_of.add(news)
                if finding.kind != "healthy":
                    yield finding

    def _findings(self, ended: bool) -> tuple[Finding, ...]:
        read = self.curves.step * self.plan.batch * self.plan.accumulate * self.team.world
        return diagnose(self.plan, self.curves.train, self.curves.evaluations, read / self.order.windows, ended)

    def _sample(self) -> str:
        if not (self.plan.sample and self.team.leads) or self.sharded:
            return ""
        ids = self.ready.tokenizer.encode(self.plan.sample)
        new = self.ready.network.write(ids, _SAMPLE_TOKENS, self.plan.seed, self.ready.end)
        return self.ready.tokenizer.decode(ids + new)

    # ------------------------------------------------------------------------------------------------------- files

    def _export(self, point: EvalPoint | None) -> Iterator[TrainEvent]:
        tensors = self.techniques.tensors() if self.team.leads or self.sharded else {}
        if self.team.leads:
            self.techniques.export(self.folder / MODEL, tensors, self.ready.source, point, self.curves.step)
        yield Saved(self.curves.step, str(self.folder / MODEL), "model")

    def _save(self, now: bool) -> Iterator[TrainEvent]:
        """Save where it is time, or `now`; in between, a disk that is full does not end the run."""
        due = now or time.perf_counter() - self._saved_s >= self.plan.save_every_s
        if self.sharded:  # all processes save, or none
            due = self.team.any(due, self.ready.device)
        if not due:
            return
        self._gather()
        self._saved_s = time.perf_counter()
        state = self._state() if self.team.leads or self.sharded else {}
        if not self.team.leads:
            return
        assert self.logs is not None
        yield from self.logs.flush()
        try:
            path = save_state(self.folder, state)
        except DynoError as error:
            if now:
                raise
            yield Notice(f"{error.summary} The run goes on and tries again.")
        else:
            yield Saved(self.curves.step, str(path), "checkpoint")

    def _state(self) -> dict[str, object]:
        return {"plan": self.plan.to_json(), "data": fingerprint(self.ready.data.train), "world": self.team.world,
                "weights": {name: gathered(p.detach()) for name, p in self.ready.network.trained.items()},
                "curves": self.curves.to_state(), "techniques": self.techniques.state()} | self.stepper.state()

    def _load(self) -> None:
        state = load_state(self.folder)
        if state["data"] != fingerprint(self.ready.data.train) or state["world"] != self.team.world:
            raise DynoError("The data or the number of processes is not what this run began with.",
                            "Resume it as it began, or start a new one from its model.")
        with torch.no_grad():
            for name, weight in self.ready.network.trained.items():
                weight.copy_(sharded_like(state["weights"][name], weight))
        self.stepper.load(state)
        self.techniques.load(state["techniques"])
        self.curves = Curves.from_state(state["curves"])

    def _result(self, state: str) -> TrainResult:
        curves, model = self.curves, self.folder / MODEL
        best = curves.best
        return TrainResult(state, curves.step, curves.train[-1].loss if curves.train else math.nan,
                           best.loss if best else math.nan, best.step if best else -1, curves.elapsed_s,
                           str(model) if (model / "config.json").is_file() else "",
                           self._findings(ended=state != "paused"))

    def close(self) -> None:
        """Give the files back."""
        if self.logs is not None:
            self.logs.close()


@contextmanager
def _seeded(seed: int, number: int, device: torch.device) -> Iterator[None]:
    """Draw from random numbers that follow from the seed and a number alone, and leave everyone else's untouched."""
    with torch.random.fork_rng(devices=[device.index or 0] if device.type == "cuda" else []):
        torch.manual_seed((seed << 32) + number)
        yield
