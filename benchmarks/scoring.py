"""Is scoring a text as fast as reading it, and do pp and tg say what a stopwatch says?

    .venv/bin/python benchmarks/scoring.py [--shape gpt2-124m|bundled] [--recipe fp32] [--rounds 7] [--json FILE]

Three ratios, each round by round in one process, with 95 % intervals:
- perplexity: tokens/s of scoring chunks of 512 tokens (half of each scored, logits of the whole vocabulary, statistics
  and all) over tokens/s of pp512; aim 0.8. At GPT-2's shape a half-scored head alone is 23 % more arithmetic.
- pp512 and tg64 of the bench over an independent loop around the same engine calls; aim 1 within 5 %.
Then A/A: `--same N` comparisons of the recipe with itself through the bench, and how many named a winner; aim at most
5 in 100.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from benchmarks.peers import model_folder  # noqa: E402
from engine.bench.quality import score_ids  # noqa: E402
from engine.bench.run import RowDone, Setting, run_plan  # noqa: E402
from engine.bench.speed import SpeedRun  # noqa: E402
from engine.bench.statistics import NO_DIFFERENCE, Ratio, median, paired_ratio  # noqa: E402
from engine.measurements import BenchPlan, QualityTest, SpeedTest  # noqa: E402
from engine.models.checkpoint import load_masters  # noqa: E402
from engine.models.devices import pick_device, usable_cores  # noqa: E402
from engine.models.tokenizer import Tokenizer  # noqa: E402
from engine.paths import bundled_model  # noqa: E402
from engine.recipe import parse_recipe  # noqa: E402
from engine.session import Session  # noqa: E402
from engine.variant import Variant, build_variant  # noqa: E402

PP, TG, CHUNKS = 512, 64, 2


def main() -> int:
    """Build the recipe, run the rounds, print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--shape", choices=("gpt2-124m", "bundled"), default="gpt2-124m")
    parser.add_argument("--recipe", default="fp32")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--same", type=int, default=0, metavar="N", help="comparisons of the recipe with itself")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder = model_folder(options.shape, Path(scratch))
        variant = _run(build_variant(load_masters(folder), parse_recipe(options.recipe), pick_device("cpu")))
        found = _rounds(variant, options.rounds)
        named = sum(_same(folder, options.recipe, options.threads, seed) != NO_DIFFERENCE
                    for seed in range(options.same))
    for name, ratio in found.items():
        print(f"{name:40} {ratio.value:.3f}  ({ratio.low:.3f} to {ratio.high:.3f}, {ratio.pairs} pairs)")
    if options.same:
        print(f"a winner was named in {named} of {options.same} comparisons of {options.recipe} with itself")
    if options.json:
        options.json.write_text(json.dumps({name: ratio.__dict__ for name, ratio in found.items()}, indent=2))
    missed = [name for name, ratio in found.items() if not _reached(name, ratio)]
    missed += ["A/A"] if named > 0.05 * options.same else []
    print(f"not reached: {', '.join(missed)}" if missed else "every aim is reached")
    return 1 if missed else 0


def _reached(name: str, ratio: Ratio) -> bool:
    """By the mean: 0.8 at least for scoring, 1 within 5 % for the others."""
    return ratio.value >= 0.8 if name.startswith("perplexity") else abs(ratio.value - 1) <= 0.05


def _rounds(variant: Variant, rounds: int) -> dict[str, Ratio]:
    context = min(PP, variant.decoder.config.context)
    pp, tg = SpeedRun(variant, SpeedTest(prompt=context), 0), SpeedRun(variant, SpeedTest(generate=TG), 0)
    measures: dict[str, Callable[[], float]] = {
        "score": lambda: _score_rate(variant, context), "pp": lambda: pp.once().tokens_per_s,
        "pp by hand": lambda: _prompt_by_hand(variant, context), "tg": lambda: tg.once().tokens_per_s,
        "tg by hand": lambda: _tokens_by_hand(variant)}
    rates: dict[str, list[float]] = {name: [] for name in measures}
    for round_ in range(rounds + 2):
        # To and fro: what comes right after a prompt shares the processor with PyTorch's threads, which still spin.
        for name in list(measures)[::1 if round_ % 2 else -1]:
            value = measures[name]()
            if round_ >= 2:
                rates[name].append(value)
    for name, values in rates.items():
        print(f"{name:12} {median(values):9.1f} tok/s (median)")
    return {f"perplexity / pp{context} (aim 0.8)": paired_ratio(rates["score"], rates["pp"]),
            f"pp{context} / by hand (aim 1 +- 5 %)": paired_ratio(rates["pp"], rates["pp by hand"]),
            f"tg{TG} / by hand (aim 1 +- 5 %)": paired_ratio(rates["tg"], rates["tg by hand"])}


def _score_rate(variant: Variant, context: int) -> float:
    """Tokens/s of scoring a few chunks, everything between the ids and the perplexity included."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(variant.decoder.config.vocab_size, (CHUNKS * context,), generator=generator).tolist()
    started_s = time.perf_counter()
    _run(score_ids((variant,), _tokenizer(), [ids], QualityTest(context=context), len(ids)))
    return len(ids) / (time.perf_counter() - started_s)


@functools.cache
def _tokenizer() -> Tokenizer:
    """Random ids need none, and the bytes do not matter here."""
    return Tokenizer.from_folder(bundled_model())


def _prompt_by_hand(variant: Variant, context: int) -> float:
    ids = torch.arange(context)[None] % variant.decoder.config.vocab_size
    cache = variant.new_cache(context)
    started_s = time.perf_counter()
    variant.forward(ids, cache)
    variant.device.synchronize()
    return context / (time.perf_counter() - started_s)


def _tokens_by_hand(variant: Variant) -> float:
    cache = variant.new_cache(TG)
    started_s = time.perf_counter()
    for token in range(TG):
        variant.step(torch.tensor([[token]]), cache)
    variant.device.synchronize()
    return TG / (time.perf_counter() - started_s)


def _same(folder: Path, recipe: str, threads: int, seed: int) -> str:
    """The verdict of five interleaved pairs of one recipe with itself, through all that a comparison goes through."""
    session = Session(load_masters(folder), _tokenizer(), pick_device("cpu"))
    named = parse_recipe(recipe)
    plan = BenchPlan((named, named), (SpeedTest(generate=32),), min_time_s=0.0, interleave=True, seed=seed)
    rows = [step.row for step in run_plan(plan, Setting(session, lambda _: threads)) if isinstance(step, RowDone)]
    return rows[1].verdict


def _run(steps: Any) -> Any:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


if __name__ == "__main__":
    sys.exit(main())
