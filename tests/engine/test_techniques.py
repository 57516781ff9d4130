"""Precision and autocast against PyTorch's own; what can run where, what stands together, and why not."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from engine.doctor import doctor_report, doctor_text
from engine.errors import DynoError
from engine.jobs import unavailable_techniques
from engine.models.checkpoint import load_decoder, load_masters
from engine.models.config import ModelConfig
from engine.models.devices import DeviceFacts
from engine.models.gpt import Decoder
from engine.paths import RECIPES
from engine.recipe import Recipe, load_presets, make_options, parse_recipe
from engine.techniques import all_techniques, technique
from engine.techniques.base import Effect, Technique, case_name
from engine.techniques.draft import Draft
from engine.techniques.prune_sparse24 import Sparse24Scheme
from engine.techniques.quantizing import quantizes
from tests.conftest import LLAMA
from tests.engine.support import built, cpu, finish, kernels, open_session, read_logits

IDS = torch.randint(2, 300, (50,), generator=torch.Generator().manual_seed(4)).tolist()


# --------------------------------------------------------------------------------------------- precision and autocast


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_16_bit_weights_are_exactly_the_casts(model_folder: Path, name: str, dtype: torch.dtype) -> None:
    session, variant = built(model_folder, name)
    for layer_name, layer in kernels(variant).items():
        source = "embed" if layer_name == "head" and session.config.tied else layer_name
        assert torch.equal(layer.dense(), session.masters[f"{source}.weight"].to(dtype).float()), layer_name
    for parameter_name, parameter in variant.decoder.named_parameters():
        assert parameter.dtype == dtype, parameter_name
    every = torch.arange(session.config.vocab_size)[None]
    assert torch.equal(variant.decoder.embed(every)[0], session.masters["embed.weight"].to(dtype))
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


# ------------------------------------------------------------------------------------------------------ availability


def test_a_technique_refused_by_the_device_says_why_and_changes_nothing(llama_folder: Path) -> None:
    session = open_session(llama_folder)
    expected = read_logits(session, IDS)
    session.device = dataclasses.replace(session.device, int8_kernels=False, native="", bf16=False,
                                         name="Old processor")
    for text, reason in (("int8", "no 8-bit integer"), ("bf16", "Old processor has no bf16"),
                         ("autocast-bf16", "no bf16")):
        with pytest.raises(DynoError, match=reason) as caught:
            session.apply(parse_recipe(text))
        assert "off" in caught.value.hint
        assert torch.equal(read_logits(session, IDS), expected)


def test_without_packed_kernels_bf16_gives_the_same_weights(llama_folder: Path) -> None:
    session = open_session(llama_folder, parse_recipe("bf16"), native=False)
    assert session.active is not None
    plain = open_session(llama_folder, native=False)
    plain.device = dataclasses.replace(plain.device, packed_linear=False)
    variant = plain.apply(parse_recipe("bf16"))
    assert all("packed" not in kernel for kernel, _ in variant.report.kernels)
    for name, layer in kernels(variant).items():
        assert torch.equal(layer.dense(), kernels(session.active)[name].dense())
    close = (read_logits(plain, IDS) - read_logits(session, IDS)).norm() / read_logits(session, IDS).norm()
    assert close < 0.02


def test_every_technique_describes_itself(llama_folder: Path) -> None:
    config, refused = open_session(llama_folder).config, set()
    for one in all_techniques():
        options = one.options_type()
        assert one.label and one.summary and one.group and one.short(options)
        verdict = one.available(options, cpu(), config)
        assert verdict.ok != bool(verdict.reason), one.key
        refused |= {one.key} if not verdict.ok else set()
    assert refused == {"fp8"} | (set() if cpu().compiler else {"compile"})
    assert [t.order for t in all_techniques()] == sorted({t.order for t in all_techniques()})


# ------------------------------------------------------------------------------------------------ presets and reasons


HERE = dataclasses.replace(cpu(), name="This processor", compiler=True)
CARD = DeviceFacts("cuda", "This card", 1 << 30, bf16=False, compiler=True)
APPLE = DeviceFacts("mps", "Apple GPU", 1 << 30)
MODEL = ModelConfig.from_hf(LLAMA)


@pytest.mark.parametrize(("device", "reasons"), [
    (HERE, {"fp8": "This processor has no fp8", "precision:tf32": "This processor has none",
            "attention:efficient": "NVIDIA cards only; This processor",
            "attention:cudnn": "NVIDIA cards only; This processor"}),
    (dataclasses.replace(HERE, native="", compiler=False, int4_kernel=False, int8_weight_kernel=False,
                         int8_kernels=False, bf16=False, fp16=False), {
        "fp8": "This processor has no fp8", "precision:tf32": "This processor has none",
        "precision:bf16": "This processor has no bf16", "precision:fp16": "This processor has no fp16",
        "autocast:bf16": "This processor has no bf16", "kv-cache:bf16": "This processor has no bf16",
        "attention:efficient": "NVIDIA cards only", "attention:cudnn": "NVIDIA cards only",
        "int8-dynamic": "no 8-bit integer products", "int8-weight": "no int8 weight-only kernel",
        "int4-weight": "no int4 kernel", "compile": "Install g++ or clang"}),
    (CARD, {"fp8": "This card has no fp8", "precision:tf32": "This card has none",
            "precision:bf16": "This card has no bf16", "autocast:bf16": "This card has no bf16",
            "kv-cache:bf16": "This card has no bf16", "int8-dynamic": "a CPU only", "int4-weight": "Ampere or later"}),
    (dataclasses.replace(CARD, bf16=True, tf32=True, fp8=True, int4_kernel=True), {
        "fp8": "whole blocks of 16", "int4-weight": "whole blocks of 128", "int8-dynamic": "a CPU only"}),
    (APPLE, {"fp8": "Apple GPU has no fp8", "precision:tf32": "Apple GPU has none", "int8-dynamic": "a CPU only",
             "int8-weight": "Apple GPUs", "int4-weight": "Apple GPUs", "compile": "Apple GPUs",
             "attention:flash": "Apple GPUs", "attention:efficient": "Apple GPU", "attention:cudnn": "Apple GPU"}),
], ids=["processor", "old processor", "old card", "new card", "apple"])
def test_what_cannot_run_on_a_device_is_named_with_a_reason(device: DeviceFacts, reasons: dict[str, str]) -> None:
    found = dict(unavailable_techniques(device, MODEL))
    assert found.keys() == reasons.keys()
    for key, words in reasons.items():
        assert words in found[key] and found[key].endswith("."), (key, found[key])


def test_this_processor_refuses_what_needs_a_card_and_says_its_own_name() -> None:
    found = dict(unavailable_techniques(cpu(), None))
    for key in ("fp8", "precision:tf32", "attention:efficient", "attention:cudnn"):
        assert cpu().name in found[key]


def test_presets_that_cannot_run_here_are_refused_with_the_reason_the_switches_show(llama_folder: Path) -> None:
    session = open_session(llama_folder)
    expected, unavailable = read_logits(session, IDS), dict(unavailable_techniques(cpu(), session.config))
    names = sorted(path.stem for path in RECIPES.glob("*.json"))
    presets = load_presets()
    assert sorted(p.name for p in presets) == names
    orders = [json.loads((RECIPES / f"{p.name}.json").read_text(encoding="utf-8"))["order"] for p in presets]
    assert orders == sorted(set(orders))
    refused = []
    for preset in presets:
        assert Recipe.from_json(preset.recipe.to_json()) == preset.recipe
        reasons = [reason for options in preset.recipe.options for reason in (
            unavailable.get(options.key),
            unavailable.get(f"{options.key}:{case_name(_technique(options.key), options)}")) if reason]
        if not reasons:
            continue
        refused.append(preset.name)
        with pytest.raises(DynoError) as caught:
            session.apply(preset.recipe)
        assert reasons[0] in caught.value.summary and caught.value.hint.startswith("Switch ")
        assert torch.equal(read_logits(session, IDS), expected)
    assert refused == ["tf32", "fp8"] + ([] if cpu().compiler else ["compile"])


def _technique(key: str) -> Technique:
    found = technique(key)
    assert found is not None
    return found


def test_doctor_lists_every_case_of_every_technique_with_its_reason() -> None:
    report = doctor_report()
    here = next(device for device in report["devices"] if device["device"] == "cpu")
    refused = {row["label"]: row["reason"] for row in here["techniques"] if not row["available"]}
    labels = {"fp8", "Precision tf32", "Attention backend efficient", "Attention backend cudnn"}
    assert labels <= set(refused) <= labels | {"Compile (torch.compile)"}
    assert all(cpu().name in refused[label] for label in labels)
    assert {row["technique"] for row in here["techniques"]} == {t.key for t in all_techniques()}
    text = doctor_text(report)
    assert all(f"no   {label}: {reason}" in text for label, reason in refused.items())
    assert not cpu().native or f"{cpu().native}; not with Autocast (AMP), Attention backend, Compile" in text


# ----------------------------------------------------------------------------------------------------------- conflicts


@pytest.mark.parametrize(("recipe", "words"), [
    ("int8,int4", ("int8 dynamic", "int4 weight-only", "both quantization")),
    ("int8-weight-only,int4", ("int8 weight-only", "int4 weight-only")),
    ("l1-50,wanda-50", ("L1", "Wanda", "both unstructured pruning")),
    ("l1-50,sparse-2-4", ("L1", "2:4")),
    ("prune-random:amount=0.1,wanda-50", ("random", "Wanda")),
])
def test_of_two_rivals_the_remedy_switches_off_the_one_that_was_there_before(recipe: str,
                                                                            words: tuple[str, ...]) -> None:
    asked = recipe.split(",")
    for order, old in ((asked, words[0]), (asked[::-1], words[1])):
        with pytest.raises(DynoError) as caught:
            parse_recipe(",".join(order))
        assert all(word in caught.value.summary for word in words), caught.value.summary
        assert caught.value.hint.startswith("Switch ") and caught.value.hint.endswith(" off first.")
        assert old in caught.value.hint, caught.value.hint


@pytest.mark.parametrize(("recipe", "words", "remedy"), [
    ("autocast-bf16,bf16", ("Autocast", "bf16"), "Set Precision to fp32"),
    ("autocast:dtype=fp16,fp16", ("Autocast", "fp16"), "switch Autocast off"),
])
def test_techniques_that_cannot_stand_together_say_why_and_what_to_do(recipe: str, words: tuple[str, ...],
                                                                     remedy: str) -> None:
    for order in (recipe, ",".join(reversed(recipe.split(",")))):
        with pytest.raises(DynoError) as caught:
            parse_recipe(order)
        assert all(word in caught.value.summary for word in words), caught.value.summary
        assert remedy in caught.value.hint, caught.value.hint


def test_a_recipe_holds_one_technique_of_each_exclusive_kind() -> None:
    kinds: dict[str, list[str]] = {}
    for one in all_techniques():
        kinds.setdefault(one.exclusive or one.key, []).append(one.key)
    assert {len(keys) for keys in kinds.values()} == {1, 4}, "four quantizations, four unstructured prunings"
    for first, second in itertools.combinations(all_techniques(), 2):
        pair = (make_options(first.key, {}), make_options(second.key, {}))
        if first.exclusive and first.exclusive == second.exclusive:
            with pytest.raises(DynoError, match="a recipe holds one"):
                Recipe(pair)
        elif {first.key, second.key} != {"autocast", "precision"}:
            assert len(Recipe(pair).options) == 2


def test_an_unknown_option_or_choice_is_refused_with_those_there_are() -> None:
    for text, words in (("int4-weight:group=16", "32, 64, 128"), ("int8-dynamic:head=fp8", "keep, int8"),
                        ("attention:backend=magic", "plain, math, flash"), ("kv-cache:dtype=int4", "fp32, bf16"),
                        ("prune-l1:scope=row", "global, layer"), ("int4-weight:bits=4", "group, fit, head")):
        with pytest.raises(DynoError) as caught:
            parse_recipe(text)
        assert words in caught.value.hint


def test_a_choice_that_an_earlier_version_called_otherwise_is_read_as_what_it_is_now() -> None:
    today = parse_recipe("int8-dynamic:head=int8")
    assert parse_recipe("int8-dynamic:head=quantize") == today
    saved = Recipe.from_json({"techniques": {"int8-dynamic": {"head": "quantize"}}})
    assert saved == today and saved.fingerprint == today.fingerprint


@pytest.mark.parametrize("option", ["lookup:ngram", "lookup:drafts", "prune-random:seed"])
def test_numbers_of_things_are_whole(option: str) -> None:
    key, name = option.split(":")
    value = getattr(parse_recipe(f"{option}=3").options[0], name)
    assert value == 3 and isinstance(value, int)
    assert Recipe.from_json({"techniques": {key: {name: 3.0}}}) == parse_recipe(f"{option}=3")
    with pytest.raises(DynoError, match="not a whole number") as caught:
        parse_recipe(f"{option}=2.5")
    assert caught.value.hint == "Choose 2 or 3."


CARD = DeviceFacts("cuda", "A card", 1 << 34, int4_kernel=True, fp8=True, sparse24=True, tf32=True)


def effects_on_a_card(folder: Path, recipe: str) -> tuple[Draft, dict[str, Effect]]:
    """What the techniques of a recipe record for a card with sparse tensor cores; nothing is built."""
    wanted = parse_recipe(recipe)
    draft = Draft(load_masters(folder), CARD, planned_dtype=getattr(wanted.get("precision"), "dtype", "fp32"),
                  planned_codes=quantizes(o.key for o in wanted.options))
    found: dict[str, Effect] = {}
    for options in wanted.options:
        tech = technique(options.key)
        assert tech is not None
        found[options.key] = finish(tech.steps(options, draft))
    return draft, found


def test_on_a_card_two_of_four_runs_sparse_and_takes_nine_sixteenths_of_16_bits(llama_folder: Path) -> None:
    draft, effects = effects_on_a_card(llama_folder, "prune-2-4,bf16")
    told = effects["prune-2-4"]
    sparse = [layer for layer in draft.inner() if layer.scheme is not None]
    dense = [layer for layer in draft.inner() if layer.scheme is None]
    assert len(sparse) == 4 and len(dense) == 4  # 104 neurons are no whole blocks
    assert "4 layers keep two of every four weights and run sparse. 4 other layers are too small" in told.detail
    assert sum(map(draft.layer_bytes, sparse)) == 9 / 8 * sum(la.numel for la in sparse)
    assert Sparse24Scheme().nbytes((64, 64), "fp32", CARD) == 64 * 64 * (2 + 1 / 8), "the cast comes later"
    assert "quantized" not in effects["precision"].detail and "9 linear layers" in effects["precision"].detail


@pytest.mark.parametrize("quantized", ["int8-weight-only", "int4", "fp8"])
def test_on_a_card_two_of_four_claims_no_layer_that_quantization_takes(llama_folder: Path, quantized: str) -> None:
    draft, effects = effects_on_a_card(llama_folder, f"prune-2-4,{quantized},bf16")
    told = effects["prune-2-4"]
    assert not any(isinstance(layer.scheme, Sparse24Scheme) for layer in draft.layers.values())
    assert "run sparse" not in told.detail and "rounds these layers to codes" in told.detail
    assert told.zeros == sum(layer.numel for layer in draft.inner()) // 2


def test_a_single_layer_is_told_in_the_singular_with_its_bytes(tied_llama_folder: Path) -> None:
    _, variant = built(tied_llama_folder, "int8,autocast-bf16")
    told = next(t for t in variant.report.techniques if t.key == "autocast")
    assert told.detail.startswith("1 layer multiplies in bf16;") and told.layers_touched == 1
    _, variant = built(tied_llama_folder, "int8,bf16")
    assert "1 linear layer, embeddings" in variant.report.techniques[-1].detail
    _, variant = built(tied_llama_folder, "lookup:ngram=1:drafts=1")
    assert variant.report.techniques[0].detail.startswith(
        "Up to 1 token is proposed where the last one stood before, and checked")


# ------------------------------------------------------------------------------------------------------------ training


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
