"""Whole runs of tiny models: what they learn, leave behind, and go on from."""

from __future__ import annotations

import errno
import resource
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from engine.errors import DynoError
from engine.models.checkpoint import load_decoder, load_masters
from engine.models.devices import pick_device
from engine.models.tokenizer import Tokenizer
from engine.train_events import EvalPoint, Notice, Preparing, RunStarted, TrainPoint
from engine.training.dataset import forget_other_data
from engine.training.logs import Logs
from engine.training.records import EVALUATION, FACTS, TRAIN, Facts, read_curve
from engine.training.setup import set_up
from engine.training.team import Team
from engine.training.techniques import Techniques
from tests.engine.training.support import curve, plan_for, run_plan

CASES: dict[str, dict[str, Any]] = {
    "adamw with dropout": {"dropout": 0.1, "precision": "bf16"},
    "sgd over two batches": {"optimizer": "sgd", "lr": 0.5, "accumulate": 2},
    "fp16 with scaler": {"precision": "fp16", "optimizer": "adam"},
    "gradual pruning": {"prune": "weights", "sparsity": 0.5, "prune_start": 1, "prune_end": 9, "prune_every": 2},
    "int4": {"qat": "int4"},
}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def test_a_run_learns_and_its_best_weights_are_exported(tmp_path: Path) -> None:
    events, result = run_plan(plan_for(tmp_path, steps=30, lr=3e-3, sample="The "), tmp_path / "run")
    evaluations = [e for e in events if isinstance(e, EvalPoint)]
    assert result.state == "done" and result.step == 30
    assert evaluations[-1].loss < evaluations[0].loss - 0.5
    assert evaluations[-1].sample.startswith("The ")
    assert result.best_loss == min(e.loss for e in evaluations)
    assert "perplexity" in (tmp_path / "run" / "model" / "README.md").read_text()


def test_the_exported_model_gives_transformers_the_same_logits(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run_plan(plan_for(tmp_path, tokenizer="bpe", vocabulary=300), tmp_path / "run")
    folder = tmp_path / "run" / "model"
    ours, tokenizer = load_decoder(load_masters(folder)).eval(), Tokenizer.from_folder(folder)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = tokenizer.encode("The lighthouse keeper counted the boats.")
    assert AutoTokenizer.from_pretrained(folder)("The lighthouse keeper counted the boats.")["input_ids"] == ids
    with torch.inference_mode():
        difference = (ours(torch.tensor([ids])) - theirs(torch.tensor([ids])).logits).abs().max()
    assert difference < 1e-4


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES.keys())
def test_a_paused_run_goes_on_to_the_identical_curve_and_weights(tmp_path: Path, settings: dict[str, Any]) -> None:
    plan = plan_for(tmp_path, **settings)
    run_plan(plan, tmp_path / "whole")

    def after_six(events: list[Any]) -> str:
        last = events[-1]
        return "pause" if isinstance(last, TrainPoint) and last.step == 6 else ""

    _, first = run_plan(plan, tmp_path / "paused", asked=after_six)
    assert first.state == "paused" and first.step == 6
    events, second = run_plan(plan, tmp_path / "paused", resume=True)
    assert next(e for e in events if isinstance(e, RunStarted)).step == 6
    assert second.state == "done"
    assert curve(tmp_path / "paused") == curve(tmp_path / "whole")
    whole, paused = weights(tmp_path / "whole"), weights(tmp_path / "paused")
    assert all(torch.equal(whole[name], paused[name]) for name in whole)


def test_points_after_the_checkpoint_are_told_once(tmp_path: Path) -> None:
    plan = plan_for(tmp_path)
    run_plan(plan, tmp_path / "whole")
    run_plan(plan, tmp_path / "run", asked=lambda e: "pause" if isinstance(e[-1], TrainPoint) and e[-1].step == 6
             else "")
    rows = (tmp_path / "run" / TRAIN).read_text()
    (tmp_path / "run" / TRAIN).write_text(rows + rows.splitlines()[-1].replace("6,", "9,", 1) + "\n12,1.5,0.0")
    run_plan(plan, tmp_path / "run", resume=True)
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")


def test_tensorboard_reads_every_scalar_back(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plan = plan_for(tmp_path, histograms="on", sample="The ", precision="fp16")
    run_plan(plan, tmp_path / "run", asked=lambda e: "pause" if isinstance(e[-1], TrainPoint) and e[-1].step == 6
             else "")
    run_plan(plan, tmp_path / "run", resume=True)
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    rows = read_curve(tmp_path / "run" / TRAIN)
    assert [(p.step, p.value) for p in board.Scalars("train/loss")] == [
        (int(r["step"]), pytest.approx(float(r["loss"]))) for r in rows]
    assert {p.step for p in board.Scalars("validation/loss")} == {0, 4, 8, 12}
    columns = {"train/learning_rate": "lr", "train/gradient_norm": "grad_norm", "train/tokens_per_s": "tokens_per_s",
               "train/sparsity": "sparsity", "train/memory_bytes": "memory_bytes", "train/loss": "loss",
               "train/loss_scale": "scale", "train/skipped_steps": "skipped"}
    judged = read_curve(tmp_path / "run" / EVALUATION)
    assert set(board.Tags()["scalars"]) == {*columns, "validation/loss", "validation/perplexity"}
    for tag, column in columns.items():
        wanted = [len(r[column].split()) if column == "skipped" else float(r[column]) for r in rows]
        assert [p.value for p in board.Scalars(tag)] == pytest.approx(wanted, rel=1e-6), tag
    for name in ("loss", "perplexity"):
        assert [p.value for p in board.Scalars(f"validation/{name}")] == pytest.approx([float(r[name]) for r in judged])
    assert board.Histograms("embed.weight") and board.Tensors("sample/text_summary")


def test_asked_to_finish_it_keeps_the_best_so_far(tmp_path: Path) -> None:
    _, result = run_plan(plan_for(tmp_path), tmp_path / "run", asked=lambda events: "finish")
    assert result.state == "finished early" and result.step == 1
    assert load_masters(Path(result.model)).parameters


def test_patience_stops_a_run_that_gets_no_better(tmp_path: Path) -> None:
    _, result = run_plan(plan_for(tmp_path, lr=1e-9, patience=2, steps=200), tmp_path / "run")
    assert result.state == "stopped early" and result.step < 200


def test_activation_checkpointing_changes_no_bit(tmp_path: Path) -> None:
    plan = plan_for(tmp_path, dropout=0.1)
    run_plan(plan, tmp_path / "kept")
    run_plan(replace(plan, activation_checkpointing="on"), tmp_path / "recomputed")
    assert curve(tmp_path / "kept") == curve(tmp_path / "recomputed")


def test_a_loss_that_is_no_number_ends_the_run_with_a_sentence_and_the_checkpoint_stands(tmp_path: Path) -> None:
    plan = plan_for(tmp_path, optimizer="sgd", lr=10.0, clip=0.0, warmup=0, steps=300, weight_decay=0.0)
    with pytest.raises(DynoError, match="not a number since step"):
        run_plan(replace(plan, lr=10.0, momentum=0.999), tmp_path / "run")


def test_a_full_disk_leaves_the_checkpoint_before_it(tmp_path: Path) -> None:
    plan = plan_for(tmp_path)
    folder = tmp_path / "run"
    run_plan(plan, folder, asked=lambda e: "pause" if isinstance(e[-1], TrainPoint) and e[-1].step == 6 else "")
    before = (folder / "checkpoint.pt").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(DynoError, match="could not be written"):
            run_plan(plan, folder, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (folder / "checkpoint.pt").read_bytes() == before
    run_plan(plan, folder, resume=True)
    run_plan(plan, tmp_path / "whole")
    assert curve(folder) == curve(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_checkpoint_is_refused_with_a_sentence(tmp_path: Path, damage: str) -> None:
    run_plan(plan_for(tmp_path), tmp_path / "run")
    path = tmp_path / "run" / "checkpoint.pt"
    raw = bytearray(path.read_bytes())
    if damage == "cut":
        del raw[len(raw) // 2:]
    else:
        raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(DynoError, match="is damaged"):
        run_plan(plan_for(tmp_path), tmp_path / "run", resume=True)


def test_a_folder_with_another_run_is_refused(tmp_path: Path) -> None:
    run_plan(plan_for(tmp_path), tmp_path / "run")
    with pytest.raises(DynoError, match="holds an unfinished or finished run"):
        run_plan(plan_for(tmp_path), tmp_path / "run")
    with pytest.raises(DynoError, match="another seed"):
        run_plan(plan_for(tmp_path, seed=5), tmp_path / "run", resume=True)


def test_a_model_is_trained_further_and_its_file_is_untouched(tmp_path: Path, model_folder: Path) -> None:
    copy = tmp_path / "start"
    shutil.copytree(model_folder, copy)
    before = (copy / "model.safetensors").read_bytes()
    events, _ = run_plan(plan_for(tmp_path, model=str(copy), sequence=500), tmp_path / "run")
    losses = [e.loss for e in events if isinstance(e, EvalPoint)]
    assert losses[-1] < losses[0]
    assert any(isinstance(e, Notice) and "longer than the model's context" in e.text for e in events)
    assert (copy / "model.safetensors").read_bytes() == before


def test_an_evaluation_that_no_checkpoint_knows_of_leaves_the_curve_when_the_run_goes_on(tmp_path: Path) -> None:
    """A kill may come between an evaluation and the next checkpoint; the run then makes it again."""
    logs = Logs(tmp_path, 0)
    for step in (0, 40, 80):
        logs.evaluation(EvalPoint(step, 2.0, 7.4, 32))
    logs.close()
    for evaluated, kept in ((True, ["0", "40", "80"]), (False, ["0", "40"])):
        Logs(tmp_path, 80, evaluated).close()
        assert [row["step"] for row in read_curve(tmp_path / "evaluation.csv")] == kept


class Full:
    """A raw file on a disk that takes only so many more bytes, until there is room again."""

    def __init__(self, file: Any, room: int) -> None:
        self._file, self.room = file, room

    def write(self, content: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = min(self.room, len(content))
        self.room -= taken
        return int(self._file.write(content[:taken]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_rows_that_a_full_disk_did_not_take_come_whole_and_in_order_later(tmp_path: Path) -> None:
    logs = Logs(tmp_path, 0)
    disk = logs._files[EVALUATION]._file = Full(logs._files[EVALUATION]._file, 70)
    told = [notice for step in range(5) for notice in logs.evaluation(EvalPoint(step, 2.0 + step, 7.4, 32))]
    assert len(told) == 1 and "No space left".lower() in told[0].text.lower() and "goes on" in told[0].text
    assert len(read_curve(tmp_path / EVALUATION)) < 5
    assert (tmp_path / EVALUATION).read_text().endswith("\n")
    disk.room = 10_000
    logs.evaluation(EvalPoint(5, 2.0, 7.4, 32))
    logs.close()
    assert [row["step"] for row in read_curve(tmp_path / EVALUATION)] == ["0", "1", "2", "3", "4", "5"]


def test_a_board_that_cannot_be_written_ends_and_the_rest_goes_on(tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils.tensorboard import SummaryWriter

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "add_scalar", refuse)
    events, result = run_plan(plan_for(tmp_path), tmp_path / "run")
    assert result.state == "done" and len(read_curve(tmp_path / "run" / TRAIN)) == 4
    assert [e.text for e in events if isinstance(e, Notice)].count(
        "The TensorBoard log ends here (no space left on device); the run and its CSV files go on.") == 1


def test_a_best_model_that_cannot_be_written_does_not_end_the_run(tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    real, tries = Techniques.export, [0]

    def export(self: Techniques, *arguments: Any) -> None:
        tries[0] += 1
        if tries[0] in (1, 2):
            raise DynoError("The model could not be written (no space left).", "Make room.")
        real(self, *arguments)

    monkeypatch.setattr(Techniques, "export", export)
    events, result = run_plan(plan_for(tmp_path, steps=20, lr=3e-3), tmp_path / "run")
    judged = [e for e in events if isinstance(e, EvalPoint)]
    assert [e.best for e in judged] == [False, False, True, True, True, True] and result.state == "done"
    assert result.best_step == judged[-1].step and load_masters(Path(result.model)).parameters
    assert sum("could not be written" in e.text for e in events if isinstance(e, Notice)) == 2


def test_tokens_of_other_data_are_not_trained_on(tmp_path: Path) -> None:
    first, folder = plan_for(tmp_path), tmp_path / "run"
    (tmp_path / "other.txt").write_text("zyx wvu " * 400, encoding="utf-8")
    second = replace(first, data=(str(tmp_path / "other.txt"),))
    for plan in (first, second):  # as --preview does
        steps = set_up(plan, folder, pick_device("cpu"), Team())
        while True:
            try:
                next(steps)
            except StopIteration as done:
                ready = done.value
                break
    assert set(ready.tokenizer.decode(ready.data.train.ids.tolist())) <= set("zyxwvu ")
    run_plan(second, folder)
    Path(second.data[0]).write_text("later changed " * 400, encoding="utf-8")
    run_plan(replace(second, steps=12), folder, resume=True)  # a run keeps what it began with


def test_a_start_that_failed_does_not_hold_the_folder_to_its_plan(tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("", encoding="utf-8")
    with pytest.raises(DynoError):
        run_plan(replace(plan_for(tmp_path), data=(str(empty),)), tmp_path / "run")
    _, result = run_plan(plan_for(tmp_path), tmp_path / "run")
    assert result.state == "done"


def test_the_folder_of_a_run_points_to_its_model(tmp_path: Path) -> None:
    run_plan(plan_for(tmp_path), tmp_path / "run")
    with pytest.raises(DynoError, match="folder of a training run; its model lies in"):
        load_masters(tmp_path / "run")


def test_what_else_lies_in_the_folder_stays(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "meta.csv").write_text("mine", encoding="utf-8")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "notes.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "other.txt").write_text("zyx wvu " * 400, encoding="utf-8")
    plan = plan_for(tmp_path)
    for data in plan.data[0], str(tmp_path / "other.txt"):
        forget_other_data(replace(plan, data=(data,)), folder)
    assert (folder / "data" / "meta.csv").read_text() == (folder / "tokenizer" / "notes.txt").read_text() == "mine"


def test_a_run_paused_while_its_data_is_read_ends_at_once_and_goes_on_later(tmp_path: Path) -> None:
    plan, folder = plan_for(tmp_path), tmp_path / "run"
    events, paused = run_plan(plan, folder, asked=lambda e: "pause" if isinstance(e[-1], Preparing) else "")
    assert paused.state == "paused" and len(events) == 1 and Facts.read(folder / FACTS).state == "paused"
    run_plan(plan, folder, resume=True)
    run_plan(plan, tmp_path / "whole")
    assert curve(folder) == curve(tmp_path / "whole")
