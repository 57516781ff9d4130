"""`main.py models`: results on standard output, the rest on standard error, and a status a script can go by."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.cli import run
from engine.paths import bundled_model
from tests.conftest import ROOT
from tests.engine.hub.hub_server import Fault, HubServer

REPO = "someone/tiny-llama"


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("GPT_DYNO_DATA", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "no cache"))


@pytest.fixture
def repository(server: HubServer, llama_folder: Path) -> HubServer:
    server.add(REPO, llama_folder)
    return server


def test_a_model_is_downloaded_listed_looked_at_and_removed(
        repository: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "download", REPO, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["path"] == str(tmp_path / "models" / "someone--tiny-llama") and made["repo"] == REPO
    assert run(["models", "list", "--json"]) == 0
    names = {m["name"]: m for m in json.loads(capsys.readouterr().out)}
    assert set(names) == {REPO, bundled_model().name} and names[REPO]["ready"]
    assert run(["models", "info", REPO, "--json"]) == 0
    assert {fit["verdict"] for fit in json.loads(capsys.readouterr().out)["fit"]} == {"fits"}
    assert run(["models", "remove", REPO]) == 2  # nobody can be asked
    assert "--yes" in capsys.readouterr().err
    assert run(["models", "remove", REPO, "--yes"]) == 0
    assert not (tmp_path / "models" / "someone--tiny-llama").exists()
    assert list((tmp_path / "models" / ".removed").iterdir()) == []
    assert run(["models", "remove", REPO, "--yes"]) == 1
    assert "There is no model" in capsys.readouterr().err


def test_the_text_output_is_a_line_a_model(
        repository: HubServer, llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(llama_folder, tmp_path / "models" / "whole")
    shutil.copytree(llama_folder, tmp_path / "models" / "half")
    os.truncate(tmp_path / "models" / "half" / "model.safetensors", 1000)
    assert run(["models", "list", "--fit"]) == 0
    text = capsys.readouterr().out
    assert "half" not in text and "whole" in text and "int4   fits" in text
    assert run(["models", "list", "--all"]) == 0
    assert "NOT READY: model.safetensors is damaged" in capsys.readouterr().out
    assert run(["models", "search", "tiny"]) == 0
    assert REPO in capsys.readouterr().out
    assert run(["models", "search", "unheard", "of"]) == 1
    assert run(["models", "search"]) == 0
    assert "SmolLM2-135M-Instruct" in capsys.readouterr().out
    assert run(["models", "info", REPO]) == 0
    assert "safetensors: 4 files" in capsys.readouterr().out
    assert run(["models", "remove", bundled_model().name, "--yes"]) == 1
    assert "part of the app" in capsys.readouterr().err


def test_broken_models_are_counted_and_listed_without_invented_numbers(
        llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lost = shutil.copytree(llama_folder, tmp_path / "models" / "lost")
    (lost / "config.json").unlink()
    assert run(["models", "list"]) == 0
    output = capsys.readouterr()
    assert "lost" not in output.out and output.err == "1 more cannot be opened: --all shows why.\n"
    assert run(["models", "list", "--all"]) == 0
    output = capsys.readouterr()
    row = next(row for row in output.out.splitlines() if row.startswith("lost "))
    assert ", app  NOT READY: config.json is missing." in row and " - -, -, " in row and output.err == ""


def test_info_is_for_people_and_knows_a_path_from_a_repository(
        llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "info", str(llama_folder)]) == 0
    text = capsys.readouterr().out
    assert "place          not on the list\n" in text and "state          ready\n" in text
    assert "nbytes" not in text and "used_s" not in text
    assert run(["models", "info", str(llama_folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["used_s"] == 0
    assert run(["models", "info", str(tmp_path / "nope")]) == 1
    assert capsys.readouterr().err.startswith("There is no such folder or file: ")
    shelf = tmp_path / "quantized"
    shelf.mkdir()
    (shelf / "m-Q4_0.gguf").write_bytes(b"GGUF")
    for command in (["models", "info", str(shelf)], ["generate", "--model", str(shelf), "--prompt", "a"]):
        assert run(command) == 1
        assert "holds m-Q4_0.gguf. Open that file itself." in capsys.readouterr().err


def test_a_folder_from_elsewhere_is_added_and_forgotten(
        llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = shutil.copytree(llama_folder, tmp_path / "shelf" / "one")
    assert run(["models", "add", str(one.parent)]) == 0
    assert capsys.readouterr().out.startswith("one ")
    assert run(["models", "remove", "one", "--yes"]) == 1
    assert "`models forget` takes it off the list" in capsys.readouterr().err
    assert run(["models", "forget", "one"]) == 1
    assert f"the folder {one.parent} was added" in capsys.readouterr().err
    assert run(["models", "forget", str(one.parent)]) == 0
    assert run(["models", "forget", str(one.parent)]) == 1
    capsys.readouterr()
    assert run(["models", "list"]) == 0
    assert "one " not in capsys.readouterr().out and (one / "model.safetensors").is_file()


def test_a_failure_is_one_sentence_and_status_1(
        repository: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    repository.faults = [Fault(status=403, headers={"X-Error-Code": "GatedRepo"})]
    assert run(["models", "download", REPO, "--quiet"]) == 1
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1 and "is gated" in output.err


def test_interrupted_it_pauses_and_the_same_command_goes_on(repository: HubServer, tmp_path: Path) -> None:
    hold = Fault(file="model.safetensors", after=5000, hold=True)
    repository.faults = [hold]
    command = [sys.executable, str(ROOT / "main.py"), "models", "download", REPO]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert hold.held.wait(60)
        end_s = time.monotonic() + 60  # what was sent has to have arrived, too
        while not any(part.stat().st_size for part in tmp_path.glob("models/*.part/model.safetensors*")):
            assert time.monotonic() < end_s and child.poll() is None
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 130 and out == "" and "goes on from here" in err
    assert run(["models", "download", REPO, "--quiet"]) == 0
    assert repository.asked("sig=abc")[-1].range != ""
