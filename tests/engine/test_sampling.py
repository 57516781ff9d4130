"""Choosing tokens: against arithmetic in NumPy, against Transformers' processors, and against chance itself."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.messages import Finished, Generate, GenerationStats, Sampling, Tokens
from engine.sampling import Sampler
from tests.conftest import ROOT
from tests.engine.support import Engine

PLAIN = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0, seed=3)
LOGITS = 2.5 * torch.randn(24, generator=torch.Generator().manual_seed(9))
HISTORY = [3, 3, 7, 11, int(LOGITS.argmax())]


def with_(**changes: object) -> Sampling:
    """PLAIN with changes."""
    return Sampling(**PLAIN.__dict__ | changes)  # type: ignore[arg-type]


def reference(logits: torch.Tensor, s: Sampling, history: list[int]) -> np.ndarray:
    """Probabilities of the next token, step by step as the papers say."""
    x = logits.numpy().astype(np.float64).copy()
    for token in set(history):
        x[token] = x[token] / s.repetition_penalty if x[token] > 0 else x[token] * s.repetition_penalty
    x /= s.temperature
    if s.top_k:
        x[x < np.sort(x)[-min(s.top_k, len(x))]] = -np.inf
    p = np.exp(x - x.max())
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    if s.top_p < 1:
        mass = 0.0
        for token in order:
            if mass >= s.top_p:
                p[token] = 0
            mass += p[token]
        p /= p.sum()
    p[p < s.min_p * p.max()] = 0
    return p / p.sum()


def transformers_probabilities(logits: torch.Tensor, s: Sampling, history: list[int]) -> np.ndarray:
    """The same through Transformers' logits processors."""
    from transformers.generation import logits_process as lp

    steps = [lp.RepetitionPenaltyLogitsProcessor(s.repetition_penalty), lp.TemperatureLogitsWarper(s.temperature)]
    steps += [lp.TopKLogitsWarper(s.top_k)] if s.top_k else []
    steps += [lp.TopPLogitsWarper(s.top_p)] if s.top_p < 1 else []
    steps += [lp.MinPLogitsWarper(s.min_p)] if s.min_p else []
    scores = logits[None].double()
    for step in steps:
        scores = step(torch.tensor([history]), scores)
    probabilities: np.ndarray = scores[0].softmax(-1).numpy()
    return probabilities


def counts(logits: torch.Tensor, s: Sampling, history: list[int], draws: int) -> np.ndarray:
    """How often each token is drawn. The history stays what it is for every draw."""
    sampler, found = Sampler(s, history), np.zeros(len(logits))
    for _ in range(draws):
        found[sampler.draw(logits)] += 1
    return found


def assert_drawn_from(probabilities: np.ndarray, found: np.ndarray) -> None:
    """Nothing outside the support; inside it, a chi-square below its mean plus five standard deviations."""
    assert found[probabilities == 0].sum() == 0
    expected = probabilities * found.sum()
    common = expected >= 5
    rest = expected[~common].sum()
    chi2 = ((found[common] - expected[common]) ** 2 / expected[common]).sum()
    if rest > 0:
        chi2 += (found[~common].sum() - rest) ** 2 / rest
    freedom = max(1, int(common.sum()) - (rest == 0))
    assert chi2 < freedom + 5 * (2 * freedom) ** 0.5, (chi2, freedom)


SETTINGS = {
    "plain": PLAIN, "hot": with_(temperature=2.0), "cold": with_(temperature=0.4), "top-k": with_(top_k=5),
    "top-k 1": with_(top_k=1), "top-k beyond the vocabulary": with_(top_k=500), "top-p": with_(top_p=0.8),
    "tiny top-p": with_(top_p=0.01), "min-p": with_(min_p=0.1), "repetition": with_(repetition_penalty=1.8),
    "all": with_(temperature=0.8, top_k=9, top_p=0.9, min_p=0.05, repetition_penalty=1.3),
}


@pytest.mark.parametrize("name", list(SETTINGS))
def test_the_reference_agrees_with_transformers(name: str) -> None:
    pytest.importorskip("transformers")
    s = SETTINGS[name]
    np.testing.assert_allclose(reference(LOGITS, s, HISTORY), transformers_probabilities(LOGITS, s, HISTORY), atol=1e-9)


@pytest.mark.parametrize("name", list(SETTINGS))
def test_draws_follow_the_reference(name: str) -> None:
    s = SETTINGS[name]
    assert_drawn_from(reference(LOGITS, s, HISTORY), counts(LOGITS, s, HISTORY, 4000))


def test_every_combination_draws_from_the_same_support_as_the_reference() -> None:
    for k, p, m, r in itertools.product((0, 1, 6), (1.0, 0.7), (0.0, 0.2), (1.0, 1.5)):
        s = with_(top_k=k, top_p=p, min_p=m, repetition_penalty=r, temperature=1.7)
        expected = reference(LOGITS, s, HISTORY)
        found = counts(LOGITS, s, HISTORY, 300)
        assert found[expected == 0].sum() == 0, s
        assert found[expected > 0.05].all(), s


def test_greedy_is_the_argmax_whatever_else_is_set() -> None:
    generator = torch.Generator().manual_seed(2)
    for _ in range(50):
        logits = torch.randn(100, generator=generator)
        greedy = with_(temperature=0.0, top_k=3, top_p=0.5, seed=None)
        assert Sampler(greedy).choose(logits).token_id == int(logits.argmax())


def test_greedy_with_a_repetition_penalty_is_the_argmax_of_the_penalised_logits() -> None:
    s = with_(temperature=0.0, repetition_penalty=3.0)
    penalised = reference(LOGITS, with_(repetition_penalty=3.0), HISTORY)
    assert Sampler(s, HISTORY).choose(LOGITS).token_id == int(penalised.argmax()) != int(LOGITS.argmax())


def test_a_token_that_was_chosen_is_penalised_from_then_on() -> None:
    sampler = Sampler(with_(temperature=0.0, repetition_penalty=3.0))
    first = sampler.choose(torch.tensor([1.0, 2.0, 1.9])).token_id
    assert (first, sampler.choose(torch.tensor([1.0, 2.0, 1.9])).token_id) == (1, 2)


def test_the_probability_told_is_the_models_own_before_any_filter() -> None:
    choice = Sampler(with_(top_k=2, temperature=0.1)).choose(LOGITS, alternatives=5)
    probabilities = LOGITS.softmax(-1)
    assert choice.logprob == pytest.approx(float(probabilities[choice.token_id].log()), abs=1e-5)
    top = probabilities.topk(5)
    assert [i for i, _ in choice.likeliest] == top.indices.tolist()
    assert [p for _, p in choice.likeliest] == pytest.approx(top.values.tolist(), abs=1e-6)


def test_choosing_never_changes_the_logits() -> None:
    logits = LOGITS.clone()
    Sampler(SETTINGS["all"], HISTORY).choose(logits, alternatives=3)
    assert torch.equal(logits, LOGITS)


def test_a_seed_repeats_its_choices_and_another_does_not() -> None:
    def draw(seed: int | None) -> list[int]:
        sampler = Sampler(with_(seed=seed, temperature=2.0))
        return [sampler.choose(LOGITS).token_id for _ in range(40)]

    assert draw(5) == draw(5) != draw(6)
    assert draw(None) != draw(None)


def test_the_seed_that_was_chosen_is_told_and_repeats_the_run() -> None:
    first = Sampler(with_(seed=None, temperature=2.0))
    drawn = [first.choose(LOGITS).token_id for _ in range(30)]
    again = Sampler(with_(seed=first.seed, temperature=2.0))
    assert [again.choose(LOGITS).token_id for _ in range(30)] == drawn


def test_a_seeded_reply_repeats_exactly_whatever_ran_in_between(model_folder: Path, engine: Engine) -> None:
    engine.load(model_folder)
    seeded = Sampling(temperature=1.2, max_tokens=60, seed=77)
    replies: list[list[int]] = []
    for sampling, prompt in ((seeded, "The gulls"), (Sampling(max_tokens=20), "The gulls had"), (seeded, "The gulls")):
        job = Generate(engine.next_id(), prompt=prompt, sampling=sampling)
        end = engine.run(job)
        assert isinstance(end, Finished) and isinstance(end.result, GenerationStats)
        replies.append([p.token_id for e in engine.seen if isinstance(e, Tokens) and e.job_id == job.job_id
                        for p in e.pieces])
    assert replies[0] == replies[2] and len(replies[0]) == 60


def test_two_processes_with_one_seed_print_the_same_reply(llama_folder: Path) -> None:
    command = [sys.executable, "main.py", "generate", "--model", str(llama_folder), "--prompt", "The gulls", "--seed",
               "5", "--temperature", "1.5", "--max-tokens", "60", "--device", "cpu", "--quiet"]
    children = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    printed = [child.communicate(timeout=120) for child in children]
    assert [child.returncode for child in children] == [0, 0], printed
    assert printed[0] == printed[1] and len(printed[0][0]) > 20
