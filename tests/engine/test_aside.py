"""Layers too large to wait for are built aside: the same bits, and whoever waits can leave."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from engine import variant
from engine.aside import aside
from tests.engine.support import built, finish, read_logits


@pytest.mark.parametrize("recipe", ["fp32", "int8", "int4-weight,bf16"])
def test_layers_built_aside_are_the_same(llama_folder: Path, recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, _ = built(llama_folder, recipe)
    monkeypatch.setattr(variant, "_LARGE", 1)
    apart, _ = built(llama_folder, recipe)
    ids = list(range(20))
    assert torch.equal(read_logits(plain, ids), read_logits(apart, ids))


def test_whoever_waits_can_leave_and_what_fails_is_told() -> None:
    go_on = threading.Event()
    waiting = aside(go_on.wait)
    next(waiting)
    next(waiting)
    waiting.close()  # returns though the work has not ended
    go_on.set()
    assert finish(aside(lambda: 7)) == 7
    with pytest.raises(ZeroDivisionError):
        finish(aside(lambda: 1 // 0))
