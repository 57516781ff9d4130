"""What loading a large model takes: peak memory against the size of what is loaded, how soon a load can be stopped, and
how near the estimate made before is.

Random weights in the shape of Llama 3.2 1B (1.24 billion), bf16, in shards, are written to a temporary folder and
removed afterwards. Each recipe is loaded by a fresh process through the engine's own thread. Linux only.

- anonymous: memory that only the process has (RssAnon), sampled every 2 ms. resident: with the pages of mapped files it
  has touched and not given back (VmRSS); its high-water mark is the kernel's own (VmHWM), so nothing is missed.
- Both are what came on top of the process with torch loaded and no model open.

    python benchmarks/big_model.py [--recipes int8-dynamic:head=int8,... ] [--layers 16] [--vocabulary 128256]
        [--cancels 8]
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.errors import DynoError
from engine.paths import bundled_model

RECIPES = ["int8-dynamic:head=int8", "int8-weight:head=int8,bf16", "int4-weight:group=32:head=int4,bf16", "bf16"]
SHAPE = {"model_type": "llama", "vocab_size": 128256, "hidden_size": 2048, "num_hidden_layers": 16,
         "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 8192,
         "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "hidden_act": "silu",
         "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": None}
_SAMPLE_S = 0.002
_SHARD_BYTES = 400 << 20


def main() -> None:
    """Write the model, measure each recipe in a process of its own, remove the model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--recipes", nargs="*", default=RECIPES)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--vocabulary", type=int, default=SHAPE["vocab_size"])
    parser.add_argument("--cancels", type=int, default=8, help="loads stopped at random times, for the first recipe")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--cancel-after", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _child(Path(options.child), options.recipes[0], options.cancel_after)
        return
    folder = Path(tempfile.mkdtemp(prefix="big-model-"))
    try:
        parameters, shards = write_model(folder, options.layers, options.vocabulary)
        size = sum(f.stat().st_size for f in folder.glob("*.safetensors"))
        print(f"{parameters / 1e9:.2f} billion weights, bf16, {shards} shards, {size / 1e9:.2f} GB on disk")
        for recipe in options.recipes:
            _tell(recipe, measured(folder, recipe))
        load_s = measured(folder, options.recipes[0])["load_s"]
        pick = random.Random(0)
        late = [measured(folder, options.recipes[0], pick.uniform(0, load_s))["stopped_after_s"]
                for _ in range(options.cancels)]
        if late:
            print(f"{options.recipes[0]}: stopped at {len(late)} random times of a load of {load_s:.1f} s: "
                  f"longest {max(late):.2f} s from the wish to the end, median {sorted(late)[len(late) // 2]:.2f} s")
    finally:
        shutil.rmtree(folder)


def write_model(folder: Path, layers: int, vocabulary: int, shard_bytes: int = _SHARD_BYTES) -> tuple[int, int]:
    """A Llama shape with random bf16 weights as a sharded folder; its number of weights and of shards."""
    import torch
    from safetensors.torch import save_file

    from engine.models.checkpoint import sources
    from engine.models.config import ModelConfig

    config = ModelConfig.from_hf(SHAPE | {"num_hidden_layers": layers, "vocab_size": vocabulary})
    draw = torch.Generator().manual_seed(0)
    shard: dict[str, torch.Tensor] = {}
    where: dict[str, str] = {}
    total = held = number = 0

    def flush() -> None:
        nonlocal shard, held, number
        number += 1
        name = f"model-{number:05d}.safetensors"
        save_file(shard, folder / name, {"format": "pt"})
        where.update(dict.fromkeys(shard, name))
        shard, held = {}, 0

    for source in sources(config).values():
        for hf, rows in zip(source.names, source.rows, strict=True):
            shape = (rows, *source.shape[1:])
            norm = len(shape) == 1
            shard[hf] = torch.ones(shape, dtype=torch.bfloat16) if norm else (
                torch.randn(shape, generator=draw).mul_(0.02).to(torch.bfloat16))
            total, held = total + shard[hf].numel(), held + shard[hf].nbytes
            if held > shard_bytes:
                flush()
    flush()
    index = {"metadata": {"total_size": 2 * total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config.to_hf()), encoding="utf-8")
    shutil.copyfile(bundled_model() / "tokenizer.json", folder / "tokenizer.json")
    return total, number


def measured(folder: Path, recipe: str, cancel_after_s: float | None = None) -> dict[str, float]:
    """Load a folder in a process of its own; bytes and seconds by name. cancel_after_s: when the load is stopped."""
    command = [sys.executable, __file__, "--child", str(folder), "--recipes", recipe]
    if cancel_after_s is not None:
        command += ["--cancel-after", str(cancel_after_s)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _tell(recipe: str, found: dict[str, float]) -> None:
    weights = found["weight_bytes"]
    print(f"{recipe}: weights {weights / 1e9:.3f} GB, loaded in {found['load_s']:.1f} s\n"
          f"    peak anonymous {found['anonymous'] / 1e9:.3f} GB, {found['anonymous'] / weights:.2f} of the weights; "
          f"peak resident {found['resident'] / 1e9:.3f} GB, {found['resident'] / weights:.2f}\n"
          f"    estimated before: weights {found['fit_weights'] / 1e9:.3f} GB ({_off(found['fit_weights'], weights)}), "
          f"peak of building {found['fit_peak'] / 1e9:.3f} GB ({_off(found['fit_peak'], found['anonymous'])} of the "
          "anonymous peak)")


def _off(said: float, true: float) -> str:
    return f"{100 * (said / true - 1):+.1f} %"


def _child(folder: Path, text: str, cancel_after_s: float | None) -> None:
    """Load through the engine's thread and print what was seen as JSON."""
    import torch  # noqa: F401 (part of what the process is before it loads)

    from engine.fit import estimate
    from engine.messages import Cancel, Cancelled, Failed, Finished, LoadModel, ModelLoaded
    from engine.models.devices import pick_device
    from engine.outbox import Outbox
    from engine.recipe import parse_recipe
    from engine.worker import Worker

    recipe = parse_recipe(text)
    fit = estimate(folder, recipe, device=pick_device("cpu"))
    outbox = Outbox()
    worker = Worker(outbox, probe=False)
    worker.start()
    worker.submit(LoadModel(worker.next_id(), str(bundled_model()), recipe, "cpu"))
    while not any(isinstance(e, (Finished, Failed)) for e in outbox.drain(timeout_s=None)):
        pass
    watch = _Watch()
    job = LoadModel(worker.next_id(), str(folder), recipe, "cpu")
    begun_s = time.monotonic()
    worker.submit(job)
    asked_s, loaded, ended = 0.0, None, False
    while not ended:
        wait_s = None if cancel_after_s is None or asked_s else max(0.0, begun_s + cancel_after_s - time.monotonic())
        for event in outbox.drain(timeout_s=wait_s):
            if isinstance(event, ModelLoaded):
                loaded = event
            elif isinstance(event, Failed):
                raise DynoError(event.summary, event.hint)
            ended = ended or isinstance(event, (Finished, Cancelled))
        if cancel_after_s is not None and not asked_s and time.monotonic() >= begun_s + cancel_after_s:
            worker.submit(Cancel(job.job_id))
            asked_s = time.monotonic()
    ended_s = time.monotonic()
    anonymous, resident = watch.stop()
    print(json.dumps({
        "load_s": ended_s - begun_s, "stopped_after_s": ended_s - asked_s if asked_s else 0.0,
        "weight_bytes": loaded.report.weight_bytes if loaded is not None else 0,
        "anonymous": anonymous, "resident": resident, "fit_weights": fit.weight_bytes,
        "fit_peak": fit.weight_bytes + fit.build_bytes}))
    worker.stop()


class _Watch:
    """Growth of the process's memory: anonymous as sampled, resident as the kernel keeps its high-water mark."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark begins anew
        self._before = _status()
        self._most = self._before["RssAnon"]
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._end.wait(_SAMPLE_S):
            self._most = max(self._most, _status()["RssAnon"])

    def stop(self) -> tuple[int, int]:
        """(anonymous, resident) growth at its highest, in bytes."""
        self._end.set()
        self._thread.join()
        return self._most - self._before["RssAnon"], _status()["VmHWM"] - self._before["VmRSS"]


def _status() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return {key: int(rest.split()[0]) << 10 for key, _, rest in (line.partition(":") for line in lines)
            if key in ("RssAnon", "VmRSS", "VmHWM")}


if __name__ == "__main__":
    main()
