"""Killed without warning in the middle of a reply, the app loses at most the last second of it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.storage import Store
from tests.conftest import ROOT, write_model

KILLS = 20
LOST_AT_MOST_MS = 1000


@pytest.fixture(scope="module")
def endless_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a long context and no end-of-text token, so that a reply never ends by itself."""
    return write_model(tmp_path_factory.mktemp("endless"), {
        "model_type": "llama", "vocab_size": 384, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 65536})


@pytest.mark.timeout(900)
def test_a_killed_app_keeps_the_prompt_and_all_but_the_last_second_of_the_reply(
        endless_model: Path, tmp_path: Path) -> None:
    moments = random.Random(7)
    for number in range(KILLS):
        prompt = f"Prompt number {number}: the boat 🚢 came home"
        told, killed_ms = _run_and_kill(endless_model, tmp_path, prompt, moments.uniform(0.0, 2.0))
        store = Store(tmp_path / "conversations.sqlite3")
        conversation = store.conversations()[0]
        user, reply = store.messages(conversation.id)
        store.close()
        assert user.text == prompt
        assert reply.state == "streaming"
        due = max((length for when_ms, length in told if when_ms <= killed_ms - LOST_AT_MOST_MS), default=0)
        assert len(reply.text) >= due, f"kill {number}: {due} characters were a second old, {len(reply.text)} are left"
    store = Store(tmp_path / "conversations.sqlite3")
    assert len(store.conversations()) == KILLS
    assert store._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store.close()


def _run_and_kill(model: Path, data: Path, prompt: str, after_s: float) -> tuple[list[tuple[int, int]], int]:
    """Start the app, let it stream for `after_s`, kill it; what it had told, and when it was killed in ms."""
    child = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "e2e" / "streaming_app.py"), str(model), prompt], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"GPT_DYNO_DATA": str(data), "PYTHONPATH": str(ROOT)})
    assert child.stdout is not None and child.stderr is not None
    try:
        first = child.stdout.readline()
        assert first, child.stderr.read()
        time.sleep(after_s)  # the moment of the kill is what the test is about
        killed_ms = int(time.time() * 1000)
        child.send_signal(signal.SIGKILL)
        rest, _ = child.communicate(timeout=60)
    finally:
        child.kill()
        child.wait()
    lines = [first, *rest.splitlines()]
    return [(int(a), int(b)) for a, b in (line.split() for line in lines if len(line.split()) == 2)], killed_ms
