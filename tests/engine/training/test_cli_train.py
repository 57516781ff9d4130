"""The train subcommand's own: what it does without a folder, and settings that follow from others."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import cli
from tests.engine.training.support import text_file

TINY = ["--steps", "12", "--batch", "2", "--sequence", "16", "--context", "64", "--tokenizer", "character",
        "--evaluate-every", "6", "--device", "cpu", "--threads", "1"]


def test_fewer_steps_than_the_usual_warm_up_are_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["train", "--data", text_file(tmp_path), "--out", str(tmp_path / "run"), *TINY]) == 0
    assert "done at step 12" in capsys.readouterr().out


def test_a_preview_and_a_probe_need_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = text_file(tmp_path, 20)
    assert cli.run(["train", "--data", text, "--preview", "8", *TINY]) == 0
    assert capsys.readouterr().out.count("|") == 8
    assert cli.run(["train", "--data", text, "--probe", "--probe-steps", "20", *TINY]) == 0
    shown = capsys.readouterr()
    assert "data" in shown.out and "held-out" in shown.err
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_a_run_without_a_folder_is_a_wrong_argument(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["train", "--data", text_file(tmp_path), *TINY]) == 2
    assert "--out" in capsys.readouterr().err
