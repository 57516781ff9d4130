"""The engine's fixtures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import LLAMA, write_model
from tests.engine.support import Engine


@pytest.fixture
def engine() -> Iterator[Engine]:
    """An engine thread without a model, stopped after the test."""
    running = Engine()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def qwen3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3: norms on queries and keys, one key/value head, heads of an odd multiple."""
    shape = LLAMA | {"model_type": "qwen3", "num_key_value_heads": 1, "head_dim": 24, "num_hidden_layers": 3}
    return write_model(tmp_path_factory.mktemp("models") / "qwen3", shape)


@pytest.fixture(scope="session")
def mistral_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Mistral that sees 17 tokens back."""
    return write_model(tmp_path_factory.mktemp("models") / "mistral", LLAMA | {"model_type": "mistral",
                                                                           "sliding_window": 17})
