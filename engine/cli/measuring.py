"""What the measuring subcommands share: arguments, and a plan run to the end with rows printed as they come."""

from __future__ import annotations

import argparse
import sys

from engine.bench.results import FORMATS, Writer
from engine.bench.texts import open_text
from engine.cli.client import Client, add_model, write
from engine.cli.recipes import RECIPE_HELP, named_recipe
from engine.errors import DynoError
from engine.measurements import BenchPlan, QualityTest, SpeedTest
from engine.messages import RunBenchmark
from engine.paths import benchmark_history
from engine.recipe import Recipe


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """--recipe, once, and what goes with a model."""
    add_model(parser)
    parser.add_argument("--recipe", default="fp32", help=f"{RECIPE_HELP} (default: fp32)")


def add_recipes(parser: argparse.ArgumentParser, note: str) -> None:
    """--recipe, repeatable, and what goes with a model."""
    add_model(parser)
    parser.add_argument("--recipe", action="append", default=[], help=f"{RECIPE_HELP}; {note}")


def add_speed(parser: argparse.ArgumentParser) -> None:
    """--pp, --tg, --depth, --repetitions, --min-time, --seed."""
    parser.add_argument("--pp", type=_counts, default=(512,), metavar="N[,N..]",
                        help="prompt tokens, 0 for no such test (default: 512)")
    parser.add_argument("--tg", type=_counts, default=(128,), metavar="N[,N..]",
                        help="generated tokens, 0 for no such test (default: 128)")
    parser.add_argument("--depth", type=_counts, default=(0,), metavar="N[,N..]",
                        help="tokens in the cache before a test (default: 0)")
    parser.add_argument("--repetitions", type=int, default=5, help="runs of each test, at least (default: 5)")
    parser.add_argument("--min-time", type=float, default=2.0, metavar="S",
                        help="seconds of each test, at least (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the random tokens (default: 0)")


def add_text(parser: argparse.ArgumentParser) -> None:
    """--text with an optional file, and its shape."""
    parser.add_argument("--text", metavar="FILE", nargs="?", const="",
                        help="score this text, too: .txt, .jsonl or .parquet (without FILE: the bundled one)")
    add_text_shape(parser)


def add_text_shape(parser: argparse.ArgumentParser) -> None:
    """--context, --stride, --chunks."""
    parser.add_argument("--context", type=int, default=512, help="tokens of a chunk (default: 512)")
    parser.add_argument("--stride", type=int, default=0,
                        help="tokens from window to window, as in Transformers (default: disjoint chunks)")
    parser.add_argument("--chunks", type=int, default=0, help="score the first few chunks (default: all)")


def add_output(parser: argparse.ArgumentParser) -> None:
    """--output."""
    parser.add_argument("--output", choices=FORMATS, default="table", help="how to print (default: table)")


def add_history(parser: argparse.ArgumentParser) -> None:
    """--title, --resume, --no-history."""
    parser.add_argument("--title", default="", help="name of the run in the history")
    parser.add_argument("--resume", action="store_true", help="go on with the last unfinished run of the same plan")
    parser.add_argument("--no-history", action="store_true", help="keep nothing in the data folder")


def recipes(options: argparse.Namespace) -> tuple[Recipe, ...]:
    """The recipes that were named. Raises DynoError."""
    return tuple(named_recipe(text) for text in options.recipe) or (Recipe(),)


def speed_tests(options: argparse.Namespace) -> tuple[SpeedTest, ...]:
    """Every shape at every depth. Raises DynoError."""
    return tuple(test for depth in options.depth
                 for test in (*(SpeedTest(prompt=n, depth=depth) for n in options.pp if n),
                              *(SpeedTest(generate=n, depth=depth) for n in options.tg if n)))


def quality_test(options: argparse.Namespace) -> QualityTest | None:
    """The text, where one was asked for. Raises DynoError."""
    if options.text is None:
        return None
    return QualityTest(options.text, options.context, options.stride, options.chunks)


def run_plan(options: argparse.Namespace, plan: BenchPlan) -> int:
    """Load, measure, print; 1 where a row failed, 130 where it was stopped (what is finished is printed). Raises
    DynoError."""
    if plan.quality is not None:
        open_text(plan.quality.text)  # before a model is loaded for nothing
    writer = Writer(options.output, write)
    history = "" if options.no_history else str(benchmark_history())
    client = Client(quiet=options.quiet)
    try:
        client.set_threads(options.threads)
        client.load(options.model, plan.recipes[0], options.device)
        result = client.benchmark(RunBenchmark(client.worker.next_id(), plan, history, options.resume, options.title),
                                  writer.add)
    finally:
        client.close()
    writer.end()
    for row in result.failed:
        print(f"{row.recipe}, {row.test}: {DynoError(row.error, row.hint)}", file=sys.stderr)
    if not result.complete:
        planned = len(plan.recipes) * len(plan.tests)
        more = "" if options.no_history else " --resume goes on from there."
        if not options.quiet:
            print(f"Stopped: {len(result.rows)} of {planned} rows are finished.{more}", file=sys.stderr)
        return 130
    return 1 if result.failed else 0


def _counts(text: str) -> tuple[int, ...]:
    """"512,1024" as numbers, for argparse."""
    return tuple(int(part) for part in text.split(","))
