"""`runs`: the history of benchmarks: list it, print a run again, compare two runs."""

from __future__ import annotations

import argparse
import time

from engine.bench.history import Change, History, Run, changes
from engine.bench.results import FORMATS, figures, render
from engine.cli.client import write
from engine.paths import benchmark_history

HELP = "list benchmark runs, print one again, compare two"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("--show", type=int, metavar="RUN", help="print the rows of a run")
    parser.add_argument("--compare", type=int, nargs=2, metavar=("OLD", "NEW"), help="compare two runs")
    parser.add_argument("--delete", type=int, metavar="RUN", help="remove a run")
    parser.add_argument("--output", choices=FORMATS, default="table", help="how to print a run (default: table)")


def run(options: argparse.Namespace) -> int:
    """Run it; the exit status."""
    history = History(benchmark_history())
    try:
        if options.delete is not None:
            history.delete(history.run(options.delete).id)
        elif options.show is not None:
            write(render(history.rows(history.run(options.show).id), options.output))
        elif options.compare is not None:
            old, new = (history.rows(history.run(number).id) for number in options.compare)
            write("".join(f"{_changed(change)}\n" for change in changes(old, new)) or "The runs share no test.\n")
        else:
            write("".join(f"{_listed(known)}\n" for known in history.runs()) or "There are no benchmark runs yet.\n")
    finally:
        history.close()
    return 0


def _listed(run_: Run) -> str:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run_.started_s))
    labels = ", ".join(recipe.label for recipe in run_.plan.recipes)
    title = f"  {run_.title}" if run_.title else ""
    return f"{run_.id:4}  {when}  {run_.state:8}  {run_.rows}/{run_.planned} rows  {run_.model}  {labels}{title}"


def _changed(change: Change) -> str:
    ratio = change.ratio
    return (f"{change.recipe}, {change.test}: {figures(change.old)} -> {figures(change.new)} {change.unit}, ratio "
            f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f}), {change.verdict}")
