"""`explain`: where a token's time goes."""

from __future__ import annotations

import argparse
import dataclasses
import json

from engine.cli.arguments import at_most, model_context, whole
from engine.cli.client import Client, add_model
from engine.cli.recipes import named_recipe
from engine.measurements import MOST_TOKENS
from engine.messages import Explain
from engine.words import counted

HELP = "say where a token's time goes, and why it isn't less"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_model(parser)
    parser.add_argument("--recipe", default="fp32", help="as for generate (default: fp32)")
    parser.add_argument("--context", type=whole(1, MOST_TOKENS), default=128,
                        help="tokens already in the cache (default: 128)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Run it; the exit status."""
    recipe = named_recipe(options.recipe)
    at_most("--context", options.context, 1, model_context(options.model) - 1)  # one more token is timed
    client = Client(quiet=options.quiet)
    try:
        client.set_threads(options.threads)
        client.load(options.model, recipe, options.device)
        report = client.explain(Explain(client.worker.next_id(), options.context))
    finally:
        client.close()
    if options.json:
        print(json.dumps(dataclasses.asdict(report) | {"tokens_per_s": report.tokens_per_s}, indent=2))
        return 0
    print(f"{report.recipe}: {report.tokens_per_s:.1f} tok/s after "
          f"{counted(report.context, 'token')}, {counted(report.threads, 'thread')}\n")
    for share in report.shares:
        percent = 100 * share.seconds / report.token_s
        print(f"  {share.part:22} {share.seconds * 1e3:8.2f} ms  {percent:4.0f} %")
    print("\n" + "\n".join(report.findings))
    return 0
