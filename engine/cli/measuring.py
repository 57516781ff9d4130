"""What the measuring subcommands share: arguments, and a plan run to the end with rows printed as they come."""

from __future__ import annotations

import argparse
import sys

from engine.bench.results import FORMATS, Writer
from engine.bench.texts import open_text
from engine.cli.arguments import at_most, model_context, number, whole
from engine.cli.client import Client, add_model, write
from engine.cli.recipes import RECIPE_HELP, named_recipe
from engine.errors import DynoError
from engine.measurements import MOST_TOKENS, SHORTEST_CONTEXT, BenchPlan, QualityTest, SpeedTest
from engine.messages import RunBenchmark
from engine.paths import benchmark_history
from engine.recipe import Recipe

_PP, _TG, _CONTEXT = 512, 128, 512


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
    parser.add_argument("--pp", type=_counts, metavar="N[,N..]",
                        help="prompt tokens, 0 for no such test (default: 512)")
    parser.add_argument("--tg", type=_counts, metavar="N[,N..]",
                        help="generated tokens, 0 for no such test (default: 128; both are cut to the context)")
    parser.add_argument("--depth", type=_counts, default=(0,), metavar="N[,N..]",
                        help="tokens in the cache before a test (default: 0)")
    parser.add_argument("--repetitions", type=whole(1, 10_000), default=5, metavar="N",
                        help="runs of each test, at least (default: 5); more until --min-time is full")
    parser.add_argument("--min-time", type=number(0, 86_400), default=2.0, metavar="S",
                        help="seconds of each test's runs together, at least (default: 2)")
    parser.add_argument("--seed", type=whole(0, (1 << 63) - 1), default=0, metavar="N",
                        help="of the random tokens (default: 0)")


def add_text(parser: argparse.ArgumentParser) -> None:
    """--text with an optional file, and its shape."""
    parser.add_argument("--text", metavar="FILE", nargs="?", const="",
                        help="score this text, too: .txt, .jsonl or .parquet (without FILE: the bundled one)")
    add_text_shape(parser)


def add_text_shape(parser: argparse.ArgumentParser) -> None:
    """--context, --stride, --chunks."""
    parser.add_argument("--context", type=whole(SHORTEST_CONTEXT, MOST_TOKENS), metavar="N",
                        help=f"tokens of a chunk (default: {_CONTEXT}, or the model's context where that is shorter)")
    parser.add_argument("--stride", type=whole(0, MOST_TOKENS), default=0, metavar="N",
                        help="tokens from window to window, as in Transformers (default: disjoint chunks)")
    parser.add_argument("--chunks", type=whole(0, MOST_TOKENS), default=0, metavar="N",
                        help="score the first few chunks (default: all)")


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
    """Every shape at every depth. What was not asked for is cut to the model's context. Raises DynoError, and
    WrongArgument for what was asked for and does not fit."""
    context = model_context(options.model)
    deepest = max(options.depth)
    for argument, counts in (("--pp", options.pp), ("--tg", options.tg)):
        for count in counts or ():
            at_most(argument, count, 0, context)
    asked = max((*(options.pp or (1,)), *(options.tg or (1,))))
    at_most("--depth", deepest, 0, context - asked)
    return tuple(test for depth in options.depth
                 for test in (*(SpeedTest(prompt=n, depth=depth) for n in options.pp or (min(_PP, context - depth),)
                                if n),
                              *(SpeedTest(generate=n, depth=depth) for n in options.tg or (min(_TG, context - depth),)
                                if n)))


def quality_test(options: argparse.Namespace) -> QualityTest | None:
    """The text, where one was asked for. Raises WrongArgument."""
    if options.text is None:
        return None
    if options.context is not None:
        at_most("--context", options.context, SHORTEST_CONTEXT, model_context(options.model))
    context = options.context or _CONTEXT
    if options.stride:
        at_most("--stride", options.stride, 1, min(context, model_context(options.model)))
    return QualityTest(options.text, context, options.stride, options.chunks)


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
        client.load(options.model, plan.recipes[0], options.device, insist=False)  # each row says what cannot run
        result = client.benchmark(RunBenchmark(client.worker.next_id(), plan, history, options.resume, options.title),
                                  writer.add)
    finally:
        client.close()
    writer.end()
    for row in () if options.output in ("table", "md", "html") else result.failed:  # those say it beneath the rows
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
    return tuple(_count(part) for part in text.split(","))


_count = whole(0, MOST_TOKENS)
