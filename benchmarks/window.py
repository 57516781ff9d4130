"""What the window costs: start-up, stalls of its event loop while a reply streams, and tokens/s against headless.

    .venv/bin/python benchmarks/window.py [--model DIR] [--tokens 900] [--pairs 12] [--starts 5] [--json FILE]

Start-up times real processes, from their start to the first exposed frame and to the first reply token shown. The rest
runs two child processes in turn on the same prompts and seeds (the model's end-of-text token taken away, so that every
reply has the same length), the one not measured being stopped: `headless` drives the
engine thread alone, `window` the whole application with its monitor and token probabilities. A stall is how much later
than due a 5 ms timer of the window's thread fires while a reply streams.
Works offscreen; set DISPLAY and QT_QPA_PLATFORM=xcb to measure on a real or virtual screen.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

PROMPT = "Tell me a long story about a fox and a crow who build a boat."
PROBE_MS = 5


def main() -> int:
    """Run the measurements, or (with --role) be one of their child processes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--model", default="")
    parser.add_argument("--recipe", default="fp32")
    parser.add_argument("--tokens", type=int, default=900, help="length of a reply")
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--role", choices=("headless", "window", "start"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role == "headless":
        return _headless(options)
    if options.role == "window":
        return _window(options)
    if options.role == "start":
        return _start(options)
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    result = {"starts": [_child_start(options) for _ in range(options.starts)]} | _pairs(options)
    _print(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return 0


# ------------------------------------------------------------------------------------------------------------- parent


def _child_start(options: argparse.Namespace) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as data:
        begun_s = time.time()
        done = subprocess.run([sys.executable, __file__, "--role", "start", "--model", options.model],
                              env=os.environ | {"GPT_DYNO_DATA": data, "BEGUN_S": repr(begun_s)}, check=True,
                              capture_output=True, text=True)
        return json.loads(done.stdout.splitlines()[-1])


def _endless(folder: Path, target: Path) -> str:
    """A copy of the model without an end-of-text token."""
    shutil.copytree(folder, target)
    for name in ("config.json", "generation_config.json"):
        if (target / name).is_file():
            raw = json.loads((target / name).read_text(encoding="utf-8"))
            (target / name).write_text(json.dumps(raw | {"eos_token_id": None}), encoding="utf-8")
    return str(target)


def _pairs(options: argparse.Namespace) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as data:
        options.model = _endless(Path(_folder(options)), Path(data) / "model")
        children = {role: subprocess.Popen(
            [sys.executable, __file__, "--role", role, "--model", options.model, "--recipe", options.recipe,
             "--tokens", str(options.tokens)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"GPT_DYNO_DATA": data})
            for role in ("headless", "window")}
        for child in children.values():
            assert child.stdout.readline().strip() == "ready"
            child.send_signal(signal.SIGSTOP)
        rows: dict[str, list[dict]] = {"headless": [], "window": []}
        for seed in range(-1, options.pairs):  # the first pair warms up
            order = ["headless", "window"] if seed % 2 else ["window", "headless"]
            for role in order:
                child = children[role]
                child.send_signal(signal.SIGCONT)
                child.stdin.write(f"{seed + 1}\n")
                child.stdin.flush()
                row = json.loads(child.stdout.readline())
                child.send_signal(signal.SIGSTOP)
                if seed >= 0:
                    rows[role].append(row)
        for child in children.values():
            child.send_signal(signal.SIGCONT)
            child.stdin.close()
            child.wait(20)
    ratios = [w["tokens_per_s"] / h["tokens_per_s"] for h, w in zip(rows["headless"], rows["window"], strict=True)
              if h["tokens"] == w["tokens"] and h["tokens"] >= 32]
    stalls = sorted(s for row in rows["window"] for s in row["stalls_ms"])
    return {"pairs": rows, "ratio_median": statistics.median(ratios), "ratio_interval": _bootstrap(ratios),
            "pairs_used": len(ratios), "stall_p50_ms": _quantile(stalls, 0.5), "stall_p99_ms": _quantile(stalls, 0.99),
            "stall_worst_ms": stalls[-1], "stall_samples": len(stalls)}


def _bootstrap(values: list[float]) -> tuple[float, float]:
    """95 % interval of the median, by resampling."""
    rng = random.Random(1)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(2000))
    return medians[50], medians[1949]


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _print(result: dict) -> None:
    starts = result["starts"]
    for key, title in (("visible_s", "window visible"), ("first_token_s", "first reply token shown")):
        values = sorted(start[key] for start in starts)
        print(f"{title:26} {statistics.median(values):.2f} s median, {values[-1]:.2f} s worst of {len(values)}")
    low, high = result["ratio_interval"]
    speeds = {role: statistics.median(row["tokens_per_s"] for row in rows) for role, rows in result["pairs"].items()}
    print(f"{'tokens/s, window/headless':26} {result['ratio_median']:.3f} [{low:.3f}, {high:.3f}] over "
          f"{result['pairs_used']} pairs ({speeds['window']:.0f} / {speeds['headless']:.0f} tok/s)")
    print(f"{'event-loop stalls':26} p50 {result['stall_p50_ms']:.1f} ms, p99 {result['stall_p99_ms']:.1f} ms, worst "
          f"{result['stall_worst_ms']:.1f} ms of {result['stall_samples']}")


# ----------------------------------------------------------------------------------------------------------- children


def _folder(options: argparse.Namespace) -> str:
    from engine.paths import bundled_model

    return options.model or str(bundled_model())


def _headless(options: argparse.Namespace) -> int:
    from engine.messages import ChatMessage, Finished, Generate, LoadModel, ModelLoaded, Sampling
    from engine.outbox import Outbox
    from engine.recipe import parse_recipe
    from engine.worker import Worker

    outbox = Outbox()
    worker = Worker(outbox, probe=False)
    worker.start()

    def finished() -> list[object]:
        """Everything up to the end of the job."""
        events: list[object] = []
        while not events or not isinstance(events[-1], Finished):
            events += outbox.drain(timeout_s=None)
        return events

    worker.submit(LoadModel(worker.next_id(), _folder(options), parse_recipe(options.recipe)))
    suggested = next(e for e in finished() if isinstance(e, ModelLoaded)).model.sampling
    print("ready", flush=True)
    for line in sys.stdin:
        sampling = Sampling(suggested.temperature, suggested.top_k, suggested.top_p, suggested.min_p,
                            suggested.repetition_penalty, options.tokens, int(line))
        worker.submit(Generate(worker.next_id(), messages=(ChatMessage("user", PROMPT),), sampling=sampling))
        stats = finished()[-1].result
        print(json.dumps({"tokens": stats.output_tokens, "tokens_per_s": stats.tokens_per_s}), flush=True)
    worker.stop()
    return 0


def _application():
    from PySide6.QtWidgets import QApplication

    from engine.paths import user_data
    from gui.app import Application

    app = QApplication(sys.argv[:1])
    return app, Application(app, user_data())


def _window(options: argparse.Namespace) -> int:
    from PySide6.QtCore import Qt, QTimer

    app, application = _application()
    application.settings.set("model", _folder(options))
    application.settings.set("sampling/max_tokens", options.tokens)
    chat = application.window.pages["chat"]
    application.window.resize(1280, 820)
    application.start()
    _run_until(app, lambda: chat._model is not None)
    from engine.messages import ApplyRecipe
    from engine.recipe import parse_recipe

    application.bridge.submit(ApplyRecipe(parse_recipe(options.recipe)))
    _run_until(app, lambda: False, 3.0)  # the quality probe and the first paints
    print("ready", flush=True)
    ticks: list[float] = []
    probe = QTimer(interval=PROBE_MS, timerType=Qt.TimerType.PreciseTimer)
    probe.timeout.connect(lambda: ticks.append(time.perf_counter()))
    for line in sys.stdin:
        application.settings.set("sampling/seed", line.strip())
        chat.new_chat()
        _run_until(app, lambda: False, 0.3)
        found = []
        application.bridge.received.connect(lambda event, out=found: out.append(event))
        chat.send(PROMPT)
        _run_until(app, lambda: chat._reply.view.text)
        ticks.clear()
        probe.start()
        _run_until(app, lambda: chat._reply is None)
        probe.stop()
        stats = next(e.result for e in reversed(found) if type(e).__name__ == "Finished")
        stalls = [max(0.0, 1e3 * (b - a) - PROBE_MS) for a, b in itertools.pairwise(ticks)]
        print(json.dumps({"tokens": stats.output_tokens, "tokens_per_s": stats.tokens_per_s, "stalls_ms": stalls}),
              flush=True)
    application.stop()
    return 0


def _start(options: argparse.Namespace) -> int:
    from PySide6.QtCore import QEvent, QObject

    begun_s = float(os.environ["BEGUN_S"])
    app, application = _application()
    if options.model:
        application.settings.set("model", options.model)
    times: dict[str, float] = {}

    class Watch(QObject):
        def eventFilter(self, watched: QObject, event: QEvent) -> bool:
            if event.type() == QEvent.Type.Paint and watched is application.window and "visible_s" not in times:
                times["visible_s"] = time.time() - begun_s
                times["torch_loaded_before"] = float("torch" in sys.modules)
            return False

    watch = Watch()
    application.window.installEventFilter(watch)
    application.start()
    chat = application.window.pages["chat"]
    _run_until(app, lambda: "visible_s" in times)
    chat.send(PROMPT)
    _run_until(app, lambda: chat._reply is None or chat._reply.view.text)
    times["first_token_s"] = time.time() - begun_s
    chat.stop()
    application.stop()
    print(json.dumps(times))
    return 0


def _run_until(app, condition, timeout_s: float = 120.0) -> None:
    """Run the real event loop until the condition holds, looking at it every few milliseconds."""
    from PySide6.QtCore import QEventLoop, QTimer

    loop, timer = QEventLoop(), QTimer(interval=4)
    timer.timeout.connect(lambda: loop.quit() if condition() else None)
    timer.start()
    QTimer.singleShot(int(timeout_s * 1000), loop.quit)
    if not condition():
        loop.exec()
    timer.stop()


if __name__ == "__main__":
    sys.exit(main())
