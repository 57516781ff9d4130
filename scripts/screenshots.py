"""Draws the README's pictures from the running application: `make screenshots`.

Works without a screen. The conversation is real: the bundled model answers with a fixed seed, and recipes are switched
while it does.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
if not os.environ.get("DISPLAY"):
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6.QtCore import QPoint, QRect  # noqa: E402  the platform is chosen above
from PySide6.QtWidgets import QApplication  # noqa: E402  the platform is chosen above

from engine.messages import ApplyRecipe  # noqa: E402
from engine.recipe import parse_recipe  # noqa: E402
from gui.app import Application  # noqa: E402
from gui.main_window import MainWindow  # noqa: E402
from gui.theme import theme  # noqa: E402
from gui.training.tasks import TASKS  # noqa: E402

PICTURES = ROOT / "docs" / "pictures"
TEXT = ROOT / "resources" / "evaluation" / "evaluation.txt"
TURNS = (("Hello! How are you today?", ()), ("Tell me a story about a boat and a storm.", ("bf16",)),
         ("Tell me a story about a bird.", ("l1-50",)), ("Tell me a story about a rabbit.", ("neurons-30",)),
         ("Hello!", ("fp32",)), ("Tell me a story about a dragon.", ("int8",)))


def main() -> int:
    """Drive the window through a conversation and save pictures of it in both themes."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as data:
        app = QApplication(sys.argv)
        application = Application(app, Path(data))
        application.settings.set("sampling/seed", "11")
        theme().set_choice("light")
        window = application.window
        window.resize(1360, 860)
        application.start()
        chat = window.pages["chat"]
        until(app, lambda: chat._model is not None)
        pause(app, 3)
        for prompt, recipes in TURNS:
            chat.send(prompt)
            for number, recipe in enumerate(recipes):
                until(app, lambda n=number: chat._reply is None or len(chat._reply.view.text) > 70 * (n + 1))
                application.bridge.submit(ApplyRecipe(parse_recipe(recipe)))
                pause(app, 0.3)
            until(app, lambda: chat._reply is None)
            pause(app, 2.5)
        for name in ("light", "dark"):
            theme().set_choice(name)
            pause(app, 1)
            window.grab().save(str(PICTURES / f"chat-{name}.png"))
        compare(app, window)
        models(app, window, Path(data) / "models")
        benchmark(app, window)
        training(app, window)
        application.stop()
    return 0


def compare(app: QApplication, window: MainWindow) -> None:
    """Let three recipes write side by side, and take a picture of it."""
    page = window.pages["compare"]
    window.show_page(list(window.pages).index("compare"))
    page.add_lane()
    for lane, key in zip(page.lanes, ("preset:fp32", "preset:int4", "preset:l1-50"), strict=True):
        lane.recipe.choose(key)
    page.options.prompt.setPlainText("Tell me a story about a dragon.")
    until(app, page.watch.isEnabled)
    page.start_watching()
    until(app, lambda: not page.busy, 120.0)
    page.watch.setFocus()
    theme().set_choice("light")
    pause(app, 1)
    window.grab(QRect(page.mapTo(window, QPoint()), page.size())).save(str(PICTURES / "compare-light.png"))


def models(app: QApplication, window: MainWindow, folder: Path) -> None:
    """The Models page over shapes without weights, named as such: their headers are all it reads."""
    for name, layers, width, inner in (
            ("shape-of-a-1B-model", 16, 2048, 8192), ("shape-of-a-7B-model", 32, 4096, 11008),
            ("shape-of-a-30B-model", 60, 6656, 17920)):
        write_shape(folder / name, layers, width, inner)
    page = window.pages["models"]
    window.show_page(list(window.pages).index("models"))
    until(app, lambda: sum(bool(row.verdict.text) for row in page.local.list.rows()) == 4)
    page.local.list.choose(str(folder / "shape-of-a-7B-model"))
    page.local._path.hide()  # of a temporary folder
    theme().set_choice("light")
    pause(app, 1)
    window.grab().save(str(PICTURES / "models-light.png"))


def write_shape(folder: Path, layers: int, width: int, inner: int) -> None:
    """A Llama's config.json, and a file that is as long as its bf16 weights would be and takes no room on the disk."""
    folder.mkdir(parents=True)
    config = {"model_type": "llama", "vocab_size": 32000, "hidden_size": width, "num_hidden_layers": layers,
              "num_attention_heads": width // 128, "intermediate_size": inner, "max_position_embeddings": 4096}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    shapes = {"model.embed_tokens.weight": (32000, width), "lm_head.weight": (32000, width),
              "model.norm.weight": (width,)}
    for layer in range(layers):
        attention = {f"self_attn.{name}_proj": (width, width) for name in "qkvo"}
        mlp = {"mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width), "mlp.down_proj": (width, inner)}
        norms = {"input_layernorm": (width,), "post_attention_layernorm": (width,)}
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in (attention | mlp | norms).items()}
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": (begin, end)}
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def benchmark(app: QApplication, window: MainWindow) -> None:
    """Measure the plan that the Benchmark page proposes, and take its charts in both themes."""
    page = window.pages["benchmark"]
    window.show_page(list(window.pages).index("benchmark"))
    until(app, page.start.isEnabled)
    page.start.click()
    until(app, lambda: not page.job.busy, 300.0)
    page.tabs.setCurrentWidget(page.charts)
    for name in ("light", "dark"):
        theme().set_choice(name)
        pause(app, 1)
        window.grab().save(str(PICTURES / f"benchmark-{name}.png"))


def training(app: QApplication, window: MainWindow) -> None:
    """Train a small new model on the bundled text, and take its curves."""
    page = window.pages["training"]
    window.show_page(list(window.pages).index("training"))
    page.form.choose(next(task for task in TASKS if task.key == "scratch"))
    settings = {"data": (str(TEXT),), "vocabulary": 1024, "context": 128, "sequence": 128, "batch": 8, "steps": 240,
                "evaluate_every": 20, "log_every": 4}
    page.form.apply(settings)
    until(app, page.start.isEnabled)
    page.start.click()
    until(app, lambda: page.shown is not None and page.shown.step >= 180, 900.0)
    theme().set_choice("light")
    pause(app, 1)
    window.grab().save(str(PICTURES / "training-light.png"))
    page.finish.click()
    until(app, lambda: not page.job.busy)


def until(app: QApplication, condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Run the event loop until the condition holds."""
    end_s = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < end_s:
        app.processEvents()
        time.sleep(0.005)


def pause(app: QApplication, seconds: float) -> None:
    """Run the event loop for a while."""
    until(app, lambda: False, seconds)


if __name__ == "__main__":
    sys.exit(main())
