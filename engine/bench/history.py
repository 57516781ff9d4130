"""Benchmark runs in SQLite: each row is committed as it is finished, so a crash or a stop loses no row.

WAL mode, so the window may read while the engine writes; each thread opens a History of its own. A run stays
"running" until it is closed; one that is found so when the process that began it has ended has crashed, and can be
resumed.
"""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from engine.bench.statistics import NO_DIFFERENCE, Ratio, normal_ratio, quality_verdict, speed_verdict, unpaired_ratio
from engine.errors import DynoError, reason
from engine.measurements import BenchPlan, BenchRow
from engine.processes import runs_still, this_process

_SCHEMA = """
CREATE TABLE IF NOT EXISTS run (
    id INTEGER PRIMARY KEY, started_s REAL NOT NULL, ended_s REAL, state TEXT NOT NULL, title TEXT NOT NULL,
    model TEXT NOT NULL, model_fingerprint TEXT NOT NULL, plan TEXT NOT NULL, process INTEGER NOT NULL DEFAULT 0,
    process_s REAL NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS result (
    id INTEGER PRIMARY KEY, run_id INTEGER NOT NULL REFERENCES run(id) ON DELETE CASCADE, key TEXT NOT NULL,
    row TEXT NOT NULL, UNIQUE (run_id, key));
"""
_VERSION = 2
_SINCE_2 = ("process INTEGER NOT NULL DEFAULT 0", "process_s REAL NOT NULL DEFAULT 0")
RUNNING, COMPLETE, STOPPED = "running", "complete", "stopped"


@dataclass(frozen=True)
class Run:
    """One run. state: "running" (or crashed), "complete" or "stopped". started_s: seconds since the epoch.

    rows: how many are finished; planned: how many there will be. process, process_s: number and start of the process
    that runs it or ran it last, 0 where an older version did.
    """

    id: int
    started_s: float
    ended_s: float | None
    state: str
    title: str
    model: str
    model_fingerprint: str
    plan: BenchPlan
    rows: int
    process: int = 0
    process_s: float = 0.0

    @property
    def alive(self) -> bool:
        """Whether a process, this one or another, still measures it."""
        return self.state == RUNNING and runs_still(self.process, self.process_s)

    @property
    def resumable(self) -> bool:
        """Whether rows are missing and nobody is at it."""
        return self.state != COMPLETE and not self.alive

    @property
    def planned(self) -> int:
        """Rows of the whole plan."""
        return len(self.plan.recipes) * len(self.plan.tests)


@dataclass(frozen=True)
class Change:
    """One test of one recipe in two runs: new / old, with a verdict. unit: "tok/s" or "perplexity"."""

    recipe: str
    test: str
    unit: str
    old: float
    new: float
    ratio: Ratio
    verdict: str


class History:
    """The database, for one thread. Raises DynoError with a sentence where the disk refuses."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, timeout=10.0)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("PRAGMA foreign_keys=ON")
            found = int(self._db.execute("PRAGMA user_version").fetchone()[0])
            if found > _VERSION:
                raise DynoError("The benchmark history was written by a newer GPT Dyno.", "Update the app to open it.")
            self._db.executescript(_SCHEMA)
            if found == 1:
                for column in _SINCE_2:
                    self._db.execute(f"ALTER TABLE run ADD COLUMN {column}")
            self._db.execute(f"PRAGMA user_version={_VERSION}")
        except (sqlite3.Error, OSError) as error:
            raise DynoError(f"The benchmark history {path} cannot be opened: {reason(error)}.",
                            "Make sure the folder can be written, or move the file away to start afresh.") from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # ------------------------------------------------------------------------------------------------------- writing

    def begin(self, plan: BenchPlan, model: str, model_fingerprint: str, title: str = "") -> int:
        """A new run; its number."""
        with self._guard():
            cursor = self._db.execute(
                "INSERT INTO run (started_s, state, title, model, model_fingerprint, plan, process, process_s)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (time.time(), RUNNING, title, model, model_fingerprint, json.dumps(plan.to_json(), sort_keys=True),
                 *this_process()))
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def reopen(self, run_id: int) -> None:
        """A run goes on, in this process."""
        with self._guard():
            self._db.execute("UPDATE run SET state = ?, ended_s = NULL, process = ?, process_s = ? WHERE id = ?",
                             (RUNNING, *this_process(), run_id))

    def add(self, run_id: int, row: BenchRow) -> None:
        """Keep a finished row; committed when this returns. It replaces one of the same key that had failed."""
        with self._guard():
            self._db.execute("INSERT OR REPLACE INTO result (run_id, key, row) VALUES (?, ?, ?)",
                             (run_id, row.key, json.dumps(row.to_json())))

    def end(self, run_id: int, complete: bool) -> None:
        """A run is over."""
        with self._guard():
            self._db.execute("UPDATE run SET state = ?, ended_s = ? WHERE id = ?",
                             (COMPLETE if complete else STOPPED, time.time(), run_id))

    def rename(self, run_id: int, title: str) -> None:
        """Give a run a title."""
        with self._guard():
            self._db.execute("UPDATE run SET title = ? WHERE id = ?", (title, run_id))

    def delete(self, run_id: int) -> None:
        """Remove a run and its rows."""
        with self._guard():
            self._db.execute("DELETE FROM run WHERE id = ?", (run_id,))

    # ------------------------------------------------------------------------------------------------------- reading

    def runs(self) -> list[Run]:
        """All runs, the newest first; those whose plan this version cannot read are left out, and stay in the file."""
        with self._guard():
            rows = self._db.execute(
                "SELECT id, started_s, ended_s, state, title, model, model_fingerprint, plan,"
                " (SELECT COUNT(*) FROM result WHERE run_id = run.id), process, process_s"
                " FROM run ORDER BY id DESC").fetchall()
        found = []
        for i, begun_s, ended_s, state, title, model, fingerprint, plan, *rest in rows:
            with suppress(DynoError, ValueError, KeyError, TypeError):  # of a version that knew other techniques
                found.append(Run(i, begun_s, ended_s, state, title, model, fingerprint,
                                 BenchPlan.from_json(json.loads(plan)), *rest))
        return found

    def run(self, run_id: int) -> Run:
        """One run. Raises DynoError where there is none of this number."""
        found = next((run for run in self.runs() if run.id == run_id), None)
        if found is None:
            raise DynoError(f"There is no benchmark run {run_id} in the history.",
                            "List the runs to see their numbers.")
        return found

    def rows(self, run_id: int) -> tuple[BenchRow, ...]:
        """The finished rows of a run, in the order in which they were finished."""
        with self._guard():
            rows = self._db.execute("SELECT row FROM result WHERE run_id = ? ORDER BY id", (run_id,)).fetchall()
        return tuple(BenchRow.from_json(json.loads(row)) for row, in rows)

    def unfinished(self, plan: BenchPlan, model_fingerprint: str, run_id: int = 0) -> Run | None:
        """The newest run of this very plan and model that is not complete and that nobody runs. run_id: only this."""
        return next((run for run in self.runs() if run.resumable and run.plan == plan
                     and run.model_fingerprint == model_fingerprint and run_id in (0, run.id)), None)

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise DynoError(f"The benchmark history could not be read or written: {error}.",
                            "Free some space, and make sure the data folder can be written.") from error


def changes(old: Sequence[BenchRow], new: Sequence[BenchRow]) -> tuple[Change, ...]:
    """What two runs have in common, compared: speeds by their samples (Welch), perplexities by their errors.

    The runs were not interleaved, so the machine's mood between them is in the ratio; a perplexity is compared only on
    the same text, context and stride. Rows of versions that noted no hash of the text are held to be of the same.
    """
    before: dict[object, list[BenchRow]] = {}
    for row in old:
        if not row.error:
            before.setdefault(_same(row), []).append(row)
    found = []
    for row in new:
        waiting = before.get(_same(row))
        if row.error or not waiting:
            continue
        other = waiting[0]
        if row.text_fingerprint and other.text_fingerprint and row.text_fingerprint != other.text_fingerprint:
            continue
        del waiting[0]
        if row.samples_ts and other.samples_ts and row.avg_ts and other.avg_ts:
            ratio = unpaired_ratio(row.samples_ts, other.samples_ts)
            found.append(Change(row.recipe, row.test, "tok/s", other.avg_ts, row.avg_ts, ratio, speed_verdict(ratio)))
        elif row.perplexity and other.perplexity:
            found.append(_perplexity_change(other, row))
    return tuple(found)


def _same(row: BenchRow) -> tuple[object, ...]:
    return row.fingerprint, row.test, row.text, row.chunks, row.n_ctx, row.stride


def _perplexity_change(old: BenchRow, new: BenchRow) -> Change:
    """The two runs read the same text, so equal figures are equal; else the errors are taken as independent."""
    assert old.perplexity and new.perplexity
    error = math.hypot((old.perplexity_error or 0) / old.perplexity, (new.perplexity_error or 0) / new.perplexity)
    ratio = normal_ratio(math.log(new.perplexity / old.perplexity), error, new.tokens_scored or 2)
    verdict = NO_DIFFERENCE if new.perplexity == old.perplexity else quality_verdict(ratio)
    return Change(new.recipe, new.test, "perplexity", old.perplexity, new.perplexity, ratio, verdict)
