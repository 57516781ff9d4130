"""Headless subcommands over the same engine thread and events as the window.

Standard output carries the result alone; progress and statistics go to standard error. Exit status: 0 done, 1 the
engine refused or failed (one sentence says why), 2 wrong arguments, 130 interrupted.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from engine.doctor import doctor_report, doctor_text
from engine.errors import DynoError
from engine.messages import (
    Cancel,
    Cancelled,
    ChatMessage,
    Event,
    Explain,
    Failed,
    Finished,
    Generate,
    GenerationStats,
    LoadModel,
    ModelLoaded,
    Progress,
    Sampling,
    SetThreads,
    SpeedReport,
    Tokens,
)
from engine.outbox import Outbox
from engine.paths import bundled_model
from engine.recipe import Recipe, parse_recipe
from engine.worker import Worker


def run(arguments: Sequence[str]) -> int:
    """Run a subcommand; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except DynoError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone; say nothing more
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="main.py", description="GPT Dyno without its window.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_generate(commands.add_parser("generate", help="generate a reply and print it"))
    _add_explain(commands.add_parser("explain", help="say where a token's time goes, and why it isn't less"))
    doctor = commands.add_parser("doctor", help="show devices, kernels, versions, and what is available and why not")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.set_defaults(run=_doctor)
    return parser


def _add_generate(parser: argparse.ArgumentParser) -> None:
    default = Sampling()
    parser.add_argument("--model", metavar="DIR", default=str(bundled_model()), help="model folder (default: bundled)")
    parser.add_argument("--recipe", default="fp32",
                        help='preset, JSON file, or options such as "neurons-30,precision:dtype=bf16" (default: fp32)')
    parser.add_argument("--prompt", required=True,
                        help="what to answer (- reads standard input); a model without a chat template continues it")
    parser.add_argument("--system", help="system prompt")
    parser.add_argument("--raw", action="store_true", help="continue the prompt as plain text, without chat template")
    parser.add_argument("--echo", action="store_true", help="print the prompt before the reply")
    parser.add_argument("--max-tokens", type=int, default=default.max_tokens, help="longest reply, in tokens")
    parser.add_argument("--greedy", action="store_true", help="always the likeliest token")
    parser.add_argument("--temperature", type=float, help="0 is greedy (default: what the model suggests)")
    parser.add_argument("--top-k", type=int)
    parser.add_argument("--top-p", type=float)
    parser.add_argument("--min-p", type=float)
    parser.add_argument("--repetition-penalty", type=float)
    parser.add_argument("--seed", type=int, help="repeat a run exactly")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end at this text (repeatable)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 or mps (default: the best there is)")
    parser.add_argument("--threads", type=int, help="threads of the CPU kernels (default: what suits the model)")
    parser.add_argument("--quiet", action="store_true", help="no progress, no statistics")
    parser.add_argument("--stats", action="store_true", help="print the statistics as JSON on standard error")
    parser.set_defaults(run=_generate)


def _add_explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="DIR", default=str(bundled_model()), help="model folder (default: bundled)")
    parser.add_argument("--recipe", default="fp32", help="as for generate (default: fp32)")
    parser.add_argument("--context", type=int, default=128, help="tokens already in the cache (default: 128)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 or mps (default: the best there is)")
    parser.add_argument("--threads", type=int, help="threads of the CPU kernels (default: what suits the model)")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_explain)


def _explain(options: argparse.Namespace) -> int:
    recipe = parse_recipe(options.recipe)
    client = _Client(quiet=options.quiet)
    try:
        if options.threads is not None:
            client.worker.submit(SetThreads(options.threads))
        client.load(options.model, recipe, options.device)
        report = client.explain(Explain(client.worker.next_id(), options.context))
    finally:
        client.close()
    if options.json:
        print(json.dumps(dataclasses.asdict(report) | {"tokens_per_s": report.tokens_per_s}, indent=2))
        return 0
    print(f"{report.recipe}: {report.tokens_per_s:.1f} tok/s after {report.context} tokens, {report.threads} threads\n")
    for share in report.shares:
        percent = 100 * share.seconds / report.token_s
        print(f"  {share.part:22} {share.seconds * 1e3:8.2f} ms  {percent:4.0f} %")
    print("\n" + "\n".join(report.findings))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    report = doctor_report()
    print(json.dumps(report, indent=2) if options.json else doctor_text(report))
    return 0


def _generate(options: argparse.Namespace) -> int:
    recipe = parse_recipe(options.recipe)
    client = _Client(quiet=options.quiet)
    try:
        if options.threads is not None:
            client.worker.submit(SetThreads(options.threads))
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
            _write(prompt)
        stats = client.stream(command)
        _write("\n")
        if options.stats:
            print(json.dumps(stats.__dict__ | {"tokens_per_s": stats.tokens_per_s}), file=sys.stderr)
        elif not options.quiet:
            lookup = (f", {stats.accepted_tokens} of {stats.drafted_tokens} looked up right"
                      if stats.drafted_tokens else "")
            print(f"{stats.output_tokens} tokens, {stats.tokens_per_s:.1f} tok/s, first after {stats.ttft_s * 1e3:.0f} "
                  f"ms, perplexity {stats.perplexity:.2f}{lookup}, {stats.recipe}, seed {stats.seed}", file=sys.stderr)
        return 130 if stats.finish == "stopped" else 0
    finally:
        client.close()


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


class _Client:
    """A worker whose events are read on this thread."""

    def __init__(self, quiet: bool) -> None:
        self.outbox = Outbox()
        self.worker = Worker(self.outbox, probe=False)
        self.worker.start()
        self._bar = not quiet and sys.stderr.isatty()
        self._job_id = 0
        self._interrupted = False
        self._old_handler: Any = None
        # A KeyboardInterrupt could strike inside drain() and lose the events it holds; a handler loses nothing.
        if threading.current_thread() is threading.main_thread():
            self._old_handler = signal.signal(signal.SIGINT, self._interrupt)

    def close(self) -> None:
        """End the worker and give Ctrl+C back its meaning."""
        if self._old_handler is not None:
            signal.signal(signal.SIGINT, self._old_handler)
        self.worker.stop()

    def _interrupt(self, *_: object) -> None:
        """The first Ctrl+C ends the running job at its next step, the second one ends the program."""
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        self.worker.submit(Cancel(self._job_id))

    def load(self, folder: str, recipe: Recipe, device: str | None) -> ModelLoaded:
        """Load a model and wait for it. Raises DynoError, and KeyboardInterrupt where Ctrl+C ended it."""
        job = LoadModel(self.worker.next_id(), folder, recipe, device)
        self._submit(job)
        loaded: ModelLoaded | None = None
        for event in self._events(job.job_id):
            if isinstance(event, ModelLoaded):
                loaded = event
        if loaded is None or self._interrupted:
            raise KeyboardInterrupt
        return loaded

    def stream(self, command: Generate) -> GenerationStats:
        """Run a Generate, printing its text as it comes; Ctrl+C stops the reply. Raises DynoError, and
        KeyboardInterrupt where it ended before it began."""
        self._submit(command)
        for event in self._events(command.job_id):
            if isinstance(event, Tokens):
                _write(event.text)
            elif isinstance(event, (Finished, Cancelled)) and isinstance(event.result, GenerationStats):
                return event.result
        raise KeyboardInterrupt

    def explain(self, command: Explain) -> SpeedReport:
        """Run an Explain. Raises DynoError, and KeyboardInterrupt where it was ended."""
        self._submit(command)
        for event in self._events(command.job_id):
            if isinstance(event, Finished) and isinstance(event.result, SpeedReport):
                return event.result
        raise KeyboardInterrupt

    def _submit(self, job: LoadModel | Generate | Explain) -> None:
        self._job_id = job.job_id
        self.worker.submit(job)

    def _events(self, job_id: int) -> Iterator[Event]:
        while True:
            for event in self.outbox.drain(timeout_s=None):
                if isinstance(event, Failed):
                    raise DynoError(event.summary, event.hint)
                if isinstance(event, Progress) and self._bar:
                    share = f" {event.done}/{event.total}" if event.total else ""
                    print(f"\r\x1b[K{event.stage}{share}", end="", file=sys.stderr, flush=True)
                elif self._bar:
                    print("\r\x1b[K", end="", file=sys.stderr, flush=True)
                yield event
                if isinstance(event, (Finished, Cancelled)) and event.job_id == job_id:
                    return


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
