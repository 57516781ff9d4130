"""Pruning, rounding and low-rank updates while training, and what the app's own techniques make of the result."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.errors import DynoError
from engine.kernels.linear import Weights
from engine.kernels.rounding import round_groups
from engine.models.checkpoint import load_decoder, load_masters
from engine.models.devices import pick_device
from engine.recipe import parse_recipe
from engine.techniques.int4_weight import Int4Scheme
from engine.train_events import EvalPoint, Pruned, RunStarted
from engine.training.masks import Masks
from engine.training.network import Network, block_layers, fresh_decoder
from engine.training.rounding import RoundedLinear, recipe_for, rounded
from engine.training.sizes import config_for
from engine.training.techniques import Techniques
from engine.variant import Variant, build_variant
from tests.engine.training.support import plan_for, run_plan


def built(folder: Path, recipe: str) -> Variant:
    steps = build_variant(load_masters(folder), parse_recipe(recipe), pick_device("cpu"))
    while True:
        try:
            next(steps)
        except StopIteration as finished:
            variant: Variant = finished.value
            return variant


def test_one_shot_pruning_zeroes_exactly_its_share_for_good(tmp_path: Path) -> None:
    events, result = run_plan(plan_for(tmp_path, prune="weights", sparsity=0.8, lr=1e-2), tmp_path / "run")
    labels = [e.label for e in events if isinstance(e, EvalPoint)]
    assert labels[:2] == ["dense baseline", "pruned"]
    cut = next(e for e in events if isinstance(e, Pruned))
    assert cut.zeros == round(0.8 * cut.weights)
    decoder = load_decoder(load_masters(Path(result.model)))
    zeros = sum(int((layer.weight == 0).sum()) for layer in block_layers(decoder).values())
    assert zeros == cut.zeros
    assert result.best_step > 0, "an evaluation before the cut was taken for the best"


def test_masked_weights_stay_zero_whatever_the_optimizer_remembers(tmp_path: Path) -> None:
    decoder = fresh_decoder(config_for("1M", 64, 32, None), 0)
    weights = [layer.weight for layer in block_layers(decoder).values()]
    optimizer = torch.optim.AdamW(weights, lr=0.1)
    plan = plan_for(tmp_path, prune="weights", sparsity=0.6, prune_start=2, prune_end=6, prune_every=2)
    masks = Masks(decoder, plan)
    shares = []
    for step in range(10):
        masks.tighten(step)
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        masks.apply_to_gradients()
        assert sum(int((w.grad == 0).sum()) for w in weights if w.grad is not None) == masks.zeros
        optimizer.step()
        masks.apply()
        zeros = sum(int((w == 0).sum()) for w in weights)
        assert zeros == masks.zeros
        shares.append(zeros / masks.weights)
    assert shares[1] == 0 and shares == sorted(shares)
    assert masks.zeros == round(0.6 * masks.weights) and masks.complete(9) and not masks.complete(5)


@pytest.mark.parametrize(("scheme", "activations"), [("int8", "on"), ("int8", "off"), ("int4", "off"), ("int2", "off")])
def test_the_exported_weights_quantize_to_exactly_what_was_trained(tmp_path: Path, scheme: str,
                                                                   activations: str) -> None:
    plan = plan_for(tmp_path, qat=scheme, qat_activations=activations, lr=3e-3)
    decoder = fresh_decoder(config_for("1M", 64, 32, None), 3)
    with torch.no_grad():
        for weight in decoder.parameters():
            weight += 0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel()))
    techniques = Techniques(decoder, plan)
    (tmp_path / "tokenizer").mkdir()
    techniques.export(tmp_path / "model", techniques.tensors(), tmp_path / "tokenizer", None, 0)
    variant = built(tmp_path / "model", recipe_for(plan))
    for name, layer in block_layers(decoder).items():
        assert isinstance(layer, RoundedLinear)
        trained = rounded(layer.weight, scheme, 32, activations == "on")
        run = variant.decoder.get_submodule(name)
        assert run.dtype_name == ("int8" if scheme == "int8" else "int4")
        if scheme == "int8":
            assert torch.equal(run.dense(), trained), name
            continue
        exported = load_masters(tmp_path / "model")[f"{name}.weight"]
        made, meant = Int4Scheme(32, False).layer(Weights(exported), "fp32", pick_device("cpu"))
        # Some kernels' own layout gives its weight back through a bf16 product, with less precision than it holds.
        assert torch.equal(run.dense(), made.dense())
        torch.testing.assert_close(meant[:], trained, rtol=0, atol=0 if scheme == "int4" else 1e-6)
        if scheme == "int2":
            assert set(round_groups(exported, 32, torch.bfloat16).codes.unique().tolist()) == {0, 5, 10, 15}


def test_the_gradient_passes_the_rounding(tmp_path: Path) -> None:
    plain = torch.nn.Linear(32, 16)
    layer = RoundedLinear(plain, "int4", 32, True)
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    layer(x).sum().backward()
    assert layer.weight.grad is not None and torch.equal(layer.weight.grad[0], layer.weight.grad[1])
    assert bool((layer.weight.grad != 0).all())
    assert x.grad is not None
    torch.testing.assert_close(x.grad[0], rounded(layer.weight, "int4", 32).sum(0))


def test_training_for_int4_learns(tmp_path: Path) -> None:
    events, _ = run_plan(plan_for(tmp_path, qat="int2", lr=3e-3, steps=24), tmp_path / "run")
    losses = [e.loss for e in events if isinstance(e, EvalPoint)]
    assert losses[-1] < losses[0] - 0.3


def test_a_model_trained_for_rounding_is_judged_unrounded_and_rounded_first(tmp_path: Path, llama_folder: Path) -> None:
    plan = plan_for(tmp_path, model=str(llama_folder), qat="int2", lr=3e-3)
    events, result = run_plan(plan, tmp_path / "run")
    full, after, *trained = (e for e in events if isinstance(e, EvalPoint))
    assert (full.label, after.label) == ("full precision", "rounded after training")
    plain, _ = run_plan(plan.changed(qat="off", steps=1, warmup=0), tmp_path / "plain")
    assert next(e for e in plain if isinstance(e, EvalPoint)).loss == full.loss
    assert after.loss != full.loss and not any(e.label for e in trained)
    assert result.best_step > 0


@pytest.mark.parametrize(("kind", "amount"), [("neurons", 0.5), ("heads", 0.5), ("layers", 0.5)])
def test_structured_pruning_takes_parts_out_before_training(tmp_path: Path, llama_folder: Path, kind: str,
                                                            amount: float) -> None:
    before = load_masters(llama_folder)
    plan = plan_for(tmp_path, model=str(llama_folder), prune=kind, sparsity=amount)
    events, result = run_plan(plan, tmp_path / "run")
    after = load_masters(Path(result.model))
    assert after.parameters < before.parameters
    assert next(e for e in events if isinstance(e, RunStarted)).parameters == after.parameters
    dense, pruned, *later = (e for e in events if isinstance(e, EvalPoint))
    assert (dense.label, pruned.label) == ("dense baseline", "pruned") and dense.loss != pruned.loss
    assert later[-1].loss < pruned.loss


def test_lora_trains_thin_matrices_and_merges_them(tmp_path: Path, model_folder: Path) -> None:
    plan = plan_for(tmp_path, model=str(model_folder), lora_rank=4, lr=1e-2)
    events, result = run_plan(plan, tmp_path / "run")
    started = next(e for e in events if isinstance(e, RunStarted))
    assert started.trained_parameters < started.parameters / 2
    losses = [e.loss for e in events if isinstance(e, EvalPoint)]
    assert losses[-1] < losses[0]
    old, new = load_masters(model_folder), load_masters(Path(result.model))
    assert torch.equal(old["embed.weight"], new["embed.weight"])
    change = new["blocks.0.attn.qkv.weight"] - old["blocks.0.attn.qkv.weight"]
    assert 0 < int(torch.linalg.matrix_rank(change, rtol=1e-4)) <= 4


def test_lora_refuses_what_it_cannot_be_combined_with(tmp_path: Path) -> None:
    with pytest.raises(DynoError, match="frozen"):
        plan_for(tmp_path, model="x", lora_rank=4, qat="int4")


def test_without_scaling_fp16_loses_gradients_that_scaling_keeps(tmp_path: Path) -> None:
    """A step of a million tokens divides its loss by as many: such gradients lie below fp16's smallest number."""
    ids = torch.randint(0, 64, (2, 32), generator=torch.Generator().manual_seed(0))

    def gradients(precision: str, scale: float) -> torch.Tensor:
        network = Network(fresh_decoder(config_for("1M", 64, 64, None), 0), plan_for(tmp_path, precision=precision),
                          torch.device("cpu"))
        (network(ids[:, :-1], ids[:, 1:]) * (scale / 2**20)).backward()
        found = [p.grad.flatten() / scale for n, p in network.trained.items() if "blocks" in n and p.grad is not None]
        return torch.cat(found)

    true, lost, kept = gradients("fp32", 1.0), gradients("fp16", 1.0), gradients("fp16", 2.0**16)
    zero = [float((g == 0).float().mean()) for g in (true, lost, kept)]
    error = [float((g - true).norm() / true.norm()) for g in (lost, kept)]
    assert zero[0] < 0.01 and zero[1] > 0.2 and zero[2] < 0.05, zero
    assert error[1] < 0.01 < error[0], error
