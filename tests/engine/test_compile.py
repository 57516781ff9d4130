"""torch.compile of the token step: a reply runs from the first moment, the compiled step takes over, undo is exact."""

from __future__ import annotations

import dataclasses
import gc
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.kernels import compiled_step
from engine.kernels.compiled_step import CompiledStep
from engine.messages import ApplyRecipe, Finished, Generate, GenerationStats, QualityProbe, RecipeApplied, Tokens
from engine.models.cache import KVCache
from engine.recipe import Recipe, parse_recipe
from engine.session import Session
from engine.variant import compiled_capacity
from tests.conftest import CONTEXT, LLAMA, TEXT, write_model
from tests.engine.support import GREEDY, Engine, cpu, decode_logits, open_session, read_logits, reply

IDS = torch.randint(2, 300, (30,), generator=torch.Generator().manual_seed(4)).tolist()
SHORT = dataclasses.replace(GREEDY, max_tokens=40)
COMPILE = parse_recipe("compile")
pytestmark = pytest.mark.skipif(not cpu().compiler, reason="torch.compile needs a C++ compiler, and none was found")

ShortOf = Callable[..., Any]


@pytest.fixture
def fake_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch.compile that is done at once and gives back the function itself."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)


@pytest.fixture
def broken_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch.compile that fails as the real one does: the cause on the second line."""
    def fail(function: ShortOf, **options: object) -> ShortOf:
        raise RuntimeError("backend='inductor' raised:\nCppCompileError: g++ has left the building\n\nmore")

    monkeypatch.setattr(torch, "compile", fail)


def waited(session: Session) -> CompiledStep:
    """The active compiled step after its compilation has ended."""
    assert session.active is not None and session.active.compiled is not None
    session.active.compiled.wait()
    return session.active.compiled


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler uses parts of torch that are to go
@pytest.mark.parametrize("recipe", ["compile", "int8-dynamic:head=int8,compile",
                                    "prune-heads:amount=0.5,int8-weight:head=int8,kv-int8,compile"])
def test_the_compiled_step_takes_over_says_so_and_leaves_no_trace(tied_llama_folder: Path, recipe: str) -> None:
    compiled = parse_recipe(recipe)
    uncompiled = compiled.without("compile")
    session = open_session(tied_llama_folder, uncompiled, native=False)
    plain, decoded, text = read_logits(session, IDS), decode_logits(session, IDS), reply(session, IDS, SHORT)[0]
    told: list[str] = []
    session.compiler_told = lambda variant: told.append(variant.compiled.state)
    variant = session.apply(compiled)
    step = variant.compiled
    assert step is not None and step.state == "compiling"
    assert not variant.report.techniques[-1].engaged
    assert reply(session, IDS, SHORT)[0] == text  # while it compiles, the plain decoder answers
    step.wait()
    assert (step.state, told) == ("ready", ["ready"]), step.error
    variant.note_compilation()
    report = variant.report.techniques[-1]
    assert report.engaged and report.build_s == step.compile_s > 0 and "was compiled in" in report.detail
    calls = count_calls(step)
    assert reply(session, IDS, SHORT)[0] == text
    assert len(calls) == SHORT.max_tokens - 1, "the compiled step made every token but the prompt's"
    torch.testing.assert_close(decode_logits(session, IDS), decoded, rtol=0,
                               atol=1e-4 if recipe == "compile" else 0.02 * float(decoded.abs().max()))
    cache = variant.new_cache(3)
    assert cache.nbytes == cache.capacity * variant.report.kv_bytes_per_token
    session._built.clear()
    session.apply(uncompiled)
    assert torch.equal(read_logits(session, IDS), plain)
    assert torch.equal(decode_logits(session, IDS), decoded)


def count_calls(step: CompiledStep) -> list[int]:
    """Positions at which the compiled code runs from now on."""
    calls: list[int] = []
    for capacity, run in list(step._ready.items()):
        def counted(ids: torch.Tensor, cache: KVCache, at: int, run: ShortOf = run) -> torch.Tensor:
            calls.append(at)
            return run(ids, cache, at)  # type: ignore[no-any-return]

        step._ready[capacity] = counted
    return calls


@pytest.mark.parametrize("model", ["gpt2_folder", "llama_folder", "tied_llama_folder", "qwen3_folder",
                                   "mistral_folder", "gemma2_folder", "gemma3_folder", "neox_folder", "phi3_folder"])
@pytest.mark.parametrize("stack", ["", ",bf16", ",kv-int8", ",autocast-bf16", ",attention:backend=plain"])
def test_the_step_of_fixed_shapes_that_is_compiled_gives_the_logits_of_the_plain_one(
        model: str, stack: str, request: pytest.FixtureRequest, fake_compiler: None) -> None:
    folder = request.getfixturevalue(model)
    plain, session = (open_session(folder, parse_recipe(text)) for text in (stack.strip(","), f"compile{stack}"))
    assert waited(session).state == "ready", waited(session).error
    calls = count_calls(waited(session))
    expected = decode_logits(plain, IDS)
    change = float((decode_logits(session, IDS) - expected).norm() / expected.norm())
    assert change < (0.02 if "bf16" in stack else 1e-5)
    assert calls == list(range(len(IDS)))


def test_a_compiler_that_fails_leaves_the_reply_running_and_the_report_says_why(llama_folder: Path,
                                                                               broken_compiler: None) -> None:
    text = reply(open_session(llama_folder), IDS, SHORT)[0]
    session = open_session(llama_folder, COMPILE)
    assert waited(session).state == "failed"
    assert reply(session, IDS, SHORT)[0] == text
    assert session.active is not None
    session.active.note_compilation()
    told = session.active.report.techniques[0]
    assert not told.engaged
    assert told.detail == (f"Compiling for a cache of {CONTEXT} tokens failed, so the uncompiled decoder runs: "
                           "CppCompileError: g++ has left the building")
    assert waited(session).state == "failed", "it is not tried again at every token"


def test_a_reply_says_what_of_it_did_not_come_from_compiled_code(llama_folder: Path, broken_compiler: None,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    failed = open_session(llama_folder, COMPILE)
    waited(failed)
    assert reply(failed, IDS, SHORT)[1].recipe == "compiled (uncompiled)"
    may_end = threading.Event()

    def late(function: ShortOf, **options: object) -> ShortOf:
        assert may_end.wait(60)
        return function

    monkeypatch.setattr(torch, "compile", late)
    session = open_session(llama_folder, COMPILE)
    try:
        assert reply(session, IDS, SHORT)[1].recipe == "compiled (uncompiled so far)"
    finally:
        may_end.set()
    assert waited(session).state == "ready"
    assert reply(session, IDS, SHORT)[1].recipe == "compiled"
    assert reply(session, IDS, SHORT, switches={5: Recipe()})[1].recipe == "compiled → fp32"


def test_compiled_code_that_fails_while_it_runs_gives_way_to_the_plain_decoder(llama_folder: Path,
                                                                              fake_compiler: None) -> None:
    text = reply(open_session(llama_folder), IDS, SHORT)[0]
    session = open_session(llama_folder, COMPILE)
    step, runs = waited(session), 0

    def breaks(ids: torch.Tensor, cache: KVCache, at: int) -> torch.Tensor:
        nonlocal runs
        runs += 1
        raise RuntimeError("recompile limit reached")

    for capacity in step._ready:
        step._ready[capacity] = breaks
    assert reply(session, IDS, SHORT)[0] == text
    assert step.state == "failed" and step.error == "recompile limit reached"
    assert session.active is not None
    session.active.note_compilation()
    assert "recompile limit reached" in session.active.report.techniques[0].detail
    assert runs == 1, "code that has failed is not run again"


def test_the_engine_tells_when_the_compiler_is_done_and_probes_again(llama_folder: Path, fake_compiler: None,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    from engine import worker

    monkeypatch.setattr(worker, "_probe_text", lambda: TEXT * 3)
    engine = Engine(probe=True)
    try:
        engine.load(llama_folder)
        engine.submit(ApplyRecipe(COMPILE))
        done = engine.wait(lambda e: isinstance(e, RecipeApplied) and e.report.techniques[0].engaged)
        assert isinstance(done, RecipeApplied) and "was compiled in" in done.report.techniques[0].detail
        engine.wait(lambda e: isinstance(e, QualityProbe) and e.result.recipe == COMPILE.label)
    finally:
        engine.stop()


def test_a_failed_compilation_reaches_the_window_and_replies_go_on(llama_folder: Path, engine: Engine,
                                                                   broken_compiler: None) -> None:
    engine.load(llama_folder)
    plain = Generate(engine.next_id(), prompt="The wind", sampling=SHORT)
    engine.run(plain)
    engine.submit(ApplyRecipe(COMPILE))
    engine.wait(lambda e: isinstance(e, RecipeApplied) and "left the building" in e.report.techniques[0].detail)
    again = Generate(engine.next_id(), prompt="The wind", sampling=SHORT)
    end = engine.run(again)
    assert isinstance(end, Finished) and isinstance(end.result, GenerationStats)
    texts = ["".join(e.text for e in engine.seen if isinstance(e, Tokens) and e.job_id == job.job_id)
             for job in (plain, again)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(("wanted", "context", "capacity"), [
    (0, 256, 256), (1, 2048, 512), (512, 2048, 512), (513, 2048, 1024), (1100, 2048, 2048), (1500, 1600, 1600)])
def test_compiled_caches_have_one_of_few_sizes(wanted: int, context: int, capacity: int) -> None:
    assert compiled_capacity(wanted, context) == capacity


def test_switching_compile_off_gives_bit_identical_logits_whatever_its_state(model_folder: Path,
                                                                             fake_compiler: None) -> None:
    session = open_session(model_folder)
    plain, decoded = read_logits(session, IDS), decode_logits(session, IDS)
    for waits in (False, True):
        session.apply(COMPILE)
        if waits:
            waited(session)
        decode_logits(session, IDS)
        waited(session)
        session._built.clear()
        session.apply(Recipe())
        assert torch.equal(read_logits(session, IDS), plain)
        assert torch.equal(decode_logits(session, IDS), decoded)


def test_a_capacity_that_fails_takes_nothing_from_one_that_is_ready(tmp_path: Path, fake_compiler: None,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model(tmp_path / "long", LLAMA | {"max_position_embeddings": 2048})
    session = open_session(folder, COMPILE)
    step, variant = waited(session), session.active
    assert variant is not None and step.state == "ready"

    def fail(function: ShortOf, **options: object) -> ShortOf:
        raise RuntimeError("out of registers")

    monkeypatch.setattr(torch, "compile", fail)
    wide, narrow = variant.new_cache(1000), variant.new_cache(100)
    assert (wide.capacity, narrow.capacity) == (1024, 512)
    variant.step(torch.tensor([[5]]), wide)
    step.wait()
    assert (step.state, step.error) == ("ready", "out of registers")
    calls = count_calls(step)
    variant.note_compilation()
    told = variant.report.techniques[0]
    assert told.engaged and "was compiled in" in told.detail
    assert told.detail.endswith("Compiling for a cache of 1,024 tokens failed; there the uncompiled one runs: "
                                "out of registers")
    variant.step(torch.tensor([[5]]), narrow)
    variant.step(torch.tensor([[5]]), wide)
    assert calls == [0], "the capacity that is ready runs, the other one answers uncompiled and is not tried again"
    assert step._thread is not None and not step._thread.is_alive()


def test_what_is_captured_is_captured_by_the_thread_that_replays_it_once_for_each_cache(
        llama_folder: Path, fake_compiler: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of work on a card, with a capture that only remembers what to run."""
    captured: list[str] = []

    def capture(run: Callable[[], torch.Tensor], device: torch.device) -> Callable[[], torch.Tensor]:
        captured.append(threading.current_thread().name)
        made = run()

        def replay() -> torch.Tensor:
            made.copy_(run())
            return made

        return replay

    monkeypatch.setattr(compiled_step, "capture", capture)
    monkeypatch.setattr(compiled_step, "_CAPTURING", ("cpu",))
    expected = decode_logits(open_session(llama_folder), IDS)
    session = open_session(llama_folder, COMPILE)
    assert waited(session).state == "ready" and not captured
    first = decode_logits(session, IDS)
    torch.testing.assert_close(first, expected, rtol=0, atol=1e-4)
    assert captured == [threading.current_thread().name]
    kept = session.step([7])
    before = kept.clone()
    session.step([9])
    assert torch.equal(kept, before), "a replay does not write over logits that were handed out"
    assert torch.equal(decode_logits(session, IDS), first)
    assert len(captured) == 2, "another cache is captured anew"


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("compiler", ["fake", "real"])
def test_an_evicted_compiled_variant_is_freed_without_the_garbage_collector(
        llama_folder: Path, compiler: str, request: pytest.FixtureRequest) -> None:
    if compiler == "fake":
        request.getfixturevalue("fake_compiler")
    gc.collect()
    gc.disable()
    try:
        session = open_session(llama_folder, COMPILE)
        assert waited(session).state == "ready", waited(session).error
        reply(session, IDS, SHORT)
        assert session.active is not None
        held = [weakref.ref(thing) for thing in (session.active.decoder, session.active.token_step, session.active,
                                                 session.active.decoder.blocks[0].mlp.up)]
        session.apply(Recipe())
        decode_logits(session, IDS)
        session._built.clear()
        assert [ref() for ref in held] == [None] * len(held)
    finally:
        gc.enable()
