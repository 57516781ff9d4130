"""A plan on a real engine thread: rows, history, failures, stops and resumption. Nothing here looks at a clock."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from engine.bench import quality
from engine.bench.history import COMPLETE, STOPPED, History
from engine.errors import DynoError
from engine.measurements import BenchPlan, BenchResult, BenchRow, QualityTest, SpeedTest
from engine.messages import (
    ApplyRecipe,
    BenchRowDone,
    BenchSample,
    BenchStarted,
    Cancel,
    Cancelled,
    Event,
    Failed,
    Finished,
    Progress,
    RunBenchmark,
)
from engine.models.devices import with_free_bytes
from engine.recipe import Recipe, parse_recipe
from engine.variant import Variant
from tests.conftest import TEXT
from tests.engine.support import Engine

SPEED = (SpeedTest(prompt=16), SpeedTest(generate=4))


@pytest.fixture
def text(tmp_path: Path) -> str:
    """A text of a few chunks."""
    path = tmp_path / "text.txt"
    path.write_text(TEXT * 2, encoding="utf-8")
    return str(path)


def recipes(*names: str) -> tuple[Recipe, ...]:
    """Recipes by their presets."""
    return tuple(parse_recipe(name) for name in names)


def plan(text: str, *names: str, speed: Sequence[SpeedTest] = SPEED, interleave: bool = False) -> BenchPlan:
    """A plan that is done in a moment."""
    return BenchPlan(recipes(*names), tuple(speed), QualityTest(text, 64, chunks=3), repetitions=3, min_time_s=0.0,
                     interleave=interleave)


def bench(engine: Engine, wanted: BenchPlan, history: str = "", resume: bool = False) -> BenchResult:
    """A plan run to its end."""
    end = engine.run(RunBenchmark(engine.next_id(), wanted, history, resume))
    assert isinstance(end, Finished) and isinstance(end.result, BenchResult), end
    return end.result


def by_name(rows: Sequence[BenchRow]) -> dict[tuple[str, str], BenchRow]:
    """Rows by recipe and test."""
    return {(row.recipe, row.test): row for row in rows}


def test_every_recipe_and_test_becomes_a_row_with_its_circumstances(engine: Engine, llama_folder: Path,
                                                                    text: str) -> None:
    engine.load(llama_folder)
    result = bench(engine, plan(text, "fp32", "bf16"))
    rows = by_name(result.rows)
    assert result.complete and not result.failed
    assert set(rows) == {(r, t) for r in ("fp32", "bf16") for t in ("pp16", "tg4", "ppl64")}
    for row in result.rows:
        assert row.weight_bytes and row.n_threads and row.cpu_info and row.torch_version and row.model_fingerprint
        assert row.model_filename == llama_folder.name and row.load_s and row.build_s is not None and row.conditions
    pp, tg = rows["fp32", "pp16"], rows["fp32", "tg4"]
    assert (pp.n_prompt, pp.n_gen, tg.n_prompt, tg.n_gen) == (16, 0, 0, 4)
    assert len(pp.samples_ts) == len(pp.samples_ns) == pp.repetitions == 3
    assert pp.samples_ts[0] == pytest.approx(16e9 / pp.samples_ns[0], rel=1e-3)
    assert pp.ttft_s and pp.ttft_s >= min(pp.samples_ns) / 1e9 and pp.itl_p50_s is None and pp.peak_rss_bytes
    assert tg.itl_p50_s and tg.itl_p99_s and tg.itl_p50_s <= tg.itl_p99_s and tg.ttft_s is None
    assert pp.avg_ts and 1 <= (pp.warmup_runs or 0) <= 5
    assert rows["bf16", "pp16"].kv_bytes == (pp.kv_bytes or 0) / 2
    assert rows["fp32", "ppl64"].perplexity and rows["fp32", "ppl64"].kl_mean is None
    far = rows["bf16", "ppl64"]
    assert far.base == "fp32" and far.kl_mean and far.kl_mean > 0 and far.ratio and far.verdict
    assert BenchRow.from_json(far.to_json()) == far
    for row in result.rows:
        assert parse_recipe(row.recipe_argument).fingerprint == row.fingerprint and row.measured_in == "headless"
        assert row.seed == 0 and row.interleaved is False
    assert (pp.min_time_s, pp.peak_of, far.peak_of) == (0.0, "this recipe", "recipe and base")
    assert far.text_fingerprint == hashlib.sha256(Path(text).read_bytes()).hexdigest()[:10]


def test_the_active_recipe_and_the_conversation_stay_as_they_are(engine: Engine, llama_folder: Path, text: str) -> None:
    engine.load(llama_folder, parse_recipe("int8"))
    bench(engine, plan(text, "fp32", "bf16"))
    assert engine.session.active is not None and engine.session.active.recipe == parse_recipe("int8")


def test_a_switch_in_the_middle_does_not_touch_what_is_measured(engine: Engine, llama_folder: Path, text: str) -> None:
    engine.load(llama_folder)
    alone = by_name(bench(engine, plan(text, "fp32", "l1-50")).rows)
    engine.at({2: ApplyRecipe(parse_recipe("neurons-30"))}, counts=lambda event: isinstance(event, BenchRowDone))
    switched = by_name(bench(engine, plan(text, "fp32", "l1-50")).rows)
    for key in (("fp32", "ppl64"), ("L1 50 %", "ppl64")):
        assert switched[key].perplexity == alone[key].perplexity
    assert engine.session.active is not None and engine.session.active.recipe == parse_recipe("neurons-30")


def test_a_comparison_takes_turns_and_gives_ratios_of_the_pairs(engine: Engine, llama_folder: Path, text: str) -> None:
    engine.load(llama_folder)
    result = bench(engine, plan(text, "fp32", "fp32", "bf16", interleave=True))
    counted = [(e.test, e.lane) for e in engine.seen if isinstance(e, BenchSample) and e.counted]
    assert counted == [(test, lane) for test in ("pp16", "tg4") for _ in range(3) for lane in (0, 1, 2)]
    assert len(result.rows) == 9 and len({row.key for row in result.rows}) == 9
    for row in result.rows:
        if row.lane == 0:
            assert row.ratio is None and not row.verdict
        else:
            assert row.ratio and row.ratio_low is not None and row.ratio_high is not None
            assert row.ratio_low <= row.ratio <= row.ratio_high and row.verdict and row.pairs
    same = next(row for row in result.rows if row.lane == 1 and row.perplexity)
    assert (same.kl_mean, same.ratio, same.same_top, same.verdict) == (0.0, 1.0, 1.0, "no difference measured")


def test_a_recipe_that_cannot_run_here_marks_its_rows_and_the_rest_goes_on(engine: Engine, llama_folder: Path,
                                                                           text: str) -> None:
    engine.load(llama_folder)
    for interleave in (False, True):
        result = bench(engine, plan(text, "fp32", "fp8", "bf16", interleave=interleave))
        assert result.complete and len(result.rows) == 9 and len(result.failed) == 3
        assert all(row.lane == 1 and "cannot run here" in row.error and row.hint for row in result.failed)
        assert by_name(result.rows)["bf16", "ppl64"].kl_mean


def test_a_base_that_cannot_run_leaves_the_others_without_a_comparison(engine: Engine, llama_folder: Path,
                                                                       text: str) -> None:
    engine.load(llama_folder)
    result = bench(engine, plan(text, "fp8", "bf16"))
    assert len(result.failed) == 3
    far = by_name(result.rows)["bf16", "ppl64"]
    assert far.perplexity and far.kl_mean is None and not far.verdict


def broken_scoring(monkeypatch: pytest.MonkeyPatch, fails: Callable[[Variant, int], bool]) -> None:
    """Scoring raises where `fails` says so of a variant and the number of those that read along."""
    real, together = quality._streams, {"count": 1}
    score = quality.score_ids

    def counted(variants: Sequence[Variant], *rest: Any) -> Any:
        together["count"] = len(variants)
        return score(variants, *rest)

    def streams(variant: Variant, *rest: Any) -> Any:
        if fails(variant, together["count"]):
            raise RuntimeError("a kernel broke")
        yield from real(variant, *rest)

    monkeypatch.setattr(quality, "score_ids", counted)
    monkeypatch.setattr(quality, "_streams", streams)


def test_a_base_that_cannot_be_scored_fails_its_own_row_and_the_others_are_scored_alone(
        engine: Engine, llama_folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.load(llama_folder)
    whole = by_name(bench(engine, plan(text, "fp32", "bf16")).rows)
    broken_scoring(monkeypatch, lambda variant, _: variant.recipe.label == "fp32")
    for interleave in (False, True):
        rows = by_name(bench(engine, plan(text, "fp32", "bf16", "l1-50", interleave=interleave)).rows)
        assert {key for key, row in rows.items() if row.error} == {("fp32", "ppl64")}
        assert "a kernel broke" in rows["fp32", "ppl64"].error
        alone = rows["bf16", "ppl64"]
        assert alone.perplexity == whole["bf16", "ppl64"].perplexity and alone.kl_mean is None and alone.ratio is None
        assert "no divergence" in alone.conditions and "a kernel broke" in alone.conditions
        assert rows["L1 50 %", "ppl64"].perplexity and not rows["fp32", "pp16"].error


def test_a_base_that_has_no_room_beside_another_is_scored_by_itself(engine: Engine, llama_folder: Path, text: str,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    engine.load(llama_folder)
    broken_scoring(monkeypatch, lambda variant, together: variant.recipe.label == "fp32" and together > 1)
    result = bench(engine, plan(text, "fp32", "bf16"))
    assert result.complete and not result.failed
    assert by_name(result.rows)["fp32", "ppl64"].perplexity and not by_name(result.rows)["bf16", "ppl64"].kl_mean


def test_a_recipe_that_cannot_be_scored_leaves_the_base_and_the_next_one_alone(
        engine: Engine, llama_folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.load(llama_folder)
    broken_scoring(monkeypatch, lambda variant, _: variant.recipe.label == "bf16")
    result = bench(engine, plan(text, "fp32", "bf16", "l1-50"))
    assert [(row.recipe, row.test) for row in result.failed] == [("bf16", "ppl64")]
    assert by_name(result.rows)["fp32", "ppl64"].perplexity and by_name(result.rows)["L1 50 %", "ppl64"].kl_mean


def test_a_text_that_changed_is_scored_again_when_a_run_goes_on(engine: Engine, llama_folder: Path, text: str,
                                                                tmp_path: Path) -> None:
    engine.load(llama_folder)
    path, wanted = str(tmp_path / "history.sqlite"), plan(text, "fp32", "bf16")
    job = RunBenchmark(engine.next_id(), wanted, path)
    engine.at({5: Cancel(job.job_id)}, counts=lambda event: isinstance(event, BenchRowDone))
    stopped = engine.run(job)
    assert isinstance(stopped, Cancelled) and isinstance(stopped.result, BenchResult)
    before = by_name(stopped.result.rows)
    engine.outbox.react = None
    Path(text).write_text(TEXT[::-1] * 2, encoding="utf-8")
    command = RunBenchmark(engine.next_id(), wanted, path, resume=True, title="again", run_id=stopped.result.run_id)
    end = engine.run(command)
    assert isinstance(end, Finished) and isinstance(end.result, BenchResult) and end.result.complete
    after = by_name(end.result.rows)
    assert after["fp32", "pp16"] == before["fp32", "pp16"]
    for recipe in ("fp32", "bf16"):
        assert after[recipe, "ppl64"].perplexity != before.get((recipe, "ppl64"), BenchRow()).perplexity
        assert after[recipe, "ppl64"].text_fingerprint != before["fp32", "ppl64"].text_fingerprint
    history = History(Path(path))
    assert history.run(end.result.run_id).title == "again"
    history.close()
    refused = engine.run(RunBenchmark(engine.next_id(), wanted, path, resume=True, run_id=end.result.run_id))
    assert isinstance(refused, Failed) and "cannot go on" in refused.summary


def test_running_out_of_memory_marks_one_recipe_and_goes_on(engine: Engine, llama_folder: Path, text: str) -> None:
    engine.load(llama_folder)
    session = engine.session
    assert session.active is not None
    session.device = with_free_bytes(session.device, int(0.7 * session.active.report.weight_bytes))
    result = bench(engine, plan(text, "fp32", "l1-50", "bf16"))
    assert {row.recipe for row in result.failed} == {"L1 50 %"}
    assert all("free" in row.error and row.hint for row in result.failed)
    assert not by_name(result.rows)["bf16", "pp16"].error


def test_a_cache_that_does_not_fit_marks_its_test_only(engine: Engine, llama_folder: Path, text: str) -> None:
    engine.load(llama_folder)
    session = engine.session
    assert session.active is not None
    per_token = session.active.report.kv_bytes_per_token
    session.active.device = with_free_bytes(session.device, 20 * per_token)
    result = bench(engine, plan(text, "fp32", speed=(SpeedTest(prompt=16), SpeedTest(prompt=32))))
    assert [row.test for row in result.failed] == ["pp32"]
    assert "KV cache" in result.failed[0].error


def test_shapes_are_cut_to_the_models_context(engine: Engine, llama_folder: Path, text: str) -> None:
    engine.load(llama_folder)
    result = bench(engine, plan(text, "fp32", speed=(SpeedTest(prompt=4096), SpeedTest(generate=4, depth=4096))))
    assert [row.test for row in result.rows] == ["pp256", "tg4 @ d252", "ppl64"]


def test_a_text_too_short_leaves_the_speed_rows_standing(engine: Engine, llama_folder: Path, tmp_path: Path) -> None:
    engine.load(llama_folder)
    (tmp_path / "short.txt").write_text("Too short.", encoding="utf-8")
    result = bench(engine, plan(str(tmp_path / "short.txt"), "fp32"))
    assert [(row.test, bool(row.error)) for row in result.rows] == [("pp16", False), ("tg4", False), ("ppl64", True)]
    assert "one chunk needs 64" in result.failed[0].error


def test_a_text_that_is_none_fails_before_anything_is_measured(engine: Engine, llama_folder: Path,
                                                               tmp_path: Path) -> None:
    engine.load(llama_folder)
    (tmp_path / "empty.txt").touch()
    end = engine.run(RunBenchmark(engine.next_id(), plan(str(tmp_path / "empty.txt"), "fp32")))
    assert isinstance(end, Failed) and "empty" in end.summary and end.hint
    assert not any(isinstance(event, BenchSample) for event in engine.seen)


def test_a_row_is_in_the_history_before_anyone_hears_of_it(engine: Engine, llama_folder: Path, text: str,
                                                           tmp_path: Path) -> None:
    engine.load(llama_folder)
    path, found = tmp_path / "history.sqlite", []

    def look(event: Event) -> None:
        if isinstance(event, BenchRowDone):
            history = History(path)
            run, = history.runs()
            found.append((run.state, event.row in history.rows(run.id)))
            history.close()

    engine.outbox.react = look
    result = bench(engine, plan(text, "fp32"), str(path))
    assert found == [("running", True)] * 3
    history = History(path)
    run, = history.runs()
    assert (run.id, run.state, run.rows, run.planned) == (result.run_id, COMPLETE, 3, 3)
    assert history.rows(run.id) == result.rows and run.plan == result.plan
    history.close()


@pytest.mark.parametrize("stop_after", [1, 4])
def test_a_stopped_run_keeps_its_rows_and_a_resumed_one_measures_only_the_rest(
        engine: Engine, llama_folder: Path, text: str, tmp_path: Path, stop_after: int) -> None:
    engine.load(llama_folder)
    path, wanted = str(tmp_path / "history.sqlite"), plan(text, "fp32", "bf16")
    job = RunBenchmark(engine.next_id(), wanted, path)
    engine.at({stop_after: Cancel(job.job_id)}, counts=lambda event: isinstance(event, BenchRowDone))
    end = engine.run(job)
    assert isinstance(end, Cancelled) and isinstance(end.result, BenchResult) and not end.result.complete
    kept = end.result.rows
    assert len(kept) == stop_after
    history = History(Path(path))
    assert history.runs()[0].state == STOPPED and history.rows(end.result.run_id) == kept
    history.close()
    engine.outbox.react, engine.seen = None, []
    result = bench(engine, wanted, path, resume=True)
    started = next(event for event in engine.seen if isinstance(event, BenchStarted))
    fresh = [event.row for event in engine.seen if isinstance(event, BenchRowDone)]
    assert result.run_id == end.result.run_id and started.rows == kept and result.rows[:stop_after] == kept
    assert result.complete and len(result.rows) == 6 and len(fresh) == 6 - stop_after
    assert by_name(result.rows)["bf16", "ppl64"].kl_mean
    again = bench(engine, wanted, path, resume=True)
    assert again.run_id != result.run_id  # a complete run is not resumed


def test_a_job_stopped_in_a_warm_up_or_while_scoring_ends_at_once(engine: Engine, llama_folder: Path,
                                                                  text: str) -> None:
    engine.load(llama_folder)
    for stage in ("warming up", "tokens"):
        job = RunBenchmark(engine.next_id(), plan(text, "fp32"))

        def at(event: Event, job: RunBenchmark = job, stage: str = stage) -> None:
            if isinstance(event, Progress) and stage in event.stage:
                engine.submit(Cancel(job.job_id))

        engine.outbox.react = at
        end = engine.run(job)
        assert isinstance(end, Cancelled) and isinstance(end.result, BenchResult)
        assert len(end.result.rows) == (0 if stage == "warming up" else 2)


def test_a_job_stopped_after_a_run_keeps_its_finished_rows(engine: Engine, llama_folder: Path, text: str) -> None:
    engine.load(llama_folder)
    job, finished = RunBenchmark(engine.next_id(), plan(text, "fp32", "bf16")), []

    def at(event: Event) -> None:
        finished.extend([event] if isinstance(event, BenchRowDone) else [])
        if finished and isinstance(event, BenchSample) and event.counted:
            engine.submit(Cancel(job.job_id))

    engine.outbox.react = at
    end = engine.run(job)
    assert isinstance(end, Cancelled) and isinstance(end.result, BenchResult)
    assert len(end.result.rows) == len(finished) >= 1


def test_a_crashed_run_is_found_and_goes_on(engine: Engine, llama_folder: Path, text: str, tmp_path: Path) -> None:
    engine.load(llama_folder)
    wanted, path = plan(text, "fp32"), tmp_path / "history.sqlite"
    done = bench(engine, wanted, str(path))
    history = History(path)
    crashed = history.begin(wanted, "model", done.rows[0].model_fingerprint)
    history.add(crashed, done.rows[0])
    history.add(crashed, dataclasses.replace(done.rows[1], error="Memory ran out."))
    history._db.execute("UPDATE run SET process_s = 1 WHERE id = ?", (crashed,))  # of a process that is no more
    history.close()
    engine.seen = []
    result = bench(engine, wanted, str(path), resume=True)
    assert result.run_id == crashed and result.complete and not result.failed
    assert len([event for event in engine.seen if isinstance(event, BenchRowDone)]) == 2  # the failed one again, too


def test_a_missing_model_is_refused(engine: Engine, text: str) -> None:
    end = engine.run(RunBenchmark(engine.next_id(), plan(text, "fp32")))
    assert isinstance(end, Failed) and "No model" in end.summary


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler uses parts of torch that are to go
def test_a_compiled_recipe_is_measured_compiled_and_says_what_that_took(engine: Engine, llama_folder: Path) -> None:
    engine.load(llama_folder)
    session = engine.session
    if not session.device.compiler:
        pytest.skip("torch.compile finds no C++ compiler here")
    wanted = BenchPlan(recipes("compile"), (SpeedTest(generate=4),), repetitions=2, min_time_s=0.0)
    row, = bench(engine, wanted).rows
    assert not row.error and row.compile_s and row.compile_s > 0, row.conditions


def test_impossible_plans_are_refused_when_they_are_made() -> None:
    fp32 = recipes("fp32")
    for make in (lambda: BenchPlan((), SPEED), lambda: BenchPlan(fp32), lambda: BenchPlan(fp32, SPEED, repetitions=0),
                 lambda: BenchPlan(fp32, SPEED, min_time_s=-1.0), lambda: BenchPlan(fp32, SPEED, interleave=True),
                 lambda: BenchPlan(fp32, (SPEED[0], SPEED[0])), lambda: SpeedTest(), lambda: SpeedTest(3, 4),
                 lambda: SpeedTest(-1), lambda: QualityTest(context=2), lambda: QualityTest(stride=-1),
                 lambda: QualityTest(context=8, stride=9), lambda: QualityTest(chunks=-1)):
        with pytest.raises(DynoError) as caught:
            make()
        assert caught.value.hint


def test_a_plan_survives_its_own_json(text: str) -> None:
    wanted = plan(text, "fp32", "neurons-30", interleave=True)
    assert BenchPlan.from_json(wanted.to_json()) == wanted
    with pytest.raises(DynoError):
        BenchPlan.from_json({"recipes": []})
