"""The native token step against PyTorch's decoder: every family, cache, weight and instruction set of this machine."""

from __future__ import annotations

import dataclasses
import gc
import os
import random
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from engine.kernels.int4_weight import Int4PanelLinear
from engine.kernels.int8_dynamic import Int8DynamicLinear
from engine.kernels.linear import LinearKernel
from engine.kernels.native_step import NativeStep
from engine.kernels.token_step import MAX_ROWS, DecoderStep
from engine.messages import Sampling
from engine.models.cache import Int8KVCache, KVCache
from engine.models.gpt import Decoder, Norm
from engine.native.library import library, missing_reason, runnable
from engine.paths import PROBE_TEXT, bundled_model
from engine.recipe import Recipe, parse_recipe
from engine.session import Session
from engine.variant import Variant
from tests.conftest import GPT2, LLAMA, ROOT, write_model
from tests.engine.support import cpu, decode_logits, open_session, reply

pytestmark = pytest.mark.skipif(not cpu().native, reason=missing_reason() or "no native step")

IDS = torch.randint(2, 300, (48,), generator=torch.Generator().manual_seed(4)).tolist()
MODELS = ["gpt2_folder", "llama_folder", "tied_llama_folder", "qwen3_folder", "mistral_folder", "gemma2_folder",
          "gemma3_folder", "neox_folder", "phi3_folder", "smollm3_folder"]
CACHES = ["fp32", "bf16", "fp16", "int8"]
EXACT = 1e-5  # relative: as far as fp32 sums in another order are apart


class ByHand(nn.Module):
    """A linear layer in fp32 on the weight that a kernel says it holds, its activations rounded as the kernel does, or
    not at all."""

    def __init__(self, layer: LinearKernel, rounding: bool) -> None:
        super().__init__()
        self.weight, self.bias, self.kernel = layer.dense(), getattr(layer, "bias", None), layer.kernel
        self.block = 0
        if rounding and isinstance(layer, Int8DynamicLinear):
            self.block = layer.shape[1]
        elif rounding and isinstance(layer, Int4PanelLinear):
            self.block = 32

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.block:
            columns = x.shape[-1]
            parts = F.pad(x, (0, -columns % self.block)).unflatten(-1, (-1, self.block))
            scale = parts.abs().amax(dim=-1, keepdim=True).mul(1 / 127).clamp_min(1e-30)
            x = (parts / scale).round().mul(scale).flatten(-2)[..., :columns]
        return F.linear(x, self.weight, self.bias.float() if self.bias is not None else None)


def by_hand(variant: Variant, rounding: bool = True) -> Decoder:
    """The variant's decoder in fp32 throughout, on the numbers that its layers hold."""
    decoder = Decoder(variant.decoder.config)
    modules = dict(decoder.named_modules())
    for name, module in variant.decoder.named_modules():
        owner, _, leaf = name.rpartition(".")
        if isinstance(module, LinearKernel):
            setattr(modules[owner], leaf, ByHand(module, rounding))
        elif isinstance(module, Norm):
            modules[name].load_state_dict(module.state_dict())
    decoder.embed = variant.decoder.embed
    if decoder.positions is not None:
        decoder.positions = variant.decoder.positions
    decoder.embed.register_forward_hook(lambda module, ids, rows: rows.float())
    return decoder


def variant_of(folder: Path, recipe: str, native: bool = True) -> Variant:
    variant = open_session(folder, parse_recipe(recipe), native=native).active
    assert variant is not None and isinstance(variant.token_step, NativeStep) == native
    return variant


Run = Callable[[torch.Tensor, KVCache], torch.Tensor]


@torch.inference_mode()
def furthest(variant: Variant, step: Run, other: Run, ids: list[int], rows: tuple[int, ...] = (1,),
             exact_cache: bool = False) -> float:
    """The largest relative distance between the logits of two ways to read a text, part after part.

    exact_cache: the second keeps its keys and values in fp32.
    """
    a = variant.new_cache(len(ids))
    b = KVCache(variant.decoder.config, len(ids), torch.float32) if exact_cache else variant.new_cache(len(ids))
    if isinstance(b, Int8KVCache):
        b.dtype = torch.float32
    worst, at, turn = 0.0, 0, 0
    while at < len(ids):
        part = torch.tensor([ids[at:at + rows[turn % len(rows)]]])
        at, turn = at + part.shape[1], turn + 1
        found, expected = step(part, a), other(part, b)
        assert found.shape == expected.shape and found.dtype == torch.float32 and a.length == b.length == at
        worst = max(worst, float((found - expected).norm() / expected.norm()))
    return worst


def check(variant: Variant, isa: str, rows: tuple[int, ...] = (1,)) -> None:
    """Equal to the arithmetic by hand where nothing is rounded on the way. Where activations, keys or values are, one
    that falls the other way makes others fall: then both are as far from the truth as the rounding brings them."""
    reference = by_hand(variant)
    found = furthest(variant, step_with(variant, isa), reference, IDS, rows)
    if found >= EXACT:
        rounding = furthest(variant, reference, by_hand(variant, rounding=False), IDS, rows, exact_cache=True)
        assert found < 2 * rounding


def step_with(variant: Variant, isa: str) -> NativeStep:
    run = library(isa)
    assert run is not None
    step = NativeStep.of(variant.decoder, run)
    assert step is not None
    return step


@pytest.mark.parametrize("isa", runnable())
@pytest.mark.parametrize("model", MODELS)
def test_fp32_logits_are_pytorchs_over_200_tokens(model: str, isa: str, request: pytest.FixtureRequest) -> None:
    """Grouped queries, sliding windows, biases, norms on queries and keys, learned and rotary positions."""
    folder = request.getfixturevalue(model)
    variant, other = variant_of(folder, "fp32"), variant_of(folder, "fp32", native=False)
    ids = torch.randint(2, 300, (200,), generator=torch.Generator().manual_seed(8)).tolist()
    assert furthest(variant, step_with(variant, isa), other.decoder, ids) < EXACT


@pytest.mark.parametrize("isa", runnable())
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("model", MODELS)
def test_every_cache_holds_what_pytorch_would_have_written(model: str, cache: str, isa: str,
                                                           request: pytest.FixtureRequest) -> None:
    recipe, folder = f"kv-cache:dtype={cache}", request.getfixturevalue(model)
    variant, other = variant_of(folder, recipe), variant_of(folder, recipe, native=False)
    check(variant, isa, (1, 5, 3))
    step = step_with(variant, isa)
    mine, theirs = variant.new_cache(20), other.new_cache(20)
    with torch.inference_mode():
        step(torch.tensor([IDS[:MAX_ROWS]]), mine)
        DecoderStep(other.decoder)(torch.tensor([IDS[:MAX_ROWS]]), theirs)
    first = [t[:2, ..., :MAX_ROWS, :].float() for t in (mine.data, theirs.data)]  # later layers read rounded numbers
    apart = (first[0] - first[1]).abs()
    assert float(apart.max()) <= (1.0 if cache == "int8" else 2e-2) and float((apart > 1e-3).float().mean()) < 0.02


@pytest.mark.parametrize("isa", runnable())
@pytest.mark.parametrize("recipe", [
    "bf16,kv-cache:dtype=fp32", "fp16,kv-cache:dtype=fp32", "int8", "int8-dynamic:head=int8,bf16",
    "int8-weight:head=int8:embedding=int8", "int4", "int4-weight:group=64:head=int4",
    "int4-weight:group=128:fit=fit:head=int8", "heads-25,neurons-30,layers-10", "l1-50,fp16",
    "prune-heads:amount=0.5,prune-neurons:amount=0.37,int8-weight,kv-int8"])
@pytest.mark.parametrize("model", ["gpt2_folder", "tied_llama_folder"])
def test_every_weight_gives_the_logits_of_the_numbers_it_holds(model: str, recipe: str, isa: str,
                                                               request: pytest.FixtureRequest) -> None:
    check(variant_of(request.getfixturevalue(model), recipe), isa)


@pytest.mark.parametrize("recipe", ["bf16", "fp16", "int8", "int8-weight", "int4", "kv-int8", "l1-50,int8"])
@torch.inference_mode()
def test_it_makes_tokens_as_well_as_pytorch_does(recipe: str) -> None:
    """Mean loss on a text through single steps: the step's arithmetic against PyTorch's, on the bundled model."""
    loss = []
    for native in (True, False):
        session = open_session(bundled_model(), parse_recipe(recipe), native=native)
        ids = session.tokenizer.encode(PROBE_TEXT.read_text(encoding="utf-8"))[:200]
        logits = decode_logits(session, ids)
        loss.append(float(F.cross_entropy(logits[:-1], torch.tensor(ids[1:]))))
    assert abs(loss[0] - loss[1]) < 0.01


@pytest.mark.parametrize("recipe", ["fp32", "bf16", "int8", "int8-weight", "int4", "kv-int8"])
@pytest.mark.parametrize("model", MODELS)
@torch.inference_mode()
def test_a_row_gives_the_same_bits_whatever_is_beside_it_and_however_many_threads_run(
        model: str, recipe: str, request: pytest.FixtureRequest) -> None:
    variant = variant_of(request.getfixturevalue(model), recipe)
    threads = torch.get_num_threads()
    found = []
    try:
        for count, rows in ((1, 1), (2, 1), (3, 1), (2, MAX_ROWS), (1, 3), (4, 5)):
            torch.set_num_threads(count)
            cache = variant.new_cache(len(IDS))
            found.append(torch.cat([variant.step(torch.tensor([IDS[i:i + rows]]), cache)[0]
                                    for i in range(0, len(IDS), rows)]))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_random_shapes_agree_with_the_decoder(tmp_path: Path) -> None:
    """Head counts, sizes and vocabularies that are multiples of nothing."""
    rng = random.Random(5)
    for case in range(24):
        kv_heads, queries, head = rng.choice([1, 2, 3]), rng.choice([1, 2, 3, 5]), rng.choice([2, 6, 8, 10, 24, 34, 80])
        vocabulary = rng.randint(300, 600)
        if rng.random() < 0.5:
            raw = LLAMA | {"hidden_size": rng.randint(3, 90), "num_attention_heads": kv_heads * queries,
                           "num_key_value_heads": kv_heads, "head_dim": head, "vocab_size": vocabulary,
                           "intermediate_size": rng.randint(1, 200),
                           "num_hidden_layers": rng.randint(1, 3), "tie_word_embeddings": rng.random() < 0.5,
                           "hidden_act": rng.choice(["silu", "gelu", "gelu_pytorch_tanh", "relu"])}
        else:
            raw = GPT2 | {"n_embd": kv_heads * queries * head, "n_head": kv_heads * queries, "vocab_size": vocabulary,
                          "n_inner": rng.randint(1, 200), "n_layer": rng.randint(1, 3),
                          "activation_function": rng.choice(["gelu_new", "gelu", "relu"])}
        folder = write_model(tmp_path / str(case), raw, seed=case)
        recipe = rng.choice(["fp32", "kv-cache:dtype=bf16", "int8-weight:head=int8"])
        variant = variant_of(folder, recipe)
        for isa in runnable():
            check(variant, isa, (1, rng.randint(2, 8)))


@pytest.mark.parametrize(("window", "context"), [(None, 1300), (700, 1300), (20, 600)])
@torch.inference_mode()
def test_a_context_is_read_to_its_last_position(tmp_path: Path, window: int | None, context: int) -> None:
    """Attention works in stretches of 512 positions; a sliding window begins within one."""
    folder = write_model(tmp_path / "long", LLAMA | {"max_position_embeddings": context, "sliding_window": window,
                                                     "model_type": "mistral", "num_hidden_layers": 1})
    variant, other = variant_of(folder, "fp32"), variant_of(folder, "fp32", native=False)
    ids = torch.randint(2, 300, (1, context), generator=torch.Generator().manual_seed(2))
    expected = other.forward(ids, None, last_only=False)[0]
    cache = variant.new_cache(context)
    variant.forward(ids[:, :context // 2], cache)
    step = variant.token_step
    for at in range(context // 2, context):
        found = step(ids[:, at:at + 1], cache)[0, 0]
        if at % 37 == 0 or at >= context - 3:
            assert float((found - expected[at]).norm() / expected[at].norm()) < EXACT, at
    with pytest.raises(IndexError, match="do not fit the cache"):
        step(ids[:, :1], cache)


@pytest.mark.parametrize("model", ["bundled", "stories260K"])
def test_greedy_texts_are_the_same_without_it(model: str, request: pytest.FixtureRequest) -> None:
    folder = bundled_model() if model == "bundled" else request.getfixturevalue("stories")
    texts = []
    for native in (True, False):
        session = open_session(folder, native=native)
        sampling = Sampling(temperature=0, max_tokens=150)
        texts.append(reply(session, session.tokenizer.encode("The old boat"), sampling)[0])
    assert texts[0] == texts[1] and len(texts[0]) > 30


def test_token_ids_that_do_not_exist_are_refused(llama_folder: Path) -> None:
    variant = variant_of(llama_folder, "fp32")
    with pytest.raises(IndexError):
        variant.step(torch.tensor([[10_000_000]]), variant.new_cache(8))


def test_other_ways_to_compute_a_token_are_kept_where_a_recipe_asks_for_them(llama_folder: Path) -> None:
    for recipe in ("autocast-bf16", "attention:backend=plain", "compile"):
        session = open_session(llama_folder)
        steps = session.build(parse_recipe(recipe))
        try:
            while True:
                next(steps)
        except StopIteration as done:
            assert not isinstance(done.value.token_step, NativeStep)
            assert "native" not in " ".join(kernel for kernel, _ in done.value.report.kernels)


def test_a_variant_that_is_let_go_frees_its_step(llama_folder: Path) -> None:
    variant = variant_of(llama_folder, "fp32")
    step, decoder = weakref.ref(variant.token_step), weakref.ref(variant.decoder)
    gc.disable()
    try:
        del variant
        assert step() is None and decoder() is None
    finally:
        gc.enable()


@torch.inference_mode()
def test_two_threads_that_ask_at_once_both_get_their_numbers(llama_folder: Path, tied_llama_folder: Path) -> None:
    variants = [variant_of(llama_folder, "fp32"), variant_of(tied_llama_folder, "int8")]

    def text(variant: Variant) -> torch.Tensor:
        with torch.inference_mode():
            cache = variant.new_cache(len(IDS))
            return torch.cat([variant.step(torch.tensor([[token]]), cache)[0] for token in IDS])

    expected = [text(v) for v in variants]
    found: list[list[torch.Tensor]] = [[], []]
    threads = [threading.Thread(target=lambda i=i: found[i].extend(text(variants[i]) for _ in range(8)))
               for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        assert len(found[i]) == 8 and all(torch.equal(expected[i], other) for other in found[i])


@pytest.mark.parametrize(("value", "words"), [("off", "switched off by GPT_DYNO_NATIVE"),
                                              ("sse9", "names no instruction set"),
                                              ("neon" if "avx2" in runnable() else "avx2", "cannot run")])
def test_the_environment_chooses_and_doctor_says_why_it_is_missing(value: str, words: str) -> None:
    environment = os.environ | {"GPT_DYNO_NATIVE": value}
    child = subprocess.run([sys.executable, "main.py", "doctor"], cwd=ROOT, env=environment, capture_output=True,
                           text=True, timeout=120)
    assert child.returncode == 0 and words in child.stdout and "native token step: missing" in child.stdout


@pytest.mark.parametrize("isa", runnable())
def test_the_environment_names_an_instruction_set(isa: str) -> None:
    child = subprocess.run([sys.executable, "-c", "from engine.native.library import library; print(library().name)"],
                           cwd=ROOT, env=os.environ | {"GPT_DYNO_NATIVE": isa}, capture_output=True, text=True,
                           timeout=60)
    chosen = library(isa)
    assert chosen is not None and child.stdout.strip() == chosen.name


def test_without_the_library_everything_is_built_for_pytorch(llama_folder: Path) -> None:
    plain = open_session(llama_folder, native=False)
    for recipe in ("fp32", "bf16", "int8", "int8-weight", "int4"):
        report = plain.apply(parse_recipe(recipe)).report
        assert all("native" not in kernel for kernel, _ in report.kernels)


@pytest.mark.parametrize(("recipe", "words"), [
    ("int8", "native step, "), ("autocast-bf16", "PyTorch, not the native step. Autocast"),
    ("attention:backend=plain", "PyTorch, not the native step. Attention"),
    ("bf16,attention:backend=math", "PyTorch, not the native step. Attention")])
def test_the_report_says_how_single_tokens_are_computed_and_why_not_natively(llama_folder: Path, recipe: str,
                                                                            words: str) -> None:
    variant = open_session(llama_folder, parse_recipe(recipe)).active
    assert variant is not None and variant.report.token_step.startswith(words)
    assert isinstance(variant.token_step, NativeStep) == words.startswith("native")


def test_the_report_names_what_is_missing_where_there_is_no_native_step(llama_folder: Path) -> None:
    device = dataclasses.replace(cpu(), native="", native_missing="There was no compiler.")
    session = Session.open(llama_folder, device)
    session.apply(Recipe())
    assert session.active is not None
    assert session.active.report.token_step == "PyTorch, not the native step. There was no compiler."


def test_the_report_names_the_layers_that_the_native_step_cannot_read(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "wide", LLAMA | {"intermediate_size": 65_024, "num_hidden_layers": 2})
    variant = open_session(folder, parse_recipe("int8")).active
    assert variant is not None and not isinstance(variant.token_step, NativeStep)
    told = variant.report.token_step
    assert told.startswith("PyTorch, not the native step. It cannot read 2 layers (") and told.endswith(").")
