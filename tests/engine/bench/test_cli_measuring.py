"""bench, compare, perplexity and runs as a script meets them."""

from __future__ import annotations

import csv
import io
import json
import shlex
from pathlib import Path

import pytest

from engine import cli
from engine.cli.measuring import speed_tests
from engine.models.config import ModelConfig
from tests.conftest import TEXT

FAST = ("--pp", "16", "--tg", "4", "--repetitions", "2", "--min-time", "0", "--device", "cpu")


@pytest.fixture(autouse=True)
def own_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test begins with an empty history."""
    monkeypatch.setenv("GPT_DYNO_DATA", str(tmp_path / "data"))


@pytest.fixture
def text(tmp_path: Path) -> str:
    """A text of a few chunks."""
    (tmp_path / "text.txt").write_text(TEXT * 2, encoding="utf-8")
    return str(tmp_path / "text.txt")


def test_bench_prints_a_json_line_for_each_recipe_and_test(llama_folder: Path, text: str,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "--model", str(llama_folder), "--recipe", "fp32", "--recipe", "bf16", *FAST,
                    "--text", text, "--context", "64", "--output", "jsonl", "--quiet"]) == 0
    shown = capsys.readouterr()
    rows = [json.loads(line) for line in shown.out.splitlines()]
    assert [(row["recipe"], row["test"]) for row in rows if row["n_prompt"] or row["n_gen"]] == [
        ("fp32", "pp16"), ("fp32", "tg4"), ("bf16", "pp16"), ("bf16", "tg4")]
    assert {row["recipe"] for row in rows if row["perplexity"]} == {"fp32", "bf16"}
    assert shown.err == ""


def test_perplexity_against_a_base_gives_the_divergence_as_csv(llama_folder: Path, text: str,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["perplexity", "--model", str(llama_folder), "--text", text, "--recipe", "bf16", "--against", "fp32",
                    "--context", "64", "--stride", "32", "--output", "csv", "--device", "cpu"]) == 0
    base, found = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (base["recipe"], found["recipe"], found["test"]) == ("fp32", "bf16", "ppl64/32")
    assert float(found["kl_mean"]) > 0 and 0 < float(found["same_top"]) <= 1 and not base["kl_mean"]


def test_compare_gives_ratios_and_runs_lists_shows_and_compares_them(llama_folder: Path,
                                                                     capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["compare", "--model", str(llama_folder), "--recipe", "fp32", "--recipe", "fp32", *FAST,
                    "--title", "twice", "--quiet"]) == 0
    assert "verdict" in capsys.readouterr().out
    assert cli.run(["runs"]) == 0
    listed = capsys.readouterr().out
    assert "complete" in listed and "twice" in listed and "4/4 rows" in listed
    assert cli.run(["runs", "--show", "1", "--output", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 4
    assert cli.run(["runs", "--compare", "1", "1"]) == 0
    assert capsys.readouterr().out.count("ratio") == 4
    assert cli.run(["runs", "--show", "7"]) == 1
    assert "no benchmark run 7" in capsys.readouterr().err


def test_a_failed_row_is_printed_and_the_status_is_1(llama_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "--model", str(llama_folder), "--recipe", "fp32", "--recipe", "fp8", *FAST, "--output",
                    "jsonl", "--no-history", "--quiet"]) == 1
    shown = capsys.readouterr()
    assert [bool(json.loads(line)["error"]) for line in shown.out.splitlines()] == [False, False, True, True]
    assert "fp8, pp16: " in shown.err and "Traceback" not in shown.err


@pytest.mark.parametrize(("arguments", "words", "status"), [
    (["perplexity", "--text", "/nowhere.txt"], "no text file", 1),
    (["compare", "--recipe", "fp32"], "two recipes", 1), (["bench", "--pp", "0", "--tg", "0"], "nothing to measure", 1),
    (["bench", "--recipe", "magic"], "magic", 2),
])
def test_a_refusal_is_one_sentence_and_a_status(arguments: list[str], words: str, status: int,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments) == status
    shown = capsys.readouterr()
    assert shown.out == "" and words in shown.err and shown.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["bench", "--output", "xml"], ["bench", "--pp", "many"],
                                       ["compare", "--tg", ""]])
def test_wrong_arguments_end_with_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.run(arguments)
    assert caught.value.code == 2


def test_tests_that_were_not_asked_for_are_cut_to_what_the_depth_leaves(llama_folder: Path) -> None:
    context = ModelConfig.from_folder(llama_folder).context
    options = cli._parser().parse_args(["bench", "--model", str(llama_folder), "--depth", f"0,{context - 8}"])
    shapes = [(test.prompt, test.generate, test.depth) for test in speed_tests(options)]
    assert shapes == [(min(512, context), 0, 0), (0, min(128, context), 0),
                      (8, 0, context - 8), (0, 8, context - 8)]


def test_a_report_names_the_command_that_measures_it_again(llama_folder: Path, text: str,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["compare", "--recipe", "fp32", "--recipe", "l1-50,bf16", "--pp", "16,8", "--tg", "4", "--depth", "0,5",
             "--repetitions", "2", "--min-time", "0", "--text", text, "--context", "64", "--chunks", "2", "--seed", "7",
             "--output", "md", "--no-history", "--quiet", "--model", str(llama_folder)]
    assert cli.run(asked) == 0
    said = capsys.readouterr().out
    command = shlex.split(said.split("To measure it again: `")[1].split("`")[0])
    assert command[:2] == ["main.py", "compare"] and Path(text).name in command
    again = [{llama_folder.name: str(llama_folder), Path(text).name: text}.get(word, word) for word in command[1:]]
    assert cli.run([*again, "--output", "md", "--no-history", "--quiet"]) == 0
    repeated = capsys.readouterr().out
    assert repeated.split("To measure it again")[1] == said.split("To measure it again")[1]
