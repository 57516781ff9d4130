"""Each technique does what it says: compared with PyTorch's own, or with arithmetic by hand."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from engine.errors import DynoError
from engine.kernels.linear import LinearKernel
from engine.models.checkpoint import load_decoder
from engine.models.gpt import Decoder
from engine.recipe import Recipe, parse_recipe
from engine.session import Session
from engine.techniques import all_techniques
from engine.techniques.autocast import AutocastOptions
from engine.techniques.precision import PrecisionOptions
from engine.techniques.prune_l1 import PruneL1Options, threshold
from engine.techniques.prune_neurons import PruneNeuronsOptions, neurons_left
from engine.variant import Variant
from tests.engine.support import cpu, open_session, read_logits

IDS = torch.randint(2, 300, (50,), generator=torch.Generator().manual_seed(4)).tolist()
SLOTS = ("attn.qkv", "attn.out", "mlp.up", "mlp.down")


def kernels(variant: Variant) -> dict[str, LinearKernel]:
    """The layers of a variant by name."""
    return {n: m for n, m in variant.decoder.named_modules() if isinstance(m, LinearKernel)}


def block_weights(session: Session, variant: Variant) -> dict[str, torch.Tensor]:
    """The fp32 weights the layers inside the blocks really multiply by."""
    return {f"blocks.{i}.{slot}": kernels(variant)[f"blocks.{i}.{slot}"].dense()
            for i in range(session.config.n_layers) for slot in SLOTS}


def masters_of(session: Session) -> dict[str, torch.Tensor]:
    """The same layers' master weights."""
    return {f"blocks.{i}.{slot}": session.masters[f"blocks.{i}.{slot}.weight"].float()
            for i in range(session.config.n_layers) for slot in SLOTS}


def built(folder: Path, text: str) -> tuple[Session, Variant]:
    """A session and its active variant."""
    session = open_session(folder, parse_recipe(text))
    assert session.active is not None
    return session, session.active


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


def test_l1_leaves_embedding_head_biases_and_norms_alone(model_folder: Path) -> None:
    session, variant = built(model_folder, "prune-l1:amount=0.9")
    for name, parameter in variant.decoder.named_parameters():
        if not name.endswith(tuple(f"{slot}.weight" for slot in SLOTS)):
            assert torch.equal(parameter, session.masters[name]), name
    assert next(layer for layer in variant.report.layers if layer.name == "head").sparsity == 0.0


def test_l1_counts_ties_exactly_and_takes_the_first_of_them() -> None:
    weights = [torch.tensor([[1.0, -1.0, 2.0], [1.0, 0.5, -1.0]]), torch.tensor([[-1.0, 1.0], [3.0, 0.0]])]
    for count in range(1, 11):
        bits, ties = threshold(lambda: iter(weights), count)
        value = torch.tensor([bits], dtype=torch.int32).view(torch.float32)
        below = sum(int((w.abs() < value).sum()) for w in weights)
        assert below + sum(ties) == count
        first_tensor_ties = int((weights[0].abs() == value).sum())
        assert ties[0] == min(first_tensor_ties, count - below)


@pytest.mark.parametrize("amount", [0.1, 0.5, 0.61])
def test_l1_zeroes_the_exact_count_even_where_weights_repeat(gpt2_folder: Path, tmp_path: Path, amount: float) -> None:
    from engine.models.checkpoint import load_masters, save_folder
    from engine.models.tokenizer import Tokenizer

    masters = load_masters(gpt2_folder)
    coarse = {name: (masters[name] * 8).round() / 8 for name in masters}  # few distinct values, many zeros
    save_folder(tmp_path, masters.config, coarse, torch.float32)
    session = Session(load_masters(tmp_path), Tokenizer.from_folder(gpt2_folder), cpu())
    variant = session.apply(parse_recipe(f"prune-l1:amount={amount}"))
    before = torch.cat([w.flatten() for w in masters_of(session).values()])
    after = torch.cat([w.flatten() for w in block_weights(session, variant).values()])
    count = round(amount * before.numel())
    already = int((before == 0).sum())
    assert int((after == 0).sum()) == max(count, already)
    kept = after != 0
    assert torch.equal(after[kept], before[kept])
    if count > already:
        assert before[~kept].abs().max() <= before[kept].abs().min()


def test_an_amount_of_zero_engages_nothing_and_says_so(model_folder: Path) -> None:
    plain = read_logits(open_session(model_folder), IDS)
    for text in ("prune-l1:amount=0", "prune-neurons:amount=0"):
        session, variant = built(model_folder, text)
        assert not variant.report.techniques[0].engaged
        assert torch.equal(read_logits(session, IDS), plain)


# ---------------------------------------------------------------------------------------------------- neuron pruning


@pytest.mark.parametrize("amount", [0.1, 0.3, 0.75])
def test_neuron_pruning_equals_removing_the_weakest_neurons_by_hand(model_folder: Path, amount: float) -> None:
    session, variant = built(model_folder, f"prune-neurons:amount={amount}")
    c = session.config
    keep = neurons_left(c.intermediate_size, amount)
    assert keep < c.intermediate_size and keep % 8 == 0 and abs(keep - c.intermediate_size * (1 - amount)) <= 4
    layers = kernels(variant)
    for i in range(c.n_layers):
        up, down = (session.masters[f"blocks.{i}.mlp.{s}.weight"] for s in ("up", "down"))
        f = c.intermediate_size
        scores = []
        for neuron in range(f):
            into = float(up[neuron].double().norm())
            if c.gated:
                into *= float(up[neuron + f].double().norm())
            scores.append(into * float(down[:, neuron].double().norm()))
        kept = sorted(sorted(range(f), key=lambda n: -scores[n])[:keep])
        rows = kept + [n + f for n in kept] if c.gated else kept
        found_up, found_down = layers[f"blocks.{i}.mlp.up"], layers[f"blocks.{i}.mlp.down"]
        assert found_up.shape == (len(rows), c.hidden_size) and found_down.shape == (c.hidden_size, keep)
        assert torch.equal(found_up.dense(), up[rows])
        assert torch.equal(found_down.dense(), down[:, kept])
        if c.mlp_bias:
            assert torch.equal(found_up.bias, session.masters[f"blocks.{i}.mlp.up.bias"][rows])
            assert torch.equal(found_down.bias, session.masters[f"blocks.{i}.mlp.down.bias"])


def test_neuron_pruning_gives_the_logits_of_the_model_with_those_neurons_silenced(model_folder: Path) -> None:
    session, _ = built(model_folder, "prune-neurons:amount=0.5")
    c, reference = session.config, load_decoder(session.masters)
    for i in range(c.n_layers):
        block = reference.blocks[i].mlp
        into = block.up.weight.norm(dim=1)
        score = (into.chunk(2)[0] * into.chunk(2)[1] if c.gated else into) * block.down.weight.norm(dim=0)
        weak = score.argsort()[:c.intermediate_size - neurons_left(c.intermediate_size, 0.5)]
        with torch.no_grad():
            block.down.weight[:, weak] = 0
    with torch.no_grad():
        expected = reference(torch.tensor([IDS]))[0]
    torch.testing.assert_close(read_logits(session, IDS), expected, atol=2e-5, rtol=0)


# ------------------------------------------------------------------------------------------------------ quantization


@pytest.mark.parametrize("recipe", ["int8", "int8-dynamic:head=quantize", "l1-50,int8"])
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
    assert checked == 4 * session.config.n_layers + ("head=quantize" in recipe)


def test_int8_layers_multiply_as_the_definition_says(model_folder: Path) -> None:
    session, variant = built(model_folder, "int8")
    bits = 255 if cpu().vnni else 127
    for name, layer in kernels(variant).items():
        if layer.dtype_name != "int8":
            continue
        x = torch.randn(5, layer.shape[1], generator=torch.Generator().manual_seed(6))
        low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
        scale = (high - low) / bits
        zero = round(-low / scale)
        seen = ((x / scale).round() + zero).clamp(0, bits).sub(zero) * scale
        bias = session.masters.get(f"{name}.bias", 0.0)
        expected = seen @ layer.dense().t() + bias
        torch.testing.assert_close(layer(x), expected, atol=2e-3 * float(expected.abs().max()), rtol=0)


def test_int8_survives_rows_of_zeros(gpt2_folder: Path, tmp_path: Path) -> None:
    from engine.models.checkpoint import load_masters, save_folder
    from engine.models.tokenizer import Tokenizer

    masters = load_masters(gpt2_folder)
    tensors = {name: masters[name].clone() for name in masters}
    tensors["blocks.0.mlp.up.weight"][3:9] = 0
    tensors["blocks.0.attn.qkv.weight"][:] = 0
    save_folder(tmp_path, masters.config, tensors, torch.float32)
    session = Session(load_masters(tmp_path), Tokenizer.from_folder(gpt2_folder), cpu())
    variant = session.apply(parse_recipe("int8"))
    assert torch.isfinite(read_logits(session, IDS)).all()
    assert not kernels(variant)["blocks.0.mlp.up"].dense()[3:9].any()


# --------------------------------------------------------------------------------------------- precision and autocast


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_16_bit_weights_are_exactly_the_casts(model_folder: Path, name: str, dtype: torch.dtype) -> None:
    session, variant = built(model_folder, name)
    for layer_name, layer in kernels(variant).items():
        source = "embed" if layer_name == "head" and session.config.tied else layer_name
        assert torch.equal(layer.dense(), session.masters[f"{source}.weight"].to(dtype).float()), layer_name
    for parameter_name, parameter in variant.decoder.named_parameters():
        assert parameter.dtype == dtype, parameter_name
    assert torch.equal(variant.decoder.embed.weight, session.masters["embed.weight"].to(dtype))
    plain = read_logits(open_session(model_folder), IDS)
    assert ((read_logits(session, IDS) - plain).norm() / plain.norm()) < (0.05 if name == "bf16" else 0.01)


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_autocast_equals_torch_autocast_over_the_plain_fp32_model(model_folder: Path, name: str,
                                                                 dtype: torch.dtype) -> None:
    session, variant = built(model_folder, f"autocast:dtype={name}")
    reference = load_decoder(session.masters).requires_grad_(False)
    with torch.inference_mode(), torch.autocast("cpu", dtype=dtype):
        expected = reference(torch.tensor([IDS]))[0].float()
    found = variant.forward(torch.tensor([IDS]), None, last_only=False)[0]
    assert torch.equal(found, expected)
    assert torch.equal(read_logits(session, IDS), expected)
    assert {p.dtype for p in variant.decoder.parameters()} == {torch.float32}


def test_fp32_equals_the_plain_module(model_folder: Path) -> None:
    session = open_session(model_folder)
    reference = load_decoder(session.masters)
    with torch.inference_mode():
        assert torch.equal(read_logits(session, IDS), reference(torch.tensor([IDS]))[0])


# ------------------------------------------------------------------------------------------------------------ stacks


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
            report = session.active.report
            assert [t.key for t in report.techniques] == [o.key for o in recipe.options]
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


def test_the_full_stack_prunes_before_it_quantizes(llama_folder: Path) -> None:
    session, variant = built(llama_folder, "bf16,int8,l1-50,neurons-30")
    dense_session, dense = built(llama_folder, "neurons-30,l1-50")
    assert session.config == dense_session.config
    for name, layer in kernels(dense).items():
        if name != "head":
            stacked = kernels(variant)[name]
            assert stacked.shape == layer.shape
            assert not stacked.dense()[layer.dense() == 0].any()


def test_a_technique_refused_by_the_device_says_why_and_changes_nothing(llama_folder: Path) -> None:
    import dataclasses

    session = open_session(llama_folder)
    expected = read_logits(session, IDS)
    session.device = dataclasses.replace(session.device, int8_kernels=False, bf16=False, name="Old processor")
    for text, reason in (("int8", "FBGEMM"), ("bf16", "Old processor has no bf16"), ("autocast-bf16", "no bf16")):
        with pytest.raises(DynoError, match=reason) as caught:
            session.apply(parse_recipe(text))
        assert "off" in caught.value.hint
        assert torch.equal(read_logits(session, IDS), expected)


def test_without_packed_kernels_bf16_gives_the_same_weights(llama_folder: Path) -> None:
    import dataclasses

    session = open_session(llama_folder, parse_recipe("bf16"))
    assert session.active is not None
    plain = open_session(llama_folder)
    plain.device = dataclasses.replace(plain.device, packed_linear=False)
    variant = plain.apply(parse_recipe("bf16"))
    assert all("packed" not in kernel for kernel, _ in variant.report.kernels)
    for name, layer in kernels(variant).items():
        assert torch.equal(layer.dense(), kernels(session.active)[name].dense())
    close = (read_logits(plain, IDS) - read_logits(session, IDS)).norm() / read_logits(session, IDS).norm()
    assert close < 0.02


def test_every_technique_describes_itself(llama_folder: Path) -> None:
    config = open_session(llama_folder).config
    for technique in all_techniques():
        options = technique.options_type()
        assert technique.label and technique.summary and technique.group and technique.short(options)
        assert technique.available(options, cpu(), config).ok
    assert [t.order for t in all_techniques()] == sorted({t.order for t in all_techniques()})


def test_training_and_inference_read_the_same_decoder(model_folder: Path) -> None:
    session = open_session(model_folder)
    decoder = load_decoder(session.masters)
    assert isinstance(decoder, Decoder) and all(p.requires_grad for p in decoder.parameters())
    loss = nn.functional.cross_entropy(decoder(torch.tensor([IDS]))[0, :-1], torch.tensor(IDS[1:]))
    loss.backward()
    assert all(p.grad is not None for p in decoder.parameters())
    before = session.masters["embed.weight"].clone()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.sub_(parameter.grad)
    assert torch.equal(session.masters["embed.weight"], before), "training wrote into the masters"
