"""Undo: whatever was switched on before, off means the bits of a session that never switched."""

from __future__ import annotations

import dataclasses
import itertools
import random
from pathlib import Path

import pytest
import torch

from engine.generation import NewToken, generate
from engine.kernels.embedding import RowsOnDemand
from engine.kernels.linear import PlainLinear
from engine.messages import (
    ApplyRecipe,
    Finished,
    Generate,
    GenerationStats,
    Progress,
    RecipeApplied,
    Switched,
    Tokens,
)
from engine.recipe import Recipe, load_presets, parse_recipe
from engine.session import Session
from engine.techniques.precision import PrecisionOptions
from tests.engine.support import (
    GREEDY,
    Engine,
    cpu,
    decode_logits,
    hash_of,
    open_session,
    random_recipe,
    read_logits,
    runnable,
    some_options,
)

IDS = torch.randint(2, 300, (40,), generator=torch.Generator().manual_seed(3)).tolist()
FP32 = Recipe()
INT8, L1 = parse_recipe("int8"), parse_recipe("l1-50")


def assert_never_switched(session: Session, prefilled: torch.Tensor, decoded: torch.Tensor) -> None:
    assert torch.equal(read_logits(session, IDS), prefilled)
    assert torch.equal(decode_logits(session, IDS[:6]), decoded)


@pytest.mark.parametrize("model", ["gpt2_folder", "llama_folder", "tied_llama_folder"])
def test_after_any_sequence_of_switches_off_gives_bit_identical_logits(
        model: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(model)
    rng = random.Random(20)
    fresh = open_session(folder)
    prefilled, decoded, masters = read_logits(fresh, IDS), decode_logits(fresh, IDS[:6]), hash_of(fresh.masters)
    session, used = open_session(folder), set()
    for sequence in range(120):
        if sequence % 2:  # half of them build everything anew, half meet the variants of earlier sequences
            session = open_session(folder)
        for _ in range(rng.randint(1, 4)):
            recipe = random_recipe(rng)
            used |= {options.key for options in recipe.options}
            session.apply(recipe)
            assert torch.isfinite(read_logits(session, IDS)).all()
        session.apply(FP32)
        assert_never_switched(session, prefilled, decoded)
    assert used == {technique.key for technique in runnable()}
    assert hash_of(session.masters) == masters


MID_REPLY_RUNS = 40


@pytest.mark.parametrize("model", ["gpt2_folder", "tied_llama_folder"])
def test_random_switches_in_mid_reply_leave_no_trace_once_everything_is_off(
        model: str, request: pytest.FixtureRequest) -> None:
    """In each run recipes change at random tokens; the last change switches everything off. The cache must then hold
    the bits that a session which never switched gets by reading the same tokens, and go on with its tokens."""
    folder: Path = request.getfixturevalue(model)
    rng = random.Random(41)
    session, fresh = open_session(folder), open_session(folder)
    masters = hash_of(session.masters)
    for _ in range(MID_REPLY_RUNS):
        moments = sorted(rng.sample(range(1, 30), rng.randint(1, 4)))
        plan = {at: random_recipe(rng) for at in moments[:-1]} | {moments[-1]: FP32}
        made: list[int] = []
        for step in generate(session, IDS, dataclasses.replace(GREEDY, max_tokens=34)):
            if isinstance(step, NewToken):
                made.append(step.piece.token_id)
                if len(made) in plan:
                    session.apply(plan[len(made)])
        before = [FP32, *(plan[at] for at in moments)]
        changes = [at - 1 for at, old in zip(moments, before, strict=False) if plan[at] != old]
        known = changes[-1] if changes else 0
        reread = [*IDS, *made[:known]]  # what the cache was last built from; the tokens after it came one by one
        fresh.begin(reread, 256, reuse=False)
        fresh.read(reread)
        for position in range(known, len(made) - 1):
            logits = fresh.step([made[position]])[-1]
            assert int(logits.argmax()) == made[position + 1], plan
        length = len(IDS) + len(made) - 1
        assert session._cache is not None and fresh._cache is not None
        for mine, theirs in zip(session._cache.k + session._cache.v, fresh._cache.k + fresh._cache.v, strict=True):
            assert torch.equal(mine[:, :, :length], theirs[:, :, :length]), plan
        session.apply(FP32)
    assert hash_of(session.masters) == masters


@pytest.mark.parametrize("technique", [technique.key for technique in runnable()])
def test_each_technique_alone_is_undone_even_when_built_again(model_folder: Path, technique: str) -> None:
    rng = random.Random(technique)
    session = open_session(model_folder)
    prefilled, decoded, masters = read_logits(session, IDS), decode_logits(session, IDS[:6]), hash_of(session.masters)
    changed = False
    for _ in range(4):
        options = next(o for o in some_options(rng) if o.key == technique)
        session.apply(Recipe((options,)))
        changed = changed or not torch.equal(read_logits(session, IDS), prefilled)
        session._built.clear()  # nothing to flip back to: fp32 is built from the masters once more
        session.apply(FP32)
        assert_never_switched(session, prefilled, decoded)
    assert changed == (technique != "lookup"), "prompt lookup guesses tokens; everything else computes differently"
    assert hash_of(session.masters) == masters


def test_a_variant_does_not_depend_on_what_was_on_before(model_folder: Path) -> None:
    known = {technique.key for technique in runnable()}
    recipes = [preset.recipe for preset in load_presets()
               if {o.key for o in preset.recipe.options} <= known and preset.name != "tf32"]
    assert len(recipes) > 12
    alone = [read_logits(open_session(model_folder, recipe), IDS) for recipe in recipes]
    session = open_session(model_folder)
    for first, second in itertools.permutations(range(len(recipes)), 2):
        session._built.clear()  # both are built anew
        session.apply(recipes[first])
        session.apply(recipes[second])
        assert torch.equal(read_logits(session, IDS), alone[second]), (recipes[first].label, recipes[second].label)


def test_flipping_back_meets_the_variant_that_was_built_before(model_folder: Path) -> None:
    session = open_session(model_folder)
    first = session.active
    session.apply(INT8)
    assert session.apply(FP32) is first
    assert first is not None and first.report.from_cache


def test_a_checkpoint_stored_in_bf16_comes_back_bit_for_bit(llama_folder: Path, tmp_path: Path) -> None:
    from engine.models.checkpoint import load_masters, save_folder
    from engine.models.tokenizer import Tokenizer
    from tests.engine.support import cpu

    masters = load_masters(llama_folder)
    save_folder(tmp_path, masters.config, masters, torch.bfloat16)
    session = Session(load_masters(tmp_path), Tokenizer.from_folder(llama_folder), cpu())
    session.apply(FP32)
    expected, fingerprint = read_logits(session, IDS), hash_of(session.masters)
    for text in ("int8", "l1-50,bf16", "fp16", "autocast-bf16"):
        session.apply(parse_recipe(text))
        read_logits(session, IDS)
    session._built.clear()
    session.apply(FP32)
    assert torch.equal(read_logits(session, IDS), expected)
    assert hash_of(session.masters) == fingerprint


@pytest.mark.parametrize("model", ["gpt2_folder", "tied_llama_folder"])
@pytest.mark.parametrize("recipe", ["fp32", "fp16", "int8", "l1-50", "neurons-30", "autocast-bf16", "int8,fp16",
                                    "heads-25", "layers-10", "kv-int8", "attention:backend=plain"])
def test_a_tied_head_stays_the_embedding_itself(model: str, recipe: str, request: pytest.FixtureRequest) -> None:
    session = open_session(request.getfixturevalue(model), INT8)
    variant = session.apply(parse_recipe(recipe))
    assert variant.decoder.head.weight is variant.decoder.embed.weight
    head = next(layer for layer in variant.report.layers if layer.name == "head")
    assert head.shared and head.nbytes == variant.decoder.embed.weight.nbytes
    assert variant.report.mapped_bytes == 0


@pytest.mark.parametrize("model", ["gpt2_folder", "tied_llama_folder"])
@pytest.mark.parametrize("recipe", ["bf16", "int8,bf16", "int8-dynamic:head=int8", "int8-weight:head=int8",
                                    "int4-weight:head=int4"])
def test_a_tied_head_laid_out_anew_leaves_the_embedding_to_the_masters(
        model: str, recipe: str, request: pytest.FixtureRequest) -> None:
    """The head then has memory of its own, and the embedding none: its rows are read from the model's file."""
    if recipe.endswith("bf16") and not cpu().packed_linear:
        pytest.skip("this PyTorch has no packed linear kernel, so the head stays the embedding")
    session = open_session(request.getfixturevalue(model), INT8, native=False)
    variant = session.apply(parse_recipe(recipe))
    embed, master = variant.decoder.embed, session.masters["embed.weight"]
    assert isinstance(embed, RowsOnDemand) and embed.master.data_ptr() == master.data_ptr()
    assert list(embed.memory()) == [] and variant.report.mapped_bytes == master.nbytes
    rows = torch.tensor([[0, 5, 5, 383]])
    dtype = torch.bfloat16 if "bf16" in recipe else torch.float32
    assert torch.equal(embed(rows), master.to(dtype)[rows])
    head = next(layer for layer in variant.report.layers if layer.name == "head")
    assert not head.shared and head.nbytes > 0
    plain = session.apply(FP32)
    assert plain.decoder.head.weight is plain.decoder.embed.weight


def test_a_quantized_head_leaves_the_tie_and_undo_restores_it(tied_llama_folder: Path) -> None:
    session = open_session(tied_llama_folder)
    quantized = session.apply(parse_recipe("int8-dynamic:head=int8"))
    assert not isinstance(quantized.decoder.head, PlainLinear)
    assert not next(layer for layer in quantized.report.layers if layer.name == "head").shared
    session._built.clear()
    plain = session.apply(FP32)
    assert plain.decoder.head.weight is plain.decoder.embed.weight


# ------------------------------------------------------------------------------------------- in the middle of a reply


def reply(engine: Engine, job_id: int) -> list[tuple[int, float, str]]:
    """(token id, probability, recipe) of every token of a job."""
    return [(piece.token_id, piece.probability, event.recipe) for event in engine.seen
            if isinstance(event, Tokens) and event.job_id == job_id for piece in event.pieces]


def test_switching_in_mid_reply_and_back_gives_the_bits_of_a_session_that_never_switched(
        model_folder: Path, engine: Engine) -> None:
    rng = random.Random(8)
    engine.load(model_folder)
    prompt_ids = engine.session.tokenizer.encode("The lighthouse keeper")
    fresh = open_session(model_folder)
    for _ in range(12):
        before = len(engine.seen)
        job = Generate(engine.next_id(), prompt="The lighthouse keeper", sampling=GREEDY)
        at = sorted(rng.sample(range(1, 90), 3))
        recipes = (*(Recipe((options,)) for options in rng.sample(some_options(rng), 2)), FP32)
        engine.at({token: ApplyRecipe(recipe) for token, recipe in zip(at, recipes, strict=True)})
        engine.submit(job)
        end = engine.end_of(job.job_id)
        assert isinstance(end, Finished) and isinstance(end.result, GenerationStats)
        assert end.result.output_tokens == GREEDY.max_tokens
        made = reply(engine, job.job_id)
        assert len(made) == GREEDY.max_tokens
        switches = [e for e in engine.seen[before:] if isinstance(e, Switched)]
        assert [e.new for e in switches] == [recipe.label for recipe in recipes]
        assert [e.tokens_reread for e in switches] == [len(prompt_ids) + n - 1 for n in at]
        # After the last switch, read again what the engine read again, then go on alone.
        ids = prompt_ids + [token for token, _, _ in made]
        reread = switches[-1].tokens_reread
        fresh.begin(ids, len(prompt_ids) + GREEDY.max_tokens, reuse=False)
        fresh.read(ids[:reread])
        for position in range(reread, len(ids) - 1):
            logits = fresh.step([ids[position]])[-1]
            token, probability, recipe_name = made[position + 1 - len(prompt_ids)]
            assert recipe_name == FP32.fingerprint
            assert token == int(logits.argmax())
            assert probability == pytest.approx(float(logits.log_softmax(-1)[token].exp()), rel=1e-6)
        assert torch.equal(engine.session._cache.k[0][:, :, :len(ids) - 1], fresh._cache.k[0][:, :, :len(ids) - 1])
        assert torch.equal(engine.session._cache.v[1][:, :, :len(ids) - 1], fresh._cache.v[1][:, :, :len(ids) - 1])


def test_the_next_reply_after_switching_back_repeats_the_first_one_exactly(model_folder: Path, engine: Engine) -> None:
    engine.load(model_folder)
    replies = []
    for recipes in ((), (INT8, FP32), (L1, Recipe((PrecisionOptions("bf16"),)), FP32)):
        for recipe in recipes:
            engine.submit(ApplyRecipe(recipe))
            engine.wait(lambda e, recipe=recipe: isinstance(e, RecipeApplied) and e.report.recipe == recipe)
        job = Generate(engine.next_id(), prompt="The girl at the oars", sampling=GREEDY)
        assert isinstance(engine.run(job), Finished)
        replies.append(reply(engine, job.job_id))
    assert replies[0] == replies[1] == replies[2]


def test_switching_while_a_long_prompt_is_read_loses_no_token(llama_folder: Path, tmp_path: Path,
                                                             engine: Engine) -> None:
    from tests.conftest import LLAMA, write_model

    folder = write_model(tmp_path / "long", LLAMA | {"max_position_embeddings": 2048})
    engine.load(folder)
    prompt = "The gulls had seen the Wren. " * 200
    assert len(engine.session.tokenizer.encode(prompt)) > 1000
    one = GREEDY.__class__(**GREEDY.__dict__ | {"max_tokens": 4})
    plain = Generate(engine.next_id(), prompt=prompt, sampling=one)
    engine.run(plain)
    switched = Generate(engine.next_id(), prompt=prompt, sampling=one)
    engine.at({2: ApplyRecipe(INT8), 4: ApplyRecipe(FP32)},
              counts=lambda e: isinstance(e, Progress) and e.job_id == switched.job_id)
    engine.run(switched)
    assert sum(isinstance(e, RecipeApplied) for e in engine.seen) == 2
    assert reply(engine, switched.job_id) == reply(engine, plain.job_id)
