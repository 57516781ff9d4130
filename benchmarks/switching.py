"""What a switch costs: building a recipe, going back to a built one, and what the window feels of it meanwhile.

    .venv/bin/python benchmarks/switching.py [--builds 3] [--json FILE]

Builds are timed on random weights of GPT-2's 124M shape, each recipe from an empty cache of variants. The window runs
a random Llama of about that size with the bundled tokenizer; while a reply streams, recipes that have never been built
are switched on one after the other, and a 5 ms timer of the window's thread tells how late it fires. Then a reply is
stopped while a recipe builds. Works offscreen.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from peers import model_folder
from window import PROBE_MS, _application, _quantile, _run_until

RECIPES = ("bf16", "fp16", "int8", "int8-dynamic:head=int8", "int8-weight-only", "int4", "int4-fit", "l1-50",
           "wanda-50", "neurons-30", "heads-25", "layers-10", "small-and-fast")
LIVE = ("bf16", "int8", "int4", "l1-50", "wanda-50", "neurons-30", "int4-fit", "heads-25", "fp16")


def main() -> int:
    """Run the measurements, or (with --role) be the child process with the window."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--builds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--role", choices=("window",), help=argparse.SUPPRESS)
    parser.add_argument("--model", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role == "window":
        return _window(options.model)
    result = {"builds": _builds(options.builds), "window": _measured_window()}
    print("\n| recipe | build, median s | longest step, s | back to it, ms |\n|---|---|---|---|")
    for name, row in result["builds"].items():
        print(f"| {name} | {row['build_s']:.2f} | {row['step_s']:.2f} | {row['back_ms']:.2f} |")
    row = result["window"]
    print(f"\nwindow while {row['switches']} recipes are built under a reply: stalls p50 {row['p50_ms']:.1f} ms, "
          f"p99 {row['p99_ms']:.1f} ms, worst {row['worst_ms']:.1f} ms of {row['samples']}")
    print(f"switch asked to switch applied, built before: {row['back_ms']:.0f} ms median, "
          f"worst {row['back_worst_ms']:.0f}")
    print(f"Stop while a recipe builds: {row['stop_ms']:.0f} ms median, worst {row['stop_worst_ms']:.0f}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return 0


def _builds(repeats: int) -> dict[str, dict[str, float]]:
    import torch

    from engine.models.checkpoint import load_masters
    from engine.models.devices import pick_device
    from engine.models.tokenizer import Tokenizer
    from engine.paths import bundled_model
    from engine.recipe import parse_recipe
    from engine.session import Session

    rows = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = model_folder("gpt2-124m", Path(scratch))
        masters, tokenizer = load_masters(folder), Tokenizer.from_folder(bundled_model())
        device = pick_device("cpu")
        torch.set_num_threads(device.cores)
        for name in RECIPES:
            recipe, builds, steps_s, back = parse_recipe(name), [], [], []
            for _ in range(repeats):
                session = Session(masters, tokenizer, device)
                session.apply(parse_recipe("fp32"))
                steps = session.build(recipe)
                started_s = last_s = time.perf_counter()
                try:
                    while True:
                        next(steps)
                        now_s = time.perf_counter()
                        steps_s.append(now_s - last_s)
                        last_s = now_s
                except StopIteration as done:
                    builds.append(time.perf_counter() - started_s)
                    session.activate(done.value)
                session.apply(parse_recipe("fp32"))
                started_s = time.perf_counter()
                session.apply(recipe)
                back.append(1e3 * (time.perf_counter() - started_s))
            rows[name] = {"build_s": statistics.median(builds), "step_s": max(steps_s),
                          "back_ms": statistics.median(back)}
            print(name, rows[name], file=sys.stderr)
    return rows


def _measured_window() -> dict[str, float]:
    from engine.models.checkpoint import save_folder
    from engine.models.config import ModelConfig
    from engine.models.gpt import Decoder
    from engine.paths import bundled_model

    with tempfile.TemporaryDirectory() as scratch:
        import torch

        folder = Path(scratch) / "model"
        shutil.copytree(bundled_model(), folder, ignore=shutil.ignore_patterns("*.safetensors*", "config.json"))
        small = ModelConfig.from_folder(bundled_model())
        config = ModelConfig(**{**small.__dict__, "hidden_size": 768, "n_layers": 12, "n_heads": 12, "n_kv_heads": 4,
                                "head_dim": 64, "intermediate_size": 3072, "eos_ids": ()})
        torch.manual_seed(0)
        save_folder(folder, config, dict(Decoder(config).named_parameters()), torch.float32)
        generation = folder / "generation_config.json"
        if generation.is_file():
            generation.write_text(json.dumps(json.loads(generation.read_text()) | {"eos_token_id": None}))
        environment = {"QT_QPA_PLATFORM": "offscreen"} | dict(os.environ) | {"GPT_DYNO_DATA": f"{scratch}/data"}
        done = subprocess.run([sys.executable, __file__, "--role", "window", "--model", str(folder)], env=environment,
                              stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _window(model: str) -> int:
    from PySide6.QtCore import Qt, QTimer

    from engine.messages import ApplyRecipe, Cancelled, RecipeApplied, RecipeFailed, Tokens
    from engine.recipe import parse_recipe

    app, application = _application()
    application.settings.set("model", model)
    application.settings.set("sampling/max_tokens", 900)
    chat = application.window.pages["chat"]
    application.window.resize(1280, 820)
    application.start()
    found: list[object] = []
    application.bridge.received.connect(found.append)
    _run_until(app, lambda: chat._model is not None)
    _run_until(app, lambda: False, 4.0)
    ticks: list[float] = []
    probe = QTimer(interval=PROBE_MS, timerType=Qt.TimerType.PreciseTimer)
    probe.timeout.connect(lambda: ticks.append(time.perf_counter()))

    def ask() -> None:
        seen = len(found)
        chat.new_chat()
        chat.send("Tell me a story.")
        # A random model may say nothing but role tokens, which have no text.
        _run_until(app, lambda: any(isinstance(e, Tokens) for e in found[seen:]), 20.0)
        assert chat._reply is not None, found[-5:]

    def switch(name: str) -> float:
        """Milliseconds from asking for a recipe to the word that it is active."""
        recipe, seen, started_s = parse_recipe(name), len(found), time.perf_counter()
        application.bridge.submit(ApplyRecipe(recipe))
        _run_until(app, lambda: any(isinstance(e, (RecipeApplied, RecipeFailed)) for e in found[seen:]))
        return 1e3 * (time.perf_counter() - started_s)

    ask()
    probe.start()
    for name in LIVE:
        if chat._reply is None:
            ask()
        switch(name)
        _run_until(app, lambda: False, 0.4)
    probe.stop()
    back = []
    for name in LIVE:
        back.append(switch(name))
        _run_until(app, lambda: False, 1.5)  # the tokens so far are read again with it
    if chat._reply is not None:
        chat.stop()
        _run_until(app, lambda: chat._reply is None)
    stops = []
    for name in ("int4-weight:group=64:fit=fit", "int4-weight:group=128:fit=fit", "prune-l1:amount=0.3"):
        ask()
        application.bridge.submit(ApplyRecipe(parse_recipe(name)))
        _run_until(app, lambda: False, 0.05)
        seen, started_s = len(found), time.perf_counter()
        chat.stop()
        _run_until(app, lambda at=seen: any(isinstance(e, Cancelled) for e in found[at:]))
        stops.append(1e3 * (time.perf_counter() - started_s))
        _run_until(app, lambda: False, 3.0)
    application.stop()
    stalls = sorted(max(0.0, 1e3 * (b - a) - PROBE_MS) for a, b in itertools.pairwise(ticks))
    print(json.dumps({
        "switches": len(LIVE), "samples": len(stalls), "p50_ms": _quantile(stalls, 0.5),
        "p99_ms": _quantile(stalls, 0.99), "worst_ms": stalls[-1], "back_ms": statistics.median(back),
        "back_worst_ms": max(back), "stop_ms": statistics.median(stops), "stop_worst_ms": max(stops)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
