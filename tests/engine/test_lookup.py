"""Prompt lookup: the right guesses, and with every guess right or wrong the text that comes without it."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from engine.generation import NewToken, generate
from engine.lookup import PromptLookup
from engine.messages import Sampling
from engine.paths import bundled_model
from engine.recipe import Recipe, parse_recipe
from engine.session import Session
from tests.conftest import CONTEXT, GPT2, LLAMA, write_model
from tests.engine.support import GREEDY, built, finish, open_session, reply

MODELS = ["gpt2_folder", "llama_folder", "tied_llama_folder", "qwen3_folder", "mistral_folder"]
LOOKUP = parse_recipe("lookup")
SHORT = dataclasses.replace(GREEDY, max_tokens=60)
SAMPLINGS = {
    "greedy": SHORT,
    "greedy, repetition penalised": dataclasses.replace(SHORT, repetition_penalty=1.3),
    "cool": dataclasses.replace(SHORT, temperature=0.5, seed=3),
    "filtered": dataclasses.replace(SHORT, temperature=0.9, top_k=20, top_p=0.9, min_p=0.02, seed=4),
}
# Recipes whose products with several rows have the bits of products with one, or all but: fp32 arithmetic, and kernels
# that work row by row. In the others a token's last bits depend on how many were run with it (see below).
EXACT = ["fp32", "int8-weight-only", "int4", "kv-int8", "kv-cache:dtype=bf16", "prune-heads:amount=0.5", "l1-50",
         "attention:backend=plain"]


def prompts(seed: int, count: int = 2) -> Iterator[list[int]]:
    """Prompts that repeat themselves, and prompts that do not, in turn."""
    rng = random.Random(seed)
    for _ in range(count):
        phrase = [rng.randrange(2, 300) for _ in range(rng.randint(3, 12))]
        yield phrase * 4
        yield [rng.randrange(2, 300) for _ in range(rng.randint(1, 60))]


def guess(tokens: Sequence[int], ngram: int, count: int) -> list[int]:
    """What followed the last `ngram` tokens when they stood before, by looking everywhere, the newest place first."""
    for end in range(len(tokens) - 1, ngram - 1, -1):
        if tokens[end - ngram:end] == tokens[len(tokens) - ngram:]:
            return list(tokens[end:end + count])
    return []


# --------------------------------------------------------------------------------------------------------- the guesses


@pytest.mark.parametrize("ngram", [1, 2, 3, 6])
@pytest.mark.parametrize("words", [1, 2, 3, 5, 40])
def test_guesses_are_those_of_a_search_through_the_whole_text(ngram: int, words: int) -> None:
    rng = random.Random(words)
    for start in (0, 1, 5, 80):
        tokens = [rng.randrange(words) for _ in range(start)]
        lookup = PromptLookup(tokens, ngram)
        for _ in range(120):
            for count in (0, 1, 2, 7):
                assert lookup.propose(count) == (guess(tokens, ngram, count) if len(tokens) >= ngram else [])
            token = rng.randrange(words)
            tokens.append(token)
            lookup.add(token)


def test_what_was_never_there_before_is_not_guessed() -> None:
    lookup = PromptLookup([1, 2, 3, 4, 5], 2)
    assert lookup.propose(5) == []
    lookup.add(2)
    assert lookup.propose(5) == []
    lookup.add(3)
    assert lookup.propose(5) == [4, 5, 2, 3]
    assert lookup.propose(-1) == []


# ------------------------------------------------------------------------------------------------------------ the text


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=list(SAMPLINGS))
@pytest.mark.parametrize("model", MODELS)
def test_the_text_is_the_one_that_comes_without_lookup(model: str, sampling: Sampling,
                                                       request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(model)
    plain, session = open_session(folder), open_session(folder, LOOKUP)
    accepted = 0
    for ids in prompts(seed=1):
        expected, told = reply(plain, ids, sampling)
        made, stats = reply(session, ids, sampling)
        assert made == expected
        assert (stats.output_tokens, stats.finish) == (told.output_tokens, told.finish)
        assert stats.perplexity == pytest.approx(told.perplexity, rel=1e-4)
        assert (told.drafted_tokens, told.accepted_tokens) == (0, 0)
        assert 0 <= stats.accepted_tokens <= stats.drafted_tokens
        accepted += stats.accepted_tokens
    if sampling is SHORT:
        assert accepted > 0


@pytest.mark.parametrize(("ngram", "drafts"), [(1, 1), (1, 7), (2, 5), (3, 2), (6, 7)])
def test_the_text_is_the_same_for_every_length_of_match_and_proposal(model_folder: Path, ngram: int,
                                                                     drafts: int) -> None:
    plain = open_session(model_folder)
    session = open_session(model_folder, parse_recipe(f"lookup:ngram={ngram}:drafts={drafts}"))
    for ids in prompts(seed=2):
        assert reply(session, ids, SHORT)[0] == reply(plain, ids, SHORT)[0]


@pytest.mark.parametrize("recipe", EXACT)
def test_the_text_is_the_same_under_recipes_whose_kernels_work_row_by_row(model_folder: Path, recipe: str) -> None:
    plain, session = (open_session(model_folder, parse_recipe(text)) for text in (recipe, f"{recipe},lookup"))
    for ids, sampling in itertools.product(prompts(seed=3), (SHORT, SAMPLINGS["cool"])):
        assert reply(session, ids, sampling)[0] == reply(plain, ids, sampling)[0]


@pytest.mark.parametrize("recipe", ["bf16", "fp16", "autocast-bf16"])
def test_in_16_bits_the_text_parts_only_where_two_tokens_are_a_rounding_apart(model_folder: Path, recipe: str) -> None:
    """A product of several rows sums in another order than that of one, and 16 bits keep few digits of it."""
    plain, session = (open_session(model_folder, parse_recipe(text)) for text in (recipe, f"{recipe},lookup"))
    for ids in prompts(seed=3):
        expected, made = reply(plain, ids, SHORT)[0], reply(session, ids, SHORT)[0]
        parted = next((i for i, pair in enumerate(zip(expected, made, strict=True)) if pair[0] != pair[1]), None)
        if parted is not None:
            plain.begin(ids, CONTEXT, reuse=False)
            logits = plain.read([*ids, *expected[:parted]])
            assert float(logits[expected[parted]] - logits[made[parted]]) < 0.05 * float(logits.std())


def test_a_reply_that_repeats_itself_is_guessed_mostly_right_and_takes_fewer_steps(llama_folder: Path) -> None:
    session, variant = built(llama_folder, "lookup")
    calls: list[int] = []
    step = session.step

    def counted(ids: Sequence[int]) -> torch.Tensor:
        calls.append(len(ids))
        return step(ids)

    session.step = counted  # type: ignore[method-assign]
    for ids in prompts(seed=4):
        calls.clear()
        made, stats = reply(session, ids, SHORT)
        assert len(calls) == len(made) - 1 - stats.accepted_tokens
        assert sum(calls) - len(calls) == stats.drafted_tokens
        assert max(calls) <= 6
    assert "5 tokens are proposed where the last 2 stood before" in variant.report.techniques[0].detail


def test_the_bundled_model_writes_the_same_story_in_fewer_steps() -> None:
    plain, session = open_session(bundled_model()), open_session(bundled_model(), LOOKUP)
    text = "Tim had a red kite. Tim had a red kite. Tim had a red kite. Tim had a red"
    ids = session.tokenizer.encode(text)
    (expected, _), (made, stats) = reply(plain, ids, SHORT), reply(session, ids, SHORT)
    assert made == expected and stats.accepted_tokens > 0


# ----------------------------------------------------------------------------------------------------- ends of a reply


def test_the_limit_of_tokens_may_fall_anywhere_in_a_proposal(model_folder: Path) -> None:
    plain, session = open_session(model_folder), open_session(model_folder, LOOKUP)
    ids = next(prompts(seed=1))
    whole, _ = reply(plain, ids, SHORT)
    for limit in range(1, 40):
        made, stats = reply(session, ids, dataclasses.replace(SHORT, max_tokens=limit))
        assert made == whole[:limit] and stats.finish == "length"
        assert session._ids == [*ids, *made[:-1]]


def test_the_end_of_the_context_may_fall_anywhere_in_a_proposal(model_folder: Path) -> None:
    plain, session = open_session(model_folder), open_session(model_folder, LOOKUP)
    for left in (1, 2, 3, 7, 30):
        ids = (next(prompts(seed=1)) * 40)[:CONTEXT - left]
        (expected, told), (made, stats) = reply(plain, ids, GREEDY), reply(session, ids, GREEDY)
        assert made == expected and len(made) == left
        assert stats.finish == told.finish == "context"
        assert session._cache is not None and session._cache.length == CONTEXT - 1


@pytest.mark.parametrize("shape", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_a_token_that_ends_the_text_ends_it_within_a_proposal_too(shape: dict[str, object], tmp_path: Path,
                                                                  gpt2_folder: Path, llama_folder: Path) -> None:
    folder = gpt2_folder if shape is GPT2 else llama_folder
    plain, cut = open_session(folder), 0
    for ids in prompts(seed=1):
        whole, _ = reply(plain, ids, SHORT)
        for at in (3, 11, 20, 31):
            ending = write_model(tmp_path / f"{cut}", shape | {"eos_token_id": whole[at]})
            session = open_session(ending, LOOKUP)
            made, stats = reply(session, ids, SHORT)
            assert made == whole[:whole.index(whole[at]) + 1] and stats.finish == "end"
            assert session._ids == [*ids, *made[:-1]]
            cut += 1


def test_stop_strings_end_the_reply_at_the_same_place(model_folder: Path) -> None:
    plain, session = open_session(model_folder), open_session(model_folder, LOOKUP)
    for ids in itertools.islice(prompts(seed=5), 2):
        whole, _, _ = said(plain, ids)
        for start in range(0, min(60, len(whole) - 5), 4):
            stop = (whole[start:start + 5], "never there")
            expected, why, kept = said(plain, ids, stop)
            assert said(session, ids, stop) == (expected, why, kept)
            assert why == "stop string" and expected == whole[:whole.index(stop[0])]


def said(session: Session, ids: list[int], stop: tuple[str, ...] = ()) -> tuple[str, str, list[int]]:
    """The text of a greedy reply, why it ended, and the tokens the session then holds."""
    text = ""
    steps = generate(session, ids, SHORT, stop=stop)
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return text, end.value.finish, list(session._ids)
        text += step.piece.text if isinstance(step, NewToken) else ""


def test_a_reply_leaves_the_cache_and_the_tokens_that_one_without_lookup_leaves(model_folder: Path) -> None:
    plain, session = open_session(model_folder), open_session(model_folder, LOOKUP)
    for ids, tokens in itertools.product(prompts(seed=6), (1, 2, 9, 25)):
        sampling = dataclasses.replace(SHORT, max_tokens=tokens)
        made, _ = reply(session, ids, sampling)
        reply(plain, ids, sampling)
        length = len(ids) + tokens - 1
        assert session._ids == plain._ids == [*ids, *made[:-1]]
        assert session._cache is not None and plain._cache is not None
        assert session._cache.length == plain._cache.length == length
        for mine, theirs in zip(session._cache.tensors(), plain._cache.tensors(), strict=True):
            torch.testing.assert_close(mine[..., :length, :], theirs[..., :length, :], atol=1e-5, rtol=0)


def test_the_next_turn_reads_only_what_is_new_as_without_lookup(llama_folder: Path) -> None:
    fresh = dataclasses.replace(SHORT, max_tokens=20, seed=None)
    replies = []
    for recipe in (Recipe(), LOOKUP):
        session, ids, made_all, cached = open_session(llama_folder, recipe), [5, 6, 7, 8] * 4, [], []
        for _ in range(4):
            made, stats = reply(session, ids, fresh)
            made_all.append(made)
            cached.append(stats.cached_tokens)
            ids = [*ids, *made, 9, 5, 6, 7]
        replies.append((made_all, cached))
    assert replies[0] == replies[1] and replies[1][1][1] == 16 + 20 - 1


def test_a_reply_dropped_in_the_middle_of_a_proposal_does_not_harm_the_next(model_folder: Path) -> None:
    plain, session = open_session(model_folder), open_session(model_folder, LOOKUP)
    fresh = dataclasses.replace(SHORT, seed=None)
    ids = next(prompts(seed=1))
    expected, _ = reply(plain, ids, fresh)
    for end in range(1, 30):
        steps = generate(session, ids, fresh)
        for _ in range(end):
            next(steps)
        steps.close()
        assert reply(session, ids, fresh)[0] == expected


# ------------------------------------------------------------------------------------------------------------ switches


@pytest.mark.parametrize(("first", "then"), [
    ("fp32", "lookup"), ("lookup", "fp32"), ("lookup", "lookup:ngram=3:drafts=2"), ("lookup", "int4"),
    ("lookup", "int4,lookup"), ("int4", "lookup"), ("lookup", "kv-int8,lookup"), ("kv-int8,lookup", "lookup"),
    ("lookup", "prune-heads:amount=0.5,lookup"), ("lookup", "layers-10"), ("int8-weight-only,lookup", "l1-50,lookup"),
])
def test_a_switch_in_mid_reply_gives_the_text_of_the_same_switch_without_lookup(model_folder: Path, first: str,
                                                                                then: str) -> None:
    def parts(text: str) -> Recipe:
        return parse_recipe(text).without("lookup")

    plain, session = open_session(model_folder, parts(first)), open_session(model_folder, parse_recipe(first))
    for ids, at in itertools.product(itertools.islice(prompts(seed=1), 2), (1, 2, 7, 20, 21, 22, 23)):
        plain.apply(parts(first))
        session.apply(parse_recipe(first))
        # Back again near the end, so that proposals are made, checked and thrown away under both.
        expected, _ = reply(plain, ids, SHORT, switches={at: parts(then), 45: parts(first)})
        made, stats = reply(session, ids, SHORT, switches={at: parse_recipe(then), 45: parse_recipe(first)})
        assert made == expected, (at, stats.recipe)
        assert session._ids == plain._ids
        for mine, theirs in zip(session._cache.tensors(), plain._cache.tensors(), strict=True):  # type: ignore[union-attr]
            length = len(session._ids)
            torch.testing.assert_close(mine[..., :length, :].float(), theirs[..., :length, :].float(), rtol=0,
                                       atol=1e-5 if mine.dtype == torch.float32 else 1)


def test_a_stop_together_with_a_switch_ends_the_reply_whatever_had_been_proposed(gpt2_folder: Path) -> None:
    session = open_session(gpt2_folder, LOOKUP)
    ids = next(prompts(seed=1))
    for at in range(1, 25):
        session.apply(LOOKUP)
        stops: list[bool] = []
        steps = generate(session, ids, SHORT, stopping=lambda stops=stops: bool(stops))
        for _ in range(at):
            next(steps)
        session.apply(parse_recipe("prune-heads:amount=0.5"))  # its cache has another shape
        stops.append(True)
        stats = finish(steps)
        assert (stats.finish, stats.output_tokens) == ("stopped", at)
    assert reply(session, ids, SHORT)[0] == reply(
        open_session(gpt2_folder, parse_recipe("prune-heads:amount=0.5")), ids, SHORT)[0]
