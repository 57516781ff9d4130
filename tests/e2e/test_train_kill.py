"""A training run that is killed again and again ends as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, TEXT
from tests.engine.training.support import curve

KILLS = int(os.environ.get("GPT_DYNO_TEST_KILLS", "5"))
STEPS = 400


@pytest.mark.timeout(900)
def test_a_run_killed_again_and_again_has_the_curve_and_weights_of_one_that_was_not(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"{i}. {TEXT}" for i in range(3)))
    settings = ["--data", str(text), "--steps", str(STEPS), "--batch", "2", "--sequence", "16", "--context", "64",
                "--tokenizer", "character", "--dropout", "0.1", "--evaluate-every", "40", "--log-every", "2",
                "--save-every-s", "0", "--evaluation-batches", "1", "--device", "cpu", "--threads", "1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "main.py"), "train", "--out"]
    subprocess.run([*command, str(tmp_path / "whole"), *settings], check=True, capture_output=True, env=environment)
    moments, kills = random.Random(3), 0
    run = tmp_path / "killed"
    for number in range(KILLS):
        arguments = ["--resume"] if (run / "plan.json").is_file() else settings
        child = subprocess.Popen([*command, str(run), *arguments], stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL, env=environment)
        _wait_for_points(run, child, (number + 1) * STEPS // (2 * (KILLS + 1)))
        time.sleep(moments.uniform(0.0, 0.05))  # the moment of the kill is what the test is about
        child.send_signal(signal.SIGKILL)
        kills += child.wait() == -signal.SIGKILL
    subprocess.run([*command, str(run), "--resume"], check=True, capture_output=True, env=environment)
    assert kills == KILLS
    assert curve(run) == curve(tmp_path / "whole")
    weights = "model/model.safetensors"
    assert (run / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()


def _wait_for_points(run: Path, child: subprocess.Popen[bytes], rows: int) -> None:
    """Until the curve has so many points, or the run has ended."""
    path = run / "train.csv"
    while child.poll() is None and (not path.is_file() or path.read_bytes().count(b"\n") <= rows):
        time.sleep(0.005)
