"""Headless subcommands over the same engine thread and events as the window, one module each.

Standard output carries the result alone; progress and statistics go to standard error. Exit status: 0 done, 1 the
engine refused or failed, or a row of a benchmark did (one sentence says why), 2 wrong arguments, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from engine.cli import bench, compare, doctor, explain, export, generate, models, perplexity, recipes, runs, train
from engine.cli.arguments import Parser, WrongArgument
from engine.errors import DynoError

_COMMANDS = (generate, models, train, export, bench, compare, perplexity, runs, recipes, explain, doctor)


def run(arguments: Sequence[str]) -> int:
    """Run a subcommand; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except DynoError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, WrongArgument) else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone; say nothing more
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="main.py", description="GPT Dyno without its window.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in _COMMANDS:
        name = module.__name__.rpartition(".")[2]
        command = commands.add_parser(name, help=module.HELP, description=(module.__doc__ or "").partition(": ")[2])
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser
