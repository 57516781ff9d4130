"""Rows printed in every format and read back; runs kept, compared and refused."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import sqlite3
from pathlib import Path

import pytest

from engine.bench.history import History, changes
from engine.bench.results import FIELDS, FORMATS, SQL_TABLE, figures, render, seconds, size
from engine.errors import DynoError
from engine.measurements import BenchPlan, BenchRow, SpeedTest
from engine.recipe import Recipe

ROWS = (
    BenchRow(key="0:a:pp8", recipe="it's | odd, \"very\"", fingerprint="a", test="pp8", n_prompt=8, avg_ts=1234.5678,
             stddev_ts=12.0, samples_ts=(1200.0, 1234.0, 1270.0), samples_ns=(1, 2, 3), weight_bytes=12_300_000,
             steady=True, conditions="quiet", repetitions=3, model_filename="m", n_threads=2),
    BenchRow(key="1:b:ppl64", lane=1, recipe="b", fingerprint="b", test="ppl64", perplexity=math.nan, kl_mean=1e-9),
    BenchRow(key="1:b:pp8", lane=1, recipe="b", fingerprint="b", test="pp8", error="Memory ran out.", hint="Less."),
)


def test_json_and_json_lines_hold_every_field_and_no_nan() -> None:
    rows = json.loads(render(ROWS, "json"), parse_constant=pytest.fail)
    lines = [json.loads(line, parse_constant=pytest.fail) for line in render(ROWS, "jsonl").splitlines()]
    assert rows == lines and list(rows[0]) == [field.name for field in FIELDS]
    assert BenchRow.from_json(rows[0]) == ROWS[0] and rows[1]["perplexity"] is None


def test_csv_quotes_what_it_must() -> None:
    rows = list(csv.DictReader(io.StringIO(render(ROWS, "csv"))))
    assert [row["recipe"] for row in rows] == [row.recipe for row in ROWS]
    assert json.loads(rows[0]["samples_ts"]) == [1200.0, 1234.0, 1270.0] and rows[2]["error"] == "Memory ran out."


def test_sql_builds_a_table_that_sqlite_reads() -> None:
    database = sqlite3.connect(":memory:")
    database.executescript(render(ROWS, "sql"))
    found = database.execute(f"SELECT recipe, avg_ts, perplexity, steady FROM {SQL_TABLE}").fetchall()
    database.close()
    assert found[0] == (ROWS[0].recipe, 1234.5678, None, 1) and len(found) == 3


def test_tables_show_failures_in_words() -> None:
    for output in ("table", "md"):
        text = render(ROWS, output)
        assert "1234.6" in text and "12.3 MB" in text and "b, pp8: Memory ran out. Less." in text and "e+" not in text
    assert "\\|" in render(ROWS, "md")
    with pytest.raises(DynoError, match=r"table, json"):
        render(ROWS, "xml")
    assert set(FORMATS) == {"table", "json", "jsonl", "csv", "md", "sql", "html"}


def test_figures_have_units_and_no_exponent() -> None:
    assert [figures(x) for x in (1234.56, 85.2149, 0.01236, 0.0, 120000.0)] == [
        "1234.6", "85.21", "0.01236", "0", "120000.0"]
    assert (size(1.5e9), size(2e6), seconds(1.5), seconds(0.0123), seconds(2e-5)) == (
        "1.50 GB", "2.0 MB", "1.50 s", "12.30 ms", "20 µs")


def test_runs_are_listed_renamed_and_deleted(tmp_path: Path) -> None:
    history = History(tmp_path / "deeper" / "h.sqlite")
    plan = BenchPlan((Recipe(),), (SpeedTest(prompt=8),))
    first, second = history.begin(plan, "m", "f"), history.begin(plan, "m", "f", "mine")
    history.add(first, ROWS[0])
    history.rename(first, "other")
    assert [(run.id, run.title, run.rows) for run in history.runs()] == [(second, "mine", 0), (first, "other", 1)]
    assert history.unfinished(plan, "f") is None and history.runs()[0].alive  # this process is at both
    history._db.execute("UPDATE run SET process_s = 1")  # it was another that had this number
    found = history.unfinished(plan, "f")
    assert found is not None and found.id == second and history.unfinished(plan, "another model") is None
    named = history.unfinished(plan, "f", first)
    assert named is not None and named.id == first
    history.reopen(first)
    assert history.unfinished(plan, "f", first) is None
    history.delete(first)
    with pytest.raises(DynoError, match="no benchmark run"):
        history.run(first)
    assert history.rows(first) == ()
    history.close()


def test_a_run_that_this_version_cannot_read_hides_no_other(tmp_path: Path) -> None:
    history = History(tmp_path / "h.sqlite")
    plan = BenchPlan((Recipe(),), (SpeedTest(prompt=8),))
    first, second = history.begin(plan, "m", "f"), history.begin(plan, "m", "f", "mine")
    raw = plan.to_json() | {"recipes": [{"techniques": {"of-another-version": {}}}]}
    history._db.execute("UPDATE run SET plan = ? WHERE id = ?", (json.dumps(raw), first))
    assert [run.id for run in history.runs()] == [second] and history.run(second).title == "mine"
    history.close()


def test_a_history_of_the_first_version_is_taken_over(tmp_path: Path) -> None:
    plan = BenchPlan((Recipe(),), (SpeedTest(prompt=8),))
    old = sqlite3.connect(tmp_path / "h.sqlite")
    old.executescript("""
        CREATE TABLE run (
            id INTEGER PRIMARY KEY, started_s REAL NOT NULL, ended_s REAL, state TEXT NOT NULL, title TEXT NOT NULL,
            model TEXT NOT NULL, model_fingerprint TEXT NOT NULL, plan TEXT NOT NULL);
        CREATE TABLE result (id INTEGER PRIMARY KEY, run_id INTEGER NOT NULL REFERENCES run(id) ON DELETE CASCADE,
                             key TEXT NOT NULL, row TEXT NOT NULL, UNIQUE (run_id, key));
        PRAGMA user_version=1;""")
    old.execute("INSERT INTO run (started_s, state, title, model, model_fingerprint, plan) "
                "VALUES (1, 'running', 'mine', 'm', 'f', ?)", (json.dumps(plan.to_json()),))
    known = [name for name in ROWS[0].to_json() if name not in ("recipe_argument", "text_fingerprint", "peak_of")]
    old.execute("INSERT INTO result (run_id, key, row) VALUES (1, 'k', ?)",
                (json.dumps({name: ROWS[0].to_json()[name] for name in known}),))
    old.commit()
    old.close()
    for _ in range(2):
        history = History(tmp_path / "h.sqlite")
        found = history.unfinished(plan, "f")
        assert found is not None and found.title == "mine" and not found.alive
        assert history.rows(1)[0].avg_ts == ROWS[0].avg_ts
        history.close()


def test_a_history_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "h.sqlite").write_bytes(b"no database, but long enough to be read as one" * 50)
    with pytest.raises(DynoError, match="cannot be opened"):
        History(tmp_path / "h.sqlite")
    newer = sqlite3.connect(tmp_path / "n.sqlite")
    newer.execute("PRAGMA user_version=99")
    newer.close()
    with pytest.raises(DynoError, match="newer"):
        History(tmp_path / "n.sqlite")


def test_two_runs_are_compared_by_recipe_test_and_text() -> None:
    fast = dataclasses.replace(ROWS[0], samples_ts=(2400.0, 2468.0, 2540.0), avg_ts=2469.0)
    ppl = dataclasses.replace(ROWS[1], perplexity=10.0, perplexity_error=0.1, text="a.txt", tokens_scored=500)
    other = dataclasses.replace(ppl, text="b.txt")
    edited = [dataclasses.replace(ppl, text_fingerprint=digits) for digits in ("aa", "bb")]
    assert len(changes(edited[:1], edited[:1])) == len(changes((ppl,), edited[:1])) == 1
    assert changes(edited[:1], edited[1:]) == ()
    found = changes((ROWS[0], ppl, ROWS[2]), (fast, ppl, other, ROWS[2]))
    assert [(c.test, c.verdict) for c in found] == [("pp8", "faster"), ("ppl64", "no difference measured")]
    assert found[0].ratio.value == pytest.approx(2.0, rel=1e-2)


def test_a_table_says_which_rows_are_not_of_one_kind_and_what_a_ratio_means() -> None:
    known = dataclasses.replace(ROWS[0], model_filename="m", n_threads=None, torch_version="2.13", build_commit="bbbb")
    rows = [dataclasses.replace(known, n_threads=2, build_commit="aaaa"),
            dataclasses.replace(known, lane=1, ratio=1.2, ratio_low=1.1, ratio_high=1.3)]
    said = render(rows, "table")
    assert "threads 2, torch 2.13, commit aaaa/bbbb" in said and "different versions (build_commit)" in said
    assert "95 % intervals" in said and "99 % interval" in said and said.count("threads") == 1
    assert "threads" not in render(rows[1:], "table") and "different" not in render(rows[1:], "table")
    assert "95 %" not in "\n".join(line for line in render(rows[:1], "table").splitlines()[2:])
    assert "99 % interval" in render(rows, "html")


def test_what_failed_alike_is_said_once() -> None:
    failed = dataclasses.replace(ROWS[0], lane=1, recipe="fp8", error="fp8 cannot run here.", hint="Switch it off.")
    other = dataclasses.replace(failed, test="tg4")
    said = render([ROWS[0], failed, other, dataclasses.replace(other, test="ppl8", error="Memory ran out.")], "table")
    assert said.count("fp8 cannot run here") == 1 and f"fp8, {failed.test}, tg4: fp8 cannot run here." in said
    assert "fp8, ppl8: Memory ran out." in said
