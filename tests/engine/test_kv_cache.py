"""The KV cache in every dtype: what it weighs, how far its numbers lie from the ones put in, and what that does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.models.cache import Int8KVCache, KVCache
from engine.models.config import ModelConfig, cache_bytes_per_token
from engine.models.devices import torch_dtype
from engine.paths import PROBE_TEXT, bundled_model
from engine.recipe import parse_recipe
from tests.conftest import LLAMA
from tests.engine.support import GREEDY, built, decode_logits, open_session, read_logits, reply, score

IDS = torch.randint(2, 300, (60,), generator=torch.Generator().manual_seed(4)).tolist()
DTYPES = ["fp32", "bf16", "fp16", "int8"]
MODELS = ["gpt2_folder", "llama_folder", "tied_llama_folder", "qwen3_folder", "mistral_folder"]
CONFIG = ModelConfig.from_hf(LLAMA)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cast", ["", ",bf16", ",fp16", ",autocast-bf16", ",prune-heads:amount=0.5", ",layers-10"])
def test_a_cache_weighs_what_the_report_says(model: str, dtype: str, cast: str,
                                             request: pytest.FixtureRequest) -> None:
    session, variant = built(request.getfixturevalue(model), f"kv-cache:dtype={dtype}{cast}")
    report, c = variant.report, variant.decoder.config
    assert report.cache_dtype == dtype
    per_head = c.head_dim + 4 if dtype == "int8" else c.head_dim * torch_dtype(dtype).itemsize
    assert report.kv_bytes_per_token == 2 * c.n_layers * c.n_kv_heads * per_head
    for capacity in (1, 100, 256):
        cache = variant.new_cache(capacity)
        assert cache.capacity == capacity and cache.nbytes == capacity * report.kv_bytes_per_token
        assert cache.nbytes == sum(t.untyped_storage().nbytes() for t in cache.tensors())
    session.begin(IDS, 100, reuse=False)
    assert session._cache is not None and session._cache.nbytes == 128 * report.kv_bytes_per_token
    assert torch.isfinite(read_logits(session, IDS)).all()
    told = next(t for t in report.techniques if t.key == "kv-cache")
    # Autocast comes later in the recipe, but the cache it would have had is the one to compare with.
    before = cache_bytes_per_token(c, _without(cast))
    assert f"{report.kv_bytes_per_token:,} bytes per token instead of {before:,}" in told.detail
    assert told.bytes_before == told.bytes_after, "bytes per token are no bytes of the model"


def _without(cast: str) -> str:
    return "bf16" if "bf16" in cast else "fp16" if "fp16" in cast else "fp32"


def test_without_a_type_of_its_own_the_cache_has_that_of_the_activations(model_folder: Path) -> None:
    for recipe, dtype in (("fp32", "fp32"), ("bf16", "bf16"), ("fp16", "fp16"), ("autocast-bf16", "bf16"),
                          ("autocast:dtype=fp16", "fp16"), ("int8", "fp32"), ("int4,bf16", "bf16")):
        _, variant = built(model_folder, recipe)
        assert variant.report.cache_dtype == dtype
        assert {t.dtype for t in variant.new_cache(3).tensors()} == {torch_dtype(dtype)}


@pytest.mark.parametrize("size", [1e-6, 1.0, 300.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_int8_keys_and_values_come_back_within_half_a_step(size: float, dtype: torch.dtype) -> None:
    cache = Int8KVCache(CONFIG, 40, dtype)
    generator = torch.Generator().manual_seed(1)
    for layer in range(CONFIG.n_layers):
        k, v = (size * torch.randn(1, CONFIG.n_kv_heads, 40, CONFIG.head_dim, generator=generator) for _ in range(2))
        k[:, 0, 3] = 0
        for start, end in ((0, 25), (25, 26), (26, 40)):
            found = cache.update(layer, k[:, :, start:end], v[:, :, start:end], start, None)
            for mine, real in zip(found, (k, v), strict=True):
                assert mine.dtype == dtype and mine.shape[2] == end
                step = real[:, :, :end].abs().amax(dim=-1, keepdim=True) / 127
                # Half a step, and what the dtype that is read cannot hold: of the scale, and of the product.
                slack = 0.5 * step * (1 + 1e-5) + 2 * torch.finfo(dtype).eps * real[:, :, :end].abs() + _tiny(dtype)
                assert ((mine.float() - real[:, :, :end]).abs() <= slack).all()
        assert not found[0][:, 0, 3].any()


def _tiny(dtype: torch.dtype) -> float:
    """127 times the smallest number fp16 knows: its error in a scale below that."""
    return 127 * 2.0 ** -25 if dtype == torch.float16 else 0.0


def test_a_single_large_number_costs_only_its_own_head_and_token() -> None:
    cache = Int8KVCache(CONFIG, 4, torch.float32)
    k = torch.randn(1, 2, 4, 16, generator=torch.Generator().manual_seed(0))
    k[0, 0, 1, 5] = 1e4
    found, _ = cache.update(0, k, k, 0, None)
    off = (found - k).abs().amax(dim=-1)[0]  # (K, T)
    assert off[0, 1] > 1 and (off[1] < 0.02).all() and (off[0, [0, 2, 3]] < 0.02).all()


@pytest.mark.parametrize("make", [lambda: KVCache(CONFIG, 8, torch.bfloat16),
                                  lambda: Int8KVCache(CONFIG, 8, torch.float32)], ids=["bf16", "int8"])
def test_a_cache_that_grows_takes_its_content_along_bit_for_bit(make: object) -> None:
    old, generator = make(), torch.Generator().manual_seed(2)  # type: ignore[operator]
    for layer in range(CONFIG.n_layers):
        k, v = (torch.randn(1, 2, 5, 16, generator=generator) for _ in range(2))
        old.update(layer, k, v, 0, None)
    old.length = 5
    new = make()  # type: ignore[operator]
    new.take(old, 4)
    assert new.length == 4
    for mine, theirs in zip(new.tensors(), old.tensors(), strict=True):
        assert torch.equal(mine[..., :4, :], theirs[..., :4, :])
    old.truncate(2)
    assert old.length == 2


# Largest change of the logits (Frobenius norm, relative) that the dtype of the cache may make on a random tiny model.
LOGITS = {"bf16": 0.01, "fp16": 0.001, "int8": 0.02}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("dtype", list(LOGITS))
def test_the_logits_stay_close_to_those_of_an_fp32_cache(model: str, dtype: str,
                                                         request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(model)
    exact, session = open_session(folder), open_session(folder, parse_recipe(f"kv-cache:dtype={dtype}"))
    for read in (read_logits, decode_logits):
        expected = read(exact, IDS)
        change = float((read(session, IDS) - expected).norm() / expected.norm())
        assert 0 < change < LOGITS[dtype], (read, change)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_prompt_in_chunks_and_single_tokens_give_the_same_logits(model_folder: Path, dtype: str) -> None:
    session = open_session(model_folder, parse_recipe(f"kv-cache:dtype={dtype}"))
    whole = read_logits(session, IDS)
    torch.testing.assert_close(decode_logits(session, IDS), whole, atol=1e-4 if dtype in ("fp32", "int8") else 0.05,
                               rtol=0)
    torch.testing.assert_close(decode_logits(session, IDS, chunk=20), whole[19::20], rtol=0,
                               atol=1e-4 if dtype in ("fp32", "int8") else 0.05)


def test_an_fp32_cache_under_fp32_weights_changes_no_bit(model_folder: Path) -> None:
    plain, session = open_session(model_folder), open_session(model_folder, parse_recipe("kv-cache:dtype=fp32"))
    assert torch.equal(read_logits(session, IDS), read_logits(plain, IDS))
    assert torch.equal(decode_logits(session, IDS), decode_logits(plain, IDS))


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "int8"])
def test_the_perplexity_of_the_bundled_model_changes_by_less_than_one_percent(dtype: str) -> None:
    text = PROBE_TEXT.read_text(encoding="utf-8")
    session = open_session(bundled_model())
    plain = score(session, text, 256, 2)
    session.apply(parse_recipe(f"kv-cache:dtype={dtype}"))
    assert score(session, text, 256, 2) == pytest.approx(plain, rel=0.01)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_switch_of_the_cache_in_mid_reply_reads_everything_again_in_the_new_format(model_folder: Path,
                                                                                    dtype: str) -> None:
    recipe = parse_recipe(f"kv-cache:dtype={dtype}")
    session = open_session(model_folder)
    made, stats = reply(session, IDS, GREEDY, switches={20: recipe})
    assert len(made) == GREEDY.max_tokens and stats.recipe == f"fp32 → KV {dtype}"
    assert session._cache is not None and isinstance(session._cache, Int8KVCache) == (dtype == "int8")
    fresh = open_session(model_folder, recipe)
    fresh.begin(IDS, 256, reuse=False)
    fresh.read([*IDS, *made[:19]])
    for token in made[19:-1]:
        fresh.step([token])
    assert fresh._cache is not None
    for mine, theirs in zip(session._cache.tensors(), fresh._cache.tensors(), strict=True):
        length = len(IDS) + len(made) - 1
        assert torch.equal(mine[..., :length, :], theirs[..., :length, :])
