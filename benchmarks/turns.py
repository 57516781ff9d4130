"""What a further turn of a chat costs before its first token: with the cache of the turns before, and without it.

    .venv/bin/python benchmarks/turns.py [--model DIR] [--recipe bf16] [--turns 6] [--rounds 5]

Each round is the same conversation, anew. For every turn the prompt is answered with the cache as a chat has it, then
timed once more from an empty cache, in the same seconds. "canonical" is how many tokens would have been held if the
tokens of earlier replies had not been found again where the model had written them in others than the tokenizer would.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the engine thread sets it
import torch  # noqa: E402

from engine.context import fit_messages, with_known_tokens  # noqa: E402
from engine.generation import NewToken, generate  # noqa: E402
from engine.messages import ChatMessage, GenerationStats, Sampling  # noqa: E402
from engine.models.devices import pick_device  # noqa: E402
from engine.paths import bundled_model  # noqa: E402
from engine.recipe import parse_recipe  # noqa: E402
from engine.session import Session  # noqa: E402

QUESTIONS = ("Hello! How are you today?", "Tell me a short story about a fox.", "What did the fox do then?",
             "What is a KV cache?", "Thank you. Tell me about your favourite animal.", "And what does it eat?")


def main() -> int:
    """Talk and print one row a turn."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--model", type=Path, default=bundled_model())
    parser.add_argument("--recipe", default="fp32")
    parser.add_argument("--turns", type=int, default=len(QUESTIONS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=80)
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    session = Session.open(options.model, pick_device(None))
    session.apply(parse_recipe(options.recipe))
    torch.set_num_threads(1 if session.active is not None and session.active.report.weight_bytes < 24 << 20 else
                          session.device.cores)
    free = Sampling(max_tokens=options.max_tokens, temperature=0.6, top_k=40, top_p=0.9)
    rows: list[list[tuple[int, int, int, float, float]]] = [[] for _ in range(options.turns)]
    for _ in range(options.rounds):
        turns: list[ChatMessage] = []
        refill(session, [0])  # nothing of the round before
        for number in range(options.turns):
            turns.append(ChatMessage("user", QUESTIONS[number % len(QUESTIONS)]))
            ids, _ = fit_messages(session.tokenizer, turns, session.config.context, options.max_tokens)
            known = list(session.known_ids)
            canonical = next((i for i, (a, b) in enumerate(zip(ids, known, strict=False)) if a != b),
                             min(len(ids), len(known)))
            text, warm = reply(session, with_known_tokens(session.tokenizer, ids, known), free)
            held = session.known_ids[:]
            _, cold = reply(session, ids, Sampling(max_tokens=1, seed=1))
            refill(session, held)
            rows[number].append((warm.prompt_tokens, warm.cached_tokens, canonical if number else 0, warm.ttft_s,
                                 cold.ttft_s))
            turns.append(ChatMessage("assistant", text))
    print(f"\n{options.model.name}, {options.recipe}, {options.rounds} rounds, medians; load {os.getloadavg()[0]:.1f}")
    print()
    print("| turn | prompt tokens | held | held, canonical | read | TTFT ms | TTFT from an empty cache, ms |")
    print("|---" * 7 + "|")
    for number, found in enumerate(rows, 1):
        prompt, cached, canonical, warm_s, cold_s = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"| {number} | {prompt:.0f} | {cached:.0f} | {canonical:.0f} | {prompt - cached:.0f} | "
              f"{warm_s * 1e3:.1f} | {cold_s * 1e3:.1f} |")
    return 0


def reply(session: Session, ids: list[int], sampling: Sampling) -> tuple[str, GenerationStats]:
    """A reply's text and its statistics."""
    steps, text = generate(session, ids, sampling, submitted_s=time.perf_counter()), ""
    while True:
        try:
            step = next(steps)
        except StopIteration as done:
            return text, done.value
        if isinstance(step, NewToken):
            text += step.piece.text


def refill(session: Session, ids: list[int]) -> None:
    """Put the chat's own tokens back into the cache after the run without them."""
    session.begin(ids, len(ids), reuse=False)
    session.read(ids)


if __name__ == "__main__":
    sys.exit(main())
