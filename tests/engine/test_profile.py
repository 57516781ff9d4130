"""Why it is not faster: the parts add up, the floor is bytes over bandwidth, and sentences follow from figures."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch.autograd.profiler_util import FunctionEventAvg

from engine import profile
from engine.errors import DynoError
from engine.messages import Cancel, Cancelled, Explain, Failed, Finished, Generate, Progress, SpeedReport
from engine.models.devices import with_free_bytes
from engine.profile import (
    ATTENTION,
    MATMUL,
    REST,
    SMALL,
    about_products,
    bytes_read,
    explain,
    last_level_bytes,
    memory_bandwidth,
    own_times,
    part_of,
)
from engine.recipe import parse_recipe
from engine.variant import Variant
from tests.conftest import LLAMA, write_model
from tests.engine.support import GREEDY, Engine, built, cpu, decode_logits, finish, kernels, open_session

MODELS = ["gpt2_folder", "llama_folder", "tied_llama_folder"]
RECIPES = ["fp32", "bf16", "autocast-bf16", "int8", "int8-dynamic:head=int8", "int8-weight-only", "int4", "l1-50",
           "kv-int8", "neurons-30,int4-weight:head=int4:embedding=int8", "attention:backend=plain", "lookup"]


def embedding_and_norms(variant: Variant) -> tuple[int, int]:
    """Bytes of the embedding's own memory (none where it is the head's or the file's), and of norms and positions."""
    decoder, layers = variant.decoder, {layer.name: layer for layer in variant.report.layers}
    linear = {id(p) for layer in kernels(variant).values() for p in (*layer.parameters(), *layer.buffers())}
    tensors = list(decoder.embed.parameters()) + list(decoder.embed.buffers())
    embedding = 0 if layers["head"].shared else sum(t.nbytes for t in tensors)
    known = linear | {id(t) for t in tensors}
    return embedding, sum(p.nbytes for p in decoder.parameters() if id(p) not in known)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("model", MODELS)
def test_a_token_reads_all_weights_but_the_embedding_and_one_row_of_it(model: str, recipe: str,
                                                                      request: pytest.FixtureRequest) -> None:
    session, variant = built(request.getfixturevalue(model), recipe)
    embedding, norms = embedding_and_norms(variant)
    row = 4 * session.config.hidden_size
    assert bytes_read(variant) - row == variant.report.weight_bytes - embedding - norms
    assert norms < 0.02 * variant.report.weight_bytes + 4 * (session.config.context + 20) * session.config.hidden_size


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_parts_add_up_and_the_floor_is_bytes_over_bandwidth(llama_folder: Path, recipe: str) -> None:
    _, variant = built(llama_folder, recipe)
    report = finish(explain(variant, 40))
    assert report.recipe == variant.recipe.label and report.context == 40
    assert report.threads == torch.get_num_threads()
    assert [share.part for share in report.shares] == [MATMUL, ATTENTION, SMALL, REST]
    assert all(share.seconds >= 0 for share in report.shares)
    assert sum(share.seconds for share in report.shares) == pytest.approx(report.token_s, rel=1e-6)
    assert report.tokens_per_s == pytest.approx(1 / report.token_s)
    assert report.weight_bytes == bytes_read(variant)
    assert report.cache_bytes == 40 * variant.report.kv_bytes_per_token
    assert report.bandwidth > 0
    assert report.floor_s == pytest.approx((report.weight_bytes + report.cache_bytes) / report.bandwidth)
    assert report.shares[0].seconds > 0 and report.shares[0].calls >= len(variant.report.layers)
    assert report.shares[1].calls > 0 or "plain" in recipe
    seconds = [spent for _, spent, _ in report.operators]
    assert 0 < len(seconds) <= 8 and seconds == sorted(seconds, reverse=True)
    assert len(report.findings) >= 2 and all(finding.endswith(".") for finding in report.findings)
    assert "measured here" in report.findings[0] and "times as long" in report.findings[0]


@pytest.mark.parametrize(("name", "part"), [
    ("aten::mm", MATMUL), ("aten::addmm", MATMUL), ("aten::_weight_int4pack_mm_for_cpu", MATMUL),
    ("aten::_scaled_mm", MATMUL), ("mkldnn::_linear_pointwise", MATMUL), ("quantized::linear_dynamic", MATMUL),
    ("sm90_xmma_gemm_bf16bf16_bf16f32", MATMUL), ("void gemv2T_kernel_val<int, float>", MATMUL),
    ("triton_tem_fused_addmm_3", MATMUL), ("aten::bmm", ATTENTION), ("aten::_softmax", ATTENTION),
    ("aten::_scaled_dot_product_flash_attention_for_cpu", ATTENTION), ("void flash_fwd_splitkv_kernel", ATTENTION),
    ("fmha_cutlassF_f32_aligned", ATTENTION), ("aten::rms_norm", SMALL), ("aten::copy_", SMALL),
    ("triton_per_fused_addmm_native_layer_norm_2", SMALL), ("## Call CompiledFxGraph fdq4mm2cmbw2 ##", SMALL),
    ("Torch-Compiled Region: 0/0", REST), ("TorchDynamo Cache Lookup", REST), ("Pregraph bytecode", REST),
    ("AOTDispatcher Runtime Wrapper Prologue", REST),
])
def test_operators_and_kernels_are_counted_where_they_belong(name: str, part: str) -> None:
    assert part_of(name) == part


def test_on_a_card_a_kernel_counts_once_and_neither_its_operator_nor_annotations_do() -> None:
    kind = type(FunctionEventAvg().device_type)
    rows = []
    for key, device, annotation in (("aten::mm", kind.CPU, False), ("gemm_kernel", kind.CUDA, False),
                                    ("Torch-Compiled Region: 0/0", kind.CUDA, True)):
        row = FunctionEventAvg()
        row.key, row.device_type, row.is_user_annotation, row.count = key, device, annotation, 8
        row.self_cpu_time_total, row.self_device_time_total = 16, 80
        rows.append(row)
    assert own_times(rows, True, 8) == {"gemm_kernel": (pytest.approx(10e-6), 1)}
    assert own_times(rows[:1], False, 8) == {"aten::mm": (pytest.approx(2e-6), 1)}


def test_a_cache_that_does_not_fit_is_refused_before_anything_is_measured(llama_folder: Path) -> None:
    _, variant = built(llama_folder, "fp32")
    variant.device = with_free_bytes(variant.device, 100)
    with pytest.raises(DynoError, match="A KV cache for 41 tokens"):
        next(explain(variant, 40))


def test_a_sliding_window_reads_no_more_than_itself(mistral_folder: Path) -> None:
    _, variant = built(mistral_folder, "fp32")
    per_token = variant.report.kv_bytes_per_token
    assert [finish(explain(variant, context)).cache_bytes for context in (9, 17, 100)] == [
        9 * per_token, 17 * per_token, 17 * per_token]


@pytest.mark.parametrize("fails", [False, True])
def test_a_depth_whose_step_is_not_compiled_yet_is_compiled_before_it_is_timed(tmp_path: Path, fails: bool,
                                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    if not cpu().compiler:
        pytest.skip("torch.compile needs a C++ compiler, and none was found")
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    folder = write_model(tmp_path / "long", LLAMA | {"max_position_embeddings": 2048})
    _, variant = built(folder, "compile")
    step = variant.compiled
    assert step is not None
    step.wait()

    def broken(function: object, **options: object) -> object:
        raise RuntimeError("no")

    if fails:
        monkeypatch.setattr(torch, "compile", broken)
    report = finish(explain(variant, 600))
    assert step.runs(512) and step.runs(1024) != fails
    assert report.cache_bytes == (600 if fails else 1024) * variant.report.kv_bytes_per_token
    assert any("the uncompiled one was measured" in finding for finding in report.findings) == fails


@pytest.mark.parametrize("size", [0, 1 << 40])
def test_where_the_bytes_fit_into_the_last_level_cache_the_floor_is_marked(llama_folder: Path, size: int,
                                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "last_level_bytes", lambda device: size)
    _, variant = built(llama_folder, "fp32")
    report = finish(explain(variant, 10))
    assert report.fits_cache == bool(size)
    assert any("last-level cache" in said and "can be beaten" in said for said in report.findings) == bool(size)


def test_the_size_of_the_last_level_cache_is_read_or_left_open() -> None:
    assert last_level_bytes(cpu()) == 0 or 1 << 18 <= last_level_bytes(cpu()) <= 1 << 33


def test_zeros_that_rounding_makes_are_not_blamed_on_pruning(llama_folder: Path) -> None:
    _, variant = built(llama_folder, "int8")
    variant.report = dataclasses.replace(variant.report, sparsity=0.2)
    assert not any("pruning alone" in finding for finding in finish(explain(variant, 10)).findings)


@pytest.mark.parametrize(("recipe", "words"), [
    ("l1-50", "50 % of the block weights are zero"), ("autocast-bf16", "Autocast casts every weight again"),
    ("int4", "The output head is"), ("int4", "set their Output head"),
])
def test_what_the_recipe_leaves_on_the_table_is_said(llama_folder: Path, recipe: str, words: str) -> None:
    _, variant = built(llama_folder, recipe)
    assert any(words in finding for finding in finish(explain(variant, 10)).findings)


def test_what_the_recipe_does_not_do_is_not_said(llama_folder: Path) -> None:
    _, variant = built(llama_folder, "int4-weight:head=int4")
    said = " ".join(finish(explain(variant, 10)).findings)
    assert "zero" not in said and "Autocast" not in said and "set their Output head" not in said


@pytest.mark.parametrize(("asked", "taken"), [(0, 1), (-3, 1), (255, 255), (10**9, 255)])
def test_a_context_the_model_does_not_have_is_cut_to_it(gpt2_folder: Path, asked: int, taken: int) -> None:
    _, variant = built(gpt2_folder, "fp32")
    report = finish(explain(variant, asked))
    assert report.context == taken and report.cache_bytes == taken * variant.report.kv_bytes_per_token


def test_memory_gives_more_than_a_tenth_of_a_gigabyte_a_second() -> None:
    assert memory_bandwidth("cpu") > 1e8


@pytest.mark.parametrize(("speed", "in_cache", "said", "unsaid"), [
    (8e9, False, "80 % of what memory gives. Fewer bytes help", "calls"),
    (2e9, False, "20 % of what memory gives: their arithmetic and their calls", "Fewer bytes"),
    (77e9, True, "out of the processor's cache", "of what memory gives"),
])
def test_the_advice_about_products_follows_from_their_reading_rate(speed: float, in_cache: bool, said: str,
                                                                   unsaid: str) -> None:
    words = about_products(speed, 10e9, in_cache)
    assert said in words and unsaid not in words


def test_prompt_lookup_is_said_to_be_left_out_of_the_measurement(llama_folder: Path) -> None:
    _, variant = built(llama_folder, "lookup")
    assert any("Prompt lookup is not in this" in said for said in finish(explain(variant, 16)).findings)


def test_profiling_does_not_disturb_the_conversation(llama_folder: Path) -> None:
    ids = list(range(2, 30))
    session = open_session(llama_folder)
    expected = decode_logits(session, [*ids, 7])[-1]
    decode_logits(session, ids)
    assert session.active is not None
    finish(explain(session.active, 20))
    assert torch.equal(session.step([7])[-1], expected)


# ------------------------------------------------------------------------------------------------------ as a job


def test_the_engine_explains_the_active_recipe(llama_folder: Path, engine: Engine) -> None:
    engine.load(llama_folder, parse_recipe("int4"))
    job = Explain(engine.next_id(), context=30)
    shown: list[tuple[str, int, int]] = []
    engine.outbox.react = lambda e: shown.append((e.stage, e.done, e.total)) if isinstance(e, Progress) else None
    end = engine.run(job)
    assert isinstance(end, Finished) and isinstance(end.result, SpeedReport)
    assert end.result.recipe == parse_recipe("int4").label and end.result.context == 30
    assert [done for _, done, _ in shown] == [0, 1, 2, 3] and {total for _, _, total in shown} == {4}
    assert isinstance(engine.run(Generate(engine.next_id(), prompt="The wind", sampling=GREEDY)), Finished)


def test_explaining_can_be_cancelled_and_needs_a_model(llama_folder: Path, engine: Engine) -> None:
    refused = engine.run(Explain(engine.next_id()))
    assert isinstance(refused, Failed) and refused.summary == "No model is loaded."
    engine.load(llama_folder)
    job = Explain(engine.next_id())
    engine.at({1: Cancel(job.job_id)}, counts=lambda e: isinstance(e, Progress) and e.job_id == job.job_id)
    assert isinstance(engine.run(job), Cancelled)
    assert isinstance(engine.run(Explain(engine.next_id())), Finished)
