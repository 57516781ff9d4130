"""Carries out a plan: a generator of what happens, row by row.

A recipe that cannot be built, fails or runs out of memory marks its rows, and the plan goes on. Where the caller says
stop, what is finished stands. It writes nothing and knows neither worker nor files but the text.

One by one, each recipe is built, measured and let go. Interleaved, all are built, and every test runs A B A B ... with
the same tokens, so that the pairs share the machine's mood.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine.bench import statistics
from engine.bench.machine import Conditions, Machine, facts, free_memory
from engine.bench.quality import Score, ScoringFailed, score_text
from engine.bench.speed import MOST_WARM_UPS, UBATCH, Sample, SpeedRun, is_steady
from engine.bench.texts import TextFile, open_text
from engine.errors import DynoError, for_people
from engine.measurements import (
    ALL_RECIPES,
    RECIPE_AND_BASE,
    THIS_RECIPE,
    BenchPlan,
    BenchRow,
    QualityTest,
    SpeedTest,
)
from engine.models.opening import weight_paths
from engine.session import Session
from engine.variant import Variant

log = logging.getLogger(__name__)
_COMPILE_TICK_S = 0.1
_SAMPLES, _SAMPLE_BYTES = 64, 64 << 10
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")


@dataclass(frozen=True)
class Doing:
    """What is under way. done of total: in hundredths of a row."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class Measured:
    """One run of a speed test. counted: it is no warm-up. number: of its kind, from 1."""

    lane: int
    test: str
    tokens_per_s: float
    number: int
    counted: bool


@dataclass(frozen=True)
class RowDone:
    """A row is finished, or has failed and says why."""

    row: BenchRow


Step = Doing | Measured | RowDone


@dataclass(frozen=True)
class Setting:
    """What a plan runs in. set_threads: gives the kernels the threads that suit a variant, and returns them. model: the
    fields of a row that describe the model. stopping: asked after each step. done: rows of the plan that an earlier
    run has finished, by key. measured_in: that of its rows."""

    session: Session
    set_threads: Callable[[Variant], int]
    model: Mapping[str, Any] = field(default_factory=dict)
    stopping: Callable[[], bool] = lambda: False
    done: Mapping[str, BenchRow] = field(default_factory=dict)
    measured_in: str = ""


class _Stop(Exception):
    """The caller wants no more."""


def run_plan(plan: BenchPlan, setting: Setting) -> Generator[Step, None, bool]:
    """Measure what the plan asks; whether all of it was done. Raises DynoError where its text cannot be read."""
    run = _Run(plan, setting)
    try:
        yield from run.steps()
    except _Stop:
        return False
    finally:
        run.close()
    return True


def still_true(rows: Sequence[BenchRow], plan: BenchPlan) -> dict[str, BenchRow]:
    """Of an earlier run's rows those that need not be measured again, by key: without those that had failed, and those
    of a text that has changed since. Raises DynoError where the text cannot be read."""
    now = open_text(plan.quality.text).fingerprint if plan.quality is not None else ""
    return {row.key: row for row in rows
            if not row.error and not (row.text_fingerprint and row.text_fingerprint != now)}


def model_fingerprint(folder: Path) -> str:
    """Ten hex digits of a model folder: its configuration and tokenizer, and of each weight file the name, the size and
    64 blocks of 64 KiB that lie evenly over it (all of a file of up to 4 MiB)."""
    digest = hashlib.sha256()
    for path in (folder / name for name in ("config.json", *_TOKENIZER_FILES)):
        digest.update(path.read_bytes() if path.is_file() else b"")
    for path in weight_paths(folder):
        nbytes = path.stat().st_size
        digest.update(f"{path.name}:{nbytes}".encode())
        last = max(0, nbytes - _SAMPLE_BYTES)
        with path.open("rb") as file:
            for number in range(_SAMPLES):
                file.seek(last * number // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:10]


class _Run:
    """One plan under way."""

    def __init__(self, plan: BenchPlan, setting: Setting) -> None:
        self.plan, self.setting, self.session = plan, setting, setting.session
        self.text: TextFile | None = open_text(plan.quality.text) if plan.quality is not None else None
        self.finished = set(setting.done)
        self.variants: dict[int, Variant] = {}
        self.build_s: dict[int, float | None] = {}
        self.base_problem = ""  # why there is nothing to hold the others' quality against
        self.machine = Machine(self.session.device)
        self.facts = facts(self.session.device)

    def close(self) -> None:
        self.machine.close()

    def steps(self) -> Generator[Step, None, None]:
        lanes = range(len(self.plan.recipes))
        groups = [list(lanes)] if self.plan.interleave else [[lane] for lane in lanes]
        for group in groups:
            if not any(self._wants(lane, test) for lane in group for test in self.plan.tests):
                continue
            for lane in group:
                yield from self._build(lane)
            for test in self.plan.speed:
                # Pairs are of one run: where one lane lacks this test, all run it again.
                if any(self._wants(lane, test) for lane in group):
                    yield from self._speed(group, test)
            for lane in group:
                yield from self._quality(lane)
            if not self.plan.interleave and (group != [0] or self.plan.quality is None):
                self.variants.pop(group[0], None)
                free_memory(self.session.device)
        yield from self._quality(0, alone=True)

    def _wants(self, lane: int, test: SpeedTest | QualityTest) -> bool:
        return self.plan.key(lane, test) not in self.finished

    def _doing(self, stage: str, share: float = 0.0) -> Doing:
        """share: of the row under way."""
        total = 100 * len(self.plan.recipes) * len(self.plan.tests)
        return Doing(stage, min(total, 100 * len(self.finished) + round(100 * share)), total)

    def _tick(self) -> None:
        """After every yield: raises _Stop where the caller wants no more."""
        if self.setting.stopping():
            raise _Stop

    # ------------------------------------------------------------------------------------------------------- building

    def _build(self, lane: int) -> Generator[Step, None, None]:
        """Its variant, or its unfinished rows failed."""
        recipe = self.plan.recipes[lane]
        steps = self.session.build(recipe)
        try:
            while True:
                stage, done, total = next(steps)
                part = f" {done} of {total}" if total else ""
                yield self._doing(f"{recipe.label}: {stage.lower()}{part}")
                self._tick()
        except StopIteration as end:
            self.variants[lane] = end.value
            self.build_s[lane] = self.session.build_seconds(recipe)
        except _Stop:
            raise
        except Exception as error:
            if lane == 0:
                self.base_problem = for_people(error)[0]
            yield from self._fail(lane, [t for t in self.plan.tests if self._wants(lane, t)], error)

    def _fail(self, lane: int, tests: Sequence[SpeedTest | QualityTest],
              error: Exception) -> Generator[Step, None, None]:
        """Rows that say why there is nothing."""
        summary, hint = for_people(error)
        if not isinstance(error, DynoError):
            log.warning("%s failed: %s", self.plan.recipes[lane].label, error, exc_info=error)
        del error
        free_memory(self.session.device)
        for test in tests:
            yield from self._finish(replace(self._row(lane, test), error=summary, hint=hint))

    def _finish(self, row: BenchRow) -> Generator[Step, None, None]:
        self.finished.add(row.key)
        yield RowDone(row)
        self._tick()

    def _row(self, lane: int, test: SpeedTest | QualityTest) -> BenchRow:
        """What is known of a row before anything is measured."""
        recipe, variant = self.plan.recipes[lane], self.variants.get(lane)
        row = BenchRow(key=self.plan.key(lane, test), lane=lane, recipe=recipe.label, fingerprint=recipe.fingerprint,
                       test_time=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
                       test=test.name, base=self.plan.recipes[0].label if lane else "", seed=self.plan.seed,
                       recipe_argument=recipe.argument, measured_in=self.setting.measured_in,
                       interleaved=self.plan.interleave,
                       min_time_s=self.plan.min_time_s if isinstance(test, SpeedTest) else None,
                       **self.facts, **self.setting.model)
        if variant is None:
            return row
        return replace(row, weight_bytes=variant.report.weight_bytes, type_k=variant.cache_dtype,
                       type_v=variant.cache_dtype, build_s=self.build_s.get(lane),
                       compile_s=variant.compiled.compile_s if variant.compiled is not None else None)

    # ---------------------------------------------------------------------------------------------------------- speed

    def _speed(self, group: list[int], test: SpeedTest) -> Generator[Step, None, None]:
        runs: dict[int, SpeedRun] = {}
        samples: dict[int, list[Sample]] = {}
        warm: dict[int, list[Sample]] = {}
        energy_j: dict[int, float] = {}
        for lane in [lane for lane in group if lane in self.variants]:
            try:
                runs[lane] = yield from self._ready(lane, test)
                warm[lane] = yield from self._warm_up(lane, runs[lane], test)
                samples[lane], energy_j[lane] = [], 0.0
            except _Stop:
                raise
            except Exception as error:
                runs.pop(lane, None)
                yield from self._fail(lane, [test], error)
        watch = self.machine.watch()
        while runs and not all(self._enough(samples[lane]) for lane in runs):
            for lane in list(runs):
                try:
                    self.setting.set_threads(self.variants[lane])
                    before_j = self.machine.energy_j()
                    sample = runs[lane].once()
                    after_j = self.machine.energy_j()
                except Exception as error:
                    del runs[lane]
                    yield from self._fail(lane, [test], error)
                    continue
                samples[lane].append(sample)
                energy_j[lane] += after_j - before_j if after_j is not None and before_j is not None else 0.0
                watch.note()
                count = len(samples[lane])
                yield Measured(lane, test.name, sample.tokens_per_s, count, True)
                self._tick()  # a stop is looked at after every event: the job is asked for one more, and no further
                yield self._doing(f"{self.plan.recipes[lane].label}: {test.name}, run {count}",
                                  min(1.0, count / self.plan.repetitions))
                self._tick()
        conditions = watch.end()
        peak_of = ALL_RECIPES if len(group) > 1 else THIS_RECIPE
        for lane, run in runs.items():
            row = self._speed_row(lane, test, run, warm[lane], samples[lane], conditions, peak_of)
            step = run.variant.compiled
            if step is not None and step.state == "failed" and test.generate:
                row = _besides(row, f"compiling failed, so the uncompiled decoder ran: {step.error}")
            if conditions.energy_j is not None:
                row = replace(row, energy_j=energy_j[lane] / sum(s.tokens for s in samples[lane]))
            if lane and 0 in runs:
                row = _with_ratio(row, samples[lane], samples[0])
            yield from self._finish(row)

    def _ready(self, lane: int, test: SpeedTest) -> Generator[Step, None, SpeedRun]:
        """The test set up: cache filled, and compiled where the recipe asks for it."""
        variant, label = self.variants[lane], self.plan.recipes[lane].label
        self.setting.set_threads(variant)
        yield self._doing(f"{label}: {test.name}, getting ready")
        self._tick()
        run = SpeedRun(variant, test.within(self.session.config.context), self.plan.seed)
        if variant.compiled is not None and test.generate:
            for _ in range(2):  # another capacity may be under way: then this one's turn comes after it
                variant.compiled.begin(run.cache.capacity)
                while variant.compiled.state == "compiling":
                    yield self._doing(f"{label}: compiling for {variant.compiled.elapsed_s:.0f} s")
                    self._tick()
                    time.sleep(_COMPILE_TICK_S)
        return run

    def _warm_up(self, lane: int, run: SpeedRun, test: SpeedTest) -> Generator[Step, None, list[Sample]]:
        """Until two runs agree, five at most; none of them counts."""
        done: list[Sample] = []
        while len(done) < MOST_WARM_UPS and not is_steady(done):
            done.append(run.once())
            yield Measured(lane, test.name, done[-1].tokens_per_s, len(done), False)
            self._tick()
            yield self._doing(f"{self.plan.recipes[lane].label}: {test.name}, warming up")
            self._tick()
        return done

    def _enough(self, samples: list[Sample]) -> bool:
        return (len(samples) >= self.plan.repetitions
                and sum(sample.elapsed_s for sample in samples) >= self.plan.min_time_s)

    def _speed_row(self, lane: int, test: SpeedTest, run: SpeedRun, warm: list[Sample], samples: list[Sample],
                   conditions: Conditions, peak_of: str) -> BenchRow:
        rates = [sample.tokens_per_s for sample in samples]
        times_ns = [round(1e9 * sample.elapsed_s) for sample in samples]
        gaps = [gap for sample in samples for gap in sample.gaps_s]
        first = [sample.ttft_s for sample in samples if sample.ttft_s is not None]
        cut = run.test
        return replace(
            self._row(lane, test), test=cut.name, n_prompt=cut.prompt, n_gen=cut.generate, n_depth=cut.depth,
            n_batch=UBATCH, n_ubatch=UBATCH, n_threads=self.setting.set_threads(run.variant),
            kv_bytes=run.cache.nbytes, repetitions=len(samples), warmup_runs=len(warm), steady=is_steady(warm),
            avg_ts=statistics.mean(rates), stddev_ts=statistics.deviation(rates), median_ts=statistics.median(rates),
            avg_ns=round(statistics.mean(times_ns)), stddev_ns=round(statistics.deviation(times_ns)),
            samples_ns=tuple(times_ns), samples_ts=tuple(rates), ttft_s=statistics.median(first) if first else None,
            itl_p50_s=statistics.percentile(gaps, 50) if gaps else None,
            itl_p95_s=statistics.percentile(gaps, 95) if gaps else None,
            itl_p99_s=statistics.percentile(gaps, 99) if gaps else None, **_circumstances(conditions, peak_of))

    # -------------------------------------------------------------------------------------------------------- quality

    def _quality(self, lane: int, alone: bool = False) -> Generator[Step, None, None]:
        """The base is scored together with the first recipe that is compared with it; alone where there is none."""
        test, text = self.plan.quality, self.text
        if test is None or text is None or lane not in self.variants or not self._wants(lane, test):
            return
        if lane == 0 and len(self.plan.recipes) > 1 and not alone:
            return
        if lane and 0 not in self.variants and not self.base_problem:
            yield from self._build(0)  # finished in an earlier run, so it was let go
        lanes = [0, lane] if lane and not self.base_problem else [lane]
        variants = [self.variants[n] for n in lanes]
        threads = self.setting.set_threads(max(variants, key=lambda v: v.report.weight_bytes))
        watch = self.machine.watch()
        label = self.plan.recipes[lane].label
        try:
            steps = score_text(variants, self.session.tokenizer, text, test)
            while True:
                done, total = next(steps)
                watch.note()
                yield self._doing(f"{label}: {text.name}, {done:,} of {total:,} tokens", done / max(1, total))
                self._tick()
        except StopIteration as end:
            scores: tuple[Score, ...] = end.value
        except _Stop:
            raise
        except ScoringFailed as failed:
            yield from self._scoring_failed(lanes[failed.index], lane, test, failed)
            return
        except Exception as error:
            yield from self._fail(lane, [test], error)
            return
        conditions = watch.end()
        peak_of = ALL_RECIPES if self.plan.interleave else RECIPE_AND_BASE if len(lanes) > 1 else THIS_RECIPE
        for n, score in zip(lanes, scores, strict=True):
            if self._wants(n, test):
                yield from self._finish(self._quality_row(n, test, text, score, threads, conditions, peak_of))

    def _scoring_failed(self, culprit: int, lane: int, test: QualityTest,
                        failed: ScoringFailed) -> Generator[Step, None, None]:
        """A recipe that failed says so in its row. Where it was the base, the others are scored without it, and at the
        end it has a pass of its own: it may have failed for lack of room beside another."""
        cause = failed.__cause__
        assert isinstance(cause, Exception)
        failed.__cause__ = None  # its frames hold tensors
        if culprit:
            yield from self._fail(culprit, [test], cause)
            return
        self.base_problem = for_people(cause)[0]
        log.warning("the base failed beside %s: %s", self.plan.recipes[lane].label, cause, exc_info=cause)
        del cause, failed
        free_memory(self.session.device)
        yield from self._quality(lane)

    def _quality_row(self, lane: int, test: QualityTest, text: TextFile, score: Score, threads: int,
                     conditions: Conditions, peak_of: str) -> BenchRow:
        context = min(test.context, self.session.config.context)
        row = replace(
            self._row(lane, test), n_threads=threads, text=text.name, text_bytes=text.size_bytes,
            text_fingerprint=text.fingerprint, n_ctx=context, stride=test.stride, chunks=score.chunks,
            tokens_scored=score.tokens, perplexity=score.perplexity, perplexity_error=score.sigma,
            bits_per_byte=score.bits_per_byte,
            scored_ts=score.run_tokens / score.elapsed_s, **_circumstances(conditions, peak_of))
        if lane and self.base_problem:
            row = _besides(row, f"the base could not be scored with it, so there is no divergence: {self.base_problem}")
        far = score.divergence
        if far is None:
            return row
        kl, dp = dict(far.kl), dict(far.dp)
        return replace(
            row, kl_mean=far.kl_mean, kl_error=far.kl_error, kl_max=far.kl_max, kl_median=kl[50.0],
            kl_p99_9=kl[99.9], kl_p99=kl[99.0],
            kl_p95=kl[95.0], kl_p90=kl[90.0], kl_p10=kl[10.0], kl_p5=kl[5.0], kl_p1=kl[1.0], kl_p0_1=kl[0.1],
            dp_mean=far.dp_mean, dp_rms=far.dp_rms, dp_median=dp[50.0], dp_p99=dp[99.0], dp_p95=dp[95.0],
            dp_p5=dp[5.0], dp_p1=dp[1.0], same_top=far.same_top, quality_samples=far.samples, ratio=far.ratio.value,
            ratio_low=far.ratio.low, ratio_high=far.ratio.high, pairs=far.ratio.pairs,
            verdict=statistics.quality_verdict(far.ratio))


def _circumstances(conditions: Conditions, peak_of: str) -> dict[str, Any]:
    return {"conditions": conditions.text, "other_cpu_percent": conditions.other_cpu_percent, "peak_of": peak_of,
            "peak_rss_bytes": conditions.peak_rss_bytes,
            "gpu_peak_allocated_bytes": conditions.gpu_peak_allocated_bytes,
            "gpu_peak_reserved_bytes": conditions.gpu_peak_reserved_bytes}


def _besides(row: BenchRow, note: str) -> BenchRow:
    """The row with one more of its conditions."""
    return replace(row, conditions=note if row.conditions in ("", "quiet") else f"{row.conditions}; {note}")


def _with_ratio(row: BenchRow, samples: list[Sample], base: list[Sample]) -> BenchRow:
    count = min(len(samples), len(base))
    ratio = statistics.paired_ratio([s.tokens_per_s for s in samples[:count]], [s.tokens_per_s for s in base[:count]])
    return replace(row, ratio=ratio.value, ratio_low=ratio.low, ratio_high=ratio.high, pairs=ratio.pairs,
                   verdict=statistics.speed_verdict(ratio))
