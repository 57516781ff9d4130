"""A comparison as figures and as files: for each lane memory, TTFT, tokens/s, perplexity and KL, held against the base.

Figures come from a benchmark whose recipes took turns, or from lanes that were watched; each says which. It needs no
torch, so the window uses it directly. It knows neither a window nor a disk.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from engine.bench.results import INTERVALS, figures, finite, seconds, size
from engine.bench.statistics import (
    CONFIDENCE,
    NO_DIFFERENCE,
    VERDICT_CONFIDENCE,
    Ratio,
    paired_ratio,
    speed_verdict,
    t_quantile,
)
from engine.comparing import LaneResult, LaneToken
from engine.errors import DynoError
from engine.measurements import BenchRow
from engine.recipe import Recipe

METRICS = ("memory", "ttft", "speed", "perplexity", "kl")
UNITS: Mapping[str, str] = {"memory": "bytes", "ttft": "s", "speed": "tok/s", "perplexity": "", "kl": "nats"}
FORMATS = (".md", ".json", ".csv")
SMALLER, LARGER, SAME, DIFFERS = "smaller", "larger", "the same", "differs"
WATCHED = "Watched token by token; perplexity is that of its own words: how sure, not how good."
TOKENS_A_PAIR = 8
"""Watched lanes take turns token by token; so many gaps between tokens make one pair, since single ones are noise."""


@dataclass(frozen=True)
class Figure:
    """One number of one lane. low, high: the 95 % interval of the value itself, where it has one (KL). ratio: to the
    base's, with its interval; of memory it is exact, and low and high are the value. verdict: "" for the base."""

    value: float
    low: float | None = None
    high: float | None = None
    ratio: Ratio | None = None
    verdict: str = ""


@dataclass(frozen=True)
class LaneFigures:
    """The figures of a lane by METRICS, those that there are. source: how they were come by. error: why none are.
    disturbed: what went on besides while they were measured, each with its test."""

    figures: Mapping[str, Figure] = field(default_factory=dict)
    source: str = ""
    error: str = ""
    disturbed: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """What there is to say of them, in one line."""
        return " ".join(part for part in (self.error or self.source, *(f"{note}." for note in self.disturbed)) if part)


def of_watching(lanes: Sequence[LaneResult]) -> tuple[LaneFigures, ...]:
    """What watching shows. There was one prompt, so TTFT has no interval; perplexity is that of the lane's own words,
    which another lane's are not to be held against, so it has no ratio."""
    base = lanes[0]
    found = []
    for lane in lanes:
        got: dict[str, Figure] = {}
        other = lane.lane > 0 and not base.error
        if lane.weight_bytes:
            got["memory"] = _memory(lane.weight_bytes + lane.kv_bytes, base.weight_bytes + base.kv_bytes, other)
        if lane.ttft_s and lane.tokens:
            ratio = paired_ratio([lane.ttft_s], [base.ttft_s]) if other and base.ttft_s else None
            got["ttft"] = Figure(lane.ttft_s, ratio=ratio, verdict=NO_DIFFERENCE if ratio else "")
        if lane.tokens_per_s:
            got["speed"] = _versus(lane.tokens_per_s, _pairs(lane.gaps_s, base.gaps_s) if other else None)
        if lane.perplexity:
            got["perplexity"] = Figure(lane.perplexity)
        if lane.kl_mean is not None:
            got["kl"] = _kl(lane.kl_mean, lane.kl_error or 0.0, lane.tokens)
        found.append(LaneFigures(got, WATCHED if got else "", lane.error))
    return tuple(found)


def of_rows(rows: Iterable[BenchRow], lanes: int) -> tuple[LaneFigures, ...]:
    """What an interleaved benchmark shows, lane by lane, as far as its rows are there."""
    by_lane: list[list[BenchRow]] = [[] for _ in range(lanes)]
    for row in rows:
        if row.lane < lanes:
            by_lane[row.lane].append(row)
    base_bytes = _bytes(by_lane[0])
    found = []
    for lane, own in enumerate(by_lane):
        got: dict[str, Figure] = {}
        errors = [f"{row.test}: {row.error} {row.hint}".strip() for row in own if row.error]
        good = [row for row in own if not row.error]
        if _bytes(good):
            got["memory"] = _memory(_bytes(good), base_bytes, lane > 0 and base_bytes > 0)
        parts = []
        for row in good:
            ratio = Ratio(row.ratio, row.ratio_low or 0.0, row.ratio_high or math.inf, row.verdict != NO_DIFFERENCE,
                          row.pairs or 1) if row.ratio else None
            if row.ttft_s:
                got["ttft"] = Figure(row.ttft_s, ratio=_inverse(ratio), verdict=row.verdict)
                parts.append(f"{row.test}, {row.repetitions} runs")
            elif row.avg_ts:
                got["speed"] = Figure(row.avg_ts, ratio=ratio, verdict=row.verdict)
                parts.append(f"{row.test}, {row.repetitions} runs")
            elif row.perplexity:
                got["perplexity"] = Figure(row.perplexity, ratio=ratio, verdict=row.verdict)
                if row.kl_mean is not None:
                    got["kl"] = _kl(row.kl_mean, row.kl_error or 0.0, row.tokens_scored or 2)
                parts.append(f"{row.chunks} chunks of {row.text}")
        found.append(LaneFigures(got, f"Measured in turns: {'; '.join(parts)}." if parts else "", "; ".join(
            dict.fromkeys(errors)), tuple(note for row in good for note in _disturbed(row))))
    return tuple(found)


def _disturbed(row: BenchRow) -> list[str]:
    notes = [row.conditions] if row.conditions not in ("", "quiet") else []
    notes += ["the warm-up did not settle within 5 %"] if row.steady is False else []
    return [f"{row.test}: {note}" for note in notes]


def _bytes(rows: Sequence[BenchRow]) -> int:
    return max((row.weight_bytes or 0 for row in rows), default=0) + max((row.kv_bytes or 0 for row in rows), default=0)


def _memory(nbytes: int, base: int, other: bool) -> Figure:
    """Allocated bytes are counted, not sampled: the interval is the value."""
    if not other or not base:
        return Figure(nbytes)
    value = nbytes / base
    verdict = SAME if nbytes == base else SMALLER if nbytes < base else LARGER
    return Figure(nbytes, ratio=Ratio(value, value, value, nbytes != base, 1), verdict=verdict)


def _pairs(gaps_s: Sequence[float], base_s: Sequence[float]) -> Ratio | None:
    """tokens/s of a lane over the base's, in pairs of TOKENS_A_PAIR gaps that lay side by side in time."""
    count = min(len(gaps_s), len(base_s)) // TOKENS_A_PAIR
    if not count:
        return None
    mine, base = ([math.fsum(gaps[n * TOKENS_A_PAIR:(n + 1) * TOKENS_A_PAIR]) for n in range(count)]
                  for gaps in (gaps_s, base_s))
    return paired_ratio(base, mine)


def _versus(value: float, ratio: Ratio | None) -> Figure:
    return Figure(value, ratio=ratio, verdict=speed_verdict(ratio) if ratio is not None else "")


def _inverse(ratio: Ratio | None) -> Ratio | None:
    """Of times, where that of rates is known."""
    if ratio is None:
        return None
    return Ratio(1 / ratio.value, 1 / ratio.high if math.isfinite(ratio.high) else 0.0,
                 1 / ratio.low if ratio.low > 0 else math.inf, ratio.decided, ratio.pairs)


def _kl(value: float, error: float, count: int) -> Figure:
    """A mean KL is held against 0, which only the same distributions have."""
    half, strict = (t_quantile(c, max(1, count - 1)) * error for c in (CONFIDENCE, VERDICT_CONFIDENCE))
    return Figure(value, max(0.0, value - half), value + half, verdict=DIFFERS if value > strict else NO_DIFFERENCE)


# ------------------------------------------------------------------------------------------------------------ as files


@dataclass(frozen=True)
class LaneRecord:
    """A lane for a file."""

    recipe: Recipe
    text: str
    tokens: tuple[LaneToken, ...]
    figures: LaneFigures
    finish: str = ""


@dataclass(frozen=True)
class Comparison:
    """A comparison for a file: what was asked of which model where, and its lanes, the base first."""

    model: str
    device: str
    prompt: str
    seed: int | None
    lanes: tuple[LaneRecord, ...]


def render(comparison: Comparison, suffix: str) -> str:
    """The comparison as Markdown, JSON or CSV. Raises DynoError for another suffix."""
    writers: dict[str, Callable[[Comparison], str]] = {".md": to_markdown, ".json": to_json, ".csv": to_csv}
    if suffix not in writers:
        raise DynoError(f"A comparison cannot be written as {suffix or 'a file without a suffix'}.",
                        f"Choose one of {', '.join(FORMATS)}.")
    return writers[suffix](comparison)


def to_markdown(comparison: Comparison) -> str:
    """The table of figures, then each lane's text with the place where it departs."""
    rows = [["recipe", "memory", "TTFT", "tok/s", "perplexity", "KL"], ["---", *["---:"] * len(METRICS)]]
    rows += [[f"{letter(n)}: {lane.recipe.label}", *(cell(m, lane.figures.figures.get(m)) for m in METRICS)]
             for n, lane in enumerate(comparison.lanes)]
    table = "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in rows)
    seed = f", seed {comparison.seed}" if comparison.seed is not None else ""
    parts = [f"# {comparison.model}: recipes side by side", f"{comparison.device}{seed}", table]
    parts += ["\n".join(f"- {letter(n)}: {lane.figures.told}"
                        for n, lane in enumerate(comparison.lanes) if lane.figures.told)]
    if any(f.ratio for lane in comparison.lanes for f in lane.figures.figures.values()):
        parts.append(INTERVALS)
    if comparison.prompt:
        parts.append(f"## Prompt\n\n{_quoted(comparison.prompt)}")
    for n, lane in enumerate(comparison.lanes):
        gone = next((token for token in lane.tokens if token.departs), None)
        note = f"\n\nDeparts from {letter(0)} at token {gone.number}." if gone is not None else ""
        if lane.text:
            parts.append(f"## {letter(n)}: {lane.recipe.label}\n\n{_quoted(lane.text)}{note}")
    return "\n\n".join(part for part in parts if part) + "\n"


def to_json(comparison: Comparison) -> str:
    """Everything, each token with its probability and KL."""
    def lane(record: LaneRecord) -> dict[str, object]:
        return {"recipe": record.recipe.label, "fingerprint": record.recipe.fingerprint, **record.recipe.to_json(),
                "finish": record.finish, "text": record.text, "source": record.figures.source,
                "error": record.figures.error, "disturbed": list(record.figures.disturbed),
                "figures": {name: finite(asdict(figure)) for name, figure in record.figures.figures.items()},
                "tokens": [asdict(token) for token in record.tokens]}

    return json.dumps({"model": comparison.model, "device": comparison.device, "prompt": comparison.prompt,
                       "seed": comparison.seed, "lanes": [lane(record) for record in comparison.lanes]},
                      indent=2, ensure_ascii=False) + "\n"


def to_csv(comparison: Comparison) -> str:
    """A line for each figure of each lane."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["model", "device", "seed", "lane", "recipe", "fingerprint", "recipe_argument", "metric", "unit",
                     "value", "low", "high", "ratio", "ratio_low", "ratio_high", "verdict", "source", "disturbed"])
    seed = "" if comparison.seed is None else comparison.seed
    for n, lane in enumerate(comparison.lanes):
        for name, f in lane.figures.figures.items():
            ratio = (f.ratio.value, f.ratio.low, f.ratio.high) if f.ratio is not None else (None, None, None)
            values = ["" if v is None or not math.isfinite(v) else repr(v) for v in (f.value, f.low, f.high, *ratio)]
            writer.writerow([comparison.model, comparison.device, seed, letter(n), lane.recipe.label,
                             lane.recipe.fingerprint, lane.recipe.argument, name, UNITS[name], *values, f.verdict,
                             lane.figures.source, "; ".join(lane.figures.disturbed)])
    return out.getvalue()


def letter(lane: int) -> str:
    """A, B, C, D."""
    return chr(ord("A") + lane)


def cell(metric: str, figure: Figure | None) -> str:
    """A figure in words: value, ratio with its interval, verdict."""
    if figure is None:
        return ""
    words = {"memory": size, "ttft": seconds}.get(metric, figures)(figure.value)
    if figure.low is not None and figure.high is not None:
        words += f" ({figures(figure.low)} to {figures(figure.high)})"
    if figure.ratio is not None:
        words += f", {figure.ratio.value:.3f}×{interval(figure.ratio)}"
    return f"{words}, {figure.verdict}" if figure.verdict else words


def interval(ratio: Ratio) -> str:
    """" (0.981 to 1.034)"; nothing where there is none, as of one pair or of what is exact."""
    if ratio.low == ratio.high or not math.isfinite(ratio.high) or ratio.high > 1e6:
        return ""
    return f" ({ratio.low:.3f} to {ratio.high:.3f})"


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())
