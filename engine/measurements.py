"""What a benchmark is asked and what it found: plain frozen dataclasses, shared by engine, window, files and history.

A `BenchRow` is flat: one recipe and one test, with the model, machine and versions it was measured on. Its fields are
the one list behind every table, export and database (engine/bench/results.py); a name that llama-bench uses means the
same here. Nothing here holds a tensor or knows how to measure.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from engine.errors import DynoError
from engine.recipe import Recipe

SHORTEST_CONTEXT = 4  # tokens in a chunk of a perplexity
MOST_TOKENS = 1 << 22
HEADLESS, IN_WINDOW = "headless", "window, plots paused"
THIS_RECIPE, RECIPE_AND_BASE, ALL_RECIPES = "this recipe", "recipe and base", "all recipes"


@dataclass(frozen=True)
class SpeedTest:
    """pp<N> (prompt tokens at once, empty cache) or tg<N> (tokens one by one), after `depth` tokens. Raises DynoError.

    Exactly one of prompt and generate is above 0.
    """

    prompt: int = 0
    generate: int = 0
    depth: int = 0

    def __post_init__(self) -> None:
        counts = (self.prompt, self.generate, self.depth)
        if min(counts) < 0 or max(counts) > MOST_TOKENS or (self.prompt > 0) == (self.generate > 0):
            raise DynoError(f"A speed test of {self.prompt} prompt and {self.generate} generated tokens at depth "
                            f"{self.depth} cannot be run.",
                            "Give one of the two a positive number, such as 512 or 128.")

    @property
    def name(self) -> str:
        """As llama-bench writes it: "pp512", "tg128", "tg128 @ d256"."""
        test = f"pp{self.prompt}" if self.prompt else f"tg{self.generate}"
        return f"{test} @ d{self.depth}" if self.depth else test

    def within(self, context: int) -> SpeedTest:
        """This test cut to a model's context: first the tokens, then the depth before them."""
        tokens = min(self.prompt or self.generate, context)
        depth = min(self.depth, context - tokens)
        return SpeedTest(tokens, 0, depth) if self.prompt else SpeedTest(0, tokens, depth)


@dataclass(frozen=True)
class QualityTest:
    """Perplexity of a text. Raises DynoError.

    text: a .txt, .jsonl or .parquet file; "" is the evaluation text that ships with the app. context: tokens of a
    chunk. stride: tokens between windows, 0 for disjoint chunks. chunks: how many at most, 0 for all.
    """

    text: str = ""
    context: int = 512
    stride: int = 0
    chunks: int = 0

    def __post_init__(self) -> None:
        if self.context < SHORTEST_CONTEXT or self.chunks < 0 or self.context > MOST_TOKENS:
            raise DynoError(f"Perplexity needs chunks of {SHORTEST_CONTEXT} tokens or more, and one chunk or more.",
                            "Choose a context such as 512, and no limit of chunks to score the whole text.")
        if not 0 <= self.stride <= self.context:
            raise DynoError(f"A stride of {self.stride:,} does not fit windows of {self.context:,} tokens.",
                            "Choose a stride from 1 to the context, such as half of it.")

    @property
    def name(self) -> str:
        """"ppl512", or "ppl512/256" with a stride."""
        return f"ppl{self.context}/{self.stride}" if self.stride else f"ppl{self.context}"


@dataclass(frozen=True)
class BenchPlan:
    """What to measure. Raises DynoError for a plan that measures nothing or cannot be.

    recipes: the first one is the base of ratios and divergences. speed, quality: the tests of each. repetitions: at
    least so many of each speed test, and at least min_time_s seconds. interleave: the recipes take turns at every
    repetition, which is what ratios need; otherwise one recipe is done before the next is built, which needs the
    memory of one. seed: of the random tokens.
    """

    recipes: tuple[Recipe, ...]
    speed: tuple[SpeedTest, ...] = ()
    quality: QualityTest | None = None
    repetitions: int = 5
    min_time_s: float = 2.0
    interleave: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.recipes:
            raise DynoError("The benchmark has no recipe.", "Choose at least one, such as fp32.")
        if not self.speed and self.quality is None:
            raise DynoError("The benchmark has nothing to measure.", "Choose a speed test or a text.")
        if not 1 <= self.repetitions <= 10_000:
            raise DynoError(f"{self.repetitions:,} repetitions cannot be made.", "Choose 1 or more, such as 5.")
        if not 0 <= self.min_time_s <= 86_400:
            raise DynoError(f"A test cannot take at least {self.min_time_s:g} s.", "Choose 0 or more, such as 2.")
        if self.interleave and len(self.recipes) < 2:
            raise DynoError("A comparison needs two recipes or more.", "Name another one.")
        if len({test.name for test in self.speed}) < len(self.speed):
            raise DynoError("The same speed test stands in the benchmark twice.", "Name each shape once.")

    @property
    def tests(self) -> tuple[SpeedTest | QualityTest, ...]:
        """All tests of a recipe, in the order in which they run."""
        return (*self.speed, *((self.quality,) if self.quality is not None else ()))

    def key(self, lane: int, test: SpeedTest | QualityTest) -> str:
        """Names one row of this plan: its recipe's place, fingerprint and the test."""
        return f"{lane}:{self.recipes[lane].fingerprint}:{test.name}"

    def seconds(self, prompt_per_s: float, generate_per_s: float, text_tokens: int = 0) -> float:
        """A rough length of the run in seconds, from tokens/s that the model is thought to reach."""
        total = 0.0
        for test in self.speed:
            once = test.prompt / prompt_per_s + test.generate / generate_per_s
            total += (test.depth / prompt_per_s) + 2 * once + max(self.repetitions * once, self.min_time_s)
        if self.quality is not None:
            passes = 1.0 if len(self.recipes) == 1 or self.interleave else 2.0 - 1.0 / len(self.recipes)
            total += passes * text_tokens / (0.8 * prompt_per_s)
        return total * len(self.recipes)

    def to_json(self) -> dict[str, Any]:
        """As the history keeps it."""
        return {"recipes": [r.to_json() for r in self.recipes], "speed": [dataclasses.asdict(t) for t in self.speed],
                "quality": dataclasses.asdict(self.quality) if self.quality else None,
                "repetitions": self.repetitions, "min_time_s": self.min_time_s, "interleave": self.interleave,
                "seed": self.seed}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> BenchPlan:
        """The plan that to_json() wrote. Raises DynoError."""
        try:
            quality = raw["quality"]
            return cls(tuple(Recipe.from_json(r) for r in raw["recipes"]),
                       tuple(SpeedTest(**t) for t in raw["speed"]), QualityTest(**quality) if quality else None,
                       int(raw["repetitions"]), float(raw["min_time_s"]), bool(raw["interleave"]), int(raw["seed"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DynoError("The plan of this benchmark cannot be read.", "Start a new one.") from error


def _column(default: Any, heading: str = "", unit: str = "", table: bool = False) -> Any:
    """A field with its heading in tables and its unit. table: it stands in the short tables, too."""
    return field(default=default, metadata={"heading": heading, "unit": unit, "table": table})


@dataclass(frozen=True)
class BenchRow:
    """One recipe, one test. None: not measured, or not to be had here. Names with a unit carry it; ..._ts is tokens/s,
    ..._ns nanoseconds, both as in llama-bench.

    key: see BenchPlan.key. error, hint: why there is nothing, and what to do. conditions: "quiet", or what disturbed
    the run. recipe_argument: the recipe as --recipe takes it. measured_in: "headless" or "window, plots paused". seed,
    min_time_s, interleaved: of the plan. n_ubatch: prompt tokens run at once. ttft_s: a pp test's prompt to its first
    token, median. itl_..: gaps between the tokens of a tg test. energy_j: joules a token. kv_bytes: the cache allocated
    for the test. peak_rss_bytes: highest resident memory while the test ran (all of the process). peak_of: whose the
    peaks are. text_fingerprint: ten hex digits of the text's bytes. perplexity_error: standard error.
    ratio: to the base recipe's same test (tokens/s, or perplexity), with its 95 % interval. kl_..: KL(base || recipe),
    nats a token; kl_error the mean's standard error. dp_..: change of the correct token's probability. same_top: share
    of tokens with the same likeliest one. quality_samples: tokens behind the percentiles.
    """

    key: str = _column("")
    test_time: str = _column("")
    lane: int = _column(0)
    recipe: str = _column("", "recipe", table=True)
    fingerprint: str = _column("")
    recipe_argument: str = _column("")
    test: str = _column("", "test", table=True)
    error: str = _column("")
    hint: str = _column("")
    conditions: str = _column("")
    other_cpu_percent: float | None = _column(None, "other programs", "%")
    measured_in: str = _column("")

    model_filename: str = _column("")
    model_type: str = _column("")
    model_size: int | None = _column(None, "model", "B")
    model_n_params: int | None = _column(None, "parameters")
    model_fingerprint: str = _column("")
    build_commit: str = _column("")
    version: str = _column("")
    torch_version: str = _column("")
    python_version: str = _column("")
    os: str = _column("")
    cpu_info: str = _column("")
    gpu_info: str = _column("")
    backends: str = _column("")
    n_threads: int | None = _column(None, "threads")
    memory_bytes: int | None = _column(None, "machine memory", "B")

    n_prompt: int = _column(0)
    n_gen: int = _column(0)
    n_depth: int = _column(0)
    seed: int | None = _column(None)
    min_time_s: float | None = _column(None, "at least", "s")
    interleaved: bool | None = _column(None)
    n_batch: int | None = _column(None)
    n_ubatch: int | None = _column(None)
    type_k: str = _column("")
    type_v: str = _column("")

    repetitions: int | None = _column(None, "runs", table=True)
    warmup_runs: int | None = _column(None, "warm-up")
    steady: bool | None = _column(None)
    avg_ts: float | None = _column(None, "tok/s", table=True)
    stddev_ts: float | None = _column(None, "±", table=True)
    median_ts: float | None = _column(None, "median tok/s")
    avg_ns: int | None = _column(None, "mean", "ns")
    stddev_ns: int | None = _column(None, "±", "ns")
    samples_ns: tuple[int, ...] = _column(())
    samples_ts: tuple[float, ...] = _column(())
    ttft_s: float | None = _column(None, "TTFT", "s", table=True)
    itl_p50_s: float | None = _column(None, "ITL p50", "s", table=True)
    itl_p95_s: float | None = _column(None, "ITL p95", "s", table=True)
    itl_p99_s: float | None = _column(None, "ITL p99", "s")
    energy_j: float | None = _column(None, "J/token", "J", table=True)

    weight_bytes: int | None = _column(None, "weights", "B", table=True)
    kv_bytes: int | None = _column(None, "KV cache", "B", table=True)
    peak_rss_bytes: int | None = _column(None, "peak RAM", "B", table=True)
    gpu_peak_allocated_bytes: int | None = _column(None, "peak GPU, allocated", "B", table=True)
    gpu_peak_reserved_bytes: int | None = _column(None, "peak GPU, reserved", "B")
    peak_of: str = _column("")
    load_s: float | None = _column(None, "load", "s")
    build_s: float | None = _column(None, "build", "s", table=True)
    compile_s: float | None = _column(None, "compile", "s")

    text: str = _column("")
    text_bytes: int | None = _column(None, "text", "B")
    text_fingerprint: str = _column("")
    n_ctx: int | None = _column(None, "context")
    stride: int | None = _column(None)
    chunks: int | None = _column(None)
    tokens_scored: int | None = _column(None, "tokens", table=True)
    perplexity: float | None = _column(None, "perplexity", table=True)
    perplexity_error: float | None = _column(None, "±", table=True)
    bits_per_byte: float | None = _column(None, "bits/byte", table=True)
    scored_ts: float | None = _column(None, "scored tok/s")
    kl_mean: float | None = _column(None, "KL mean", table=True)
    kl_error: float | None = _column(None, "±", table=True)
    kl_median: float | None = _column(None, "KL median")
    kl_max: float | None = _column(None, "KL max")
    kl_p99_9: float | None = _column(None, "KL p99.9")
    kl_p99: float | None = _column(None, "KL p99", table=True)
    kl_p95: float | None = _column(None, "KL p95")
    kl_p90: float | None = _column(None, "KL p90")
    kl_p10: float | None = _column(None, "KL p10")
    kl_p5: float | None = _column(None, "KL p5")
    kl_p1: float | None = _column(None, "KL p1")
    kl_p0_1: float | None = _column(None, "KL p0.1")
    dp_mean: float | None = _column(None, "Δp mean")
    dp_rms: float | None = _column(None, "Δp RMS", table=True)
    dp_median: float | None = _column(None, "Δp median")
    dp_p99: float | None = _column(None, "Δp p99")
    dp_p95: float | None = _column(None, "Δp p95")
    dp_p5: float | None = _column(None, "Δp p5")
    dp_p1: float | None = _column(None, "Δp p1")
    same_top: float | None = _column(None, "same top", table=True)
    quality_samples: int | None = _column(None)

    base: str = _column("")
    ratio: float | None = _column(None, "ratio", table=True)
    ratio_low: float | None = _column(None, "95 % from", table=True)
    ratio_high: float | None = _column(None, "to", table=True)
    pairs: int | None = _column(None)
    verdict: str = _column("", "verdict", table=True)

    def to_json(self) -> dict[str, Any]:
        """Every field by name, as plain JSON data."""
        return json.loads(json.dumps(dataclasses.asdict(self)))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> BenchRow:
        """The row that to_json() wrote; names this version does not know are left out."""
        known = {f.name for f in dataclasses.fields(cls)}
        values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value
                                  for name, value in raw.items() if name in known}
        return cls(**values)


@dataclass(frozen=True)
class BenchResult:
    """A whole run. complete: every planned row is there (a row that says why it failed is one). run_id: its number in
    the history, 0 where none was kept."""

    plan: BenchPlan
    rows: tuple[BenchRow, ...]
    complete: bool
    elapsed_s: float
    run_id: int = 0

    @property
    def failed(self) -> tuple[BenchRow, ...]:
        """The rows that could not be measured."""
        return tuple(row for row in self.rows if row.error)
