"""A model laid over several devices: which layers go where, that they answer as on one, and that it is told.

Most machines have no second device that computes. Two budgets of the processor stand for two devices here, and
PyTorch's "meta" device, which knows places and shapes but no numbers, shows that everything reaches its block.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.errors import DynoError
from engine.fit import estimate
from engine.hub.fits import TOO_LARGE, recipe_fits
from engine.models.cache import Int8KVCache, KVCache
from engine.models.devices import DeviceFacts, with_spill
from engine.models.placement import SHARE, Placement, plan
from engine.placing import block_bytes, block_weights
from engine.recipe import Recipe, parse_recipe
from engine.session import Session
from engine.techniques.draft import Draft
from engine.variant import drafted
from tests.conftest import LLAMA, TEXT, write_model
from tests.engine.support import cpu, decode_logits, finish, read_logits
from tests.engine.test_fit import padding

LAYERS = 6
PLENTY = 1 << 40


@pytest.fixture(scope="module", params=["llama", "tied", "windowed"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of six layers."""
    more = {"tied": {"tie_word_embeddings": True}, "windowed": {"model_type": "mistral", "sliding_window": 16}}
    shape = LLAMA | {"num_hidden_layers": LAYERS, "max_position_embeddings": 64} | more.get(request.param, {})
    return write_model(tmp_path_factory.mktemp("placed") / str(request.param), shape)


def plain() -> DeviceFacts:
    """The processor with room for everything, computing as it does for a model that lies on several devices."""
    return replace(cpu(), native="", free_bytes_override=PLENTY)


def short_of_room(folder: Path, text: str, first: int, *others: DeviceFacts) -> DeviceFacts:
    """A device with room for what surrounds the blocks and for `first` of them, and others behind it."""
    recipe = parse_recipe(text)
    device = replace(plain(), spill=others)
    session = Session.open(folder, device)
    draft: Draft = finish(drafted(session.masters, recipe, device, session.calibrator()))[0]
    around = draft.total_bytes() - sum(block_weights(draft, at, 0) for at in range(draft.config.n_layers))
    room = around + int((first + 0.5) * block_bytes(draft, 0, 0))
    return replace(device, name="First", free_bytes_override=int(room / SHARE) + 1)


def second() -> DeviceFacts:
    return replace(plain(), name="Second")


# ----------------------------------------------------------------------------------------------------------- the plan


def test_blocks_go_in_order_to_what_has_room_and_never_back() -> None:
    assert plan([[10] * 4, [10] * 4], 5, [26, 100]) == (0, 0, 1, 1)
    assert plan([[10] * 4], 5, [45]) == (0, 0, 0, 0)
    assert plan([[10] * 4], 6, [45]) is None
    assert plan([[30, 1], [30, 1]], 0, [10, 40]) == (1, 1), "the small block could go back, but the stream would too"
    assert plan([[10, 10], [11, 11], [9, 9]], 1, [11, 10, 9]) == (0, 2), "what a block weighs differs by device"
    assert plan([[1], [1]], 10, [5, 100]) is None, "what surrounds the blocks lies on the first device"


@pytest.mark.parametrize("seed", range(50))
def test_a_plan_never_gives_a_device_more_than_it_has(seed: int) -> None:
    pick = random.Random(seed)
    blocks, devices = pick.randint(1, 12), pick.randint(1, 4)
    needs = [[pick.randint(1, 20) for _ in range(blocks)] for _ in range(devices)]
    fixed, free = pick.randint(0, 30), [pick.randint(0, 80) for _ in range(devices)]
    placed = plan(needs, fixed, free)
    if placed is None:
        assert fixed > free[0] or any(sum(needs[d]) + (fixed if d == 0 else 0) > free[d] for d in range(devices))
        return
    assert list(placed) == sorted(placed) and len(placed) == blocks
    for d in range(devices):
        held = sum(needs[d][b] for b in range(blocks) if placed[b] == d)
        assert held + (fixed if d == 0 else 0) <= free[d]


def test_only_a_card_gives_what_it_has_no_room_for_to_others() -> None:
    cards = tuple(DeviceFacts("cuda", "Card", 1 << 30, index) for index in range(2))
    assert with_spill((*cards, cpu())).spill == (cards[1], cpu())
    assert with_spill((DeviceFacts("mps", "Apple GPU", 1 << 30), cpu())).spill == (), "its memory is the processor's"
    assert with_spill((cpu(),)).spill == ()


def test_where_layers_lie_is_said_in_words() -> None:
    card = DeviceFacts("cuda", "Card", 1 << 30)
    said = Placement((card, cpu()), (0, 0, 0, 1)).words
    assert said == f"Layers 1 to 3 and what surrounds them on Card (cuda:0); layer 4 on {cpu().name} (cpu)."
    assert Placement((card, cpu()), (1, 1)).words.startswith("No layer and what surrounds them on Card (cuda:0);")


# --------------------------------------------------------------------------------------------------- the same answers


@pytest.mark.parametrize("recipe", ["fp32", "bf16", "kv-int8", "int8-weight", "int4-weight", "autocast-bf16",
                                    "prune-layers:amount=0.3", "l1-50"])
def test_two_devices_answer_as_one(folder: Path, recipe: str) -> None:
    ids = Session.open(folder, plain()).tokenizer.encode(TEXT)[:40]
    whole = Session.open(folder, plain())
    one = whole.apply(parse_recipe(recipe))
    assert one.report.placement == "" and one.placement is None
    session = Session.open(folder, short_of_room(folder, recipe, 2, second()))
    two = session.apply(parse_recipe(recipe))
    assert two.placement is not None and two.placement.blocks[:3] == (0, 0, 1) and two.placement.blocks[-1] == 1
    last = len(two.placement.blocks)
    assert two.report.placement.startswith("Layers 1 to 2 and what surrounds them on First (cpu); ")
    assert two.report.placement.endswith(f"layers 3 to {last} on Second (cpu).")
    assert two.report.weight_bytes == one.report.weight_bytes
    assert torch.equal(read_logits(session, ids), read_logits(whole, ids))
    reference = decode_logits(whole, ids)
    assert (decode_logits(session, ids) - reference).abs().max() <= 2e-2 * reference.abs().max()


def test_three_devices_each_hold_their_keys_and_values(folder: Path) -> None:
    recipe = "kv-int8"
    middle = short_of_room(folder, recipe, 1)
    small = replace(second(), free_bytes_override=middle.free_bytes())  # room for some blocks, not for all
    session = Session.open(folder, short_of_room(folder, recipe, 1, small, replace(plain(), name="Third")))
    variant = session.apply(parse_recipe(recipe))
    assert variant.placement is not None and set(variant.placement.blocks) == {0, 1, 2}
    assert variant.new_cache(64).nbytes == variant.report.kv_bytes_per_token * 64
    assert [share * LAYERS for _, share in variant.shares()] == pytest.approx(
        [variant.placement.blocks.count(i) for i in range(3)])
    c = session.config
    for kind in (Int8KVCache, KVCache):
        cache = kind(c, 64, torch.float32, ("cpu", "cpu", "meta", "meta", "meta", "cpu"))
        assert [block.shape[0] for block in cache.blocks] == [4, 6, 2]
        assert [cache.k[layer].device.type for layer in range(LAYERS)] == ["cpu", "cpu", "meta", "meta", "meta",
                                                                              "cpu"]
        assert all(cache.k[layer].shape == cache.v[layer].shape == (1, c.n_kv_heads, 64, c.head_dim)
                   for layer in range(LAYERS))


def test_everything_a_block_reads_is_brought_to_its_device(folder: Path) -> None:
    """The second device computes nothing and keeps no numbers, but refuses to mix with another."""
    session = Session.open(folder, short_of_room(folder, "fp32", 2, replace(second(), kind="meta", name="Nowhere")))
    variant = session.apply(Recipe())
    places = {name: {p.device.type for p in variant.decoder.blocks[int(name)].parameters()} for name in "0125"}
    assert places == {"0": {"cpu"}, "1": {"cpu"}, "2": {"meta"}, "5": {"meta"}}
    cache = variant.new_cache(64)
    assert [block.device.type for block in cache.blocks] == ["cpu", "meta"]
    seen: list[str] = []

    def note(_module: object, _inputs: object, out: Any) -> None:
        seen.append(out.device.type)

    for block in variant.decoder.blocks:
        block.register_forward_hook(note)
    for ids in (torch.arange(5)[None], torch.arange(30)[None], torch.tensor([[3]])):  # with and without a mask
        with pytest.raises(NotImplementedError, match="out of meta tensor"):  # the way back, to the last norm
            variant.forward(ids, cache)
        cache.length += 0 if cache.length else ids.shape[1]
    assert seen == ["cpu", "cpu", "meta", "meta", "meta", "meta"] * 3


# ------------------------------------------------------------------------------------------------ what cannot be done


def test_what_cannot_be_split_is_refused_in_a_sentence(folder: Path) -> None:
    device = short_of_room(folder, "fp32", 2, replace(second(), free_bytes_override=10))
    with pytest.raises(DynoError, match="all devices together can give"):
        Session.open(folder, device).apply(Recipe())
    card = replace(second(), kind="cuda", name="Card")
    device = short_of_room(folder, "int8-dynamic", 2, card)
    with pytest.raises(DynoError, match=r"A part of the model must lie on Card, and .* cannot run there"):
        Session.open(folder, device).apply(parse_recipe("int8-dynamic"))


def test_a_cache_that_one_of_the_devices_has_no_room_for_is_refused(folder: Path) -> None:
    session = Session.open(folder, short_of_room(folder, "fp32", 2, second()))
    variant = session.apply(Recipe())
    assert variant.placement is not None
    first = replace(variant.placement.devices[0], free_bytes_override=100)
    variant.placement = replace(variant.placement, devices=(first, *variant.placement.devices[1:]))
    with pytest.raises(DynoError, match="KV cache"):
        session.begin([1, 2, 3], 64, reuse=False)


def test_the_estimate_before_loading_knows_of_the_other_devices(folder: Path) -> None:
    device = short_of_room(folder, "bf16", 2, second())
    fit = estimate(folder, parse_recipe("bf16"), device=device)
    session = Session.open(folder, device)
    report = session.apply(parse_recipe("bf16")).report
    assert session.active is not None
    assert fit.loads and fit.fits and fit.placement == report.placement
    assert fit.weight_bytes == pytest.approx(report.weight_bytes - padding(session.active), rel=0.001)
    listed = {each.recipe: each for each in recipe_fits(folder, device)}["bf16"]
    assert listed.verdict != TOO_LARGE and listed.placement == fit.placement
    alone = estimate(folder, parse_recipe("bf16"), device=replace(device, spill=()))
    assert not alone.loads and alone.placement == ""
