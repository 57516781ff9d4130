"""The command line as a user has it: a process, its output, its exit status."""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine import cli
from engine.cli import client as cli_client
from engine.messages import Event
from tests.conftest import LLAMA, ROOT, write_model
from tests.engine.support import WatchedOutbox


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run main.py with a subcommand."""
    return subprocess.run([sys.executable, "main.py", *arguments], cwd=ROOT, capture_output=True, text=True,
                          timeout=120)


def generate(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """A short greedy reply."""
    return run("generate", "--model", str(folder), "--prompt", "The gulls", "--greedy", "--max-tokens", "20",
               "--device", "cpu", *more)


def test_standard_output_carries_the_reply_alone_and_statistics_go_beside_it(llama_folder: Path) -> None:
    quiet, plain = generate(llama_folder, "--quiet"), generate(llama_folder, "--stats")
    assert quiet.returncode == plain.returncode == 0
    assert quiet.stderr == ""
    assert quiet.stdout == plain.stdout
    stats = json.loads(plain.stderr)
    assert stats["output_tokens"] == 20 and stats["recipe"] == "fp32" and stats["tokens_per_s"] > 0


def test_a_recipe_that_cannot_run_here_is_an_error_and_not_a_plain_reply(llama_folder: Path) -> None:
    child = generate(llama_folder, "--recipe", "wanda-50,fp8")
    assert child.returncode == 1 and child.stdout == ""
    assert "fp8 cannot run here" in child.stderr and "Switch fp8 off." in child.stderr


def test_every_preset_generates(llama_folder: Path) -> None:
    child = generate(llama_folder, "--recipe", "neurons-30,l1-50,int8,bf16", "--stats")
    assert child.returncode == 0, child.stderr
    assert json.loads(child.stderr)["recipe"] == "neurons -30 % + L1 50 % + int8 + bf16"


@pytest.mark.parametrize(("arguments", "words", "status"), [
    (["--model", "/nowhere"], "There is no folder /nowhere.", 1), (["--recipe", "magic"], "magic", 2),
    (["--recipe", "autocast-bf16,bf16"], "Autocast", 2), (["--device", "cuda:77"], "cuda:77", 1),
])
def test_a_refusal_is_one_sentence_on_standard_error_and_a_status(
        llama_folder: Path, arguments: list[str], words: str, status: int,
        capsys: pytest.CaptureFixture[str]) -> None:
    common = ["generate", "--model", str(llama_folder), "--prompt", "The gulls", "--quiet"]
    assert cli.run([*common, *arguments]) == status
    shown = capsys.readouterr()
    assert shown.out.strip() == ""
    assert words in shown.err and "Traceback" not in shown.err and shown.err.count("\n") == 1


def test_a_refusal_in_a_process_of_its_own_ends_with_status_1(tmp_path: Path) -> None:
    child = generate(tmp_path / "nowhere")
    assert (child.returncode, child.stdout) == (1, "")
    assert child.stderr.startswith("There is no folder") and child.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [["generate"], ["nothing"], ["generate", "--prompt", "x", "--top-k", "many"]])
def test_wrong_arguments_end_with_status_2(arguments: list[str]) -> None:
    assert run(*arguments).returncode == 2


@pytest.mark.parametrize(("command", "arguments"), [
    ("generate", ["--prompt", "x", "--temperature", "-1"]), ("generate", ["--prompt", "x", "--top-k", "many"]),
    ("generate", ["--prompt", "x", "--max-tokens", "0"]), ("generate", ["--prompt", "x", "--seed", str(1 << 80)]),
    ("generate", ["--prompt", "x", "--threads", "0"]), ("generate", ["--prompt", "x", "--top-p", "nan"]),
    ("explain", ["--context", "99999"]), ("explain", ["--context", "0"]), ("explain", ["--threads", "9999"]),
    ("bench", ["--threads", "9999"]), ("bench", ["--pp", "99999"]), ("bench", ["--depth", "99999"]),
    ("bench", ["--repetitions", "0"]), ("bench", ["--text", "--context", "99999"]),
    ("compare", ["--recipe", "fp32", "--recipe", "bf16", "--tg", "64,99999"]),
    ("perplexity", ["--context", "2"]), ("perplexity", ["--context", "99999"]), ("perplexity", ["--chunks", "-1"]),
    ("perplexity", ["--stride", "9999"]), ("perplexity", ["--threads", "9999"]),
])
def test_a_number_out_of_range_is_one_sentence_with_the_range_and_status_2(
        llama_folder: Path, command: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = cli.run([command, "--model", str(llama_folder), "--device", "cpu", "--quiet", *arguments])
    except SystemExit as ended:  # the parser's own way
        status = ended.code  # type: ignore[assignment]
    shown = capsys.readouterr()
    assert (status, shown.out, shown.err.count("\n")) == (2, "", 1)
    option = next(a for a in reversed(arguments) if a.startswith("--"))
    assert option in shown.err and re.search(r"(outside|from) [\d.]+ to [\d.,e+]+", shown.err), shown.err


def test_every_argument_of_every_command_says_what_it_does() -> None:
    commands = next(a for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction))
    silent = [f"{name} {action.dest}" for name, parser in commands.choices.items() for action in parser._actions
              if not action.help]
    assert len(commands.choices) > 5 and not silent


def test_an_interrupt_ends_the_reply_with_status_130(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "long", LLAMA | {"max_position_embeddings": 1 << 16})
    child = subprocess.Popen([sys.executable, "main.py", "generate", "--model", str(folder), "--prompt", "The gulls",
                              "--max-tokens", "60000", "--device", "cpu"], cwd=ROOT, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.read(1)  # the reply has begun
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 130, errors
    assert b"Traceback" not in errors and b"tokens" in errors


@pytest.mark.parametrize("when", ["Progress", "ModelLoaded", "Finished"])
def test_an_interrupt_before_the_reply_ends_with_status_130_and_no_traceback(
        llama_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], when: str) -> None:
    class Interrupted(WatchedOutbox):
        """Ctrl+C comes when this event of the load has been put."""

        struck = False

        def react(self, event: Event) -> None:  # type: ignore[override]
            if type(event).__name__ == when and not self.struck:
                self.struck = True
                signal.raise_signal(signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(cli_client, "Outbox", Interrupted)
    assert cli.run(["generate", "--model", str(llama_folder), "--prompt", "The gulls", "--device", "cpu", "--quiet",
                    "--max-tokens", "200"]) == 130
    assert capsys.readouterr().err == ""
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_reader_that_goes_away_ends_the_reply_quietly(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "long", LLAMA | {"max_position_embeddings": 1 << 15})
    child = subprocess.Popen([sys.executable, "main.py", "generate", "--model", str(folder), "--prompt", "The gulls",
                              "--max-tokens", "30000", "--device", "cpu", "--quiet"], cwd=ROOT, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE)
    assert child.stdout is not None and child.stderr is not None
    child.stdout.read(1)
    child.stdout.close()
    errors = child.stderr.read()
    child.stderr.close()
    assert child.wait(timeout=60) == 0
    assert errors == b""


def test_doctor_tells_devices_kernels_and_reasons() -> None:
    report = json.loads(run("doctor", "--json").stdout)
    cpu = next(device for device in report["devices"] if device["device"] == "cpu")
    assert cpu["kernels"] and all(row["available"] or row["reason"] for row in cpu["techniques"])
    text = run("doctor")
    assert text.returncode == 0 and cpu["name"] in text.stdout
