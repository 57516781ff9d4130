"""`perplexity`: how well a recipe predicts a text, and how far it is from another one."""

from __future__ import annotations

import argparse

from engine.cli.measuring import add_history, add_output, add_recipe, add_text_shape, quality_test, run_plan
from engine.cli.recipes import named_recipe
from engine.measurements import BenchPlan

HELP = "score a text: perplexity, bits per byte, and divergence from a base recipe"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_recipe(parser)
    parser.add_argument("--against", metavar="RECIPE", help="a base recipe: adds KL(base || recipe) and its kin")
    parser.add_argument("--text", metavar="FILE", default="",
                        help=".txt, .jsonl or .parquet (default: the bundled evaluation text)")
    add_text_shape(parser)
    add_output(parser)
    add_history(parser)


def run(options: argparse.Namespace) -> int:
    """Run it; the exit status."""
    base = (named_recipe(options.against),) if options.against else ()
    return run_plan(options, BenchPlan((*base, named_recipe(options.recipe)), quality=quality_test(options)))
