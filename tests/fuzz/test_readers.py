"""A short, seeded slice of benchmarks/fuzz.py: damaged files are refused or open, under a limit of memory and time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytest.importorskip("gguf", reason="the gguf library is not installed")
pytest.importorskip("resource", reason="this system has no limits for a process's memory")
CASES = 25


@pytest.mark.parametrize("reader", ["safetensors", "index", "config", "gguf"])
def test_damaged_files_end_in_a_model_or_a_sentence(reader: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(ROOT / "benchmarks" / "fuzz.py"), "--reader", reader, "--cases",
                           str(CASES), "--seed", "3", "--keep", str(tmp_path)],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{reader}: {CASES} cases" in done.stdout and "0 findings" in done.stdout
