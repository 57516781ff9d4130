"""What the tests of the technique panel share: a shown panel on a bridge of its own, and what an engine would say."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from PySide6.QtWidgets import QRadioButton
from pytestqt.qtbot import QtBot

from engine.errors import DynoError
from engine.messages import (
    ApplyRecipe,
    Command,
    EngagedReport,
    Event,
    LayerReport,
    LoadModel,
    ModelInfo,
    ModelLoaded,
    Sampling,
    TechniqueReport,
)
from engine.outbox import Outbox
from engine.recipe import Recipe, make_options
from engine.worker import Worker
from gui.bridge import Bridge
from gui.settings import Settings
from gui.techniques.panel import TechniquePanel
from gui.widgets.fold import FoldButton
from gui.widgets.segments import Segments
from gui.widgets.switch import Switch

INT8 = Recipe((make_options("int8-dynamic", {}),))
BF16 = Recipe((make_options("precision", {"dtype": "bf16"}),))
L1 = Recipe((make_options("prune-l1", {"amount": 0.5}),))
PATIENCE_MS = 60_000


class WatchedWorker(Worker):
    """A real worker that keeps a list of what it was told. It is only started where a test wants a model."""

    def __init__(self, outbox: Outbox) -> None:
        super().__init__(outbox, probe=False)
        self.told: list[Command] = []

    def submit(self, command: Command) -> None:
        self.told.append(command)
        super().submit(command)


class Bench:
    """A shown panel, its bridge, and a way to say what an engine would say."""

    def __init__(self, qtbot: QtBot, folder: Path) -> None:
        self.outbox = Outbox()
        self.worker = WatchedWorker(self.outbox)
        self.bridge = Bridge(self.worker, self.outbox)
        self.settings = Settings(folder)
        self.panel = TechniquePanel(self.bridge, self.settings)
        self.started = False
        qtbot.addWidget(self.panel)
        self.panel.resize(320, 900)
        self.panel.show()
        qtbot.waitExposed(self.panel)
        self.qtbot = qtbot

    def unfold(self) -> None:
        """Open every group of techniques."""
        for group in self.panel.groups.values():
            group.open(True)

    def show_everything(self) -> None:
        """Every form, sentence and line the panel can show, all at once, as no recipe would."""
        panel = self.panel
        for row in panel.rows.values():
            row.show_options(row.technique.options_type())
            row.tell("Replaces int8 dynamic: a recipe holds one quantization of the weights.")
            row.refuse(DynoError("This cannot be had beside another technique.", "Switch that one off first."))
        for fold in panel.findChildren(FoldButton):
            fold.setChecked(True)
        panel.problem.tell("The recipe needs 5.20 GB for weights; 3.10 GB are free.", "Close other programs.", "x")
        panel.presets.form.ask("Save this recipe as", "A name", "Save", lambda name, replace: None, lambda name: True)
        panel.presets.form.save_button.click()
        panel.presets.notice.show_message("Deleted “A name”.", "Undo", lambda: None, 0)

    def say(self, *events: Event) -> None:
        """Let the engine say something."""
        for event in events:
            self.outbox.put(event)
        self.bridge.drain()

    def load(self, folder: Path) -> None:
        """Start the engine and load a model with the panel's recipe."""
        self.bridge.start()
        self.started = True
        self.bridge.submit(LoadModel(self.bridge.next_id(), str(folder), self.panel.initial_recipe(), "cpu"))
        self.until(lambda: self.panel.state.has_model)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for it."""
        self.qtbot.waitUntil(condition, timeout=PATIENCE_MS)

    def settle(self) -> None:
        """Wait until the engine has answered."""
        self.until(lambda: not self.panel.state.pending)

    def asked(self) -> list[Recipe]:
        """The recipes the engine was asked for."""
        return [c.recipe for c in self.worker.told if isinstance(c, ApplyRecipe)]

    def switch(self, key: str) -> Switch:
        control = self.panel.rows[key].control
        assert isinstance(control, Switch)
        return control

    def segment(self, key: str, dtype: str) -> QRadioButton:
        control = self.panel.rows[key].control
        assert isinstance(control, Segments)
        return control.segment(dtype)


def report(recipe: Recipe, **changes: object) -> EngagedReport:
    """A report as the engine would give it."""
    made = EngagedReport(
        recipe=recipe,
        techniques=tuple(TechniqueReport(o.key, o.key, True, 20, 10_900_000, 4_200_000, "A plain sentence.")
                         for o in recipe.options),
        layers=(*(LayerReport(f"blocks.{i}.attn.qkv", (768, 256 + i), "int8", 0.5, 196_608, "oneDNN int8")
                  for i in range(12)), LayerReport("head", (5000, 256), "fp32", 0.0, 5_120_000, "F.linear", True)),
        weight_bytes=4_200_000, baseline_bytes=10_900_000, kv_bytes_per_token=2048, cache_dtype="fp32", sparsity=0.5,
        build_s=0.031)
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def loaded(recipe: Recipe = Recipe(), unavailable: tuple[tuple[str, str], ...] = (),  # noqa: B008 (frozen)
           job_id: int = 1) -> ModelLoaded:
    """A model as the engine would announce it."""
    info = ModelInfo("dyno-small-1", "/models/dyno-small-1", "llama", 5_500_000, 512, "bf16", 10_900_000, "cpu",
                     "AMD EPYC", 1, True, Sampling(), unavailable)
    return ModelLoaded(job_id, 0.0, info, report(recipe))
