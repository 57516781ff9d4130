"""Calibration: the statistics are those of the plain decoder on the same text, taken once, and a build can be stopped
between any two of its steps."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
import torch

from engine.errors import DynoError
from engine.messages import ApplyRecipe, Finished, Generate, Progress, RecipeApplied, Sampling, Shutdown
from engine.recipe import Recipe, parse_recipe
from engine.session import Session
from engine.techniques.base import BuildStep
from engine.techniques.calibration import CHUNK, CHUNKS, Calibrator
from engine.variant import Variant, build_variant
from tests.conftest import LLAMA, write_model
from tests.engine.support import (
    Engine,
    cpu,
    finish,
    hash_of,
    open_session,
    read_logits,
    seen_by_hand,
)

IDS = torch.randint(2, 300, (40,), generator=torch.Generator().manual_seed(3)).tolist()
MODELS = ["gpt2_folder", "llama_folder", "tied_llama_folder", "qwen3_folder", "mistral_folder"]
CALIBRATED = ["wanda-50", "heads-25", "layers-10", "int4-fit", "prune-neurons:score=activation"]
EVERYTHING = ("prune-layers:amount=0.5,prune-heads:amount=0.5,prune-neurons:amount=0.3:score=activation,"
              "wanda-50,int4-weight:fit=fit:head=int4:embedding=int8,bf16,kv-int8,lookup")


def stages(steps: Generator[BuildStep, None, Variant]) -> tuple[list[str], Variant]:
    """The stage of every step of a build, and what it made."""
    seen: list[str] = []
    while True:
        try:
            seen.append(next(steps)[0])
        except StopIteration as end:
            return seen, end.value


def calibrator_of(session: Session) -> Calibrator:
    """The session's calibrator, which any build makes."""
    finish(session.build(Recipe()))
    assert session._calibrator is not None
    return session._calibrator


@pytest.mark.parametrize("model", MODELS)
def test_the_statistics_are_those_of_the_plain_decoder_with_hooks(model: str, request: pytest.FixtureRequest) -> None:
    session = open_session(request.getfixturevalue(model))
    found, expected = finish(calibrator_of(session).steps()), seen_by_hand(session)
    assert found.mean_square.keys() == expected.mean_square.keys()
    for name, square in expected.mean_square.items():
        assert found.mean_square[name].dtype == torch.float32
        torch.testing.assert_close(found.mean_square[name].double(), square, rtol=1e-4, atol=1e-9, msg=name)
    assert found.influence == pytest.approx(expected.influence, abs=1e-6)
    assert found.tokens == CHUNK * CHUNKS


def test_texts_and_contexts_shorter_than_a_chunk_are_used_as_they_are(tmp_path: Path, llama_folder: Path) -> None:
    narrow = open_session(write_model(tmp_path / "narrow", LLAMA | {"max_position_embeddings": 24}))
    found = finish(calibrator_of(narrow).steps())
    assert found.tokens == 24 * CHUNKS
    session = open_session(llama_folder)
    assert finish(Calibrator(session.masters, list(range(2, 52)), cpu()).steps()).tokens == 50
    assert finish(Calibrator(session.masters, [3, 4], cpu()).steps()).tokens == 2
    for ids in ([], [5]):
        with pytest.raises(DynoError, match="no tokens") as caught:
            finish(Calibrator(session.masters, ids, cpu()).steps())
        assert caught.value.hint


@pytest.mark.parametrize("recipe", CALIBRATED)
def test_without_a_text_a_technique_that_needs_one_is_refused(llama_folder: Path, recipe: str) -> None:
    session = open_session(llama_folder)
    with pytest.raises(DynoError, match="calibration text") as caught:
        finish(build_variant(session.masters, parse_recipe(recipe), cpu()))
    assert caught.value.hint


def test_calibrating_shows_its_progress_block_by_block_and_happens_once_in_a_session(llama_folder: Path) -> None:
    session = open_session(llama_folder)
    first, _ = stages(session.build(parse_recipe("wanda-50")))
    assert first[:2] == ["Calibrating"] * session.config.n_layers and "Calibrating" not in first[2:]
    for recipe in (*CALIBRATED[1:], EVERYTHING):
        again, _ = stages(session.build(parse_recipe(recipe)))
        assert "Calibrating" not in again and again[-1] == "Building", recipe


def test_techniques_that_need_no_calibration_do_not_calibrate(llama_folder: Path) -> None:
    for recipe in ("int8", "int4", "l1-50", "neurons-30", "sparse-2-4", "prune-random:amount=0.5", "bf16", "kv-int8"):
        assert "Calibrating" not in stages(open_session(llama_folder).build(parse_recipe(recipe)))[0]


@pytest.mark.parametrize("recipe", [*CALIBRATED, EVERYTHING, "prune-l1:amount=0.3:scope=layer,int8"])
def test_a_build_can_be_stopped_between_any_two_steps(model_folder: Path, recipe: str) -> None:
    session, wanted = open_session(model_folder), parse_recipe(recipe)
    plain, masters = read_logits(session, IDS), hash_of(session.masters)
    clean = open_session(model_folder)
    expected, count = read_logits(open_session(model_folder, wanted), IDS), len(stages(clean.build(wanted))[0])
    assert count >= 8
    for stop in range(1, count + 1):
        session._calibrator = None  # as on the first build, so that calibrating too is stopped
        steps = session.build(wanted)
        for _ in range(stop):
            next(steps)
        steps.close()
        assert session.active is not None and session.active.recipe == Recipe()
        assert wanted not in session._built
    assert torch.equal(read_logits(session, IDS), plain)
    session.apply(wanted)
    assert torch.equal(read_logits(session, IDS), expected)
    session.apply(Recipe())
    assert torch.equal(read_logits(session, IDS), plain)
    assert hash_of(session.masters) == masters


def test_a_calibration_stopped_half_way_starts_over_and_gives_the_same(llama_folder: Path) -> None:
    whole, stopped = (calibrator_of(open_session(llama_folder)) for _ in range(2))
    steps = stopped.steps()
    next(steps)
    steps.close()
    first, second = finish(whole.steps()), finish(stopped.steps())
    assert first.influence == second.influence
    assert all(torch.equal(first.mean_square[name], second.mean_square[name]) for name in first.mean_square)


def test_a_newer_wish_replaces_a_recipe_that_is_still_calibrating(llama_folder: Path, engine: Engine) -> None:
    engine.load(llama_folder)
    wanted = parse_recipe("int8")
    engine.at({1: ApplyRecipe(wanted)}, counts=lambda e: isinstance(e, Progress) and e.stage == "Calibrating")
    engine.submit(ApplyRecipe(parse_recipe("wanda-50")))
    event = engine.wait(lambda e: isinstance(e, RecipeApplied))
    assert isinstance(event, RecipeApplied) and event.report.recipe == wanted
    # None where the outbox folded it into a later one before it was read.
    assert sum(isinstance(e, Progress) and e.stage == "Calibrating" for e in engine.seen) <= 1
    end = engine.run(Generate(engine.next_id(), prompt="The wind", sampling=Sampling(max_tokens=4)))
    assert isinstance(end, Finished)


def test_shutdown_while_calibrating_ends_the_thread(llama_folder: Path) -> None:
    engine = Engine()
    engine.load(llama_folder)
    engine.at({1: Shutdown()}, counts=lambda e: isinstance(e, Progress) and e.stage == "Calibrating")
    engine.submit(ApplyRecipe(parse_recipe("heads-25")))
    engine.stop()
    assert not engine.worker._thread.is_alive()
