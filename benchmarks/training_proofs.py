"""What training with techniques brings, measured on one text: pruning and recovering, and rounding in training against
rounding afterwards. Perplexities are the engine's own, after the real conversion, on text held out of the training.

    python -m benchmarks.training_proofs --text FILE --out DIR [--base-steps 400] [--steps 200] [--parts base prune qat]

A finished part is not run again in the same folder.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch

from engine.bench.quality import perplexity
from engine.models.checkpoint import load_decoder, load_masters, save_folder
from engine.models.devices import pick_device
from engine.models.tokenizer import Tokenizer
from engine.recipe import parse_recipe
from engine.train_events import EvalPoint
from engine.train_plan import TrainPlan
from engine.training.checkpoints import has_state
from engine.training.logs import EVALUATION, read_curve
from engine.training.network import block_layers
from engine.training.rounding import rounded
from engine.training.trainer import train
from engine.variant import build_variant

CONTEXT = 128


def run(plan: TrainPlan, folder: Path) -> Path:
    """Train, or go on, and give the model's folder."""
    steps = train(plan, folder, pick_device("cpu"), resume=has_state(folder))
    while True:
        try:
            event = next(steps)
        except StopIteration as finished:
            return Path(finished.value.model)
        if isinstance(event, EvalPoint):
            print(f"  {folder.name} step {event.step}: held-out perplexity {event.perplexity:.3f} {event.label}",
                  flush=True)


def score(folder: Path, recipe: str, text: str) -> float:
    """Perplexity of a model folder with a recipe, by the engine."""
    steps = build_variant(load_masters(folder), parse_recipe(recipe), pick_device("cpu"))
    while True:
        try:
            next(steps)
        except StopIteration as finished:
            variant = finished.value
            break
    tokenizer = Tokenizer.from_folder(folder)
    scoring = perplexity(variant, tokenizer, tokenizer.encode(text, special_tokens=False), CONTEXT)
    while True:
        try:
            next(scoring)
        except StopIteration as finished:
            return float(finished.value.perplexity)


def rounded_copy(model: Path, out: Path) -> Path:
    """The model with its block weights rounded to int2 after training."""
    decoder = load_decoder(load_masters(model))
    tensors = dict(decoder.named_parameters())
    for name, layer in block_layers(decoder).items():
        tensors[f"{name}.weight"] = torch.nn.Parameter(rounded(layer.weight, "int2", 32))
    save_folder(out, decoder.config, tensors, torch.float32)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (out / name).write_bytes((model / name).read_bytes())
    return out


def main() -> None:
    """Run the chosen parts and print what they found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--base-steps", type=int, default=400)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", nargs="+", choices=("base", "prune", "qat"), default=["base", "prune", "qat"])
    options = parser.parse_args()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    text = options.text.read_text(encoding="utf-8")
    cut = len(text) * 95 // 100
    (out / "train.txt").write_text(text[:cut], encoding="utf-8")
    held_out = text[cut:cut + 20_000]
    (out / "held_out.txt").write_text(held_out, encoding="utf-8")
    base = TrainPlan(data=(str(out / "train.txt"),), validation=(str(out / "held_out.txt"),), tokenizer="character",
                     steps=options.base_steps, batch=8, sequence=CONTEXT, context=CONTEXT, lr=3e-3, warmup=20,
                     evaluate_every=100, evaluation_batches=8, seed=options.seed)
    model = run(base, out / "base")
    further = base.changed(model=str(model), steps=options.steps, lr=1e-3)
    if "prune" in options.parts:
        run(further.changed(prune="weights", sparsity=0.8), out / "pruned")
        rows = read_curve(out / "pruned" / EVALUATION)
        dense, pruned = (next(float(r["perplexity"]) for r in rows if r["label"] == label)
                         for label in ("dense baseline", "pruned"))
        best = min(float(r["perplexity"]) for r in rows if not r["label"])
        print(f"80 % pruned: dense {dense:.3f}, pruned {pruned:.3f}, retrained {best:.3f}: "
              f"{100 * (pruned - best) / (pruned - dense):.1f} % of the loss recovered")
    if "qat" in options.parts:
        plain = run(further, out / "further")
        print(f"fp32, trained as long: {score(plain, 'fp32', held_out):.3f}")
        for scheme in ("int4", "int2"):
            trained = run(further.changed(qat=scheme), out / scheme)
            after = plain if scheme == "int4" else rounded_copy(plain, out / "int2-after")
            theirs, ours = (score(m, "int4-weight:group=32", held_out) for m in (after, trained))
            print(f"{scheme}: rounded after training {theirs:.3f}, in training {ours:.3f} "
                  f"({100 * math.expm1(math.log(ours / theirs)):+.2f} %)")


if __name__ == "__main__":
    main()
