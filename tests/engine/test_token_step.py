"""PyTorch's step that makes tokens without calling modules: the same bits as the decoder's own forward pass."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from engine.kernels.flat_step import FlatStep
from engine.kernels.token_step import MAX_ROWS, DecoderStep
from engine.models.cache import KVCache
from engine.models.config import ModelConfig
from engine.models.gpt import Decoder
from engine.recipe import parse_recipe
from tests.conftest import GPT2, LLAMA
from tests.engine.support import open_session

IDS = torch.randint(2, 300, (48,), generator=torch.Generator().manual_seed(4)).tolist()
MODELS = ["gpt2_folder", "llama_folder", "tied_llama_folder", "qwen3_folder", "mistral_folder"]
FAMILIES = ["gemma2_folder", "gemma3_folder", "neox_folder", "phi3_folder", "smollm3_folder"]
RECIPES = ["fp32", "bf16", "fp16", "autocast-bf16", "int8", "int8,bf16", "int8-weight:head=int8:embedding=int8", "int4",
           "kv-cache:dtype=bf16", "kv-int8", "kv-cache:dtype=fp32,bf16", "heads-25,neurons-30,layers-10",
           "attention:backend=plain", "attention:backend=flash"]


@pytest.mark.parametrize(("model", "recipe"), [
    *((model, recipe) for model in MODELS for recipe in RECIPES),
    *((model, recipe) for model in FAMILIES for recipe in ("fp32", "bf16", "int8", "heads-25,neurons-30,layers-10"))])
@torch.inference_mode()
def test_a_step_gives_the_bits_of_the_decoder_and_leaves_its_cache(model: str, recipe: str,
                                                                   request: pytest.FixtureRequest) -> None:
    variant = open_session(request.getfixturevalue(model), parse_recipe(recipe), native=False).active
    assert variant is not None
    plain = DecoderStep(variant.decoder)
    mine, theirs = variant.new_cache(len(IDS)), variant.new_cache(len(IDS))
    for cache in (mine, theirs):
        variant.forward(torch.tensor([IDS[:9]]), cache)
    at = 9
    for rows in (1, 1, 3, 1, MAX_ROWS, 1, 1, 1):
        ids = torch.tensor([IDS[at:at + rows]])
        with variant.context():
            expected = plain(ids, theirs).float()
        assert torch.equal(variant.step(ids, mine), expected), rows
        at += rows
        assert mine.length == theirs.length == at
        for a, b in zip(mine.tensors(), theirs.tensors(), strict=True):
            assert torch.equal(a[..., :at, :], b[..., :at, :])


@pytest.mark.parametrize("native", [True, False])
def test_a_step_never_changes_the_numbers_it_was_given(llama_folder: Path, native: bool) -> None:
    """New tensors are added to in place; the embedding's row and the keys before are not."""
    session = open_session(llama_folder, native=native)
    assert session.active is not None
    session.begin(IDS, len(IDS), reuse=False)
    session.read(IDS[:9])
    assert session._cache is not None
    before = [t[..., :9, :].clone() for t in session._cache.tensors()]
    row = session.masters["embed.weight"][IDS[9]].clone()
    first = session.step(IDS[9:10])
    assert torch.equal(session.masters["embed.weight"][IDS[9]], row)
    assert all(torch.equal(t[..., :9, :], b) for t, b in zip(session._cache.tensors(), before, strict=True))
    session.forget(1)
    assert torch.equal(session.step(IDS[9:10]), first)


@pytest.mark.parametrize("norms", [False, True], ids=["plain", "normed"])
@pytest.mark.parametrize("base", [GPT2, LLAMA], ids=["learned", "rotary"])
@torch.inference_mode()
def test_every_mixture_of_positions_and_norms_stores_the_keys_of_the_decoder(base: dict[str, object],
                                                                           norms: bool) -> None:
    config = dataclasses.replace(ModelConfig.from_hf(base), qk_norm=norms)
    decoder = Decoder(config)
    for block in decoder.blocks:
        for norm in (block.attn.q_norm, block.attn.k_norm):  # type: ignore[union-attr]
            if norm is not None:
                norm.weight.uniform_(0.5, 1.5)  # type: ignore[union-attr, operator]
    flat, plain = FlatStep(decoder), DecoderStep(decoder)
    mine, theirs = KVCache(config, 4, torch.float32), KVCache(config, 4, torch.float32)
    for token in IDS[:4]:
        ids = torch.tensor([[token]])
        assert torch.equal(flat(ids, mine), plain(ids, theirs))
    assert torch.equal(mine.data, theirs.data)
