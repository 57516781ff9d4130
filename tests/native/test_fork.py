"""The native step in a process made by fork, where the threads that served its parent do not exist."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from engine.native.library import library
from tests.conftest import ROOT

# 40 children: every second one is made while another thread of the parent is in a call, the others while it rests.
_SCRIPT = """
import os, sys, threading
import torch
from engine.kernels import native
from engine.native.library import library

torch.set_num_threads(2)
run = library()
weight = torch.arange(4096 * 64, dtype=torch.float32).view(4096, 64) % 7
matrix, x = native.dense(weight, None), torch.ones(1, 64)
wanted = weight.sum(1)[None]
over = threading.Event()

def work():
    while not over.is_set():
        native.product(matrix, x, run)

for child in range(40):
    thread = threading.Thread(target=work) if child % 2 else None
    if thread is not None:
        over.clear()
        thread.start()
    native.product(matrix, x, run)
    pid = os.fork()
    if pid == 0:
        right = all(torch.equal(native.product(matrix, x, run), wanted) for _ in range(3))
        os._exit(0 if right else 1)
    status = os.waitpid(pid, 0)[1]
    over.set()
    if thread is not None:
        thread.join()
    if status:
        sys.exit(f"child {child} ended with {status}")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.skipif(library() is None, reason="the native step is not built")
def test_children_of_a_fork_compute_on_threads_of_their_own() -> None:
    child = subprocess.run([sys.executable, "-c", _SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=120,
                           env={**os.environ, "OMP_NUM_THREADS": "2"})
    assert child.returncode == 0, child.stdout + child.stderr
