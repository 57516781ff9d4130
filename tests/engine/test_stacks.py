"""Techniques on top of each other: whatever is stacked builds, runs, weighs what it says, and leaves no trace."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
import torch

from engine.errors import DynoError
from engine.messages import EngagedReport
from engine.recipe import Recipe, parse_recipe
from engine.session import Session
from engine.techniques.autocast import AutocastOptions
from engine.techniques.draft import Draft
from engine.techniques.precision import PrecisionOptions
from engine.techniques.prune_l1 import PruneL1Options
from engine.techniques.prune_neurons import PruneNeuronsOptions
from engine.variant import Variant, device_for, drafted
from tests.engine.support import (
    built,
    cpu,
    decode_logits,
    finish,
    hash_of,
    kernels,
    live_bytes,
    open_session,
    random_recipe,
    read_logits,
    runnable,
)

IDS = torch.randint(2, 300, (30,), generator=torch.Generator().manual_seed(4)).tolist()
MODELS = ["gpt2_folder", "llama_folder", "tied_llama_folder", "qwen3_folder", "mistral_folder"]
RECIPES_PER_MODEL = 40


def draft_of(session: Session, recipe: Recipe) -> Draft:
    """What was planned for a recipe before anything was built."""
    return finish(drafted(session.masters, recipe, device_for(cpu(), recipe), session._calibrator))[0]


def check_report(session: Session, variant: Variant) -> EngagedReport:
    """The bytes and shapes a report gives against what is alive and what was planned; returns it."""
    report, draft = variant.report, draft_of(session, variant.recipe)
    assert report.weight_bytes == live_bytes(variant), variant.recipe.label
    # A matrix that oneDNN has packed is counted as allocated; the plan knows it without padding.
    planned = {draft.place(name): draft.layer_bytes(layer) for name, layer in draft.layers.items()}
    padding = sum(layer.nbytes - planned[layer.name] - biases(variant, layer.name) for layer in report.layers
                  if layer.kernel.startswith("oneDNN"))
    assert padding >= 0
    assert report.weight_bytes == draft.total_bytes() + padding, variant.recipe.label
    assert [t.key for t in report.techniques] == [o.key for o in variant.recipe.options]
    assert all(t.detail.endswith(".") for t in report.techniques)
    steps = [(t.bytes_before, t.bytes_after) for t in report.techniques]
    sizes = [report.baseline_bytes, *(after for _, after in steps)]
    assert [before for before, _ in steps] == sizes[:-1] and sizes[-1] == draft.total_bytes(), "one basis for all"
    assert {layer.name: layer.shape for layer in report.layers} == {
        draft.place(name): layer.shape for name, layer in draft.layers.items()}
    for capacity in (7, 128):
        assert variant.new_cache(capacity).nbytes == capacity * report.kv_bytes_per_token
    assert all(0 <= layer.sparsity <= 1 and 0 <= layer.error < 10 for layer in report.layers)
    return report


def biases(variant: Variant, name: str) -> int:
    """Bytes of a layer's bias."""
    bias = getattr(kernels(variant)[name], "bias", None)
    return 0 if bias is None else int(bias.nbytes)


@pytest.mark.parametrize("model", MODELS)
def test_random_stacks_build_run_weigh_what_they_say_and_leave_no_trace(model: str,
                                                                       request: pytest.FixtureRequest) -> None:
    session = open_session(request.getfixturevalue(model))
    masters, plain, decoded = hash_of(session.masters), read_logits(session, IDS), decode_logits(session, IDS[:6])
    rng, used, seen = random.Random(model), set(), set()
    for _ in range(RECIPES_PER_MODEL):
        recipe = random_recipe(rng)
        variant = session.apply(recipe)
        used |= {options.key for options in recipe.options}
        check_report(session, variant)
        seen |= {kernel for kernel, _ in variant.report.kernels}
        assert torch.isfinite(read_logits(session, IDS)).all(), recipe
        assert torch.isfinite(decode_logits(session, IDS[:6])).all(), recipe
        session._built.clear()
        session.apply(Recipe())
        assert torch.equal(read_logits(session, IDS), plain), recipe
        assert torch.equal(decode_logits(session, IDS[:6]), decoded), recipe
    assert used == {technique.key for technique in runnable()} and len(seen) >= 6
    assert hash_of(session.masters) == masters


@pytest.mark.parametrize("model", ["gpt2_folder", "llama_folder"])
def test_a_random_stack_gives_the_same_bits_in_a_session_of_its_own(model: str, request: pytest.FixtureRequest) -> None:
    folder, rng = request.getfixturevalue(model), random.Random(5)
    session = open_session(folder)
    for _ in range(12):
        recipe = random_recipe(rng)
        session.apply(recipe)
        assert torch.equal(read_logits(session, IDS), read_logits(open_session(folder, recipe), IDS)), recipe


def test_every_stack_of_techniques_runs_and_reports_what_engaged(model_folder: Path) -> None:
    options = [PruneNeuronsOptions(0.25), PruneL1Options(0.4), parse_recipe("int8").options[0],
               PrecisionOptions("bf16"), AutocastOptions("bf16")]
    ran = 0
    for size in range(1, len(options) + 1):
        for chosen in itertools.combinations(options, size):
            try:
                recipe = Recipe(chosen)
            except DynoError:
                continue
            session = open_session(model_folder, recipe)
            assert session.active is not None
            report = check_report(session, session.active)
            assert torch.isfinite(read_logits(session, IDS)).all()
            assert all(t.engaged and t.detail for t in report.techniques), recipe.label
            inner = [layer for layer in report.layers if layer.name != "head"]
            if recipe.get("int8-dynamic"):
                assert {layer.dtype for layer in inner} == {"int8"}
            elif recipe.get("precision"):
                assert {layer.dtype for layer in inner} == {"bf16"}
            if recipe.get("prune-l1"):
                assert report.sparsity == pytest.approx(0.4, abs=0.001)
            ran += 1
    assert ran == 23  # 31 sets, less the 8 that hold both precision and autocast


@pytest.mark.parametrize(("text", "dense_text"), [
    ("bf16,int8,l1-50,neurons-30", "neurons-30,l1-50"),
    ("int8-weight-only,wanda-50,heads-25", "heads-25,wanda-50"),
    ("layers-10,sparse-2-4,int8,fp16", "layers-10,sparse-2-4"),
])
def test_the_full_stack_prunes_before_it_quantizes(llama_folder: Path, text: str, dense_text: str) -> None:
    session, variant = built(llama_folder, text)
    dense_session, dense = built(llama_folder, dense_text)
    assert session.config == dense_session.config
    for name, layer in kernels(dense).items():
        if name != "head":
            stacked = kernels(variant)[name]
            assert stacked.shape == layer.shape
            assert not stacked.dense()[layer.dense() == 0].any()


@pytest.mark.parametrize("rounding", ["", ",bf16", ",int8", ",int8-weight-only", ",int4"])
@pytest.mark.parametrize("pruning", ["wanda-50", "l1-50", "prune-random:amount=0.2", "prune-2-4"])
def test_pruning_counts_the_zeros_that_the_layers_end_up_with_and_claims_no_kernel(
        llama_folder: Path, pruning: str, rounding: str) -> None:
    _, variant = built(llama_folder, pruning + rounding)
    first, *others = variant.report.techniques
    inner = {name: kernel.dense() for name, kernel in kernels(variant).items() if name != "head"}
    zeros = sum(int((weight == 0).sum()) for weight in inner.values())
    total = sum(weight.numel() for weight in inner.values())
    assert first.detail.startswith(f"{zeros:,} of {total:,} weights are zero")
    assert first.kernels == () and first.bytes_before == first.bytes_after == variant.report.baseline_bytes
    for told in others:
        assert sum(count for _, count in told.kernels) == told.layers_touched
    chosen = sum(round(la.sparsity * la.shape[0] * la.shape[1]) for la in built(llama_folder, pruning)[1].report.layers
                 if la.name != "head")
    assert (" rounding " in first.detail) == (zeros != chosen)
