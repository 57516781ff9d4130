"""A run's folder, read by whoever wants to watch it: the window, for runs of its own and of other processes alike.

Knows files and plain data, neither torch nor who writes them. The curves are read on from where the last look ended,
so that looking costs what is new.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from engine.errors import DynoError
from engine.processes import runs_still, this_process
from engine.train_events import EvalPoint, Finding, TrainPoint
from engine.train_plan import TrainPlan
from engine.training.diagnosis import diagnose

PLAN, FACTS, TRAIN, EVALUATION, MODEL = "plan.json", "run.json", "train.csv", "evaluation.csv", "model"
RUNNING, PAUSED, INTERRUPTED, FAILED = "running", "paused", "interrupted", "failed"
_MOST_BYTES = 1 << 20  # of a curve, at one look: more comes with the next one


@dataclass(frozen=True)
class Facts:
    """What a run says about itself. state: "running", "paused", "failed", or as TrainResult has it. pid, host,
    process_s: the process that trains, and when it was started. message: why it failed. notices: what it does
    otherwise than it was asked."""

    state: str = RUNNING
    started_s: float = 0.0
    pid: int = 0
    host: str = ""
    process_s: float = 0.0
    parameters: int = 0
    trained_parameters: int = 0
    train_tokens: int = 0
    learned_tokens: int = 0
    validation_tokens: int = 0
    sequence: int = 0
    device: str = ""
    world: int = 1
    message: str = ""
    notices: tuple[str, ...] = ()

    def to_json(self) -> str:
        """As the file has it."""
        return json.dumps({f.name: getattr(self, f.name) for f in fields(self)}, indent=1)

    @classmethod
    def read(cls, path: Path) -> Facts:
        """The file's; a run that has not come that far knows nothing about itself."""
        try:
            raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            known = {f.name for f in fields(cls)}
            kept: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items() if k in known}
            return cls(**kept)
        except (OSError, ValueError, TypeError, AttributeError):
            return cls(state="")

    @property
    def alive(self) -> bool:
        """Whether the process that trains still runs. Of another machine's nobody can say, so it counts as alive."""
        if self.state != RUNNING:
            return False
        if self.host != socket.gethostname():
            return True
        return runs_still(self.pid, self.process_s)

    @property
    def mine(self) -> bool:
        """Whether this process trains it."""
        return self.alive and self.host == socket.gethostname() and self.pid == os.getpid()


def who_trains() -> dict[str, Any]:
    """The fields of Facts that name this process."""
    number, started_s = this_process()
    return {"pid": number, "host": socket.gethostname(), "process_s": started_s}


def read_plan(folder: Path) -> TrainPlan:
    """The plan of a run's folder. Raises DynoError."""
    try:
        return TrainPlan.from_json(json.loads((folder / PLAN).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise DynoError(f"There is no training run in {folder}.", "Give the folder of a run, or start one.") from error


def read_curve(path: Path) -> list[dict[str, str]]:
    """The rows of one of the curves, a half-written last one left out; none where there is no file."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text[:text.rfind("\n") + 1])))
    return [row for row in rows if None not in row and all(v is not None for v in row.values())]


def _point(kind: type[Any], row: Mapping[str, str]) -> Any:
    """A row as the dataclass it was written from; fields that the file does not know have their defaults."""
    readers: dict[str, Any] = {"int": int, "float": float, "str": str, "bool": lambda v: v == "True",
                               "tuple[int, ...]": lambda v: tuple(int(p) for p in v.split())}
    return kind(**{f.name: readers[str(f.type)](row[f.name]) for f in fields(kind) if f.name in row})


@dataclass
class RunRecord:
    """A run as its folder has it. `look()` reads what is new."""

    folder: Path
    plan: TrainPlan
    facts: Facts = field(default_factory=Facts)
    train: list[TrainPoint] = field(default_factory=list)
    evaluations: list[EvalPoint] = field(default_factory=list)
    _header: list[str] = field(default_factory=list)
    _at: int = 0
    _file: int = 0
    _seen: dict[str, tuple[int, int]] = field(default_factory=dict)
    _told: str = ""

    @classmethod
    def open(cls, folder: Path) -> RunRecord:
        """The run of a folder; nothing of its curves is read yet. Raises DynoError."""
        return cls(folder, read_plan(folder), Facts.read(folder / FACTS))

    @property
    def state(self) -> str:
        """Facts' state; "interrupted" where it says running and nobody does."""
        return INTERRUPTED if self.facts.state == RUNNING and not self.facts.alive else self.facts.state

    @property
    def step(self) -> int:
        """Steps made, as far as the curves tell."""
        return max(self.train[-1].step if self.train else 0, self.evaluations[-1].step if self.evaluations else 0)

    @property
    def best(self) -> EvalPoint | None:
        """The evaluation whose weights are in `model`."""
        return next((p for p in reversed(self.evaluations) if p.best), None)

    @property
    def model(self) -> str:
        """The folder of the best weights, "" while there is none."""
        return str(self.folder / MODEL) if (self.folder / MODEL / "config.json").is_file() else ""

    @property
    def step_tokens(self) -> int:
        """Tokens of one optimizer step over all processes."""
        plan = self.plan
        return plan.batch * plan.accumulate * (self.facts.sequence or plan.sequence) * max(1, self.facts.world)

    @property
    def left_s(self) -> float:
        """Seconds to the last step at the speed of the last points, nan while unknown."""
        speeds = [p.tokens_per_s for p in self.train[-5:] if p.tokens_per_s > 0]
        if not speeds:
            return math.nan
        return max(0, self.plan.steps - self.step) * self.step_tokens * len(speeds) / sum(speeds)

    def findings(self) -> tuple[Finding, ...]:
        """What the curves say."""
        windows = self.facts.train_tokens // max(1, self.facts.sequence) * self.plan.data_share
        read = self.step * self.step_tokens / max(1, self.facts.sequence)
        return diagnose(self.plan, self.train, self.evaluations, read / windows if windows else 0.0,
                        ended=self.state not in (RUNNING, PAUSED, INTERRUPTED))

    def look(self) -> bool:
        """Read on; whether anything is new."""
        news = [self._look_at_facts(), self._look_at_evaluations(), self._look_at_train()]
        return any(news)

    def _changed(self, name: str) -> bool:
        try:
            found = (self.folder / name).stat()
        except OSError:
            return False
        mark = (found.st_mtime_ns, found.st_size)
        if self._seen.get(name) == mark:
            return False
        self._seen[name] = mark
        return True

    def _look_at_facts(self) -> bool:
        if self._changed(FACTS):
            self.facts = Facts.read(self.folder / FACTS)
        before, self._told = self._told, self.state  # a process may have died without a word
        return before != self._told

    def _look_at_evaluations(self) -> bool:
        if not self._changed(EVALUATION):
            return False
        self.evaluations = [_point(EvalPoint, row) for row in read_curve(self.folder / EVALUATION)]
        return True

    def _look_at_train(self) -> bool:
        """Read whole lines from where the last look ended; a file that was replaced is read anew."""
        try:
            with open(self.folder / TRAIN, "rb") as file:
                found = os.fstat(file.fileno())
                if found.st_ino != self._file or found.st_size < self._at:
                    self._file, self._at, self._header, self.train = found.st_ino, 0, [], []
                file.seek(self._at)
                block = file.read(_MOST_BYTES)
        except OSError:
            return False
        whole = block[:block.rfind(b"\n") + 1]
        self._at += len(whole)
        for cells in csv.reader(io.StringIO(whole.decode("utf-8"))):
            if not self._header:
                self._header = cells
            elif len(cells) == len(self._header):
                self.train.append(_point(TrainPoint, dict(zip(self._header, cells, strict=True))))
        return bool(whole)


def find_runs(folder: Path) -> list[RunRecord]:
    """Every run directly under a folder, the newest first; their curves are not read yet."""
    found: list[RunRecord] = []
    for path in folder.iterdir() if folder.is_dir() else ():
        try:
            found.append(RunRecord.open(path))
        except DynoError:
            continue
    return sorted(found, key=lambda run: -(run.facts.started_s or _changed_s(run.folder / PLAN)))


def _changed_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def noted(facts: Facts, text: str) -> Facts:
    """The facts with one more notice."""
    return facts if text in facts.notices else replace(facts, notices=(*facts.notices, text))
