"""Two processes on one machine learn what one learns from the same total batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from engine.training.logs import TRAIN, read_curve
from tests.conftest import ROOT
from tests.engine.training.support import plan_for, run_plan


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_two_gloo_processes_have_the_losses_of_one(tmp_path: Path) -> None:
    plan = plan_for(tmp_path, batch=2, accumulate=2)
    run_plan(plan.changed(batch=4), tmp_path / "one")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "plan.json").write_text(json.dumps(plan.to_json()))
    port = str(free_port())
    children = [subprocess.Popen(
        [sys.executable, "main.py", "train", "--out", str(tmp_path / "two"), "--resume", "--device", "cpu",
         "--threads", "1"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                          "MASTER_PORT": port}) for rank in range(2)]
    told = [child.communicate(timeout=200) for child in children]
    assert [child.returncode for child in children] == [0, 0], told
    one, two = (read_curve(tmp_path / name / TRAIN) for name in ("one", "two"))
    assert len(one) == len(two) == 4
    # One process of batch 4 x 2 reads the same eight windows a step as two of batch 2 x 2.
    assert all(abs(float(a["loss"]) - float(b["loss"])) < 1e-4 for a, b in zip(one, two, strict=True))
