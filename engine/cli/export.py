"""`export`: a model as a GGUF file for llama.cpp, or as a Hugging Face folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from engine.cli.client import add_model
from engine.cli.recipes import RECIPE_HELP, named_recipe
from engine.errors import DynoError

HELP = "write the model as GGUF or safetensors"
_FORMATS = ("gguf-f16", "gguf-q8_0", "gguf-f32", "safetensors")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_model(parser)
    parser.add_argument("--recipe", default="fp32",
                        help=f"{RECIPE_HELP}: what it prunes is gone in the file, its rounding is not written "
                        "(default: fp32)")
    parser.add_argument("--format", choices=_FORMATS, required=True, help="how the weights are kept")
    parser.add_argument("--out", metavar="PATH", required=True, help="the file to write; for safetensors a folder")


def run(options: argparse.Namespace) -> int:
    """Run it; the exit status."""
    from engine.export import export_model
    from engine.models.devices import pick_device
    from engine.session import Session

    out = Path(options.out).expanduser()
    if not out.parent.is_dir():
        raise DynoError(f"There is no folder {out.parent}.", "Choose a place that is there.")
    session = Session.open(Path(options.model).expanduser(), pick_device(options.device))
    steps = export_model(session.masters, session.tokenizer, named_recipe(options.recipe), options.format, out,
                         session.device, session.calibrator())
    bar = not options.quiet and sys.stderr.isatty()
    for stage, done, total in steps:
        if bar:
            print(f"\r\x1b[K{stage}" + (f" {done}/{total}" if total else ""), end="", file=sys.stderr, flush=True)
    if bar:
        print("\r\x1b[K", end="", file=sys.stderr)
    files = sorted(out.iterdir()) if out.is_dir() else [out]
    print(f"{out}  {sum(f.stat().st_size for f in files) / 1e6:,.1f} MB")
    return 0
