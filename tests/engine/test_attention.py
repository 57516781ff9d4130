"""Attention backends: the formula written out is the reference, and all others agree with it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from engine.errors import DynoError
from engine.models.gpt import attend, attend_plain
from engine.recipe import parse_recipe
from tests.engine.support import GREEDY, built, decode_logits, open_session, read_logits, reply

IDS = torch.randint(2, 300, (90,), generator=torch.Generator().manual_seed(5)).tolist()
MODELS = ["gpt2_folder", "llama_folder", "tied_llama_folder", "qwen3_folder", "mistral_folder", "gemma2_folder",
          "gemma3_folder", "neox_folder", "phi3_folder", "smollm3_folder"]
BACKENDS = ["plain", "math", "flash"]


def refuses(model: str, backend: str) -> bool:
    """Fused kernels know no capped scores."""
    return model == "gemma2_folder" and backend in ("math", "flash")


def by_loops(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, visible: list[list[bool]]) -> torch.Tensor:
    """softmax(Q K^T / sqrt(d)) V, a number at a time. q (1, H, T, d), k and v (1, K, S, d), visible [T][S]."""
    _, heads, tokens, size = q.shape
    each, out = heads // k.shape[1], torch.zeros(1, heads, tokens, size)
    for h in range(heads):
        keys, values = k[0, h // each].tolist(), v[0, h // each].tolist()
        for t in range(tokens):
            query = q[0, h, t].tolist()
            seen = [s for s in range(len(keys)) if visible[t][s]]
            scores = [sum(a * b for a, b in zip(query, keys[s], strict=True)) / math.sqrt(size) for s in seen]
            weights = [math.exp(score - max(scores)) for score in scores]
            for d in range(size):
                out[0, h, t, d] = sum(w * values[s][d] for w, s in zip(weights, seen, strict=True)) / sum(weights)
    return out


@pytest.mark.parametrize(("heads", "groups"), [(2, 2), (4, 2), (6, 2), (3, 1)])
@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("tokens", [1, 4])
@pytest.mark.parametrize("window", [None, 3])
def test_both_forms_of_attention_equal_a_loop_over_numbers(heads: int, groups: int, start: int, tokens: int,
                                                           window: int | None) -> None:
    generator, end = torch.Generator().manual_seed(1), start + tokens
    q = torch.randn(1, heads, tokens, 5, generator=generator)
    k, v = (torch.randn(1, groups, end, 5, generator=generator) for _ in range(2))
    visible = [[s <= t and (window is None or s > t - window) for s in range(end)] for t in range(start, end)]
    expected = by_loops(q, k, v, visible)
    mask = torch.tensor(visible)
    for form in (attend, attend_plain):
        torch.testing.assert_close(form(q, k, v, mask, False), expected, atol=2e-6, rtol=0)
        if start == 0 and window is None:  # the causal flag says what the mask says
            torch.testing.assert_close(form(q, k, v, None, tokens > 1), expected, atol=2e-6, rtol=0)
        if mask.all():
            torch.testing.assert_close(form(q, k, v, None, False), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("model", MODELS)
def test_every_backend_gives_the_logits_of_the_default(model: str, backend: str,
                                                       request: pytest.FixtureRequest) -> None:
    """A prompt at once, in chunks, and token by token; grouped queries, sliding windows, norms on queries and keys."""
    folder: Path = request.getfixturevalue(model)
    if refuses(model, backend):
        with pytest.raises(DynoError, match="caps its attention scores"):
            open_session(folder, parse_recipe(f"attention:backend={backend}"))
        return
    plain, session = open_session(folder), open_session(folder, parse_recipe(f"attention:backend={backend}"))
    expected = read_logits(plain, IDS)
    assert expected.std() > 0.3, "a flat model would prove nothing"
    torch.testing.assert_close(read_logits(session, IDS), expected, atol=1e-5, rtol=0)
    for chunk in (1, 7, 32):
        found = decode_logits(session, IDS, chunk)
        torch.testing.assert_close(found, decode_logits(plain, IDS, chunk), atol=1e-5, rtol=0)
        ends = [min(i + chunk, len(IDS)) - 1 for i in range(0, len(IDS), chunk)]
        torch.testing.assert_close(found, expected[ends], atol=2e-5, rtol=0)


@pytest.mark.parametrize("backend", ["default", *BACKENDS])
@pytest.mark.parametrize("model", MODELS)
def test_a_few_tokens_in_one_step_give_the_logits_of_single_steps(model: str, backend: str,
                                                                  request: pytest.FixtureRequest) -> None:
    """The step that checks proposals: 2 to 8 rows after a cache, across the end of a sliding window."""
    if refuses(model, backend):
        pytest.skip("refused, as the test above shows")
    recipe = "" if backend == "default" else f"attention:backend={backend}"
    session = open_session(request.getfixturevalue(model), parse_recipe(recipe))
    expected = decode_logits(session, IDS)
    for rows in (2, 3, 8):
        session.begin(IDS, len(IDS), reuse=False)
        session.read(IDS[:10])
        for start in range(10, len(IDS), rows):
            found = session.step(IDS[start:start + rows])
            torch.testing.assert_close(found, expected[start:start + rows], atol=2e-5, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("stack", ["bf16", "fp16", "autocast-bf16", "kv-cache:dtype=bf16", "kv-cache:dtype=int8",
                                   "kv-cache:dtype=int8,bf16", "prune-heads:amount=0.5"])
def test_backends_agree_in_every_dtype_of_activations_and_cache(model_folder: Path, backend: str, stack: str) -> None:
    plain = open_session(model_folder, parse_recipe(stack), native=False)
    session = open_session(model_folder, parse_recipe(f"{stack},attention:backend={backend}"))
    for read in (read_logits, decode_logits):
        expected = read(plain, IDS)
        change = float((read(session, IDS) - expected).norm() / expected.norm())
        assert change < (0.02 if "16" in stack else 1e-4), (read, change)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_backend_is_told_and_the_text_is_the_same(model_folder: Path, backend: str) -> None:
    session, variant = built(model_folder, f"attention:backend={backend}")
    told = variant.report.techniques[0]
    assert told.engaged and f"{session.config.n_layers} attention layers run" in told.detail
    assert reply(session, IDS)[0] == reply(open_session(model_folder), IDS, GREEDY)[0]


def test_only_the_plain_form_runs_in_the_plain_backend(model_folder: Path) -> None:
    _, variant = built(model_folder, "attention:backend=plain")
    assert all(block.attn.attend is attend_plain for block in variant.decoder.blocks)
    _, default = built(model_folder, "attention:backend=math")
    assert all(block.attn.attend is attend for block in default.decoder.blocks)
