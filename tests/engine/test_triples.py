"""Facts read from what models write, and written as files."""

from __future__ import annotations

import csv
import json
import random

import pytest

from engine.triples import Triple, parse_triples, to_csv, to_dot, to_json

CURIE = Triple("Marie Curie", "discovered", "radium")


@pytest.mark.parametrize("text", [
    "Marie Curie | discovered | radium",
    "| Marie Curie | discovered | radium |",
    "1. Marie Curie | discovered | radium.",
    "- (Marie Curie, discovered, radium)",
    "* **Marie Curie** -> discovered -> radium",
    "Marie Curie --discovered--> radium",
    "Marie Curie → discovered → radium",
    "Marie Curie\tdiscovered\tradium",
    "Marie Curie; discovered; radium",
    "Here are the facts:\n\n| subject | relation | object |\n|---|:---:|---|\n| Marie Curie | discovered | radium |",
    '```json\n[["Marie Curie", "discovered", "radium"]]\n```',
    '[{"subject": "Marie Curie", "predicate": "discovered", "object": "radium"}]',
    '{"triples": [{"head": "Marie Curie", "type": "discovered", "tail": "radium"}]}',
    '[{"Subject": "Marie Curie", "Relation": "discovered", "Object": "radium"}, {"subject": "Mar',
    "Marie Curie | discovered | radium\nmarie curie | Discovered | Radium\nMarie Curie | discovered",
])
def test_a_fact_is_read_from_the_forms_that_models_write(text: str) -> None:
    assert parse_triples(text) == (CURIE,)


@pytest.mark.parametrize("text", [
    "", "I am sorry, I cannot do that.", "Once, upon a time, there was a fox.", "a | b", "a | b | c | d", "| | |",
    "subject | relation | object", "x" * 200 + " | is | long", "-----", "[1, 2, 3]", '{"subject": 1}', "[" * 5000])
def test_what_is_no_fact_gives_none(text: str) -> None:
    assert parse_triples(text) == ()


def test_a_name_is_one_name_however_it_is_written() -> None:
    found = parse_triples("Ada | knew | Babbage\nBABBAGE | built | the engine\nada | admired | The Engine")
    assert {t.subject for t in found} | {t.object for t in found} == {"Ada", "Babbage", "the engine"}


def test_exports_read_back() -> None:
    triples = (CURIE, Triple('say "hi", now', "a\\b", "ünïcode 🚢"), Triple("=1+1", "is", "2"))
    rows = list(csv.reader(to_csv(triples).splitlines()))
    assert rows[0] == ["subject", "relation", "object"]
    assert tuple(rows[2]) == triples[1]
    assert rows[3][0] == "'=1+1"
    assert [Triple(**t) for t in json.loads(to_json(triples))] == list(triples)
    assert parse_triples(to_json(triples)) == triples
    dot = to_dot(triples)
    assert '"Marie Curie" -> "radium" [label="discovered"];' in dot
    assert r'"say \"hi\", now" -> "ünïcode 🚢" [label="a\\b"];' in dot


def test_random_texts_never_raise() -> None:
    chance = random.Random(1)
    for _ in range(2000):
        text = "".join(chance.choice('ab |\t->;,()[]{}":\n.*`1') for _ in range(chance.randrange(80)))
        for triple in parse_triples(text):
            assert all(triple)
