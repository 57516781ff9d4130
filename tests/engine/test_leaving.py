"""The process ends with its status although threads run that nobody can end."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT

_SCRIPT = """
import sys, threading
from engine.leaving import COMPILING, leave, stays
if sys.argv[1] == "compiling":  # not a daemon: an interpreter that is taken down would wait for it for ever
    threading.Thread(target=threading.Event().wait, name=COMPILING).start()
if sys.argv[1] == "staying":
    threading.Thread(target=threading.Event().wait, name="of a library").start()
    stays("of a library")
print("saved", end="")
sys.exit(leave(3))
"""


@pytest.mark.parametrize("state", ["compiling", "staying", "quiet"])
def test_a_process_leaves_with_its_status_and_all_it_printed(state: str) -> None:
    child = subprocess.run([sys.executable, "-c", _SCRIPT, state], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (child.returncode, child.stdout, child.stderr) == (3, "saved", "")
