"""Recipes that write side by side: what each lane says, what it is held against, and what becomes of one that fails."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from engine.bench.watch import Watched, watch
from engine.comparing import ComparisonResult, LaneReady, LaneResult, LaneToken
from engine.errors import DynoError
from engine.messages import (
    Cancel,
    Cancelled,
    ChatMessage,
    Comparing,
    Failed,
    Finished,
    Generate,
    RunComparison,
    Sampling,
    Tokens,
)
from engine.models.devices import with_free_bytes
from engine.recipe import Recipe, parse_recipe
from engine.session import Session
from tests.engine.support import GREEDY, Engine, open_session, reply

PROMPT = "The lighthouse keeper"
SAMPLING = Sampling(temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.0, max_tokens=40, seed=5)


def recipes(*names: str) -> tuple[Recipe, ...]:
    """Recipes by their presets."""
    return tuple(parse_recipe(name) for name in names)


def watched(session: Session, names: Sequence[str], sampling: Sampling = SAMPLING,
            stop_after: int | None = None) -> tuple[dict[int, list[LaneToken]], list[int], ComparisonResult]:
    """Each lane's tokens, the order of turns, and the result; stopped after so many tokens where one says so."""
    tokens: dict[int, list[LaneToken]] = {n: [] for n in range(len(names))}
    turns: list[int] = []
    steps = watch(session, Watched(recipes(*names), session.tokenizer.encode(PROMPT), sampling, lambda _variant: 1,
                                   stopping=lambda: stop_after is not None and len(turns) >= stop_after))
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return tokens, turns, end.value
        if isinstance(step, LaneToken):
            tokens[step.lane].append(step)
            turns.append(step.lane)


@pytest.mark.parametrize("sampling", [SAMPLING, GREEDY])
def test_each_lane_writes_what_a_reply_with_its_recipe_would(model_folder: Path, sampling: Sampling) -> None:
    names = ("fp32", "int8", "l1-50")
    tokens, turns, result = watched(open_session(model_folder), names, sampling)
    for lane, name in enumerate(names):
        session = open_session(model_folder, parse_recipe(name))
        made, stats = reply(session, session.tokenizer.encode(PROMPT), sampling)
        assert [t.token_id for t in tokens[lane]] == made
        assert result.lanes[lane].tokens == len(made) and result.lanes[lane].finish == stats.finish
        assert result.lanes[lane].perplexity == pytest.approx(stats.perplexity, rel=1e-5)
    assert turns[:6] == [0, 1, 2, 0, 1, 2] and result.complete and result.seed == sampling.seed


@pytest.mark.parametrize("name", ["int8", "l1-50", "neurons-30", "kv-int8"])
def test_every_kl_is_that_of_two_distributions_after_the_lanes_own_words(model_folder: Path, name: str) -> None:
    tokens, _, result = watched(open_session(model_folder), ("fp32", name))
    lane = tokens[1]
    base, other = open_session(model_folder), open_session(model_folder, parse_recipe(name))
    ids = base.tokenizer.encode(PROMPT)
    text = [*ids, *(t.token_id for t in lane)]
    # The reference reads the lane's text token by token, each recipe in a cache of its own, in float64.
    found = [_step_logits(session, ids, text).double().log_softmax(-1) for session in (base, other)]
    p, q = found
    kl = (p.exp() * (p - q)).sum(-1)
    for place, token in enumerate(lane):
        assert token.number == place + 1
        assert token.kl == pytest.approx(float(kl[place]), rel=1e-3, abs=1e-7)
        assert token.base_probability == pytest.approx(math.exp(float(p[place, token.token_id])), rel=1e-4)
        assert token.probability == pytest.approx(math.exp(float(q[place, token.token_id])), rel=1e-4)
    assert result.lanes[1].kl_mean == pytest.approx(float(kl.mean()), rel=1e-3, abs=1e-7)
    assert result.lanes[1].departed, "the texts are to differ, or only half of this is tested"


def _step_logits(session: Session, prompt: Sequence[int], text: Sequence[int]) -> torch.Tensor:
    session.begin(text, len(text), reuse=False)
    logits = [session.read(prompt)]
    logits += [session.step([token])[-1] for token in text[len(prompt):-1]]
    return torch.stack(logits)


def test_the_first_token_that_is_not_the_bases_is_marked_and_no_other(llama_folder: Path) -> None:
    tokens, _, result = watched(open_session(llama_folder), ("fp32", "l1-50", "fp32"))
    pairs = list(zip(tokens[0], tokens[1], strict=False))
    first = next(n for n, (a, b) in enumerate(pairs) if a.token_id != b.token_id)
    assert [n for n, token in enumerate(tokens[1]) if token.departs] == [first]
    assert result.lanes[1].departed == first + 1
    assert not any(token.departs for token in (*tokens[0], *tokens[2])) and result.lanes[2].departed == 0


def test_a_lane_with_the_bases_recipe_diverges_by_exactly_nothing(model_folder: Path) -> None:
    tokens, _, result = watched(open_session(model_folder), ("int8", "int8"))
    assert [t.token_id for t in tokens[0]] == [t.token_id for t in tokens[1]]
    assert all(token.kl == 0.0 and token.base_probability == token.probability for token in tokens[1])
    assert (result.lanes[1].kl_mean, result.lanes[1].departed, result.lanes[0].kl_mean) == (0.0, 0, None)


def test_without_a_seed_all_lanes_draw_the_same_one(llama_folder: Path) -> None:
    sampling = Sampling(temperature=1.0, top_k=0, top_p=1.0, max_tokens=12)
    tokens, _, result = watched(open_session(llama_folder), ("fp32", "fp32"), sampling)
    assert [t.token_id for t in tokens[0]] == [t.token_id for t in tokens[1]]
    again, _, _ = watched(open_session(llama_folder), ("fp32", "fp32"),
                          Sampling(temperature=1.0, top_k=0, top_p=1.0, max_tokens=12, seed=result.seed))
    assert [t.token_id for t in again[0]] == [t.token_id for t in tokens[0]]


def test_a_stopped_comparison_keeps_what_every_lane_has_written(llama_folder: Path) -> None:
    tokens, turns, result = watched(open_session(llama_folder), ("fp32", "int8"), stop_after=7)
    assert len(turns) == 7 and not result.complete
    assert [lane.tokens for lane in result.lanes] == [len(tokens[0]), len(tokens[1])] == [4, 3]
    assert [lane.finish for lane in result.lanes] == ["stopped", "stopped"]


@pytest.mark.parametrize("names, lane", [(("fp32", "fp8", "bf16"), 1), (("fp8", "fp32", "bf16"), 0)])
def test_a_lane_that_cannot_run_here_says_so_and_the_others_go_on(llama_folder: Path, names: tuple[str, ...],
                                                                  lane: int) -> None:
    tokens, _, result = watched(open_session(llama_folder), names)
    bad = result.lanes[lane]
    assert bad.finish == "failed" and "cannot run here" in bad.error and bad.hint and not tokens[lane]
    assert all(len(tokens[n]) == SAMPLING.max_tokens for n in range(3) if n != lane)
    # Without its base nothing is held against anything; else the rest is.
    assert all((t.kl is None) == (lane == 0) for t in tokens[2])


def test_a_cache_that_does_not_fit_ends_its_lane_only(llama_folder: Path) -> None:
    session = open_session(llama_folder)
    assert session.active is not None
    room = session.active.report.kv_bytes_per_token * (SAMPLING.max_tokens + 5)
    for name in ("bf16", "int8"):
        session.apply(parse_recipe(name))  # built while there is room, as if they had been used before
    session.device = with_free_bytes(session.device, int(0.75 * room))
    tokens, _, result = watched(session, ("bf16", "int8"))
    assert result.lanes[0].finish == "length" and len(tokens[0]) == SAMPLING.max_tokens
    assert result.lanes[1].finish == "failed" and "KV cache" in result.lanes[1].error


def test_text_that_overflows_ends_its_lane_with_a_remedy(llama_folder: Path, tmp_path: Path) -> None:
    from tests.engine.support import edited

    def blow_up(tensors: dict[str, torch.Tensor]) -> None:
        for name in tensors:
            if name.endswith("attn.out.weight"):
                tensors[name] *= 3e5

    session = edited(llama_folder, tmp_path / "huge", blow_up)
    session.apply(Recipe())
    _, _, result = watched(session, ("fp32", "fp16"))
    assert result.lanes[0].finish == "length"
    assert result.lanes[1].finish == "failed" and "overflowed" in result.lanes[1].error and result.lanes[1].hint


def test_lanes_are_two_to_four() -> None:
    for count in (1, 5):
        with pytest.raises(DynoError) as caught:
            RunComparison(1, recipes("fp32") * count, (ChatMessage("user", "x"),))
        assert caught.value.hint


# ------------------------------------------------------------------------------------------------ as the engine's job


def compare(engine: Engine, *names: str, max_tokens: int = 20) -> RunComparison:
    """The job, not yet submitted."""
    return RunComparison(engine.next_id(), recipes(*names), (ChatMessage("user", PROMPT),),
                         Sampling(max_tokens=max_tokens, seed=3))


def told(engine: Engine) -> list[object]:
    """All that lanes have said."""
    return list(itertools.chain.from_iterable(e.what for e in engine.seen if isinstance(e, Comparing)))


def test_the_job_tells_every_token_and_leaves_the_active_recipe_alone(engine: Engine, llama_folder: Path) -> None:
    engine.load(llama_folder, parse_recipe("bf16"))
    end = engine.run(compare(engine, "fp32", "int8", "bf16"))
    assert isinstance(end, Finished) and isinstance(end.result, ComparisonResult) and end.result.complete
    said = told(engine)
    assert [s.lane for s in said if isinstance(s, LaneReady)] == [0, 1, 2]
    assert [s.lane for s in said if isinstance(s, LaneToken)] == [0, 1, 2] * 20
    assert [s for s in said if isinstance(s, LaneResult)] == list(end.result.lanes)
    ready = [s for s in said if isinstance(s, LaneReady)]
    assert ready[1].weight_bytes < ready[0].weight_bytes and ready[2].kv_bytes == ready[0].kv_bytes / 2
    assert engine.session.active is not None and engine.session.active.recipe == parse_recipe("bf16")
    assert all(lane.tokens_per_s > 0 and lane.ttft_s > 0 and len(lane.gaps_s) == 19 for lane in end.result.lanes)


def test_recipes_are_built_once_and_kept(engine: Engine, llama_folder: Path) -> None:
    engine.load(llama_folder)
    engine.run(compare(engine, "fp32", "l1-50"))
    before = dict(engine.session._built)
    engine.run(compare(engine, "fp32", "l1-50"))
    assert {r: id(v) for r, v in engine.session._built.items()} == {r: id(v) for r, v in before.items()}


def test_a_cancelled_comparison_ends_between_two_tokens_with_its_result(engine: Engine, llama_folder: Path) -> None:
    engine.load(llama_folder)
    job = compare(engine, "fp32", "int8", max_tokens=200)
    engine.at({9: Cancel(job.job_id)}, counts=lambda e: isinstance(e, Comparing) and isinstance(e.what[0], LaneToken))
    end = engine.run(job)
    assert isinstance(end, Cancelled) and isinstance(end.result, ComparisonResult)
    assert sum(lane.tokens for lane in end.result.lanes) == 9
    engine.outbox.react = None
    assert isinstance(engine.run(compare(engine, "fp32", "int8")), Finished)


def test_a_reply_after_a_comparison_is_what_it_would_have_been(engine: Engine, llama_folder: Path) -> None:
    engine.load(llama_folder)
    texts = []
    for _ in range(2):
        engine.seen = []
        engine.run(Generate(engine.next_id(), messages=(ChatMessage("user", PROMPT),),
                            sampling=Sampling(max_tokens=20, seed=1)))
        texts.append("".join(e.text for e in engine.seen if isinstance(e, Tokens)))
        engine.run(compare(engine, "int8", "l1-50"))
    assert texts[0] == texts[1]


def test_a_prompt_that_does_not_fit_is_refused_in_a_sentence(engine: Engine, llama_folder: Path) -> None:
    engine.load(llama_folder)
    end = engine.run(RunComparison(engine.next_id(), recipes("fp32", "int8"), (ChatMessage("user", "word " * 2000),)))
    assert isinstance(end, Failed) and "does not fit" in end.summary and end.hint
