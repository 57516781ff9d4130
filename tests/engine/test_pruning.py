"""Pruning, unstructured and structured: compared with torch.nn.utils.prune, with arithmetic by hand, and with the model
whose parts were silenced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from engine.models.checkpoint import load_decoder
from engine.models.config import ModelConfig
from engine.models.gpt import Decoder
from engine.recipe import parse_recipe
from engine.session import Session
from engine.techniques.prune_heads import HeadPlan, plan_heads
from engine.techniques.prune_layers import layers_gone
from engine.techniques.prune_neurons import neurons_left
from engine.techniques.zeroing import NO_GAIN, threshold
from engine.variant import Variant
from tests.conftest import GPT2, LLAMA, write_model
from tests.engine.conftest import NEOX
from tests.engine.support import (
    SLOTS,
    block_weights,
    built,
    cpu,
    decode_logits,
    edited,
    finish,
    kernels,
    masters_of,
    open_session,
    read_logits,
    seen_by_hand,
)

IDS = torch.randint(2, 300, (50,), generator=torch.Generator().manual_seed(4)).tolist()
DEEP = LLAMA | {"num_hidden_layers": 5, "hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2}
QWEN3 = DEEP | {"model_type": "qwen3", "head_dim": 16, "num_hidden_layers": 3, "tie_word_embeddings": True}
DEEP_GPT2 = GPT2 | {"n_layer": 4, "n_head": 6}
GEMMA2 = DEEP | {"model_type": "gemma2", "head_dim": 16, "query_pre_attn_scalar": 17, "sliding_window": 9,
                 "attn_logit_softcapping": 3.0, "final_logit_softcapping": 8.0, "tie_word_embeddings": True}
GEMMA3 = DEEP | {"model_type": "gemma3_text", "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 9,
                 "sliding_window_pattern": 3, "rope_local_base_freq": 50.0, "tie_word_embeddings": True}
SMOLLM3 = DEEP | {"model_type": "smollm3", "no_rope_layer_interval": 2}
DEEP_NEOX = NEOX | {"num_hidden_layers": 4, "hidden_size": 96, "num_attention_heads": 6}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models with more layers and heads than the shared tiny ones, by name."""
    root = tmp_path_factory.mktemp("pruned")
    shapes = {"deep": DEEP, "qwen3": QWEN3, "deep-gpt2": DEEP_GPT2, "gemma2": GEMMA2, "gemma3": GEMMA3,
              "smollm3": SMOLLM3, "neox": DEEP_NEOX}
    return {name: write_model(root / name, shape, seed) for seed, (name, shape) in enumerate(shapes.items())}


@torch.no_grad()
def logits_of(decoder: Decoder) -> torch.Tensor:
    """Logits of a plain decoder for IDS (T, V)."""
    logits: torch.Tensor = decoder(torch.tensor([IDS]))[0]
    return logits


def zeros_of(session: Session, variant: Variant) -> dict[str, torch.Tensor]:
    """Where the block layers are zero. Every other weight must be the master's."""
    masters, found = masters_of(session), {}
    for name, weight in block_weights(session, variant).items():
        zero = weight == 0
        assert torch.equal(weight[~zero], masters[name][~zero]), name
        found[name] = zero
    return found


# --------------------------------------------------------------------------------------------------------- L1 pruning


@pytest.mark.parametrize("amount", [0.05, 0.33, 0.5, 0.95])
def test_l1_zeroes_exactly_the_weights_torch_prune_would(model_folder: Path, amount: float) -> None:
    session, variant = built(model_folder, f"prune-l1:amount={amount}")
    reference = load_decoder(session.masters)
    targets = [(reference.get_submodule(name), "weight") for name in masters_of(session)]
    prune.global_unstructured(targets, pruning_method=prune.L1Unstructured, amount=amount)
    zeros = total = 0
    for name, weight in block_weights(session, variant).items():
        layer = reference.get_submodule(name)
        assert torch.equal(weight, layer.weight.detach()), name
        zeros += int((weight == 0).sum())
        total += weight.numel()
    assert zeros == round(amount * total)
    assert variant.report.sparsity == pytest.approx(zeros / total, abs=1e-9)
    assert NO_GAIN in variant.report.techniques[0].detail and f"{zeros:,} of" in variant.report.techniques[0].detail


@pytest.mark.parametrize("amount", [0.05, 0.33, 0.5, 0.95])
def test_l1_per_layer_zeroes_exactly_the_weights_torch_prune_would(model_folder: Path, amount: float) -> None:
    session, variant = built(model_folder, f"prune-l1:amount={amount}:scope=layer")
    reference = load_decoder(session.masters)
    for name, weight in block_weights(session, variant).items():
        layer = prune.l1_unstructured(reference.get_submodule(name), "weight", amount)
        assert torch.equal(weight, layer.weight.detach()), name
        assert int((weight == 0).sum()) == round(amount * weight.numel())


def test_l1_leaves_embedding_head_biases_and_norms_alone(model_folder: Path) -> None:
    session, variant = built(model_folder, "prune-l1:amount=0.9")
    for name, parameter in variant.decoder.named_parameters():
        if not name.endswith(tuple(f"{slot}.weight" for slot in SLOTS)):
            assert torch.equal(parameter, session.masters[name]), name
    assert next(layer for layer in variant.report.layers if layer.name == "head").sparsity == 0.0
    everything = torch.arange(session.config.vocab_size)[None]
    assert torch.equal(variant.decoder.embed(everything)[0], session.masters["embed.weight"])


def test_l1_counts_ties_exactly_and_takes_the_first_of_them() -> None:
    weights = [torch.tensor([[1.0, -1.0, 2.0], [1.0, 0.5, -1.0]]), torch.tensor([[-1.0, 1.0], [3.0, 0.0]])]
    for count in range(1, 11):
        bits, ties = finish(threshold(weights, lambda weight: weight.abs().view(torch.int32), count))
        value = torch.tensor([bits], dtype=torch.int32).view(torch.float32)
        below = sum(int((w.abs() < value).sum()) for w in weights)
        assert below + sum(ties) == count
        first_tensor_ties = int((weights[0].abs() == value).sum())
        assert ties[0] == min(first_tensor_ties, count - below)


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("amount", [0.1, 0.5, 0.61])
def test_l1_zeroes_the_exact_count_even_where_weights_repeat(gpt2_folder: Path, tmp_path: Path, amount: float,
                                                             scope: str) -> None:
    def coarsen(tensors: dict[str, torch.Tensor]) -> None:
        for tensor in tensors.values():
            tensor.copy_((tensor * 8).round() / 8)  # few distinct values, many zeros

    session = edited(gpt2_folder, tmp_path, coarsen)
    variant = session.apply(parse_recipe(f"prune-l1:amount={amount}:scope={scope}"))
    before, after = masters_of(session), block_weights(session, variant)
    parts = [list(before)] if scope == "global" else [[name] for name in before]
    for names in parts:
        old = torch.cat([before[name].flatten() for name in names])
        new = torch.cat([after[name].flatten() for name in names])
        count, already = round(amount * old.numel()), int((old == 0).sum())
        assert int((new == 0).sum()) == max(count, already)
        kept = new != 0
        assert torch.equal(new[kept], old[kept])
        if count > already:
            assert old[~kept].abs().max() <= old[kept].abs().min()


@pytest.mark.parametrize("recipe", ["prune-l1:amount=0", "prune-neurons:amount=0", "prune-random:amount=0",
                                    "prune-wanda:amount=0", "prune-heads:amount=0", "prune-layers:amount=0"])
def test_an_amount_of_zero_engages_nothing_and_says_so(model_folder: Path, recipe: str) -> None:
    plain = read_logits(open_session(model_folder), IDS)
    session, variant = built(model_folder, recipe)
    assert not variant.report.techniques[0].engaged and "Nothing to" in variant.report.techniques[0].detail
    assert torch.equal(read_logits(session, IDS), plain)


# ------------------------------------------------------------------------------------------------------------- random


@pytest.mark.parametrize("amount", [0.05, 0.33, 0.5, 0.95])
def test_random_pruning_zeroes_the_count_torch_prune_would_in_every_layer(model_folder: Path, amount: float) -> None:
    session, variant = built(model_folder, f"prune-random:amount={amount}")
    for name, zero in zeros_of(session, variant).items():
        layer = nn.Linear(zero.shape[1], zero.shape[0])
        expected = int((prune.random_unstructured(layer, "weight", amount).weight == 0).sum())
        assert int(zero.sum()) == expected == round(amount * zero.numel()), name


@pytest.mark.parametrize("amount", [0.05, 0.33, 0.5])
def test_random_pruning_over_all_layers_zeroes_the_exact_count_and_spares_none(model_folder: Path,
                                                                              amount: float) -> None:
    session, variant = built(model_folder, f"prune-random:amount={amount}:scope=global")
    zeros = zeros_of(session, variant)
    total = sum(zero.numel() for zero in zeros.values())
    assert sum(int(zero.sum()) for zero in zeros.values()) == round(amount * total)
    for name, zero in zeros.items():  # five standard deviations of a fair draw
        spread = 5 * (amount * (1 - amount) / zero.numel()) ** 0.5
        assert float(zero.float().mean()) == pytest.approx(amount, abs=spread), name


def test_random_pruning_repeats_by_its_seed_and_differs_by_seed_and_layer(model_folder: Path) -> None:
    first, again, other = (zeros_of(*built(model_folder, f"prune-random:amount=0.5:seed={seed}")) for seed in (3, 3, 4))
    for name, zero in first.items():
        assert torch.equal(zero, again[name])
        assert not torch.equal(zero, other[name])
    for slot in SLOTS:  # the same slot of two blocks has the same shape
        assert not torch.equal(first[f"blocks.0.{slot}"], first[f"blocks.1.{slot}"])


# -------------------------------------------------------------------------------------------------------- Wanda, 2:4


@pytest.mark.parametrize("amount", [0.1, 0.5, 0.8])
def test_wanda_zeroes_in_every_row_the_weights_with_the_least_weight_times_input(model_folder: Path,
                                                                                 amount: float) -> None:
    session, variant = built(model_folder, f"prune-wanda:amount={amount}")
    strength = seen_by_hand(session).mean_square
    for name, zero in zeros_of(session, variant).items():
        score = masters_of(session)[name].double().abs() * strength[name].sqrt()
        assert zero.sum(dim=1).tolist() == [round(amount * zero.shape[1])] * zero.shape[0], name
        lost = score.masked_fill(~zero, 0.0).amax(dim=1)
        kept = score.masked_fill(zero, torch.inf).amin(dim=1)
        assert (lost <= kept * (1 + 1e-4)).all(), name  # fp32 sums move a score by less
    assert NO_GAIN in variant.report.techniques[0].detail


def test_wanda_after_structured_pruning_reads_the_strength_of_the_inputs_that_are_left(folders: dict[str, Path],
                                                                                       ) -> None:
    session, variant = built(folders["deep"], "prune-heads:amount=0.33,prune-neurons:amount=0.5,prune-wanda:amount=0.5")
    _, dense = built(folders["deep"], "prune-heads:amount=0.33,prune-neurons:amount=0.5")
    strength = seen_by_hand(session).mean_square
    for name, weight in block_weights(session, dense).items():
        master, pruned = masters_of(session)[name], kernels(variant)[name].dense()
        inputs = strength[name]
        if weight.shape[1] != master.shape[1]:  # a row that is whole in both says which columns stayed
            row = next(row for row in master if all(bool((row == value).any()) for value in weight[0]))
            inputs = inputs[torch.tensor([int((row == value).nonzero()[0, 0]) for value in weight[0]])]
        score, zero = weight.double().abs() * inputs.sqrt(), pruned == 0
        assert zero.sum(dim=1).tolist() == [round(0.5 * zero.shape[1])] * zero.shape[0], name
        assert (score.masked_fill(~zero, 0.0).amax(dim=1)
                <= score.masked_fill(zero, torch.inf).amin(dim=1) * (1 + 1e-4)).all(), name


def test_two_of_every_four_weights_become_zero_and_they_are_the_smaller_two(model_folder: Path) -> None:
    session, variant = built(model_folder, "prune-2-4")
    for name, zero in zeros_of(session, variant).items():
        fours = zero.view(zero.shape[0], -1, 4)
        assert (fours.sum(dim=-1) == 2).all(), name
        size = masters_of(session)[name].abs().view_as(fours)
        assert (size.masked_fill(~fours, 0).amax(-1) <= size.masked_fill(fours, torch.inf).amin(-1)).all(), name
    assert variant.report.sparsity == 0.5


@pytest.mark.parametrize("recipe", ["prune-2-4", "prune-2-4,bf16", "prune-2-4,int8"])
def test_on_a_processor_two_of_four_stays_dense_and_says_why(model_folder: Path, recipe: str) -> None:
    _, variant = built(model_folder, recipe)
    told = next(t for t in variant.report.techniques if t.key == "prune-2-4")
    assert f"{cpu().name} has no sparse tensor cores." in told.detail and NO_GAIN in told.detail
    assert told.bytes_before == told.bytes_after
    assert not any("sparse" in layer.kernel for layer in variant.report.layers)


def test_layers_whose_rows_are_not_whole_fours_are_left_alone_by_two_of_four(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "odd", LLAMA | {"intermediate_size": 102})
    session, variant = built(folder, "prune-2-4")
    for name, zero in zeros_of(session, variant).items():
        assert bool(zero.any()) == (zero.shape[1] % 4 == 0), name
    assert variant.report.techniques[0].layers_touched == 3 * session.config.n_layers


# ---------------------------------------------------------------------------------------------------- neuron pruning


def by_magnitude(session: Session, block: int) -> torch.Tensor:
    """Score of every neuron by hand, (F,) fp64."""
    c = session.config
    up, down = (session.masters[f"blocks.{block}.mlp.{s}.weight"].double() for s in ("up", "down"))
    into = up.norm(dim=1)
    return (into[:c.intermediate_size] * into[c.intermediate_size:] if c.gated else into) * down.norm(dim=0)


def by_activation(session: Session, block: int) -> torch.Tensor:
    """Score of every neuron by what it contributed, (F,) fp64."""
    down = session.masters[f"blocks.{block}.mlp.down.weight"].double()
    return seen_by_hand(session).mean_square[f"blocks.{block}.mlp.down"] * down.square().sum(dim=0)


@pytest.mark.parametrize(("score", "by_hand"), [("magnitude", by_magnitude), ("activation", by_activation)])
@pytest.mark.parametrize("amount", [0.1, 0.3, 0.75])
def test_neuron_pruning_equals_removing_the_weakest_neurons_by_hand(
        model_folder: Path, amount: float, score: str, by_hand: Callable[[Session, int], torch.Tensor]) -> None:
    session, variant = built(model_folder, f"prune-neurons:amount={amount}:score={score}")
    c = session.config
    keep, f = neurons_left(c.intermediate_size, amount), c.intermediate_size
    assert keep < f and keep % 8 == 0 and abs(keep - f * (1 - amount)) <= 4
    layers = kernels(variant)
    for i in range(c.n_layers):
        up, down = (session.masters[f"blocks.{i}.mlp.{s}.weight"] for s in ("up", "down"))
        scores = by_hand(session, i).tolist()
        kept = sorted(sorted(range(f), key=lambda n: -scores[n])[:keep])
        rows = kept + [n + f for n in kept] if c.gated else kept
        found_up, found_down = layers[f"blocks.{i}.mlp.up"], layers[f"blocks.{i}.mlp.down"]
        assert found_up.shape == (len(rows), c.hidden_size) and found_down.shape == (c.hidden_size, keep)
        assert torch.equal(found_up.dense(), up[rows])
        assert torch.equal(found_down.dense(), down[:, kept])
        if c.mlp_bias:
            assert torch.equal(found_up.bias, session.masters[f"blocks.{i}.mlp.up.bias"][rows])
            assert torch.equal(found_down.bias, session.masters[f"blocks.{i}.mlp.down.bias"])


def test_the_two_scores_of_neurons_choose_differently(model_folder: Path) -> None:
    first, second = (built(model_folder, f"prune-neurons:score={score}")[1] for score in ("magnitude", "activation"))
    assert not torch.equal(kernels(first)["blocks.0.mlp.down"].dense(), kernels(second)["blocks.0.mlp.down"].dense())


def test_neuron_pruning_gives_the_logits_of_the_model_with_those_neurons_silenced(model_folder: Path) -> None:
    session, _ = built(model_folder, "prune-neurons:amount=0.5")
    c, reference = session.config, load_decoder(session.masters)
    for i in range(c.n_layers):
        weak = by_magnitude(session, i).argsort()[:c.intermediate_size - neurons_left(c.intermediate_size, 0.5)]
        with torch.no_grad():
            reference.blocks[i].mlp.down.weight[:, weak] = 0
    torch.testing.assert_close(read_logits(session, IDS), logits_of(reference), atol=2e-5, rtol=0)


# ------------------------------------------------------------------------------------------------------ head pruning


@pytest.mark.parametrize(("heads", "groups", "amount", "plan"), [
    (4, 4, 0.25, HeadPlan(1, 0)), (4, 4, 0.5, HeadPlan(2, 0)), (4, 4, 0.1, HeadPlan(0, 0)),
    (4, 4, 0.75, HeadPlan(3, 0)), (4, 2, 0.5, HeadPlan(1, 0)), (4, 2, 0.75, HeadPlan(1, 0)),
    (6, 2, 0.33, HeadPlan(0, 1)), (6, 2, 0.5, HeadPlan(1, 0)), (6, 2, 0.75, HeadPlan(0, 2)),
    (8, 1, 0.25, HeadPlan(0, 2)), (8, 1, 0.75, HeadPlan(0, 6)), (1, 1, 0.75, HeadPlan(0, 0)),
    (32, 8, 0.25, HeadPlan(2, 0)), (12, 3, 0.25, HeadPlan(0, 1)),
])
def test_heads_leave_by_groups_or_from_every_group_whichever_is_nearer(heads: int, groups: int, amount: float,
                                                                       plan: HeadPlan) -> None:
    config = ModelConfig.from_hf(LLAMA | {"num_attention_heads": heads, "num_key_value_heads": groups, "head_dim": 8})
    assert plan_heads(config, amount) == plan


def weak_heads(session: Session, amount: float, block: int) -> list[int]:
    """The query heads that leave a block, from scores by hand."""
    c, plan = session.config, plan_heads(session.config, amount)
    name = f"blocks.{block}.attn.out"
    added = session.masters[f"{name}.weight"].double().square().sum(dim=0) * seen_by_hand(session).mean_square[name]
    scores, each = added.view(c.n_heads, -1).sum(dim=1).tolist(), c.n_heads // c.n_kv_heads
    groups = [list(range(g * each, (g + 1) * each)) for g in range(c.n_kv_heads)]
    groups.sort(key=lambda group: sum(scores[h] for h in group))
    gone = [h for group in groups[:plan.groups] for h in group]
    for group in groups[plan.groups:]:
        gone += sorted(group, key=lambda h: scores[h])[:plan.queries]
    return gone


@torch.no_grad()
def silence_heads(decoder: Decoder, block: int, heads: list[int]) -> None:
    """Let these heads add nothing."""
    weight, size = decoder.blocks[block].attn.out.weight, decoder.config.head_dim
    for head in heads:
        weight[:, head * size:(head + 1) * size] = 0


@pytest.mark.parametrize(("name", "amount", "heads_left", "groups_left"), [
    ("gpt2", 0.25, 3, 3), ("gpt2", 0.5, 2, 2), ("deep-gpt2", 0.3, 4, 4),  # every head its own keys
    ("llama", 0.5, 2, 1), ("qwen3", 0.5, 3, 1),  # a whole group leaves
    ("deep", 0.33, 4, 2), ("deep", 0.75, 2, 2), ("qwen3", 0.3, 4, 2),  # queries leave every group
    ("gemma2", 0.5, 3, 1), ("gemma3", 0.33, 4, 2), ("smollm3", 0.5, 3, 1), ("neox", 0.3, 4, 4),
])
def test_head_pruning_gives_the_logits_of_the_model_with_those_heads_silenced(
        name: str, amount: float, heads_left: int, groups_left: int, folders: dict[str, Path], gpt2_folder: Path,
        llama_folder: Path) -> None:
    folder = (folders | {"gpt2": gpt2_folder, "llama": llama_folder})[name]
    session, variant = built(folder, f"prune-heads:amount={amount}")
    c, pruned, reference = session.config, variant.decoder.config, load_decoder(session.masters)
    assert (pruned.n_heads, pruned.n_kv_heads) == (heads_left, groups_left)
    for i in range(c.n_layers):
        gone = weak_heads(session, amount, i)
        assert len(gone) == c.n_heads - heads_left
        silence_heads(reference, i, gone)
        assert kernels(variant)[f"blocks.{i}.attn.qkv"].shape == (pruned.qkv_size, c.hidden_size)
        assert kernels(variant)[f"blocks.{i}.attn.out"].shape == (c.hidden_size, heads_left * c.head_dim)
    torch.testing.assert_close(read_logits(session, IDS), logits_of(reference), atol=2e-5, rtol=0)
    per_token = 4 * 2 * c.n_layers * groups_left * c.head_dim
    assert variant.report.kv_bytes_per_token == per_token
    assert variant.new_cache(64).nbytes == 64 * per_token


# ----------------------------------------------------------------------------------------------------- layer pruning


@pytest.mark.parametrize(("total", "amount", "gone"), [
    (6, 0.0, 0), (6, 0.05, 1), (6, 0.1, 1), (6, 0.25, 2), (6, 0.5, 3), (6, 0.75, 4), (1, 0.75, 0), (2, 0.75, 1),
    (32, 0.1, 3)])
def test_the_share_of_layers_is_rounded_and_at_least_one_goes_and_one_stays(total: int, amount: float,
                                                                            gone: int) -> None:
    assert layers_gone(total, amount) == gone


@pytest.mark.parametrize("name", ["deep", "qwen3", "deep-gpt2", "gemma2", "gemma3", "smollm3", "neox"])
@pytest.mark.parametrize("amount", [0.1, 0.4, 0.7])
def test_layer_pruning_skips_the_blocks_that_turn_the_stream_least(name: str, amount: float,
                                                                   folders: dict[str, Path]) -> None:
    session, variant = built(folders[name], f"prune-layers:amount={amount}")
    c, influence = session.config, seen_by_hand(session).influence
    count = layers_gone(c.n_layers, amount)
    gone = sorted(sorted(range(c.n_layers), key=lambda i: influence[i])[:count])
    reference = load_decoder(session.masters)
    reference.blocks = nn.ModuleList(block for i, block in enumerate(reference.blocks) if i not in gone)
    torch.testing.assert_close(read_logits(session, IDS), logits_of(reference), atol=2e-5, rtol=0)
    told = variant.report.techniques[0]
    assert all(f"{i + 1} ({influence[i]:.3f})" in told.detail for i in gone)
    assert told.layers_touched == 4 * count and told.bytes_before == variant.report.baseline_bytes
    left = c.n_layers - count
    assert len(variant.report.layers) == 4 * left + 1
    assert variant.report.kv_bytes_per_token == 4 * 2 * left * c.n_kv_heads * c.head_dim
    assert variant.new_cache(64).nbytes == 64 * variant.report.kv_bytes_per_token


@pytest.mark.parametrize("name", ["deep", "gemma2", "gemma3", "smollm3"])
def test_layers_heads_and_neurons_together_equal_the_model_with_all_of_them_silenced(name: str,
                                                                                     folders: dict[str, Path]) -> None:
    session, _ = built(folders[name], "prune-layers:amount=0.4,prune-heads:amount=0.33,"
                                        "prune-neurons:amount=0.5:score=activation")
    c, influence, reference = session.config, seen_by_hand(session).influence, load_decoder(session.masters)
    for i in range(c.n_layers):
        silence_heads(reference, i, weak_heads(session, 0.33, i))
        weak = by_activation(session, i).argsort()[:c.intermediate_size - neurons_left(c.intermediate_size, 0.5)]
        with torch.no_grad():
            reference.blocks[i].mlp.down.weight[:, weak] = 0
    kept = sorted(sorted(range(c.n_layers), key=lambda i: -influence[i])[:3])
    reference.blocks = nn.ModuleList(reference.blocks[i] for i in kept)
    expected = logits_of(reference)
    torch.testing.assert_close(read_logits(session, IDS), expected, atol=3e-5, rtol=0)
    torch.testing.assert_close(decode_logits(session, IDS), expected, atol=3e-5, rtol=0)


def test_building_never_claims_to_have_done_more_than_there_is(folders: dict[str, Path], tmp_path: Path) -> None:
    def idle_at_first(tensors: dict[str, torch.Tensor]) -> None:
        for name in ("attn.out", "mlp.down"):
            for block in (0, 1):
                tensors[f"blocks.{block}.{name}.weight"] *= 0.01  # so these two blocks leave

    session = edited(folders["deep"], tmp_path, idle_at_first)
    recipe = parse_recipe("prune-layers:amount=0.4,prune-heads:amount=0.33,prune-neurons:amount=0.5,"
                          "prune-l1:amount=0.3:scope=layer")
    stages: dict[str, list[tuple[int, int]]] = {}
    for stage, done, total in session.build(recipe):
        stages.setdefault(stage, []).append((done, total))
    assert {"Calibrating", "Scoring the heads", "Scoring the neurons", "Scoring the weights", "Building"} == set(stages)
    for stage, steps in stages.items():
        assert steps == sorted(steps) and len({total for _, total in steps}) == 1, stage
        assert all(0 <= done <= total for done, total in steps), (stage, steps)
    for stage in ("Scoring the heads", "Scoring the neurons"):
        assert stages[stage] == [(0, 3), (1, 3), (2, 3)]
