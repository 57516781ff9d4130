"""Perplexity against a plain reference: Transformers' logits and the definition in docs (llama.cpp's)."""

from __future__ import annotations

import math
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.bench.quality import perplexity
from engine.errors import DynoError
from engine.messages import PerplexityResult
from engine.recipe import parse_recipe
from engine.session import Session
from tests.conftest import TEXT
from tests.engine.support import open_session

LONG_TEXT = TEXT * 4


def score(session: Session, context: int, chunks: int | None = None, text: str = LONG_TEXT) -> PerplexityResult:
    """Perplexity of a text, run to its end."""
    assert session.active is not None
    ids = session.tokenizer.encode(text, special_tokens=False)
    steps: Generator[tuple[int, int], None, PerplexityResult] = perplexity(session.active, session.tokenizer, ids,
                                                                            context, chunks)
    seen = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as end:
            assert seen == sorted(seen) and seen[-1][0] == seen[-1][1]
            result: PerplexityResult = end.value
            return result


def reference(folder: Path, session: Session, context: int, chunks: int | None) -> tuple[float, float, float, int]:
    """(perplexity, sigma, total NLL in nats, tokens scored), a chunk at a time, no cache, float64."""
    transformers = pytest.importorskip("transformers")
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").float().eval()
    ids = session.tokenizer.encode(LONG_TEXT, special_tokens=False)
    losses: list[float] = []
    for start in range(0, len(ids) - context + 1, context)[:chunks]:
        chunk = ids[start:start + context]
        if session.tokenizer.adds_bos:
            chunk[0] = session.config.bos_id or 0
        with torch.no_grad():
            logprobs = model(torch.tensor([chunk])).logits[0].double().log_softmax(-1)
        losses += [-float(logprobs[i, chunk[i + 1]]) for i in range(context // 2, context - 1)]
    x = np.array(losses)
    value = math.exp(x.mean())
    sigma = value * math.sqrt(((x ** 2).mean() - x.mean() ** 2) / (len(x) - 1))
    return value, sigma, float(x.sum()), len(x)


@pytest.mark.parametrize(("context", "chunks"), [(64, None), (33, None), (200, 2), (256, 3), (4, 10)])
def test_perplexity_is_that_of_transformers_and_the_definition(model_folder: Path, context: int,
                                                               chunks: int | None) -> None:
    session = open_session(model_folder)
    found = score(session, context, chunks)
    value, sigma, _, tokens = reference(model_folder, session, context, chunks)
    assert found.tokens == tokens
    assert found.perplexity == pytest.approx(value, rel=1e-5)
    assert found.sigma == pytest.approx(sigma, rel=1e-4)


def test_bits_per_byte_counts_the_bytes_scored(model_folder: Path) -> None:
    session = open_session(model_folder)
    found = score(session, 64)
    _, _, total, _ = reference(model_folder, session, 64, None)
    ids = session.tokenizer.encode(LONG_TEXT, special_tokens=False)
    scored = sum(len(session.tokenizer.decode([t]).encode()) for start in range(0, len(ids) - 63, 64)
                 for t in ids[start + 33:start + 64])
    assert found.bits_per_byte == pytest.approx(total / math.log(2) / scored, rel=1e-3)


def test_a_context_beyond_the_models_is_cut_to_it(model_folder: Path) -> None:
    session = open_session(model_folder)
    assert score(session, 10_000).tokens == score(session, session.config.context).tokens


def test_scoring_does_not_disturb_the_conversation(model_folder: Path) -> None:
    session = open_session(model_folder)
    ids = session.tokenizer.encode(TEXT)[:30]
    session.begin(ids, 60, reuse=False)
    first = session.read(ids)
    score(session, 64)
    assert session.begin([*ids, 5], 60, reuse=True) == len(ids)
    session.step([5])
    assert session.begin(ids, 60, reuse=False) == 0
    assert torch.equal(session.read(ids), first)


def test_the_same_recipe_scores_the_same_to_the_last_bit(model_folder: Path) -> None:
    session = open_session(model_folder)
    first = score(session, 64).perplexity
    session.apply(parse_recipe("l1-50"))
    assert score(session, 64).perplexity != first
    session.apply(parse_recipe("fp32"))
    assert score(session, 64).perplexity == first


def test_stories_read_their_own_kind_of_text_better_than_another(stories: Path) -> None:
    session = open_session(stories)
    golden = (stories.parent / "golden_greedy.txt").read_text(encoding="utf-8")
    own = score(session, 64, text=golden)
    assert own.perplexity < 4 < score(session, 64, text=TEXT).perplexity
    assert score(open_session(stories, parse_recipe("int8")), 64, text=golden).perplexity == pytest.approx(
        own.perplexity, rel=0.1)


@pytest.mark.parametrize(("context", "chunks"), [(0, None), (1, None), (3, None), (-5, None), (64, 0), (64, -1)])
def test_impossible_chunks_are_refused_with_a_sentence(llama_folder: Path, context: int, chunks: int | None) -> None:
    with pytest.raises(DynoError, match="chunk") as caught:
        score(open_session(llama_folder), context, chunks)
    assert caught.value.hint


@pytest.mark.parametrize("text", ["", "too short"])
def test_a_text_shorter_than_one_chunk_is_refused_with_both_numbers(llama_folder: Path, text: str) -> None:
    with pytest.raises(DynoError, match="one chunk needs 64") as caught:
        score(open_session(llama_folder), 64, text=text)
    assert caught.value.hint
