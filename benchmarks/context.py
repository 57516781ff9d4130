"""Time per token against the position in the context, and its slope against what memory allows.

    .venv/bin/python benchmarks/context.py [--recipe bf16] [--caches A,B] [--rounds 12] [--threads N] [--json FILE]

A Llama of 12 layers and 124 M parameters with random weights and a context of 4,096. The cache is filled with random
numbers, and single tokens are stepped at positions drawn in a new order every round, so that a slow minute hits all of
them. The line through the medians gives the slope in ns a position; the roofline's slope is the cache's bytes of one
position over the memory's bandwidth, which is measured between the rounds, in the same minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the engine thread sets it
import torch  # noqa: E402

from engine import profile  # noqa: E402
from engine.models.checkpoint import Masters, load_masters  # noqa: E402
from engine.models.devices import pick_device, usable_cores  # noqa: E402
from engine.recipe import parse_recipe  # noqa: E402
from engine.variant import Variant, build_variant  # noqa: E402

CONTEXT = 4096
POSITIONS = (*range(0, CONTEXT - 128, 512), CONTEXT - 8)
STEPS = 3  # at each position, in a row


def main() -> int:
    """Measure every kind of cache and print one row each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--recipe", default="bf16")
    parser.add_argument("--caches", default="kv-cache:dtype=fp32,kv-cache:dtype=bf16,kv-int8")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    with tempfile.TemporaryDirectory() as scratch:
        masters = _model(Path(scratch))
        rows = {name: _measured(masters, f"{options.recipe},{name}", options) for name in options.caches.split(",")}
    print(f"\n{options.recipe}, threads {options.threads}, positions 0 to {POSITIONS[-1]}, {options.rounds} rounds\n")
    print("| cache | bytes a position | ms at 0 | ms at the end | slope, ns | roofline, ns | ratio | r^2 |")
    print("|---" * 8 + "|")
    for name, row in rows.items():
        print(f"| {name} | {row['bytes']:.0f} | {row['first_ms']:.2f} | {row['last_ms']:.2f} | {row['slope_ns']:.0f} | "
              f"{row['roofline_ns']:.0f} | {row['slope_ns'] / row['roofline_ns']:.2f} | {row['r2']:.3f} |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 0


def _model(folder: Path) -> Masters:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(
        vocab_size=32000, hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12,
        num_key_value_heads=12, max_position_embeddings=CONTEXT)).save_pretrained(folder)
    return load_masters(folder)


def _built(masters: Masters, recipe: str) -> Variant:
    steps = build_variant(masters, parse_recipe(recipe), pick_device("cpu"))
    while True:
        try:
            next(steps)
        except StopIteration as done:
            variant: Variant = done.value
            return variant


def _measured(masters: Masters, recipe: str, options: argparse.Namespace) -> dict[str, float]:
    variant = _built(masters, recipe)
    cache = variant.new_cache(CONTEXT)
    if cache.data.dtype == torch.int8:
        cache.data.random_(-127, 128)
        cache.scale.fill_(0.01)  # type: ignore[attr-defined]
    else:
        cache.data.normal_()
    times: dict[int, list[float]] = {position: [] for position in POSITIONS}
    bandwidths = []
    token = torch.tensor([[5]])
    for done in range(options.rounds + 1):
        bandwidths.append(profile.memory_bandwidth("cpu"))
        for position in random.sample(POSITIONS, len(POSITIONS)):
            cache.length = position
            started_s = time.perf_counter()
            for _ in range(STEPS):
                variant.step(token, cache)
            if done:  # the first round warms up
                times[position].append((time.perf_counter() - started_s) / STEPS)
    medians = [statistics.median(times[position]) for position in POSITIONS]
    slope, _ = statistics.linear_regression(POSITIONS, medians)
    per_position = sum(t.nbytes for t in (cache.data, getattr(cache, "scale", None)) if t is not None) / cache.capacity
    return {"bytes": per_position, "first_ms": medians[0] * 1e3, "last_ms": medians[-1] * 1e3, "slope_ns": slope * 1e9,
            "roofline_ns": per_position / statistics.median(bandwidths) * 1e9,
            "r2": statistics.correlation(POSITIONS, medians) ** 2}


if __name__ == "__main__":
    sys.exit(main())
