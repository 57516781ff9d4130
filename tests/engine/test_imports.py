"""What the engine loads, and when: never Qt, never the window, and torch only where it must."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT


def loaded_after(code: str) -> set[str]:
    """Top-level names of every module in a fresh interpreter after `code`, and engine's and gui's own."""
    program = code + "\nimport sys; print('\\n'.join(sys.modules))"
    child = subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=ROOT, capture_output=True, text=True,
                           timeout=120)
    assert child.returncode == 0, child.stderr
    return {line for line in child.stdout.splitlines() if "." not in line or line.startswith(("engine.", "gui."))}


def test_no_module_of_the_engine_loads_qt_or_the_window() -> None:
    code = ("import importlib, pkgutil, engine\n"
            "for module in pkgutil.walk_packages(engine.__path__, 'engine.'): importlib.import_module(module.name)")
    loaded = loaded_after(code)
    assert not loaded & {"PySide6", "shiboken6", "pyqtgraph", "gui"}
    assert {"engine.worker", "engine.monitor.monitor", "engine.kernels.choose", "torch"} <= loaded


def test_what_the_window_reads_first_loads_no_torch() -> None:
    loaded = loaded_after("import engine.messages, engine.recipe, engine.worker, engine.storage, engine.monitor\n"
                          "from engine.recipe import load_presets; load_presets()")
    assert "engine.storage" in loaded
    assert not loaded & {"torch", "transformers", "safetensors", "tokenizers", "gui", "PySide6"}


def test_loading_a_model_loads_no_transformers() -> None:
    assert "transformers" not in loaded_after("import engine.worker, engine.jobs, engine.session, engine.cli")


def test_making_any_recipe_loads_no_torch() -> None:
    code = ("from engine.recipe import Recipe, parse_recipe\nfrom engine.techniques import all_techniques\n"
            "[Recipe((t.options_type(),)).fingerprint for t in all_techniques()]; parse_recipe('int8,bf16')")
    loaded = loaded_after(code)
    assert "torch" not in loaded
