"""The engine's fixtures."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engine.support import Engine


@pytest.fixture
def engine() -> Iterator[Engine]:
    """An engine thread without a model, stopped after the test."""
    running = Engine()
    yield running
    running.stop()
