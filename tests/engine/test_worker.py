"""The engine thread: every job ends exactly once, control is heard between steps, and a failure loses nothing."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
import torch

from engine import jobs
from engine.errors import DynoError
from engine.generation import NewToken, PromptRead, Reread, generate
from engine.messages import (
    ApplyRecipe,
    Cancel,
    Cancelled,
    ChatMessage,
    Evaluate,
    Event,
    Failed,
    Finished,
    Generate,
    GenerationStats,
    Job,
    JobStarted,
    LoadModel,
    PerplexityResult,
    Progress,
    QualityProbe,
    RecipeApplied,
    RecipeFailed,
    Sampling,
    SetThreads,
    Shutdown,
    Switched,
    Tokens,
)
from engine.models.devices import pick_device, with_free_bytes
from engine.recipe import Recipe, parse_recipe
from tests.conftest import LLAMA, TEXT, write_model
from tests.engine.support import Engine, cpu, open_session, read_logits

FP32, BF16, INT8, L1 = Recipe(), parse_recipe("bf16"), parse_recipe("int8"), parse_recipe("l1-50")
SHORT = Sampling(temperature=0.0, repetition_penalty=1.0, max_tokens=6, seed=1)
LONG = Sampling(temperature=0.0, repetition_penalty=1.0, max_tokens=200, seed=1)


def lifecycle(engine: Engine, job_id: int) -> list[str]:
    """Names of a job's start and end events, in order."""
    return [type(e).__name__ for e in engine.seen
            if isinstance(e, (JobStarted, Finished, Cancelled, Failed)) and e.job_id == job_id]


def ask(engine: Engine, sampling: Sampling = SHORT, prompt: str = "The wind") -> Generate:
    """A Generate with a fresh id."""
    return Generate(engine.next_id(), prompt=prompt, sampling=sampling)


def after_shutdown(engine: Engine) -> None:
    """Stop the engine and read the rest of what it said."""
    engine.stop()
    engine.seen += engine.outbox.drain()


def test_jobs_run_in_the_order_they_came_and_each_ends_once(llama_folder: Path, engine: Engine) -> None:
    queue: list[Job] = [LoadModel(engine.next_id(), str(llama_folder), device="cpu"), ask(engine),
                        Evaluate(engine.next_id(), TEXT, context=64), ask(engine, prompt="x " * 5000),
                        LoadModel(engine.next_id(), "/nowhere", device="cpu"), ask(engine)]
    for job in queue:
        engine.submit(job)
    engine.end_of(queue[-1].job_id)
    assert [lifecycle(engine, job.job_id)[-1] for job in queue] == ["Finished", "Finished", "Finished", "Failed",
                                                                     "Failed", "Finished"]
    assert all(len(lifecycle(engine, job.job_id)) == 2 for job in queue)
    started = [e.job_id for e in engine.seen if isinstance(e, (JobStarted, Finished, Failed))]
    assert started == [job.job_id for job in queue for _ in range(2)]


def test_times_never_run_backwards(llama_folder: Path, engine: Engine) -> None:
    engine.load(llama_folder)
    engine.run(ask(engine))
    times = [e.t_s for e in engine.seen if not isinstance(e, (Progress, Tokens))]
    assert times == sorted(times)


def test_cancelling_a_running_reply_keeps_what_it_said(llama_folder: Path, engine: Engine) -> None:
    engine.load(llama_folder)
    job = ask(engine, LONG)
    engine.at({7: Cancel(job.job_id)})
    end = engine.run(job)
    assert isinstance(end, Cancelled) and isinstance(end.result, GenerationStats)
    assert end.result.finish == "stopped" and end.result.output_tokens == 7
    assert sum(len(e.pieces) for e in engine.seen if isinstance(e, Tokens)) == 7
    assert lifecycle(engine, job.job_id) == ["JobStarted", "Cancelled"]
    assert isinstance(engine.run(ask(engine)), Finished)


def test_cancelling_while_a_long_prompt_is_read_ends_the_job(tmp_path: Path, engine: Engine) -> None:
    from tests.conftest import LLAMA, write_model

    engine.load(write_model(tmp_path / "long", LLAMA | {"max_position_embeddings": 4096}))
    job = ask(engine, prompt="again and again " * 400)
    engine.at({1: Cancel(job.job_id)}, counts=lambda e: isinstance(e, Progress) and e.job_id == job.job_id)
    end = engine.run(job)
    assert isinstance(end, Cancelled)
    assert not any(isinstance(e, Tokens) for e in engine.seen)


def test_cancelling_a_waiting_job_ends_it_without_running_it(llama_folder: Path, engine: Engine) -> None:
    engine.load(llama_folder)
    first, second = ask(engine, LONG), ask(engine)
    engine.at({3: Cancel(second.job_id)})
    engine.submit(first)
    engine.submit(second)
    assert isinstance(engine.end_of(second.job_id), Cancelled)
    assert isinstance(engine.end_of(first.job_id), Finished)
    assert not any(isinstance(e, Tokens) and e.job_id == second.job_id for e in engine.seen)
    assert lifecycle(engine, second.job_id) == ["JobStarted", "Cancelled"]


def test_cancelling_a_finished_or_unknown_job_does_nothing(llama_folder: Path, engine: Engine) -> None:
    engine.load(llama_folder)
    job = ask(engine)
    engine.run(job)
    engine.submit(Cancel(job.job_id))
    engine.submit(Cancel(123456))
    assert isinstance(engine.run(ask(engine)), Finished)
    assert lifecycle(engine, job.job_id) == ["JobStarted", "Finished"]


def test_cancelling_a_load_keeps_the_model_before_it(llama_folder: Path, gpt2_folder: Path, engine: Engine) -> None:
    engine.load(llama_folder)
    job = LoadModel(engine.next_id(), str(gpt2_folder), device="cpu")
    engine.at({3: Cancel(job.job_id)}, counts=lambda e: isinstance(e, Progress) and e.job_id == job.job_id)
    assert isinstance(engine.run(job), Cancelled)
    assert isinstance(engine.run(ask(engine)), Finished)
    assert engine.session.config.model_type == "llama"


def test_cancelling_an_evaluation_ends_it_without_a_result(llama_folder: Path, engine: Engine) -> None:
    engine.load(llama_folder)
    job = Evaluate(engine.next_id(), TEXT * 20, context=64)
    engine.at({2: Cancel(job.job_id)}, counts=lambda e: isinstance(e, Progress) and e.job_id == job.job_id)
    end = engine.run(job)
    assert isinstance(end, Cancelled) and end.result is None


def test_a_random_mix_of_jobs_and_cancels_ends_every_job_exactly_once(llama_folder: Path, engine: Engine) -> None:
    rng = random.Random(11)
    engine.load(llama_folder)
    ids: list[int] = []
    for _ in range(60):
        job: Job = rng.choice([lambda: ask(engine), lambda: ask(engine, LONG), lambda: ask(engine, prompt="y " * 900),
                               lambda: Evaluate(engine.next_id(), TEXT, context=32),
                               lambda: LoadModel(engine.next_id(), str(llama_folder), L1, "cpu")])()
        ids.append(job.job_id)
        engine.submit(job)
        if rng.random() < 0.4:
            engine.submit(Cancel(rng.choice(ids)))
        if rng.random() < 0.3:
            engine.submit(ApplyRecipe(rng.choice([FP32, BF16, INT8, L1])))
    for job_id in ids:
        engine.end_of(job_id)
    for job_id in ids:
        names = lifecycle(engine, job_id)
        assert len(names) == 2 and names[0] == "JobStarted", (job_id, names)


@pytest.mark.expects_error_log
def test_an_unexpected_error_fails_its_job_with_the_traceback_as_text(llama_folder: Path, engine: Engine) -> None:
    engine.load(llama_folder)
    tokenizer, engine.session.tokenizer = engine.session.tokenizer, None  # type: ignore[assignment]
    end = engine.run(ask(engine))
    assert isinstance(end, Failed)
    assert "Something went wrong" in end.summary and "Traceback" in end.details and end.hint
    engine.session.tokenizer = tokenizer
    assert isinstance(engine.run(ask(engine)), Finished)


def test_a_switch_in_mid_reply_is_told_and_the_text_goes_on(model_folder: Path, engine: Engine) -> None:
    engine.load(model_folder)
    job = ask(engine, LONG)
    engine.at({10: ApplyRecipe(INT8), 30: ApplyRecipe(BF16)})
    end = engine.run(job)
    assert isinstance(end, Finished) and isinstance(end.result, GenerationStats)
    assert end.result.output_tokens == 200 and end.result.finish == "length"
    assert end.result.recipe == "fp32 → int8 → bf16"
    switches = [e for e in engine.seen if isinstance(e, Switched)]
    assert [(e.old, e.new) for e in switches] == [("fp32", "int8"), ("int8", "bf16")]
    made = Counter[str]()
    order: list[str] = []
    for event in engine.seen:
        if isinstance(event, Tokens):
            made[event.recipe] += len(event.pieces)
            order += [event.recipe] if order[-1:] != [event.recipe] else []
    assert order == [FP32.fingerprint, INT8.fingerprint, BF16.fingerprint]
    assert [made[name] for name in order] == [10, 20, 170]
    assert [e.report.recipe for e in engine.seen if isinstance(e, RecipeApplied)] == [INT8, BF16]


def test_switching_while_idle_applies_at_once(llama_folder: Path, engine: Engine) -> None:
    engine.load(llama_folder)
    engine.submit(ApplyRecipe(INT8))
    event = engine.wait(lambda e: isinstance(e, RecipeApplied))
    assert isinstance(event, RecipeApplied) and event.report.recipe == INT8
    engine.submit(ApplyRecipe(INT8))
    again = engine.wait(lambda e: isinstance(e, RecipeApplied))
    assert isinstance(again, RecipeApplied) and again.report.recipe == INT8


def test_a_recipe_asked_for_before_the_model_is_there_waits_for_it(llama_folder: Path, engine: Engine) -> None:
    engine.submit(ApplyRecipe(L1))
    engine.load(llama_folder)
    event = next((e for e in engine.seen if isinstance(e, RecipeApplied)), None) or engine.wait(
        lambda e: isinstance(e, RecipeApplied))
    assert isinstance(event, RecipeApplied) and event.report.recipe == L1


def test_a_newer_recipe_replaces_the_one_being_built(llama_folder: Path, engine: Engine) -> None:
    engine.load(llama_folder)
    engine.at({2: ApplyRecipe(BF16)}, counts=lambda e: isinstance(e, Progress) and e.stage == "Building")
    engine.submit(ApplyRecipe(INT8))
    event = engine.wait(lambda e: isinstance(e, RecipeApplied))
    assert isinstance(event, RecipeApplied) and event.report.recipe == BF16
    assert isinstance(engine.run(ask(engine)), Finished)
    assert [e.report.recipe for e in engine.seen if isinstance(e, RecipeApplied)] == [BF16]


def test_a_recipe_that_does_not_fit_leaves_the_one_before_it_active(
        llama_folder: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = open_session(llama_folder).active.report.weight_bytes  # type: ignore[union-attr]
    tight = with_free_bytes(pick_device("cpu"), needed * 3 // 4)
    monkeypatch.setattr(jobs, "pick_device", lambda name: tight)
    engine.load(llama_folder, BF16)
    before = engine.session.active
    job = ask(engine, LONG)
    engine.at({5: ApplyRecipe(FP32)})
    end = engine.run(job)
    failed = [e for e in engine.seen if isinstance(e, RecipeFailed)]
    assert len(failed) == 1
    assert failed[0].recipe == FP32 and failed[0].kept == BF16
    assert "needs" in failed[0].summary and "free" in failed[0].summary and failed[0].hint
    assert isinstance(end, Finished) and end.result.output_tokens == 200  # type: ignore[union-attr]
    assert not any(isinstance(e, (Switched, RecipeApplied)) for e in engine.seen)
    assert engine.session.active is before


def test_a_recipe_refused_at_load_is_told_and_the_model_opens_plain(
        llama_folder: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    monkeypatch.setattr(jobs, "pick_device", lambda name: dataclasses.replace(cpu(), int8_kernels=False, native=""))
    loaded = engine.load(llama_folder, INT8)
    assert loaded.report.recipe == FP32
    refused = next(e for e in engine.seen if isinstance(e, RecipeFailed))
    assert refused.recipe == INT8 and "8-bit" in refused.summary
    assert any(key == "int8-dynamic" for key, _ in loaded.model.unavailable)


def test_an_evaluation_keeps_its_recipe_through_a_switch(llama_folder: Path, engine: Engine) -> None:
    engine.load(llama_folder)
    plain = engine.run(Evaluate(engine.next_id(), TEXT, context=64))
    job = Evaluate(engine.next_id(), TEXT, context=64)
    engine.at({1: ApplyRecipe(INT8)}, counts=lambda e: isinstance(e, Progress) and e.job_id == job.job_id)
    switched = engine.run(job)
    assert isinstance(plain, Finished) and isinstance(switched, Finished)
    assert isinstance(plain.result, PerplexityResult) and isinstance(switched.result, PerplexityResult)
    assert switched.result.perplexity == plain.result.perplexity and switched.result.recipe == "fp32"
    assert engine.session.active is not None and engine.session.active.recipe == INT8


def test_shutdown_in_mid_reply_ends_the_thread_and_every_job(llama_folder: Path) -> None:
    engine = Engine()
    engine.load(llama_folder)
    first, second, third = ask(engine, LONG), ask(engine), ask(engine)
    engine.at({5: Shutdown()})
    for job in (first, second, third):
        engine.submit(job)
    after_shutdown(engine)
    for job in (first, second, third):
        assert lifecycle(engine, job.job_id) == ["JobStarted", "Cancelled"]
    assert not engine.worker._thread.is_alive()


def test_shutdown_while_a_model_loads_and_a_recipe_builds_ends_the_thread(llama_folder: Path) -> None:
    for stage, loading in (("Opening the model", True), ("Building", True), ("Building", False)):
        engine = Engine()
        if not loading:
            engine.load(llama_folder)
        engine.at({1: Shutdown()}, counts=lambda e, stage=stage: isinstance(e, Progress) and e.stage == stage)
        job = LoadModel(engine.next_id(), str(llama_folder), device="cpu")
        engine.submit(job if loading else ApplyRecipe(INT8))
        after_shutdown(engine)
        if loading:
            assert lifecycle(engine, job.job_id) == ["JobStarted", "Cancelled"]


def test_a_job_submitted_together_with_shutdown_still_ends_once() -> None:
    for _ in range(40):
        engine = Engine()
        job = LoadModel(engine.next_id(), "/nowhere", device="cpu")
        engine.submit(job)
        engine.submit(Shutdown())
        after_shutdown(engine)
        assert lifecycle(engine, job.job_id)[1:] in (["Cancelled"], ["Failed"])


def test_an_engine_that_never_started_stops_at_once() -> None:
    from engine.outbox import Outbox
    from engine.worker import Worker

    assert Worker(Outbox()).stop()


def test_a_switch_while_the_cache_is_read_again_starts_that_over(tmp_path: Path) -> None:
    """Four hundred tokens are read again in two chunks, and the recipe changes back between them."""
    folder = write_model(tmp_path / "long", LLAMA | {"max_position_embeddings": 1024})
    session = open_session(folder)
    ids = [i % 300 + 2 for i in range(400)]
    steps = generate(session, ids, Sampling(temperature=0, repetition_penalty=1, max_tokens=12, seed=1))
    said: list[object] = []
    for step in steps:
        said.append(step)
        if isinstance(step, NewToken) and sum(isinstance(s, NewToken) for s in said) == 5:
            session.apply(BF16)
        elif isinstance(step, PromptRead) and any(isinstance(s, NewToken) for s in said):
            session.apply(FP32)
    assert [(s.old, s.new) for s in said if isinstance(s, Reread)] == [("fp32", "fp32")]
    made = [s for s in said if isinstance(s, NewToken)]
    assert [s.recipe for s in made] == [FP32.fingerprint] * 12
    plain = generate(open_session(folder), ids, Sampling(temperature=0, repetition_penalty=1, max_tokens=12, seed=1))
    assert [s.piece.token_id for s in made] == [s.piece.token_id for s in plain if isinstance(s, NewToken)]


def test_a_growing_conversation_reads_only_what_is_new(llama_folder: Path) -> None:
    session = open_session(llama_folder)
    ids, cached = list(range(2, 42)), []
    for _ in range(4):
        steps = generate(session, ids, Sampling(temperature=0, repetition_penalty=1, max_tokens=10))
        made = []
        while True:
            try:
                step = next(steps)
            except StopIteration as done:
                cached.append(done.value.cached_tokens)
                break
            made += [step.piece.token_id] if isinstance(step, NewToken) else []
        ids = [*ids, *made, *range(50, 70)]
    # All but the last generated token of the turn before are in the cache, whatever size it grew to.
    assert cached == [0, 49, 79, 109]


def test_impossible_numbers_of_threads_are_refused_where_they_are_made() -> None:
    for threads in (0, -1, 5000):
        with pytest.raises(DynoError, match="threads"):
            SetThreads(threads)


def test_the_number_of_threads_is_what_the_user_chose(llama_folder: Path, engine: Engine) -> None:
    engine.submit(SetThreads(2))
    assert engine.load(llama_folder).model.threads == 2
    engine.submit(SetThreads(None))
    assert isinstance(engine.run(ask(engine)), Finished)


def test_a_second_reply_reuses_the_cache_and_says_the_same(llama_folder: Path, engine: Engine) -> None:
    engine.load(llama_folder)
    import dataclasses

    fresh = dataclasses.replace(SHORT, seed=None)
    ends = [engine.run(ask(engine, fresh, "The wind pulled at the ropes")) for _ in range(2)]
    first, second = (e.result for e in ends)
    assert isinstance(first, GenerationStats) and isinstance(second, GenerationStats)
    assert first.cached_tokens == 0 and second.cached_tokens == second.prompt_tokens - 1
    replies: dict[int, list[int]] = {}
    for event in engine.seen:
        if isinstance(event, Tokens):
            replies.setdefault(event.job_id, []).extend(p.token_id for p in event.pieces)
    assert len({tuple(ids) for ids in replies.values()}) == 1


def test_the_probe_runs_when_idle_and_after_each_change_only(llama_folder: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    from engine import worker

    monkeypatch.setattr(worker, "_probe_text", lambda: TEXT * 3)
    engine = Engine(probe=True)
    try:
        engine.load(llama_folder)
        plain = engine.wait(lambda e: isinstance(e, QualityProbe))
        engine.submit(ApplyRecipe(L1))
        pruned = engine.wait(lambda e: isinstance(e, QualityProbe))
        assert isinstance(plain, QualityProbe) and isinstance(pruned, QualityProbe)
        assert (plain.result.recipe, pruned.result.recipe) == ("fp32", L1.label)
        engine.submit(SetThreads(1))
        engine.run(ask(engine))
    finally:
        after_shutdown(engine)
    assert sum(isinstance(e, QualityProbe) for e in engine.seen) == 2


@pytest.mark.expects_error_log
def test_a_probe_that_fails_does_not_take_the_engine_with_it(llama_folder: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    from engine import worker

    def absent() -> str:
        raise FileNotFoundError("probe.txt")

    monkeypatch.setattr(worker, "_probe_text", absent)
    engine = Engine(probe=True)
    engine.load(llama_folder)
    assert isinstance(engine.run(ask(engine)), Finished)
    engine.stop()


def test_a_long_chat_drops_its_oldest_turns_and_says_so(llama_folder: Path, engine: Engine, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(llama_folder, tmp_path / "chat")
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}[assistant]", encoding="utf-8")
    loaded = engine.load(folder)
    assert loaded.model.chat_template
    turns = [ChatMessage("system", "Be brief.")]
    for i in range(12):
        turns += [ChatMessage("user", f"question {i} about the boats"), ChatMessage("assistant", f"answer {i}")]
    turns.append(ChatMessage("user", "and the last one?"))
    end = engine.run(Generate(engine.next_id(), messages=tuple(turns), sampling=SHORT))
    assert isinstance(end, Finished)
    from engine.messages import TurnsDropped

    dropped = next(e for e in engine.seen if isinstance(e, TurnsDropped))
    assert dropped.count > 0 and dropped.count % 2 == 0
    tokenizer = engine.session.tokenizer
    kept = tokenizer.render_chat([turns[0], *turns[1 + dropped.count:]])
    assert end.result.prompt_tokens == len(kept) <= engine.session.config.context - 6  # type: ignore[union-attr]
    too_long = (ChatMessage("user", "boats and boats " * 300),)
    failed = engine.run(Generate(engine.next_id(), messages=too_long, sampling=SHORT))
    assert isinstance(failed, Failed) and "does not fit" in failed.summary


def test_the_engine_gives_the_logits_of_a_plain_session(model_folder: Path, engine: Engine) -> None:
    engine.load(model_folder, INT8)
    engine.run(ask(engine))
    ids = engine.session.tokenizer.encode(TEXT)[:40]
    assert torch.equal(read_logits(engine.session, ids), read_logits(open_session(model_folder, INT8), ids))


def test_every_event_is_plain_data(llama_folder: Path, engine: Engine) -> None:
    import dataclasses
    import pickle

    engine.load(llama_folder, L1)
    engine.run(ask(engine, prompt="z " * 900))
    engine.run(ask(engine))

    def check(event: Event) -> None:
        assert dataclasses.is_dataclass(event)
        assert pickle.loads(pickle.dumps(event)) == event
        assert b"torch" not in pickle.dumps(event)

    for event in engine.seen:
        check(event)
