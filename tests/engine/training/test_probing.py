"""The data probe: what follows from losses that are known, and a whole one on a tiny text; and previews of data."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from engine.errors import DynoError
from engine.models.devices import pick_device
from engine.train_events import Probed, ProbeReport, TrainEvent
from engine.train_plan import TrainPlan
from engine.training.previewing import preview_data
from engine.training.probing import conclude, probe
from tests.conftest import TEXT
from tests.engine.training.support import TINY, plan_for
from tests.engine.training.test_data import CHAT


def runs(*losses: float, train: float = 0.0, epochs: float = 4.0) -> tuple[Probed, ...]:
    return tuple(Probed(share, 1_000_000, epochs / share, loss, train or loss - 0.1)
                 for share, loss in zip((0.25, 0.5, 1.0), losses, strict=True))


def test_a_power_law_through_the_three_points_is_continued() -> None:
    def law(share: float) -> float:
        return 2.0 + 0.5 * share**-0.4

    report = conclude(runs(law(0.25), law(0.5), law(1.0)), None, 100)
    assert report.twice_data == pytest.approx(law(2.0))
    assert f"likely bring {law(2.0):.3f}" in report.sentences[0]


def test_losses_that_do_not_fall_promise_nothing() -> None:
    report = conclude(runs(3.0, 2.999, 3.01), None, 100)
    assert report.twice_data == 3.01 and "next to nothing" in report.sentences[0]
    assert math.isnan(report.twice_model)


def test_data_that_was_read_less_than_once_is_named() -> None:
    assert any("read 0.5 times only" in s for s in conclude(runs(3.0, 2.9, 2.8, epochs=0.5), None, 100).sentences)


@pytest.mark.parametrize(("size", "loss"), [(500_000, 3.2), (2_000_000, 2.45)])
def test_a_model_of_another_size_tells_what_twice_the_model_would_bring(size: int, loss: float) -> None:
    other = Probed(1.0, size, 4.0, loss, loss)
    report = conclude(runs(2.81, 2.805, 2.8), other, 100)
    small, large = sorted([(size, loss), (1_000_000, 2.8)])
    assert report.twice_model == pytest.approx(2.8 * large[1] / small[1])
    assert "A larger model promises more than more data." in report.sentences


def test_learning_by_heart_asks_for_data_before_size() -> None:
    assert "by heart" in conclude(runs(3.2, 3.1, 3.0, train=1.0), None, 100).sentences[-1]


def finished(plan: TrainPlan, folder: Path, stop: Any = lambda events: "") -> ProbeReport | None:
    events: list[TrainEvent] = []
    steps = probe(plan, folder, pick_device("cpu"), asked=lambda: stop(events))
    while True:
        try:
            events.append(next(steps))
        except StopIteration as ended:
            return ended.value  # type: ignore[no-any-return]


def test_a_probe_trains_on_growing_shares_and_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    plan = plan_for(tmp_path, steps=24, batch=2, evaluate_every=4)

    def after_one(events: list[TrainEvent]) -> str:
        return "pause" if any(isinstance(e, Probed) for e in events) else ""

    assert finished(plan, tmp_path / "probe", after_one) is None
    report = finished(plan, tmp_path / "probe")
    assert report is not None and [r.share for r in report.runs] == [0.25, 0.5, 1.0, 1.0]
    assert report.runs[3].parameters > report.runs[2].parameters
    assert all(math.isfinite(r.loss) for r in report.runs) and 20 <= report.steps <= 24
    inodes = {(tmp_path / "probe" / name / "data" / "train_ids.npy").stat().st_ino for name in ("all", "half", "size")}
    assert len(inodes) == 1, "the tokens were written more than once"
    with pytest.raises(DynoError, match="held out"):
        finished(plan.changed(validation_share=0.0), tmp_path / "none")


def test_a_preview_marks_what_carries_loss_and_trains_nothing(tmp_path: Path) -> None:
    data = tmp_path / "chat.jsonl"
    data.write_text("\n".join([json.dumps({"messages": CHAT})] * 30))
    shown = preview_data(TrainPlan(data=(str(data),), **TINY), 60)
    assert "".join(text for text, learned in shown.pieces if learned).startswith("Seven.<|end|>Six.")
    assert shown.complete and shown.files == 1 and 0 < shown.learned_tokens < shown.tokens
    assert len(shown.pieces) == 60


def test_a_preview_of_an_existing_model_uses_its_tokenizer_and_tells_of_repeats(tmp_path: Path,
                                                                               llama_folder: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join([TEXT] * 3))
    shown = preview_data(TrainPlan(data=(str(tmp_path / "a.txt"),), model=str(llama_folder), **TINY), 20)
    assert shown.pieces[0][0] == "<s>" and any("more than once" in n for n in shown.notices)


def test_a_preview_of_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DynoError, match="no text"):
        preview_data(TrainPlan(data=(str(tmp_path / "a.txt"),), **TINY), 20)
