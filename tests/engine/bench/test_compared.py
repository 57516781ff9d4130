"""Figures of a comparison, from watching and from measuring, and the files they are written to."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest
from scipy import stats

from engine.bench.compared import (
    METRICS,
    Comparison,
    LaneFigures,
    LaneRecord,
    cell,
    of_rows,
    of_watching,
    render,
)
from engine.comparing import LaneResult, LaneToken
from engine.errors import DynoError
from engine.measurements import BenchRow
from engine.recipe import parse_recipe

BASE = LaneResult(0, "fp32", "f0", "length", tokens=33, ttft_s=0.02, tpot_s=0.01, perplexity=5.0, weight_bytes=900,
                  kv_bytes=100, gaps_s=tuple(0.01 + 0.0001 * (n % 5) for n in range(32)))


def lane(**changes: object) -> LaneResult:
    """A second lane that differs from the base in `changes` alone."""
    return LaneResult(**{**{name: getattr(BASE, name) for name in BASE.__dataclass_fields__}, "lane": 1,
                         "recipe": "int8", "fingerprint": "f1", "kl_mean": 0.2, "kl_error": 0.01,
                         **changes})  # type: ignore[arg-type]


def test_watched_speeds_are_compared_in_pairs_of_eight_gaps() -> None:
    gaps = tuple(0.005 + 0.0002 * (n % 3) for n in range(29))  # it ended earlier: 29 gaps make 3 whole pairs
    figure = of_watching((BASE, lane(gaps_s=gaps, tpot_s=sum(gaps) / 29)))[1].figures["speed"]
    logs = [math.log(sum(BASE.gaps_s[n:n + 8]) / sum(gaps[n:n + 8])) for n in (0, 8, 16)]
    low, high = stats.t.interval(0.95, 2, sum(logs) / 3, stats.sem(logs))
    assert figure.ratio is not None and figure.ratio.pairs == 3
    assert (figure.ratio.value, figure.ratio.low, figure.ratio.high) == pytest.approx(
        tuple(math.exp(x) for x in (sum(logs) / 3, low, high)))
    assert figure.verdict == "faster" and figure.value == pytest.approx(29 / sum(gaps))


def test_watching_the_same_thing_twice_measures_no_difference() -> None:
    same = of_watching((BASE, lane(kl_mean=0.0, kl_error=0.0)))[1].figures
    assert {m: same[m].verdict for m in METRICS} == {
        "memory": "the same", "ttft": "no difference measured", "speed": "no difference measured", "perplexity": "",
        "kl": "no difference measured"}
    assert same["perplexity"].ratio is None, "perplexities of different texts are not to be held against each other"


def test_memory_is_exact_and_a_kl_has_its_students_interval() -> None:
    figures = of_watching((BASE, lane(weight_bytes=400)))[1].figures
    ratio = figures["memory"].ratio
    assert ratio is not None and ratio.value == ratio.low == ratio.high == 0.5
    assert figures["memory"].verdict == "smaller"
    low, high = stats.t.interval(0.95, 32, 0.2, 0.01)
    assert (figures["kl"].low, figures["kl"].high) == pytest.approx((low, high))
    assert figures["kl"].verdict == "differs"
    near = of_watching((BASE, lane(kl_mean=0.02, kl_error=0.01)))[1].figures["kl"]
    assert near.verdict == "no difference measured"


def test_a_failed_base_leaves_figures_without_ratios() -> None:
    failed = LaneResult(0, "fp8", "f8", "failed", error="FP8 cannot run here.", hint="Switch it off.")
    base, other = of_watching((failed, lane(kl_mean=None, kl_error=None)))
    assert base.error and not base.figures
    assert set(other.figures) == {"memory", "ttft", "speed", "perplexity"}
    assert all(f.ratio is None and not f.verdict for f in other.figures.values())


def rows() -> tuple[BenchRow, ...]:
    """Two lanes measured in turns."""
    return (
        BenchRow(lane=0, test="pp512", avg_ts=1000.0, ttft_s=0.5, repetitions=5, weight_bytes=900, kv_bytes=100),
        BenchRow(lane=0, test="tg128", avg_ts=50.0, repetitions=5, weight_bytes=900, kv_bytes=60),
        BenchRow(lane=0, test="ppl512", perplexity=9.0, perplexity_error=0.1, chunks=8, text="t.txt", tokens_scored=90),
        BenchRow(lane=1, test="pp512", avg_ts=2000.0, ttft_s=0.25, repetitions=5, weight_bytes=300, kv_bytes=50,
                 ratio=2.0, ratio_low=1.6, ratio_high=2.5, pairs=5, verdict="faster"),
        BenchRow(lane=1, test="tg128", avg_ts=51.0, repetitions=5, weight_bytes=300, kv_bytes=30, ratio=1.02,
                 ratio_low=0.9, ratio_high=1.15, pairs=5, verdict="no difference measured"),
        BenchRow(lane=1, test="ppl512", perplexity=9.9, perplexity_error=0.1, chunks=8, text="t.txt",
                 tokens_scored=90, kl_mean=0.1, kl_error=0.01, ratio=1.1, ratio_low=1.05, ratio_high=1.15, pairs=90,
                 verdict="worse"),
        BenchRow(lane=2, test="pp512", error="Memory ran out.", hint="Choose fewer bits."))


def test_measured_figures_carry_the_rows_ratios_and_ttfts_are_those_of_the_prompt_turned_over() -> None:
    base, other, failed = of_rows(rows(), 3)
    assert base.figures["ttft"].value == 0.5 and base.figures["ttft"].ratio is None
    ttft = other.figures["ttft"].ratio
    assert ttft is not None and (ttft.value, ttft.low, ttft.high) == (0.5, 1 / 2.5, 1 / 1.6)
    memory = other.figures["memory"]
    assert memory.value == 350 and memory.ratio is not None and memory.ratio.value == 0.35
    assert other.figures["speed"].verdict == "no difference measured"
    assert other.figures["perplexity"].verdict == "worse" and other.figures["kl"].verdict == "differs"
    assert "5 runs" in other.source and "8 chunks of t.txt" in other.source
    assert not failed.figures and failed.error == "pp512: Memory ran out. Choose fewer bits."


def comparison() -> Comparison:
    """One to be written to files."""
    figures = of_rows(rows(), 3)
    tokens = (LaneToken(1, 1, 5, "One", 0.5, 0.01, 0.1, 0.4),
              LaneToken(1, 2, 6, " two|", 0.25, 0.02, 0.3, 0.01, departs=True))
    names = ("fp32", "int8", "bf16")
    texts = ("One three", "One two|", "")
    return Comparison("tiny", "CPU", "Count\nfor me", 7, tuple(
        LaneRecord(parse_recipe(name), text, tokens if n == 1 else (), figures[n], "length")
        for n, (name, text) in enumerate(zip(names, texts, strict=True))))


def test_markdown_names_everything_and_marks_the_departure() -> None:
    text = render(comparison(), ".md")
    assert "| A: fp32 | 0.0 MB | 500.00 ms |" in text
    assert "51.00, 1.020× (0.900 to 1.150), no difference measured" in text
    assert "Departs from A at token 2." in text and "> Count\n> for me" in text and "seed 7" in text
    assert "Memory ran out." in text


def test_json_holds_every_token_and_recipe() -> None:
    raw = json.loads(render(comparison(), ".json"))
    assert raw["lanes"][1]["tokens"][1] == {"lane": 1, "number": 2, "token_id": 6, "text": " two|", "probability": 0.25,
                                            "own_s": 0.02, "kl": 0.3, "base_probability": 0.01, "departs": True}
    assert raw["lanes"][1]["figures"]["speed"]["ratio"]["low"] == 0.9
    assert raw["lanes"][1]["techniques"] == parse_recipe("int8").to_json()["techniques"] and raw["seed"] == 7


def test_csv_has_a_line_for_each_figure_of_each_lane() -> None:
    lines = list(csv.DictReader(io.StringIO(render(comparison(), ".csv"))))
    assert [(x["lane"], x["metric"]) for x in lines] == [(letter, m) for letter in "AB" for m in METRICS
                                                         if (letter, m) != ("A", "kl")]
    speed = next(x for x in lines if (x["lane"], x["metric"]) == ("B", "speed"))
    assert (speed["value"], speed["ratio_high"], speed["unit"]) == ("51.0", "1.15", "tok/s")


def test_what_cannot_be_written_or_is_not_there() -> None:
    assert cell("speed", None) == ""
    with pytest.raises(DynoError):
        render(comparison(), ".html")
    empty = Comparison("m", "CPU", "", None, (LaneRecord(parse_recipe("fp32"), "", (), LaneFigures()),))
    assert json.loads(render(empty, ".json"))["lanes"][0]["figures"] == {}
