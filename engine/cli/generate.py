"""`generate`: a reply on standard output, its statistics beside it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable

from engine.cli.arguments import number, whole
from engine.cli.client import Client, add_model, write
from engine.cli.recipes import RECIPE_HELP, named_recipe
from engine.errors import DynoError
from engine.messages import SAMPLING_LIMITS, ChatMessage, Generate, Sampling
from engine.words import counted

HELP = "generate a reply and print it"
_SAMPLING = (
    ("temperature", "how much chance there is in the choice; 0 always takes the likeliest token"),
    ("top_k", "choose among the k likeliest tokens; 0 for all"),
    ("top_p", "choose among the likeliest tokens that together hold this share of the probability; 1 for all"),
    ("min_p", "leave out tokens with less than this share of the likeliest one's probability; 0 for none"),
    ("repetition_penalty", "above 1, tokens that stand in the text already become less likely; 1 for none"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_model(parser)
    default = Sampling()
    parser.add_argument("--recipe", default="fp32",
                        help=f"{RECIPE_HELP} (default: fp32)")
    parser.add_argument("--prompt", required=True,
                        help="what to answer (- reads standard input); a model without a chat template continues it")
    parser.add_argument("--system", help="system prompt")
    parser.add_argument("--raw", action="store_true", help="continue the prompt as plain text, without chat template")
    parser.add_argument("--echo", action="store_true", help="print the prompt before the reply")
    parser.add_argument("--max-tokens", type=_type("max_tokens"), metavar="N", default=default.max_tokens,
                        help=f"longest reply, in tokens (default: {default.max_tokens})")
    parser.add_argument("--greedy", action="store_true", help="always the likeliest token")
    for name, says in _SAMPLING:
        parser.add_argument(f"--{name.replace('_', '-')}", type=_type(name), metavar="X",
                            help=f"{says} ({_range(name)}; default: what the model suggests)")
    parser.add_argument("--seed", type=_type("seed"), metavar="N", help="a number that repeats a run exactly")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end at this text (repeatable)")
    parser.add_argument("--stats", action="store_true", help="print the statistics as JSON on standard error")


def run(options: argparse.Namespace) -> int:
    """Run it; the exit status."""
    recipe = named_recipe(options.recipe)
    client = Client(quiet=options.quiet)
    try:
        client.set_threads(options.threads)
        loaded = client.load(options.model, recipe, options.device)
        chat = loaded.model.chat_template and not options.raw
        prompt = sys.stdin.read().strip() if options.prompt == "-" else options.prompt
        if chat and not prompt.strip():
            raise DynoError("The prompt is empty.", "Write something for the model to answer.")
        messages = (ChatMessage("system", options.system),) if options.system else ()
        command = Generate(
            client.worker.next_id(), prompt=None if chat else prompt,
            messages=(*messages, ChatMessage("user", prompt)) if chat else (),
            sampling=_sampling(options, loaded.model.sampling), stop=tuple(options.stop))
        if options.echo:
            write(prompt)
        stats = client.stream(command)
        write("\n")
        if options.stats:
            print(json.dumps(stats.__dict__ | {"tokens_per_s": stats.tokens_per_s}), file=sys.stderr)
        elif not options.quiet:
            lookup = (f", {stats.accepted_tokens} of {stats.drafted_tokens} looked up right"
                      if stats.drafted_tokens else "")
            print(f"{counted(stats.output_tokens, 'token')}, {stats.tokens_per_s:.1f} tok/s, first after "
                  f"{stats.ttft_s * 1e3:.0f} ms, perplexity {stats.perplexity:.2f}{lookup}, {stats.recipe}, seed "
                  f"{stats.seed}", file=sys.stderr)
        return 130 if stats.finish == "stopped" else 0
    finally:
        client.close()


def _type(name: str) -> Callable[[str], float]:
    """What add_argument takes for a field of Sampling."""
    low, high = SAMPLING_LIMITS[name]
    return number(low, high) if isinstance(low, float) else whole(int(low), int(high))


def _range(name: str) -> str:
    low, high = SAMPLING_LIMITS[name]
    return f"{low:g} to {high:,}" if isinstance(high, int) else f"{low:g} to {high:g}"


def _sampling(options: argparse.Namespace, suggested: Sampling) -> Sampling:
    """The model's suggestion with whatever the command line says on top."""
    def given(name: str) -> float:
        value = getattr(options, name)
        return float(getattr(suggested, name) if value is None else value)

    plain = options.greedy and options.repetition_penalty is None
    return Sampling(
        temperature=0.0 if options.greedy else given("temperature"), top_k=int(given("top_k")), top_p=given("top_p"),
        min_p=given("min_p"),
        repetition_penalty=1.0 if plain else given("repetition_penalty"),
        max_tokens=options.max_tokens, seed=options.seed)
