"""`doctor`: what this machine offers, and what is missing and why."""

from __future__ import annotations

import argparse
import json

from engine.doctor import doctor_report, doctor_text

HELP = "show devices, kernels, versions, and what is available and why not"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Run it; the exit status."""
    report = doctor_report()
    print(json.dumps(report, indent=2) if options.json else doctor_text(report))
    return 0
