"""A switch whose KV cache does not fit leaves the reply with the recipe it had."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import DynoError
from engine.generation import NewToken, SwitchRefused, generate
from engine.messages import Sampling
from engine.models.devices import with_free_bytes
from engine.recipe import parse_recipe
from tests.engine.support import open_session

GREEDY = Sampling(temperature=0.0, repetition_penalty=1.0, max_tokens=12)
PROMPT = [5, 9, 3, 17, 8]


def test_a_switch_whose_cache_does_not_fit_is_refused_and_the_reply_goes_on(llama_folder: Path) -> None:
    session = open_session(llama_folder, parse_recipe("kv-cache:dtype=int8"))
    steps = generate(session, PROMPT, GREEDY)
    expected = [step.piece.token_id for step in steps if isinstance(step, NewToken)]
    tokens, refused = [], []
    small = session.active
    wide = _built(session, "kv-cache:dtype=fp32")
    for step in generate(session, PROMPT, GREEDY):
        if isinstance(step, NewToken):
            tokens.append(step.piece.token_id)
            if len(tokens) == 4:
                session.device = with_free_bytes(session.device, 0)
                session.activate(wide)
        elif isinstance(step, SwitchRefused):
            refused.append(step)
    assert [r.recipe for r in refused] == [wide.recipe]
    assert "KV cache" in refused[0].summary and refused[0].hint
    assert session.active is small
    assert tokens == expected


def test_a_first_cache_that_does_not_fit_is_refused_with_its_size(llama_folder: Path) -> None:
    session = open_session(llama_folder)
    session.device = with_free_bytes(session.device, 0)
    with pytest.raises(DynoError, match="KV cache for"):
        next(generate(session, PROMPT, GREEDY))


def _built(session, recipe):  # type: ignore[no-untyped-def]
    steps = session.build(parse_recipe(recipe))
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value
