"""What the monitor's tests share: waiting for a condition, and the fake NVML library in a child process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]

WaitUntil = Callable[[Callable[[], bool]], None]
RunNvml = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def wait_until() -> WaitUntil:
    """Wait until a condition holds; fails after 20 s, which only a broken machine or code reaches."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + 20.0
        pause = threading.Event()
        while not condition():
            assert time.monotonic() < deadline_s, "the condition never came true"
            pause.wait(0.002)

    return wait


@pytest.fixture(scope="session")
def build_fake_nvml(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Compile fake_nvml.c once per set of flags; returns the folder that holds libnvidia-ml.so.1."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    folders: dict[tuple[str, ...], Path] = {}

    def build(*flags: str) -> Path:
        if sys.platform != "linux":
            pytest.skip("the fake NVML library takes the place of the Linux one")
        if compiler is None:
            pytest.skip("no C compiler (cc or gcc) to build the fake NVML library")
        if flags not in folders:
            folder = tmp_path_factory.mktemp("nvml")
            command = [compiler, "-std=gnu99", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", *flags,
                       "-o", str(folder / "libnvidia-ml.so.1"), str(HERE / "fake_nvml.c")]
            subprocess.run(command, check=True, timeout=60)
            folders[flags] = folder
        return folders[flags]

    return build


@pytest.fixture
def run_nvml(build_fake_nvml: Callable[..., Path]) -> RunNvml:
    """Run steps (see nvml_child.py) over the fake library and return what was seen after each.

    flags: for the compiler. env: variables that hold from the start.
    """

    def run(*steps: dict[str, Any], flags: tuple[str, ...] = (), **env: str) -> list[dict[str, Any]]:
        child_env = {name: value for name, value in os.environ.items() if not name.startswith("FAKE_NVML_")}
        child_env |= env
        old_path = os.environ.get("LD_LIBRARY_PATH")
        child_env["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, [str(build_fake_nvml(*flags)), old_path]))
        child_env["PYTHONPATH"] = str(ROOT)
        child = subprocess.run([sys.executable, "-W", "error", str(HERE / "nvml_child.py"), json.dumps(steps or ({},))],
                               env=child_env, capture_output=True, text=True, timeout=60)
        assert child.returncode == 0, child.stderr
        assert child.stderr == ""
        seen: list[dict[str, Any]] = json.loads(child.stdout)
        return seen

    return run
