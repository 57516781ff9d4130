"""`bench`: speed, memory and quality of recipes, one after the other, one row for each recipe and test."""

from __future__ import annotations

import argparse

from engine.cli.measuring import (
    add_history,
    add_output,
    add_recipes,
    add_speed,
    add_text,
    quality_test,
    recipes,
    run_plan,
    speed_tests,
)
from engine.measurements import BenchPlan

HELP = "measure speed, memory and quality of recipes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_recipes(parser, "repeatable; the first is the base (default: fp32)")
    add_speed(parser)
    add_text(parser)
    add_output(parser)
    add_history(parser)


def run(options: argparse.Namespace) -> int:
    """Run it; the exit status."""
    return run_plan(options, BenchPlan(
        recipes(options), speed_tests(options), quality_test(options), options.repetitions, options.min_time,
        seed=options.seed))
