"""`train`: train a model, from random weights or an existing one, in a folder of its own; also under torchrun."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.cli.arguments import WrongArgument
from engine.errors import DynoError
from engine.train_events import (
    EvalPoint,
    Finding,
    Notice,
    Preparing,
    Probed,
    Pruned,
    RunStarted,
    Saved,
    Stepped,
    TrainEvent,
    TrainPoint,
    TrainResult,
)
from engine.train_plan import TrainPlan

HELP = "train a model: from scratch, further, pruned, or for quantization"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments: one for each setting of a plan."""
    parser.add_argument("--out", metavar="DIR", help="folder of the run: checkpoint, curves and model (--preview and "
                        "--probe do without one, and then keep nothing)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out, with its own settings")
    parser.add_argument("--preview", type=int, metavar="TOKENS", help="show the first tokens of the data, learned ones "
                        "marked, and do not train")
    parser.add_argument("--probe", action="store_true", help="train briefly on a quarter, a half and all of the "
                        "data, and say what more data or a larger model would bring")
    parser.add_argument("--probe-steps", type=int, default=0, metavar="STEPS", help="steps of each of these short runs "
                        "(default: as many as the data ask for)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 or mps (default: the best there is)")
    parser.add_argument("--threads", type=int, help="threads of the CPU kernels (default: all cores)")
    parser.add_argument("--quiet", action="store_true", help="nothing on standard error but failures")
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(TrainPlan):
        meta = field.metadata
        group = groups.setdefault(meta["group"], None) or parser.add_argument_group(meta["group"])
        groups[meta["group"]] = group
        unit = f" [{meta['unit']}]" if meta["unit"] else ""
        default = "" if field.default in ((), "") else f" (default: {field.default})"
        flag = "--" + field.name.replace("_", "-")
        if isinstance(field.default, tuple):
            group.add_argument(flag, nargs="+", metavar="PATH", default=None, help=meta["help"])
        else:
            group.add_argument(flag, type=type(field.default), choices=meta["choices"] or None, default=None,
                               metavar=None if meta["choices"] else "X", help=f"{meta['help']}{unit}{default}")


def run(options: argparse.Namespace) -> int:
    """Run it; the exit status."""
    import torch

    from engine.models.devices import DeviceFacts, usable_cores
    from engine.training.records import read_plan
    from engine.training.team import Team, run_in_team

    if not options.out and not options.preview and not options.probe:
        raise WrongArgument("the following arguments are required: --out")
    given = {f.name: getattr(options, f.name) for f in dataclasses.fields(TrainPlan)
             if getattr(options, f.name) is not None}
    if options.resume:
        if given:
            raise DynoError("A run is resumed with its own settings.", f"Leave out --{next(iter(given))}.")
        plan = read_plan(Path(options.out or ".").expanduser())
    else:
        steps = given.get("steps", TrainPlan.steps)
        plan = TrainPlan(**({"warmup": min(TrainPlan.warmup, steps // 5)} | given))
    if options.threads is not None and options.threads < 1:
        raise DynoError(f"{options.threads} threads cannot train.", "Give one or more.")
    torch.set_num_threads(options.threads or usable_cores())

    def work(team: Team, device: DeviceFacts) -> int:
        folder = Path(options.out or scratch).expanduser()
        if options.preview:
            return _preview(plan, folder, device, options.preview)
        if options.probe:
            return _probe(plan, folder, device, team, options)
        return _train(plan, folder, device, team, options)

    with tempfile.TemporaryDirectory(prefix="gpt-dyno-") as scratch:
        return run_in_team(options.device, work)


def _train(plan: TrainPlan, folder: Path, device: Any, team: Any, options: argparse.Namespace) -> int:
    from engine.training.trainer import train

    with _interruptible() as wish:
        steps = train(plan, folder, device, team, options.resume, wish)
        while True:
            try:
                event = next(steps)
            except StopIteration as finished:
                result: TrainResult = finished.value
                break
            line = describe(event)
            if line and team.leads and not options.quiet:
                print(line, file=sys.stderr, flush=True)
    if team.leads:
        if not options.quiet:
            for finding in result.findings:
                print(f"{finding.kind}: {finding.text} {finding.advice}".strip(), file=sys.stderr)
        print(f"{result.state} at step {result.step:,}: training loss {result.final_loss:.4f}, best held-out loss "
              f"{result.best_loss:.4f} at step {result.best_step:,}, {result.elapsed_s:.0f} s"
              + (f", model in {result.model}" if result.model else ""))
    return 130 if result.state == "paused" else 0


def _probe(plan: TrainPlan, folder: Path, device: Any, team: Any, options: argparse.Namespace) -> int:
    from engine.training.probing import probe

    if team.world > 1:
        raise DynoError("A data probe runs in one process.", "Start it without torchrun.")
    with _interruptible() as wish:
        steps = probe(plan, folder, device, max(0, options.probe_steps), wish)
        while True:
            try:
                event = next(steps)
            except StopIteration as finished:
                report = finished.value
                break
            if isinstance(event, (Preparing, Probed, Notice, EvalPoint)) and not options.quiet:
                print(describe(event), file=sys.stderr, flush=True)
    if report is None:
        print(f"Paused; the same command goes on from {folder}." if options.out else
              "Stopped; with --out the same command could go on.", file=sys.stderr)
        return 130
    print("\n".join(report.sentences))
    return 0


@contextlib.contextmanager
def _interruptible() -> Iterator[Any]:
    """The first Ctrl+C saves and ends the run, the second one ends the program. Yields what the run is asked."""
    wish = ""

    def interrupt(*_: object) -> None:
        nonlocal wish
        if wish:
            raise KeyboardInterrupt
        wish = "pause"

    old = signal.signal(signal.SIGINT, interrupt)
    try:
        yield lambda: wish
    finally:
        signal.signal(signal.SIGINT, old)


def describe(event: TrainEvent) -> str:
    """An event as a line for the terminal."""
    if isinstance(event, RunStarted):
        part = "" if event.trained_parameters == event.parameters else f" ({event.trained_parameters:,} trained)"
        return (f"{event.parameters:,} parameters{part} on {event.device}, {event.world} process(es); "
                f"{event.train_tokens:,} tokens, {event.learned_tokens:,} of them learned, {event.validation_tokens:,} "
                f"held out; from step {event.step:,}")
    if isinstance(event, TrainPoint):
        scale = f"  scale {event.scale:g}" if event.scale else ""
        skipped = f"  skipped {', '.join(map(str, event.skipped))}" if event.skipped else ""
        return (f"step {event.step:>6}  loss {event.loss:.4f}  lr {event.lr:.2e}  |g| {event.grad_norm:.2f}  "
                f"{event.tokens_per_s:,.0f} tok/s{scale}{skipped}")
    if isinstance(event, EvalPoint):
        label = f" {event.label}" if event.label else ""
        return (f"step {event.step:>6}  held-out{label} loss {event.loss:.4f}  perplexity {event.perplexity:.2f}"
                + ("  (best)" if event.best else "") + (f"\n{event.sample}" if event.sample else ""))
    if isinstance(event, Pruned):
        return f"step {event.step:>6}  pruned: {event.zeros:,} of {event.weights:,} weights are zero"
    if isinstance(event, (Notice, Finding)):
        return event.text
    if isinstance(event, Probed):
        return (f"{event.share:.0%} of the data, {event.parameters:,} parameters, read {event.epochs:.1f} times: "
                f"held-out loss {event.loss:.4f}, training loss {event.train_loss:.4f}")
    if isinstance(event, Preparing):
        return f"{event.stage} {event.done}/{event.total}" if event.total else event.stage
    assert isinstance(event, (Saved, Stepped))
    return ""


def _preview(plan: TrainPlan, folder: Path, device: Any, tokens: int) -> int:
    """Print the first tokens with bars between them; those without loss in brackets."""
    from engine.training.dataset import preview
    from engine.training.setup import set_up
    from engine.training.team import Team

    steps = set_up(plan, folder, device, Team())
    while True:
        try:
            event = next(steps)
        except StopIteration as finished:
            ready = finished.value
            break
        if isinstance(event, Notice):
            print(event.text, file=sys.stderr)
    for text, learned in preview(ready.data.train, ready.tokenizer, tokens):
        print(repr(text)[1:-1] if learned else f"[{repr(text)[1:-1]}]", end="|")
    print()
    return 0
