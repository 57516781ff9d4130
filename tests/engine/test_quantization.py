"""Quantization: codes and scales against arithmetic by hand and against torchao, kernels against the weights they hold,
and reports against live memory."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.kernels.embedding import Int8Embedding, RowsOnDemand
from engine.kernels.int4_weight import Int4WeightLinear
from engine.kernels.linear import LinearKernel, Weights
from engine.kernels.rounding import Groups, fit_groups, round_groups, round_rows
from engine.kernels.scheme import Scheme
from engine.recipe import parse_recipe
from engine.techniques.int4_weight import Int4Scheme
from engine.techniques.int8_dynamic import Int8DynamicScheme
from engine.techniques.int8_weight import Int8WeightScheme
from tests.engine.support import (
    block_weights,
    built,
    cpu,
    decode_logits,
    edited,
    kernels,
    live_bytes,
    masters_of,
    open_session,
    read_logits,
    seen_by_hand,
)

IDS = torch.randint(2, 300, (50,), generator=torch.Generator().manual_seed(4)).tolist()
BF16_STEP = 2 ** -8  # relative, from one bf16 number to the next, at most
MODELS = ["gpt2_folder", "llama_folder", "tied_llama_folder"]
SHAPES = [(16, 32), (48, 64), (1, 32), (3, 40), (17, 96), (50, 24), (33, 100), (7, 513), (100, 5), (2, 1), (64, 416)]


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal numbers, the same at every call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_outliers(rows: int, columns: int) -> torch.Tensor:
    """Weights of which one in a hundred is ten times as large."""
    weight = randn(rows, columns)
    rare = torch.rand(rows, columns, generator=torch.Generator().manual_seed(1)) < 0.01
    return torch.where(rare, 10 * weight, weight)


def every_layer(weight: torch.Tensor, bias: torch.Tensor | None = None) -> list[tuple[str, LinearKernel]]:
    """The weight in every quantized layer of a processor, with the native library and without it."""
    schemes: dict[str, Scheme] = {"int8 dynamic": Int8DynamicScheme(), "int8 weight-only": Int8WeightScheme()}
    schemes |= {f"int4 g{size}{' fit' * fitted}": Int4Scheme(size, fitted)
                for size in (32, 64, 128) for fitted in (False, True)}
    return [(name, scheme.layer(Weights(weight, bias), "fp32", device)[0]) for name, scheme in schemes.items()
            for device in ((cpu(), dataclasses.replace(cpu(), native="")) if cpu().native else (cpu(),))]


# ------------------------------------------------------------------------------------------------------ int8 dynamic


@pytest.mark.parametrize("recipe", ["int8", "int8-dynamic:head=int8", "l1-50,int8"])
def test_int8_weights_lie_within_half_a_scale_step_of_the_dense_ones(model_folder: Path, recipe: str) -> None:
    session, variant = built(model_folder, recipe)
    dense = open_session(model_folder, parse_recipe(recipe.replace("int8", "", 1).strip(",") if "l1" in recipe else ""))
    assert dense.active is not None
    checked = 0
    for name, layer in kernels(variant).items():
        if layer.dtype_name != "int8":
            continue
        weight = kernels(dense.active)[name].dense()
        scale = weight.abs().amax(dim=1, keepdim=True) / 127
        assert ((layer.dense() - weight).abs() <= scale * 0.5 * (1 + 1e-5)).all(), name
        codes = layer.dense() / scale
        assert torch.allclose(codes, codes.round(), atol=1e-3) and codes.abs().max() <= 127.5
        assert torch.equal(layer.dense() == 0, codes.round() == 0)
        checked += 1
    assert checked == 4 * session.config.n_layers + ("head=int8" in recipe)


def test_int8_layers_multiply_as_the_definition_says(model_folder: Path) -> None:
    """Every token's activations in steps of its own largest; by native products for few tokens, by oneDNN for many."""
    session, variant = built(model_folder, "int8")
    for name, layer in kernels(variant).items():
        if layer.dtype_name != "int8":
            continue
        for tokens in (1, 5, 8, 9, 40):
            x = randn(tokens, layer.shape[1], seed=6)
            scale = x.abs().amax(dim=1, keepdim=True) / 127
            seen = (x / scale).round() * scale
            bias = session.masters.get(f"{name}.bias", 0.0)
            expected = seen @ layer.dense().t() + bias
            torch.testing.assert_close(layer(x), expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


# -------------------------------------------------------------------------------------------------- int8 weight-only


@pytest.mark.parametrize("scale_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_int8_rows_are_rounded_to_the_nearest_code_of_a_scale_per_row(rows: int, columns: int,
                                                                      scale_dtype: torch.dtype) -> None:
    weight = with_outliers(rows, columns)
    codes, scale = round_rows(weight, scale_dtype)
    assert codes.dtype == torch.int8 and scale.dtype == torch.float32
    for row, found, step in zip(weight, codes, scale, strict=True):
        expected = (row.abs().max() / 127).to(scale_dtype).float()
        assert step == expected
        assert found.tolist() == [max(-127, min(127, round(value / float(step)))) for value in row.tolist()]
    assert ((codes.float() * scale[:, None] - weight).abs() <= scale[:, None] * 0.5 * (1 + 1e-5)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_quantized_layers_multiply_by_the_weight_they_say_they_hold(rows: int, columns: int,
                                                                    dtype: torch.dtype) -> None:
    """For every shape, dtype and number of rows of x. Activations pass through bf16, or through 8 bits in int8 dynamic
    and the native int4 products, in steps of at most the largest one of their token over 127."""
    weight, bias = randn(rows, columns), randn(rows, seed=2)
    for name, layer in every_layer(weight, bias):
        assert layer.shape == (rows, columns)
        for tokens in (1, 2, 7, 15, 16, 33):
            x = randn(1, tokens, columns, seed=tokens).to(dtype)
            y = layer(x)
            assert y.shape == (1, tokens, rows) and y.dtype == dtype
            exact = x.double() @ layer.dense().double().t() + bias
            # Half a step on each number that is rounded: x, the result, and for int4 the weight; products of them all.
            size = x.double().abs() @ layer.dense().double().abs().t() + bias.abs()
            step = 4 * BF16_STEP if name != "int8 dynamic" else 0.0
            half = x.double().abs().amax(dim=-1, keepdim=True) / 254
            slack = step * size + 2 * BF16_STEP * exact.abs()
            if name == "int8 dynamic" or "native int4" in layer.kernel:
                slack = slack + half * layer.dense().double().abs().sum(dim=1) * (1 + 1e-5)
            assert ((y.double() - exact).abs() <= slack + 1e-6).all(), (name, tokens)


@pytest.mark.parametrize("tokens", [1, 3, 4, 8])
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_native_whole_number_products_are_the_sums_of_what_they_round(rows: int, columns: int, tokens: int) -> None:
    """Every column counts: activations rounded by hand, per token or per 32 columns, give the same sums to 1e-5."""
    weight, bias = randn(rows, columns), randn(rows, seed=2)
    seen = 0
    for name, layer in every_layer(weight, bias):
        if "native" not in layer.kernel or not (name == "int8 dynamic" or "int4" in layer.kernel):
            continue
        block = columns if name == "int8 dynamic" else 32
        x = randn(tokens, columns, seed=3)
        parts = torch.nn.functional.pad(x, (0, -columns % block)).view(tokens, -1, block)
        scale = (parts.abs().amax(dim=-1, keepdim=True) * torch.tensor(1 / 127)).clamp_min(1e-30)
        rounded = ((parts / scale).round().double() * scale.double()).view(tokens, -1)[:, :columns]
        dense = layer.dense().double()
        size = rounded.abs() @ dense.abs().t() + bias.abs()
        assert ((layer(x).double() - (rounded @ dense.t() + bias)).abs() <= 1e-5 * size).all(), name
        seen += 1
    assert seen >= 2 or not cpu().native


# ------------------------------------------------------------------------------------------------------- int4 groups


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_int4_groups_are_rounded_to_the_nearest_of_sixteen_levels_over_their_range(rows: int, columns: int,
                                                                                   size: int) -> None:
    weight = with_outliers(rows, columns)
    groups = round_groups(weight, size, torch.bfloat16)
    count = math.ceil(columns / size)
    assert groups.codes.shape == (rows, count * size) and groups.scale.shape == groups.zero.shape == (rows, count)
    assert groups.codes.dtype == torch.uint8 and int(groups.codes.max()) <= 15
    assert groups.scale.dtype == groups.zero.dtype == torch.bfloat16
    dense = groups.dense()
    for i in range(rows):
        for g in range(count):
            values = weight[i, g * size:(g + 1) * size].tolist()
            values += [0.0] * (size - len(values))  # the last group is filled up
            scale = (max(values) - min(values)) / 15
            zero = min(values) + 8 * scale
            assert float(groups.scale[i, g]) == pytest.approx(scale, rel=BF16_STEP)
            assert float(groups.zero[i, g]) == pytest.approx(zero, abs=BF16_STEP * (abs(zero) + 8 * scale))
            scale, zero = float(groups.scale[i, g]), float(groups.zero[i, g])
            levels = [(code - 8) * scale + zero for code in range(16)]
            for j, value in enumerate(weight[i, g * size:(g + 1) * size].tolist()):
                nearest = min(abs(level - value) for level in levels)
                assert abs(float(dense[i, g * size + j]) - value) <= nearest + 1e-5 * (abs(value) + scale)


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_the_packed_weight_is_the_one_the_codes_stand_for(rows: int, columns: int, size: int) -> None:
    for groups in (round_groups(with_outliers(rows, columns), size, torch.bfloat16),
                   fit_groups(with_outliers(rows, columns), size, torch.bfloat16, randn(columns, seed=3).square())):
        layer, dense = Int4WeightLinear(groups, None, "cpu"), groups.dense()
        assert layer.dense().shape == dense.shape == (rows, columns)
        largest = groups.scale.float().abs() * 8 + groups.zero.float().abs()  # of what is rounded on the way, (N, G)
        slack = BF16_STEP * largest.repeat_interleave(size, dim=1)[:, :columns]
        assert ((layer.dense() - dense).abs() <= slack).all()


@pytest.mark.parametrize("strong", [False, True], ids=["equal inputs", "few strong inputs"])
@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_no_fitted_group_is_worse_than_the_nearest_levels_where_it_matters(rows: int, columns: int, size: int,
                                                                          strong: bool) -> None:
    weight = with_outliers(rows, columns)
    importance = randn(columns, seed=3).abs().pow(4) if strong else None
    h = torch.ones(columns) if importance is None else importance
    h = h + 1e-6 * h.mean()  # no input counts for nothing

    def errors(groups: Groups) -> torch.Tensor:
        """Weighted squared error of every group, (N, G)."""
        found = torch.nn.functional.pad((groups.dense() - weight).double().square() * h, (0, -columns % size))
        return found.view(rows, -1, size).sum(dim=-1)

    nearest = errors(round_groups(weight, size, torch.bfloat16))
    fitted = errors(fit_groups(weight, size, torch.bfloat16, importance))
    assert (fitted <= nearest * (1 + 1e-4) + 1e-12).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("middle", [1.0, 100.0, -1e4])
def test_groups_far_from_zero_for_their_width_are_fitted_as_well_as_those_around_it(middle: float,
                                                                                   dtype: torch.dtype) -> None:
    """Scale and zero in fp32 lose nothing at a distance; in bf16 the zero does, and the codes make up for it."""
    weight = middle + 0.01 * with_outliers(64, 128)
    nearest, fitted = (float((g.dense() - weight).double().square().sum()) for g in (
        round_groups(weight, 32, dtype), fit_groups(weight, 32, dtype, None)))
    assert fitted <= nearest * (1 + 1e-6)
    if dtype == torch.float32:
        around = weight - middle  # exact
        best = float((fit_groups(around, 32, dtype, None).dense() - around).double().square().sum())
        # What fp32 cannot hold at this distance comes on top: a weight, its zero, and their sum.
        floor = weight.numel() * (3 * abs(middle) * torch.finfo(torch.float32).eps) ** 2
        assert fitted <= 1.02 * best + floor


@pytest.mark.parametrize(("size", "most"), [(32, 0.85), (64, 0.8), (128, 0.75)])
def test_fitting_pays_clearly_where_weights_have_outliers(size: int, most: float) -> None:
    weight, importance = with_outliers(256, 512), randn(512, seed=3).square()
    nearest, fitted = (float(((g.dense() - weight).square() * importance).sum()) for g in (
        round_groups(weight, size, torch.bfloat16), fit_groups(weight, size, torch.bfloat16, importance)))
    assert fitted <= most * nearest


def test_a_fitted_model_errs_less_where_its_own_activations_are_strong(model_folder: Path) -> None:
    session, nearest = built(model_folder, "int4-weight:group=128")
    fitted = session.apply(parse_recipe("int4-weight:group=128:fit=fit"))
    strength = seen_by_hand(session).mean_square
    for name, master in masters_of(session).items():
        before, after = (float(((kernels(v)[name].dense() - master).double().square() * strength[name]).sum())
                         for v in (nearest, fitted))
        assert after < 0.95 * before, name


# ----------------------------------------------------------------------------------------------------------- torchao


@pytest.fixture(scope="module")
def ao() -> Any:
    """torchao's quantization primitives."""
    return pytest.importorskip("torchao.quantization.quant_primitives", reason="torchao is not installed")


@pytest.mark.parametrize(("rows", "columns"), [(48, 64), (64, 416), (7, 513)])
def test_int8_codes_are_those_of_torchao(ao: Any, rows: int, columns: int) -> None:
    weight, block = with_outliers(rows, columns), (1, columns)
    scale, zero = ao.choose_qparams_affine(weight, ao.MappingType.SYMMETRIC, block, torch.int8, -127, 127,
                                           eps=1e-12, scale_dtype=torch.float32)
    theirs = ao.quantize_affine(weight, block, scale, zero, torch.int8, -127, 127)
    codes, mine = round_rows(weight)
    torch.testing.assert_close(mine, scale, rtol=1e-6, atol=0)
    assert (codes.int() - theirs.int()).abs().max() <= 1
    assert float((codes != theirs).float().mean()) < 1e-3, "they differ where a weight lies between two codes, only"
    dense = ao.dequantize_affine(theirs, block, scale, zero, torch.int8, -127, 127)
    assert ((codes.float() * mine[:, None] - dense).abs() <= 1.001 * scale[:, None]).all()


@pytest.mark.parametrize("size", [32, 64, 128])
def test_int4_codes_are_those_of_torchao(ao: Any, size: int) -> None:
    weight, block = with_outliers(64, 384), (1, size)
    scale, zero = ao._choose_qparams_affine_tinygemm(weight, ao.MappingType.ASYMMETRIC, block, torch.int32, 0, 15,
                                                     eps=1e-6, scale_dtype=torch.bfloat16,
                                                     zero_point_dtype=torch.bfloat16)
    theirs = ao._quantize_affine_tinygemm(weight, block, scale, zero, torch.int32, 0, 15)
    dense = ao._dequantize_affine_tinygemm(theirs, block, scale, zero, torch.int32, 0, 15)
    groups = round_groups(weight, size, torch.bfloat16)
    scale = scale.view(groups.scale.shape)
    assert torch.equal(groups.scale, scale)
    assert (groups.codes.int() - theirs).abs().max() <= 1
    assert float((groups.codes.int() != theirs).float().mean()) < 0.05, "their zero comes from a scale not yet rounded"
    step = scale.float() + BF16_STEP * (groups.zero.float().abs() + 8 * scale.float())  # theirs are found in bf16
    assert ((groups.dense() - dense).abs() <= step.repeat_interleave(size, dim=1)).all()
    mine, their_error = ((found - weight).square().sum() for found in (groups.dense(), dense))
    assert mine <= their_error


# ------------------------------------------------------------------------------------------------------- odd weights


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e4, 1e25])
def test_rows_of_zeros_constant_rows_and_huge_outliers_give_finite_results(size: float) -> None:
    weight = 0.1 * randn(20, 96)
    weight[0] = 0
    weight[1] = size
    weight[2] = -size
    weight[3, 17] = size
    weight[4:8, 40] = -size
    weight[9, 32:64] = 0
    x = randn(3, 96, seed=5)
    for name, layer in every_layer(weight):
        dense = layer.dense()
        assert torch.isfinite(dense).all(), name
        assert torch.isfinite(layer(x)).all(), name
        assert not dense[0].any(), name
        for row in (1, 2):
            torch.testing.assert_close(dense[row], weight[row], rtol=2 * BF16_STEP, atol=1e-30, msg=name)
        torch.testing.assert_close(dense[10:], weight[10:], rtol=0, atol=0.1, msg=name)


@pytest.mark.parametrize("recipe", ["int8-dynamic:head=int8", "int8-weight:head=int8:embedding=int8",
                                    "int4-weight:head=int4", "int4-weight:fit=fit:head=int4:embedding=int8"])
def test_quantized_models_survive_rows_of_zeros(gpt2_folder: Path, tmp_path: Path, recipe: str) -> None:
    def empty(tensors: dict[str, torch.Tensor]) -> None:
        tensors["blocks.0.mlp.up.weight"][3:9] = 0
        tensors["blocks.0.attn.qkv.weight"][:] = 0
        tensors["embed.weight"][7] = 0

    session = edited(gpt2_folder, tmp_path, empty)
    variant = session.apply(parse_recipe(recipe))
    assert torch.isfinite(read_logits(session, [7, *IDS])).all()
    assert torch.isfinite(decode_logits(session, [7, *IDS[:8]])).all()
    assert not kernels(variant)["blocks.0.mlp.up"].dense()[3:9].any()


# ------------------------------------------------------------------------------------------------- head and embedding


TECHNIQUES = {"int8-dynamic": ("int8", ("keep", "int8")), "int8-weight": ("int8", ("keep", "int8")),
              "int4-weight": ("int4", ("keep", "int8", "int4"))}
CHOICES = [(technique, head, embedding) for technique, (_, heads) in TECHNIQUES.items() for head in heads
           for embedding in ("keep", "int8")]


@pytest.mark.parametrize(("technique", "head", "embedding"), CHOICES)
@pytest.mark.parametrize("cast", ["", ",bf16", ",fp16"])
@pytest.mark.parametrize("model", MODELS)
def test_head_and_embedding_are_what_was_chosen_and_weigh_what_is_reported(
        model: str, technique: str, head: str, embedding: str, cast: str, request: pytest.FixtureRequest) -> None:
    session, variant = built(request.getfixturevalue(model), f"{technique}:head={head}:embedding={embedding}{cast}")
    report, c = variant.report, session.config
    layers = {layer.name: layer for layer in report.layers}
    dense = cast.strip(",") or "fp32"
    assert layers["head"].dtype == (dense if head == "keep" else head)
    assert {la.dtype for name, la in layers.items() if name != "head"} == {TECHNIQUES[technique][0]}
    assert report.techniques[0].layers_touched == len(layers) - (head == "keep")
    assert report.weight_bytes == live_bytes(variant)
    embed = variant.decoder.embed
    if embedding == "int8":
        assert isinstance(embed, Int8Embedding) and report.mapped_bytes == 0
        codes, scale = round_rows(session.masters["embed.weight"].float())
        rows = torch.tensor([[3, 200, 3, 0]])
        looked_up = (codes[rows].float() * scale[rows][..., None]).to(variant.decoder.norm.weight.dtype)
        assert torch.equal(embed(rows), looked_up)
        assert sum(n for _, n in embed.memory()) == c.vocab_size * c.hidden_size + 4 * c.vocab_size
    elif layers["head"].shared:
        assert embed.weight is variant.decoder.head.weight and head == "keep"
    else:
        assert isinstance(embed, RowsOnDemand) and report.mapped_bytes == session.masters["embed.weight"].nbytes
    assert layers["head"].shared == (c.tied and head == "keep" and embedding == "keep"
                                     and "packed" not in layers["head"].kernel)
    assert torch.isfinite(read_logits(session, IDS)).all()


def test_keeping_the_head_is_told_with_its_share_of_the_bytes(llama_folder: Path) -> None:
    _, variant = built(llama_folder, "int4")
    head = next(layer for layer in variant.report.layers if layer.name == "head")
    share = round(100 * head.nbytes / sum(layer.nbytes for layer in variant.report.layers))
    assert f"The head stays dense: {share} % of the bytes" in variant.report.techniques[0].detail
    _, whole = built(llama_folder, "int4-weight:head=int8")
    assert "the head int8 codes." in whole.report.techniques[0].detail


@pytest.mark.parametrize("recipe", ["int8", "int8-weight-only", "int4", "int4-fit", "bf16", "l1-50", "l1-50,int4"])
def test_the_reported_error_of_a_layer_is_that_of_its_weight_against_the_master(model_folder: Path, recipe: str,
                                                                                ) -> None:
    session, variant = built(model_folder, recipe)
    reported = {layer.name: layer.error for layer in variant.report.layers}
    for name, weight in block_weights(session, variant).items():
        master = masters_of(session)[name]
        error = float((weight - master).norm() / master.norm())
        # The packed int4 weight comes back through bf16, which adds at most half a step.
        assert reported[name] == pytest.approx(error, rel=0.02, abs=1e-6), name
        assert reported[name] > 0


@pytest.mark.parametrize("recipe", ["fp32", "l1-50", "l1-50,bf16", "l1-50,int8", "l1-50,int8-weight-only",
                                    "l1-50,int4", "l1-50,int4-fit", "int8"])
def test_the_zeros_that_are_reported_are_those_of_the_weight_that_is_multiplied_by(model_folder: Path,
                                                                                  recipe: str) -> None:
    session, variant = built(model_folder, recipe)
    reported = {layer.name: layer.sparsity for layer in variant.report.layers}
    for name, weight in block_weights(session, variant).items():
        assert reported[name] == pytest.approx(float((weight == 0).float().mean()), abs=1e-3), name
    assert (variant.report.sparsity < 0.05) == ("l1" not in recipe or "int4" in recipe)


def test_fewer_bits_take_fewer_bytes_and_cost_more_error(llama_folder: Path) -> None:
    order = ["fp32", "int8-weight-only", "int4-weight:group=32", "int4-weight:group=64", "int4-weight:group=128"]
    errors, sizes = [], []
    for recipe in order:
        _, variant = built(llama_folder, recipe)
        layer = next(layer for layer in variant.report.layers if layer.name == "blocks.0.mlp.up")
        errors.append(layer.error)
        sizes.append(layer.nbytes)
    assert errors == sorted(errors)
    assert sizes[0] > sizes[1] > sizes[2] > sizes[3]  # 64 columns: a group of 128 is half empty
