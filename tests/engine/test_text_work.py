"""Work on texts of any length, over a real engine thread and a tiny model; and the scenarios that ask for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from engine.errors import DynoError
from engine.messages import (
    Cancel,
    Cancelled,
    Failed,
    Finished,
    Generate,
    GenerationStats,
    PartBegun,
    Progress,
    Sampling,
    Tokens,
    WorkOnText,
)
from engine.models.tokenizer import Tokenizer
from engine.scenarios import SCENARIOS, read_scenario, read_scenarios
from engine.text_work import grouped, parts_of
from tests.conftest import TEXT
from tests.engine.support import Engine

GREEDY = Sampling(temperature=0.0, repetition_penalty=1.0)
LONG = TEXT * 4


@pytest.fixture
def chat_folder(llama_folder: Path, tmp_path: Path) -> Path:
    """The tiny Llama, which has a chat template here."""
    folder = Path(shutil.copytree(llama_folder, tmp_path / "chat"))
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:", encoding="utf-8")
    return folder


def work(engine: Engine, text: str, combine: str = "", ratio: float = 0.4) -> WorkOnText:
    return WorkOnText(engine.next_id(), text, "Shorten:\n{text}", combine, reply_ratio=ratio, sampling=GREEDY)


def begun(engine: Engine, job: WorkOnText) -> list[PartBegun]:
    return [e for e in engine.seen if isinstance(e, PartBegun) and e.job_id == job.job_id]


def test_a_text_that_fits_is_one_reply_like_any_other(engine: Engine, chat_folder: Path) -> None:
    from engine.messages import ChatMessage

    engine.load(chat_folder)
    job = work(engine, "The boats came home.")
    end = engine.run(job)
    assert isinstance(end, Finished) and isinstance(end.result, GenerationStats)
    assert begun(engine, job) == []
    same = Generate(engine.next_id(), messages=(ChatMessage("user", "Shorten:\nThe boats came home."),),
                    sampling=Sampling(temperature=0.0, repetition_penalty=1.0, max_tokens=end.result.output_tokens))
    engine.run(same)
    assert engine.text_of(job.job_id) == engine.text_of(same.job_id) != ""


def test_a_long_text_is_worked_on_in_parts_and_the_results_are_made_into_one(engine: Engine, chat_folder: Path) -> None:
    engine.load(chat_folder)
    job = work(engine, LONG, combine="Together:\n{text}")
    end = engine.run(job)
    assert isinstance(end, Finished) and isinstance(end.result, GenerationStats)
    parts = begun(engine, job)
    mapped = [p for p in parts if not p.combining]
    assert len(mapped) > 3
    assert [p.part for p in mapped] == list(range(1, len(mapped) + 1))
    assert {p.parts for p in mapped} == {len(mapped)}
    assert [p.final for p in parts] == [False] * (len(parts) - 1) + [True]
    assert end.result.output_tokens == sum(len(e.pieces) for e in engine.seen if isinstance(e, Tokens)
                                           and e.job_id == job.job_id)
    told = [e for e in engine.seen if isinstance(e, Progress) and e.job_id == job.job_id and e.total]
    assert told and all(e.done < e.total for e in told)


def test_without_combining_the_results_stand_one_after_the_other(engine: Engine, chat_folder: Path) -> None:
    engine.load(chat_folder)
    job = work(engine, LONG, ratio=1.0)
    assert isinstance(engine.run(job), Finished)
    assert not any(p.combining or p.final for p in begun(engine, job))
    assert len(begun(engine, job)) > 3


def test_stopping_between_parts_keeps_what_there_is(engine: Engine, chat_folder: Path) -> None:
    engine.load(chat_folder)
    job = work(engine, LONG, combine="Together:\n{text}")
    engine.at({2: Cancel(job.job_id)}, lambda event: isinstance(event, PartBegun))
    end = engine.run(job)
    assert isinstance(end, Cancelled) and isinstance(end.result, GenerationStats)
    assert len(begun(engine, job)) == 2
    assert engine.text_of(job.job_id)


def test_no_text_and_no_room_are_said_in_a_sentence(engine: Engine, chat_folder: Path) -> None:
    engine.load(chat_folder)
    empty = engine.run(work(engine, " \n "))
    assert isinstance(empty, Failed) and "no text" in empty.summary
    tight = WorkOnText(engine.next_id(), "boats", "boats and gulls " * 200 + "{text}")
    end = engine.run(tight)
    assert isinstance(end, Failed) and "too short for this" in end.summary


@pytest.mark.parametrize("text", [LONG, "x" * 5000, "灯塔看守人数着船。" * 200, "word " * 900, "a\n\n\n\n" * 300,
                                  "🚢" * 500])
@pytest.mark.parametrize("most", [32, 100])
def test_parts_join_to_the_text_and_keep_to_their_length(llama_folder: Path, text: str, most: int) -> None:
    tokenizer = Tokenizer.from_folder(llama_folder)
    parts = list(parts_of(tokenizer, text, most))
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert all(len(tokenizer.encode(part, special_tokens=False)) <= most + 2 for part in parts)
    assert len(parts) <= len(tokenizer.encode(text)) / (most / 2 - 4) + 1, "parts are filled at least by half"


def test_parts_end_where_a_sentence_does(llama_folder: Path) -> None:
    parts = list(parts_of(Tokenizer.from_folder(llama_folder), LONG.replace("\n", " "), 128))
    assert all(part.rstrip().endswith((".", "?", '"')) for part in parts[:-1])


def test_groups_are_always_fewer(llama_folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(llama_folder)
    texts = [LONG] * 7
    while len(texts) > 1:
        groups = grouped(tokenizer, texts, 100)
        assert len(groups) < len(texts)
        texts = groups
    assert texts[0]


def test_every_scenario_that_ships_can_be_used_and_asks_what_it_says() -> None:
    scenarios, problems = read_scenarios()
    assert problems == ()
    assert [s.key for s in scenarios] == ["chat", "continue", "summarise", "translate", "graph"]
    assert len(scenarios) == len(list(SCENARIOS.glob("*.json")))
    for scenario in scenarios:
        asked = scenario.asked("{language} boats", {"language": "Welsh"})
        assert asked.endswith("{language} boats"), "the text stays as it is"
        assert ("Welsh" in asked) == (scenario.key == "translate")
    translate = next(s for s in scenarios if s.key == "translate")
    assert "into English" in translate.filled({})
    assert translate.sampled(Sampling(top_k=3, seed=5)) == Sampling(
        top_k=3, seed=5, temperature=0.2, repetition_penalty=1.0)


GOOD = {"title": "T", "about": "a", "order": 1, "way": "text", "prompt": "{text}"}


@pytest.mark.parametrize("bad", [
    "{", "[]", {"title": "T"}, GOOD | {"way": "sing"}, GOOD | {"prompt": "nothing"}, GOOD | {"combine": "x"},
    GOOD | {"reply_ratio": 0}, GOOD | {"combine": "{text}", "reply_ratio": 1.0}, GOOD | {"unknown": 1},
    GOOD | {"fields": [{"key": "a", "title": "A", "choices": []}]}, GOOD | {"fields": [1]},
    GOOD | {"sampling": {"warmth": 1}}])
def test_a_file_that_is_no_scenario_is_left_out_and_named(tmp_path: Path, bad: object) -> None:
    (tmp_path / "bad.json").write_text(bad if isinstance(bad, str) else json.dumps(bad), encoding="utf-8")
    (tmp_path / "good.json").write_text(json.dumps(GOOD), encoding="utf-8")
    scenarios, problems = read_scenarios(tmp_path)
    assert [s.key for s in scenarios] == ["good"]
    assert len(problems) == 1 and "bad.json" in problems[0]
    with pytest.raises(DynoError):
        read_scenario(tmp_path / "bad.json")
