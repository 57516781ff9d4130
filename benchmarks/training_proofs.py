"""What training with techniques brings, measured on one text: pruning and recovering, rounding in training against
rounding afterwards, the precisions against each other, and when over-fitting is named. Perplexities are the engine's
own, after the real conversion, on text held out of the training.

    python -m benchmarks.training_proofs --text FILE --out DIR [--base-steps 400] [--steps 200] [--seed 0]
                                         [--parts prune qat precision overfit] [--seeds 0 1 2]

A finished part is not run again in the same folder, one that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path

import torch

from engine.bench.quality import perplexity
from engine.errors import DynoError
from engine.models.checkpoint import load_decoder, load_masters, save_folder
from engine.models.devices import pick_device
from engine.models.tokenizer import Tokenizer
from engine.recipe import parse_recipe
from engine.train_events import EvalPoint, TrainPoint
from engine.train_plan import TrainPlan
from engine.training.checkpoints import has_state
from engine.training.diagnosis import diagnose
from engine.training.network import block_layers
from engine.training.records import EVALUATION, TRAIN, read_curve
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


def prune(further: TrainPlan, out: Path) -> None:
    """80 % in one shot, then as many steps as the other parts have."""
    run(further.changed(prune="weights", sparsity=0.8), out / "pruned")
    rows = read_curve(out / "pruned" / EVALUATION)
    dense, pruned = (next(float(r["perplexity"]) for r in rows if r["label"] == label)
                     for label in ("dense baseline", "pruned"))
    best = min(float(r["perplexity"]) for r in rows if not r["label"])
    print(f"80 % pruned: dense {dense:.3f}, pruned {pruned:.3f}, retrained {best:.3f}: "
          f"{100 * (pruned - best) / (pruned - dense):.1f} % of the loss recovered", flush=True)


def qat(further: TrainPlan, out: Path, held_out: str) -> None:
    """Rounded in training against rounded after the same number of steps without rounding."""
    plain = run(further, out / "further")
    print(f"fp32, trained as long: {score(plain, 'fp32', held_out):.3f}", flush=True)
    for scheme in ("int4", "int2"):
        trained = run(further.changed(qat=scheme), out / scheme)
        after = plain if scheme == "int4" else rounded_copy(plain, out / "int2-after")
        theirs, ours = (score(m, "int4-weight:group=32", held_out) for m in (after, trained))
        print(f"{scheme}: rounded after training {theirs:.3f}, in training {ours:.3f} "
              f"({100 * math.expm1(math.log(ours / theirs)):+.2f} %)", flush=True)


PRECISIONS = {"fp32": {}, "bf16": {"precision": "bf16"}, "fp16": {"precision": "fp16"},
              "fp16 without scaler": {"precision": "fp16", "scaler": "off"}}


def precisions(base: TrainPlan, out: Path, seeds: list[int]) -> None:
    """The same run in each precision over several seeds: differences from fp32 beside what a seed makes."""
    losses: dict[str, list[list[float]]] = {}
    for name, settings in PRECISIONS.items():
        for seed in seeds:
            folder = out / f"{name.replace(' ', '-')}-{seed}"
            try:
                run(base.changed(seed=seed, **settings), folder)
            except DynoError as error:
                print(f"{name}, seed {seed}: {error.summary} {error.hint}", flush=True)
                continue
            losses.setdefault(name, []).append([float(r["loss"]) for r in read_curve(folder / EVALUATION)])
            skipped = sum(len(r["skipped"].split()) for r in read_curve(folder / TRAIN))
            print(f"{name}, seed {seed}: held-out {losses[name][-1][-1]:.4f}, {skipped} steps skipped", flush=True)
    reference = losses["fp32"]
    spread = [statistics.stdev(at) for at in zip(*reference, strict=True)] if len(seeds) > 1 else []
    for name, curves in losses.items():
        apart = [[a - b for a, b in zip(mine, theirs, strict=True)]
                 for mine, theirs in zip(curves, reference, strict=True)]
        last = [d[-1] for d in apart]
        print(f"{name}: last evaluation {statistics.mean(c[-1] for c in curves):.4f}, apart from fp32 by "
              f"{', '.join(f'{d:+.4f}' for d in last)}; at any evaluation by at most "
              f"{max(abs(d) for run_ in apart for d in run_[1:]):.4f}; fp32's deviation over seeds "
              f"{max(spread[1:], default=math.nan):.4f} at most, {spread[-1] if spread else math.nan:.4f} at the end",
              flush=True)


def overfit(base: TrainPlan, out: Path) -> None:
    """A model with far too little text: how many evaluations after its minimum over-fitting is named."""
    few = out / "few.txt"
    few.write_text(Path(base.data[0]).read_text(encoding="utf-8")[:20_000], encoding="utf-8")
    plan = base.changed(data=(str(few),), evaluate_every=20, steps=400)
    healthy = base.changed(evaluate_every=20, steps=400)
    for name, chosen in (("overfit", plan), ("healthy", healthy)):
        run(chosen, out / name)
        train_points = [TrainPoint(int(r["step"]), float(r["loss"]), float(r["lr"]), float(r["grad_norm"]), 0.0)
                        for r in read_curve(out / name / TRAIN)]
        judged = [EvalPoint(int(r["step"]), float(r["loss"]), 0.0, 0) for r in read_curve(out / name / EVALUATION)]
        named = [(p.step, f) for n, p in enumerate(judged) for f in diagnose(
            chosen, [t for t in train_points if t.step <= p.step], judged[:n + 1],
            len(Path(chosen.data[0]).read_text(encoding="utf-8"))) if f.kind == "over-fitting"]
        lowest = min(judged, key=lambda p: p.loss)
        since = {f.since: step for step, f in reversed(named)}  # minimum -> the first evaluation that named it
        said = "; ".join(f"named at step {step} as since step {low}" for low, step in sorted(since.items()))
        print(f"{name}: lowest held-out loss {lowest.loss:.3f} at step {lowest.step} of {chosen.steps}, "
              f"{said or 'not called over-fitting'}", flush=True)


def main() -> None:
    """Run the chosen parts and print what they found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--base-steps", type=int, default=400)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the part precision")
    parts = ("prune", "qat", "precision", "overfit")
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
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
    if "precision" in options.parts:
        precisions(base.changed(evaluate_every=50), out, options.seeds)
    if "overfit" in options.parts:
        overfit(base, out)
    if "prune" in options.parts or "qat" in options.parts:
        model = run(base, out / "base")
        further = base.changed(model=str(model), steps=options.steps, lr=1e-3)
        if "prune" in options.parts:
            prune(further, out)
        if "qat" in options.parts:
            qat(further, out, held_out)


if __name__ == "__main__":
    main()
