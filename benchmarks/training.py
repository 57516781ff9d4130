"""Training throughput at a 10M-parameter shape: the app's step against a plain, careful PyTorch loop on the same model
and batches, and bf16 against fp32. Steps are taken in turns, so that a noisy machine disturbs all alike.

    python -m benchmarks.training [--pairs 8] [--threads 2] [--clock wall|cpu]

Prints tokens/s as the median over the steps, and the ratio of each pair as median with the lowest and highest one.
--clock cpu counts the time this process had a processor: with one thread it tells the work apart from a busy machine's
waiting; with several it is their sum.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.models.gpt import Decoder
from engine.train_plan import TrainPlan
from engine.training.network import Network, fresh_decoder
from engine.training.optimizing import Stepper
from engine.training.sizes import config_for

BATCH, LENGTH, VOCABULARY = 8, 256, 4096
Step = Callable[[Tensor, Tensor], None]


def plain(decoder: Decoder, dtype: torch.dtype) -> Step:
    """What a careful person writes: autocast, whole logits, fused AdamW, clipping."""
    decay = [p for p in decoder.parameters() if p.ndim >= 2]
    rest = [p for p in decoder.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
                                  lr=1e-3, betas=(0.9, 0.95), fused=True)

    def step(ids: Tensor, targets: Tensor) -> None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            logits = decoder(ids)
            loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def ours(decoder: Decoder, precision: str) -> Step:
    """A step as the trainer makes it."""
    plan = TrainPlan(data=("-",), precision=precision, warmup=0, schedule="constant")
    network = Network(decoder, plan, torch.device("cpu"))
    stepper = Stepper(plan, network.trained, torch.device("cpu"))
    number = 0

    def step(ids: Tensor, targets: Tensor) -> None:
        nonlocal number
        network.train()
        loss = network(ids, targets)
        stepper.backward(loss / targets.numel())
        stepper.unscale()
        stepper.update(number)
        number += 1

    return step


def main() -> None:
    """Take the steps in turns and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    config = config_for("10M", VOCABULARY, LENGTH, None)
    lanes: dict[str, Step] = {}
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        lanes[f"plain {precision}"] = plain(fresh_decoder(config, 0), dtype)
        lanes[f"ours {precision}"] = ours(fresh_decoder(config, 0), precision)
    generator = torch.Generator().manual_seed(0)
    took: dict[str, list[float]] = {name: [] for name in lanes}
    for number in range(options.pairs + 1):
        ids = torch.randint(0, VOCABULARY, (BATCH, LENGTH + 1), generator=generator)
        names = list(lanes) if number % 2 else list(lanes)[::-1]
        for name in names:
            began_s = clock()
            lanes[name](ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
            if number:  # the first one warms up
                took[name].append(clock() - began_s)
    for name, times in took.items():
        print(f"{name}: {BATCH * LENGTH / statistics.median(times):,.0f} tok/s")
    for fast, slow in (("ours fp32", "plain fp32"), ("ours bf16", "plain bf16"), ("ours bf16", "ours fp32")):
        ratios = sorted(s / f for f, s in zip(took[fast], took[slow], strict=True))
        print(f"{fast} / {slow}: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}), "
              f"{len(ratios)} pairs")


if __name__ == "__main__":
    main()
