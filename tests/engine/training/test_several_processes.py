"""Two processes on one machine learn what one learns from the same total batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine.errors import DynoError
from engine.train_events import Notice
from engine.train_plan import TrainPlan
from engine.training.checkpoints import load_state
from engine.training.records import TRAIN, read_curve
from tests.conftest import ROOT
from tests.engine.training.support import curve, plan_for, run_plan


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_two(plan: TrainPlan, folder: Path) -> None:
    """A run on two processes that find each other as torchrun's do."""
    folder.mkdir(exist_ok=True)
    (folder / "plan.json").write_text(json.dumps(plan.to_json()))
    port = str(free_port())
    children = [subprocess.Popen(
        [sys.executable, "main.py", "train", "--out", str(folder), "--resume", "--device", "cpu",
         "--threads", "1"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                          "MASTER_PORT": port}) for rank in range(2)]
    told = [child.communicate(timeout=200) for child in children]
    assert [child.returncode for child in children] == [0, 0], told


@pytest.mark.parametrize("sharding", ["off", "on"])
def test_two_gloo_processes_have_the_losses_of_one(tmp_path: Path, sharding: str) -> None:
    plan = plan_for(tmp_path, batch=2, accumulate=2, evaluation_batches=3)
    run_plan(plan.changed(batch=4), tmp_path / "one")
    run_two(plan.changed(sharding=sharding), tmp_path / "two")
    one, two = (read_curve(tmp_path / name / TRAIN) for name in ("one", "two"))
    assert len(one) == len(two) == 4
    # One process of batch 4 x 2 reads the same eight windows a step as two of batch 2 x 2.
    assert all(abs(float(a["loss"]) - float(b["loss"])) < 1e-4 for a, b in zip(one, two, strict=True))
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-4) for name in weights[0])


def test_a_sharded_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    plan = plan_for(tmp_path, batch=2, sharding="on", save_every_s=0.0)
    run_two(plan, tmp_path / "whole")
    run_two(plan, tmp_path / "again")
    state = load_state(tmp_path / "again")
    assert all(isinstance(t, torch.Tensor) and t.shape for t in state["weights"].values())
    run_two(plan, tmp_path / "again")  # at its end already: everything is loaded, and the export is made again
    assert curve(tmp_path / "whole") == curve(tmp_path / "again")
    assert load_state(tmp_path / "again")["curves"] == state["curves"]
    assert all(torch.equal(load_state(tmp_path / "again")["weights"][n], w) for n, w in state["weights"].items())


@pytest.mark.parametrize("settings", [{"prune": "weights"}, {"qat": "int4"}, {"precision": "fp16"}])
def test_what_sharded_weights_cannot_have_is_refused(tmp_path: Path, settings: dict[str, str]) -> None:
    with pytest.raises(DynoError, match="shard"):
        plan_for(tmp_path, sharding="on", **settings)


def test_one_process_says_that_nothing_is_sharded(tmp_path: Path) -> None:
    events, _ = run_plan(plan_for(tmp_path, sharding="on", steps=2), tmp_path / "run")
    assert any(isinstance(e, Notice) and "nothing is sharded" in e.text for e in events)
