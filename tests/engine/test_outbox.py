"""The outbox folds tokens, lanes and progress, and nothing else."""

from __future__ import annotations

import random
import threading

from engine.comparing import LaneToken
from engine.messages import Comparing, Finished, JobStarted, Progress, Switched, TokenPiece, Tokens
from engine.outbox import Outbox


def tokens(job: int, recipe: str, text: str) -> Tokens:
    return Tokens(job, 0.0, recipe, (TokenPiece(text, 0, 1.0),))


def test_tokens_of_one_job_and_recipe_merge_in_order() -> None:
    box = Outbox()
    for letter in "abc":
        box.put(tokens(1, "r", letter))
    (event,) = box.drain()
    assert isinstance(event, Tokens) and event.text == "abc" and len(event.pieces) == 3


def test_tokens_of_another_job_or_recipe_stay_apart() -> None:
    box = Outbox()
    for job, recipe, text in ((1, "r", "a"), (1, "s", "b"), (2, "s", "c"), (2, "s", "d"), (1, "r", "e")):
        box.put(tokens(job, recipe, text))
    assert [(e.job_id, e.recipe, e.text) for e in box.drain() if isinstance(e, Tokens)] == [
        (1, "r", "a"), (1, "s", "b"), (2, "s", "cd"), (1, "r", "e")]


def test_tokens_never_merge_across_a_switch_or_an_end() -> None:
    box = Outbox()
    switched = Switched(1, 0.0, "a", "b", 0.0, 1, 0.0)
    finished = Finished(1, 0.0)
    for event in (tokens(1, "r", "a"), switched, tokens(1, "r", "b"), finished, tokens(1, "r", "c")):
        box.put(event)
    assert box.drain() == [tokens(1, "r", "a"), switched, tokens(1, "r", "b"), finished, tokens(1, "r", "c")]


def test_tokens_that_were_read_never_come_again() -> None:
    box = Outbox()
    box.put(tokens(1, "r", "a"))
    assert box.drain() == [tokens(1, "r", "a")]
    box.put(tokens(1, "r", "b"))
    assert box.drain() == [tokens(1, "r", "b")]
    assert box.drain() == []


def test_progress_keeps_the_latest_of_each_job() -> None:
    box = Outbox()
    for done in range(5):
        box.put(Progress(1, 0.0, "reading", done, 5))
        box.put(Progress(0, 0.0, "building", 2 * done, 10))
    assert [(e.job_id, e.done) for e in box.drain() if isinstance(e, Progress)] == [(1, 4), (0, 8)]
    box.put(Progress(1, 0.0, "reading", 5, 5))
    assert box.drain() == [Progress(1, 0.0, "reading", 5, 5)]


def test_progress_stays_between_the_start_and_the_end_of_its_job() -> None:
    box = Outbox()
    for event in (JobStarted(1, 0.0, "x"), Progress(1, 0.0, "p", 1, 2), Progress(1, 0.0, "p", 2, 2), Finished(1, 0.0)):
        box.put(event)
    assert [type(e).__name__ for e in box.drain()] == ["JobStarted", "Progress", "Finished"]


def test_no_token_is_lost_or_reordered_between_two_threads() -> None:
    box, woken = Outbox(lambda: wakes.append(1)), 0
    wakes: list[int] = []
    rng = random.Random(1)
    plan = [(rng.randint(1, 2), rng.choice("rs"), str(i)) for i in range(3000)]

    def fill() -> None:
        for job, recipe, text in plan:
            box.put(tokens(job, recipe, text + " "))
        box.put(Finished(9, 0.0))

    thread = threading.Thread(target=fill)
    thread.start()
    read: list[tuple[int, str, str]] = []
    while not woken:
        for event in box.drain(timeout_s=10.0):
            if isinstance(event, Finished):
                woken = 1
            elif isinstance(event, Tokens):
                read += [(event.job_id, event.recipe, piece.text.strip()) for piece in event.pieces]
    thread.join()
    assert read == plan
    assert len(wakes) == len(plan) + 1


def test_draining_an_empty_outbox_returns_at_once_or_after_the_timeout() -> None:
    assert Outbox().drain() == []
    assert Outbox().drain(timeout_s=0.01) == []


def test_what_lanes_say_merges_within_a_comparison_and_keeps_its_order() -> None:
    outbox = Outbox()
    for job_id, number in ((1, 1), (1, 2), (2, 1)):
        outbox.put(Comparing(job_id, float(number), (LaneToken(0, number, 7, "x", 0.5),)))
    outbox.put(Progress(2, 3.0, "stage", 0, 0))
    outbox.put(Comparing(2, 4.0, (LaneToken(1, 1, 7, "x", 0.5),)))
    events = outbox.drain()
    assert [type(e).__name__ for e in events] == ["Comparing", "Comparing", "Progress", "Comparing"]
    first = events[0]
    assert isinstance(first, Comparing) and first.t_s == 2.0
    assert [step.number for step in first.what if isinstance(step, LaneToken)] == [1, 2]
