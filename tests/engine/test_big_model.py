"""A small slice of benchmarks/big_model.py: what loading a sharded model takes of memory, in a process of its own."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import ROOT

pytest.importorskip("resource", reason="this system tells no high-water mark of memory")
if not Path("/proc/self/status").exists():
    pytest.skip("this system does not tell what a process holds", allow_module_level=True)

RECIPE = "int8-dynamic:head=int8"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("big_model", ROOT / "benchmarks" / "big_model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(benchmark: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six layers of Llama 3.2 1B with a small vocabulary: 380 million weights, 770 MB of bf16, in several shards."""
    folder: Path = tmp_path_factory.mktemp("big")
    assert benchmark.write_model(folder, 6, 8192, 128 << 20)[1] > 3
    return folder


def test_a_sharded_model_becomes_int8_without_its_own_size_in_memory(benchmark: ModuleType, folder: Path) -> None:
    found = benchmark.measured(folder, RECIPE)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    assert size > 1.9 * found["weight_bytes"]
    assert found["weight_bytes"] <= found["anonymous"] <= found["resident"]
    assert found["resident"] < 1.6 * found["weight_bytes"]
    assert found["fit_weights"] == pytest.approx(found["weight_bytes"], rel=0.01)
    assert 0.85 * found["fit_peak"] < found["anonymous"] <= found["fit_peak"], "the estimate promised something else"


def test_a_load_that_is_stopped_anywhere_ends_without_a_model(benchmark: ModuleType, folder: Path) -> None:
    whole_s = benchmark.measured(folder, RECIPE)["load_s"]
    pick = random.Random(1)
    for _ in range(2):
        found = benchmark.measured(folder, RECIPE, pick.uniform(0, 0.7 * whole_s))
        assert found["weight_bytes"] == 0, "it was loaded all the same"
