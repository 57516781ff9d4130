"""Karpathy's stories260K, greedy: the text his own program prints (doc/stories260K.md), character for character."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine.generation import NewToken, generate
from engine.messages import Finished, Generate, GenerationStats, Sampling, Tokens
from tests.conftest import ROOT
from tests.engine.support import Engine, open_session

START = "Once upon a time"
GREEDY = Sampling(temperature=0.0, top_k=0, top_p=1.0, repetition_penalty=1.0, max_tokens=300, seed=1)


@pytest.fixture(scope="module")
def golden(stories: Path) -> str:
    """The expected story."""
    return (stories.parent / "golden_greedy.txt").read_text(encoding="utf-8").rstrip("\n")


@pytest.mark.parametrize("prompt", ["", START])
def test_the_session_tells_the_golden_story(stories: Path, golden: str, prompt: str) -> None:
    session = open_session(stories)
    steps = generate(session, session.tokenizer.encode(prompt), GREEDY)
    text = prompt + "".join(step.piece.text for step in steps if isinstance(step, NewToken))
    assert text[:len(golden)] == golden


@pytest.mark.parametrize("prompt", ["", START])
def test_the_engine_thread_tells_the_golden_story(stories: Path, golden: str, prompt: str, engine: Engine) -> None:
    engine.load(stories)
    job = Generate(engine.next_id(), prompt=prompt, sampling=GREEDY)
    end = engine.run(job)
    assert isinstance(end, Finished) and isinstance(end.result, GenerationStats)
    text = prompt + "".join(e.text for e in engine.seen if isinstance(e, Tokens))
    assert text[:len(golden)] == golden


@pytest.mark.parametrize("prompt", ["", START])
def test_the_command_line_tells_the_golden_story(stories: Path, golden: str, prompt: str) -> None:
    child = subprocess.run(
        [sys.executable, "main.py", "generate", "--model", str(stories), "--prompt", prompt, "--echo", "--greedy",
         "--max-tokens", "300", "--device", "cpu", "--quiet"],
        cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert child.returncode == 0, child.stderr
    assert child.stderr == ""
    assert child.stdout[:len(golden)] == golden
