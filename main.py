"""GPT Dyno. Without arguments: the window. With a subcommand: the same engine, headless (see --help)."""

import sys

from engine.leaving import leave


def main() -> int:
    """Open the window, or run a subcommand; returns the exit status."""
    if len(sys.argv) > 1:
        from engine.cli import run

        return leave(run(sys.argv[1:]))
    from gui.app import run_window

    return leave(run_window())


if __name__ == "__main__":
    sys.exit(main())
