"""A benchmark that is killed keeps every row it has told, and goes on from there."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from engine.bench.history import COMPLETE, RUNNING, History
from tests.conftest import ROOT, TEXT

RECIPES = ("fp32", "bf16", "int8", "l1-50")


@pytest.mark.timeout(300)
def test_a_killed_benchmark_keeps_the_rows_it_has_told_and_is_resumed(llama_folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT * 2, encoding="utf-8")
    data = tmp_path / "data"
    environment = os.environ | {"GPT_DYNO_DATA": str(data), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "main.py"), "bench", "--model", str(llama_folder), "--device", "cpu",
               *(part for name in RECIPES for part in ("--recipe", name)), "--pp", "16", "--tg", "4", "--min-time", "0",
               "--text", str(text), "--context", "64", "--output", "jsonl", "--quiet", "--resume"]
    told: list[dict[str, object]] = []
    for rows in (2, 5, 8):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, text=True)
        assert child.stdout is not None
        told = [json.loads(child.stdout.readline()) for _ in range(rows)]
        child.send_signal(signal.SIGKILL)
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL
        history = History(data / "benchmarks.sqlite")
        run, = history.runs()
        kept = [row.to_json() for row in history.rows(run.id)]
        assert run.state == RUNNING and run.resumable and not run.alive
        assert kept[:rows] == told
        history.close()
    done = subprocess.run(command, capture_output=True, env=environment, text=True, check=True)
    rows_told = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows_told[:len(told)] == told and len(rows_told) == 3 * len(RECIPES)
    history = History(data / "benchmarks.sqlite")
    assert [run.state for run in history.runs()] == [COMPLETE]
    history.close()
    database = sqlite3.connect(data / "benchmarks.sqlite")
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
