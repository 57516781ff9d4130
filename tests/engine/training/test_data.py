"""What a run learns from: documents, marks of what is learned, order, and the sentences where data are odd."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from engine.errors import DynoError
from engine.models.devices import pick_device
from engine.train_events import Notice, TrainEvent
from engine.train_plan import TrainPlan
from engine.training.dataset import IGNORED, Data, Order, Stream, preview
from engine.training.loss import head_loss
from engine.training.setup import Ready, set_up
from engine.training.team import Team
from tests.conftest import TEXT
from tests.engine.training.support import TINY, plan_for

CHAT = [{"role": "user", "content": "How many boats?"}, {"role": "assistant", "content": "Seven."},
        {"role": "user", "content": "And at night?"}, {"role": "assistant", "content": "Six."}]


def prepared(plan: TrainPlan, folder: Path) -> tuple[Ready, list[str]]:
    """A plan's setup, and the sentences it told."""
    steps, told = set_up(plan, folder, pick_device("cpu"), Team()), []
    event: TrainEvent
    while True:
        try:
            event = next(steps)
        except StopIteration as finished:
            return finished.value, told
        if isinstance(event, Notice):
            told.append(event.text)


def test_only_the_assistants_turns_are_learned(tmp_path: Path) -> None:
    (tmp_path / "chat.jsonl").write_text("\n".join([json.dumps({"messages": CHAT})] * 30))
    plan = TrainPlan(data=(str(tmp_path / "chat.jsonl"),), **TINY)
    ready, _ = prepared(plan, tmp_path / "run")
    pieces = list(preview(ready.data.train, ready.tokenizer, 60))
    first = "".join(text for text, learned in pieces if learned)[:17]
    assert first == "Seven.<|end|>Six."
    assert "".join(text for text, _ in pieces).startswith("<|user|>How many boats?<|end|><|assistant|>Seven.<|end|>")
    every, _ = prepared(plan.changed(learn="all"), tmp_path / "all")
    assert every.data.train.learned == len(every.data.train.ids) == len(ready.data.train.ids)


@pytest.mark.parametrize("kind", ["txt", "txt.xz", "txt.gz", "jsonl", "parquet", "folder"])
def test_every_kind_of_file_gives_the_same_tokens(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"text.{kind}"
    if kind == "txt":
        path.write_text(TEXT)
    elif kind == "txt.xz":
        path.write_bytes(lzma.compress(TEXT.encode()))
    elif kind == "txt.gz":
        path.write_bytes(gzip.compress(TEXT.encode()))
    elif kind == "jsonl":
        path.write_text(json.dumps({"text": TEXT}))
    elif kind == "parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table({"text": [TEXT]}), path)
    else:
        path.mkdir()
        (path / "inside.txt").write_text(TEXT)
    ready, _ = prepared(TrainPlan(data=(str(path),), **(TINY | {"validation_share": 0.0})), tmp_path / "run")
    ids = ready.data.train.ids
    assert ready.tokenizer.decode(ids.tolist()) == TEXT
    assert ids.dtype == np.uint16 and ids[-1] == ready.tokenizer.token_id("<|endoftext|>")


def test_token_ids_made_elsewhere_are_taken_as_they_are(tmp_path: Path, llama_folder: Path) -> None:
    shard = tmp_path / "shard.npy"
    np.save(shard, (np.arange(400) % 384).astype(np.uint16))
    plan = TrainPlan(data=(str(shard),), model=str(llama_folder), **(TINY | {"validation_share": 0.0}))
    ready, _ = prepared(plan, tmp_path / "run")
    assert ready.data.train.ids.tolist() == (np.arange(400) % 384).tolist()
    np.save(shard, np.array([5000] * 400, dtype=np.uint16))
    with pytest.raises(DynoError, match="no row of token ids below 384"):
        prepared(plan, tmp_path / "other")


def test_an_epoch_reads_every_window_once_and_the_next_one_in_another_order() -> None:
    order = Order(10, seed=1)
    first, second = order.at(0, 10), order.at(10, 10)
    assert sorted(first) == sorted(second) == list(range(10)) and first != second
    assert Order(10, seed=1).at(7, 6) == [*first[7:], *second[:3]], "a resumed run reads other windows"
    assert Order(10, seed=2).at(0, 10) != first


def test_a_quarter_of_the_data_lies_within_the_half() -> None:
    quarter, half = (set(Order(100, 0, share).at(0, 100)) for share in (0.25, 0.5))
    assert len(quarter) == 25 and len(half) == 50 and quarter < half


def test_what_lies_beyond_the_end_carries_no_loss() -> None:
    stream = Stream(np.arange(10, dtype=np.uint16), None)
    ids, targets = stream.batch([0, 1], 6)
    assert ids.tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 0, 0]]
    assert targets.tolist()[1] == [7, 8, 9, IGNORED, IGNORED, IGNORED]


@pytest.mark.parametrize(("text", "sentence"), [
    ("", "only"), ("word", "only 2 tokens"), ("\0\0", "zero bytes")])
def test_empty_and_tiny_data_are_refused_with_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(DynoError, match=sentence):
        prepared(TrainPlan(data=(str(tmp_path / "a.txt"),), **(TINY | {"tokenizer": "bpe"})), tmp_path / "run")


def test_short_data_and_a_validation_set_smaller_than_a_batch_adapt(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT[:60])
    ready, told = prepared(TrainPlan(data=(str(tmp_path / "a.txt"),), **(TINY | {"sequence": 64})), tmp_path / "run")
    assert any("sequences are" in text for text in told)
    assert isinstance(ready.data, Data) and ready.data.sequence == len(ready.data.train.ids) - 1


def test_repeated_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join([TEXT] * 4))
    _, told = prepared(TrainPlan(data=(str(tmp_path / "a.txt"),), **TINY), tmp_path / "run")
    assert any("more than once" in text for text in told)


@pytest.mark.parametrize(("settings", "sentence"), [
    ({"lr": 5.0}, "absurdly high"), ({"optimizer": "sgd", "lr": 50.0}, "absurdly high"), ({"data": ()}, "no data"),
    ({"steps": 0}, "Steps"), ({"dropout": 1.5}, "Dropout"), ({"precision": "fp8"}, "not a choice"),
    ({"prune": "weights", "prune_end": 50}, "does not fit"), ({"prune": "heads"}, "nothing worth pruning"),
    ({"warmup": 100}, "warm-up"), ({"lr": float("nan")}, "not a number")])
def test_a_plan_that_cannot_be_is_refused_with_a_sentence(tmp_path: Path, settings: dict[str, object],
                                                          sentence: str) -> None:
    with pytest.raises(DynoError, match=sentence):
        plan_for(tmp_path, **settings)


@pytest.mark.parametrize("cap", [0.0, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_in_chunks_is_cross_entropy(smoothing: float, cap: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(150, 8, generator=generator, requires_grad=True)
    weight = torch.randn(40_000, 8, generator=generator, requires_grad=True)  # two chunks and a rest
    targets = torch.randint(0, 40_000, (150,), generator=generator)
    targets[::7] = IGNORED
    ours = head_loss(x, weight, targets, smoothing, cap=cap)
    mine = torch.autograd.grad(ours * 0.5, (x, weight))
    logits = x @ weight.t()
    logits = cap * torch.tanh(logits / cap) if cap else logits
    reference = F.cross_entropy(logits, targets, ignore_index=IGNORED, label_smoothing=smoothing,
                                reduction="sum")
    theirs = torch.autograd.grad(reference * 0.5, (x, weight))
    torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(head_loss(x, weight, targets, smoothing, cap=cap), reference, rtol=1e-5, atol=1e-3)
