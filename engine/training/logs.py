"""The curves on disk: two CSV files, and event files for TensorBoard.

A run that is resumed cuts off what was written after its checkpoint and goes on there, so the files hold one curve
without gaps or repeats. Numbers are written with all their digits.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from engine.models.checkpoint import write_text
from engine.train_events import EvalPoint, TrainPoint
from engine.training.records import EVALUATION, TRAIN, read_curve

_COLUMNS = {TRAIN: tuple(f.name for f in fields(TrainPoint)), EVALUATION: tuple(f.name for f in fields(EvalPoint))}


class Logs:
    """Both kinds of log of a run. from_step: what stands there about later steps is dropped, and evaluations of this
    one too unless it is `evaluated`: a run killed between them and its next checkpoint makes them again."""

    def __init__(self, folder: Path, from_step: int, evaluated: bool = True) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._files: dict[str, Any] = {}
        for name, columns in _COLUMNS.items():
            last = from_step if evaluated or name == TRAIN else from_step - 1
            kept = [row for row in read_curve(folder / name) if int(row["step"]) <= last] if from_step else []
            write_text(folder / name, _csv([columns, *([row.get(c, "") for c in columns] for row in kept)]))
            self._files[name] = open(folder / name, "a", encoding="utf-8", newline="")  # noqa: SIM115 - close()
        self._board = SummaryWriter(str(folder / "tensorboard"),
                                    purge_step=from_step + 1 if from_step else None)

    def train(self, point: TrainPoint) -> None:
        """Add a point of the training curve."""
        self._row(TRAIN, point)
        values = {"train/loss": point.loss, "train/learning_rate": point.lr, "train/gradient_norm": point.grad_norm,
                  "train/tokens_per_s": point.tokens_per_s, "train/sparsity": point.sparsity,
                  "train/memory_bytes": float(point.memory_bytes)}
        if point.scale:
            values |= {"train/loss_scale": point.scale, "train/skipped_steps": float(len(point.skipped))}
        for name, value in values.items():
            self._board.add_scalar(name, value, point.step)

    def evaluation(self, point: EvalPoint) -> None:
        """Add an evaluation."""
        self._row(EVALUATION, point)
        self._board.add_scalar("validation/loss", point.loss, point.step)
        self._board.add_scalar("validation/perplexity", point.perplexity, point.step)
        if point.sample:
            self._board.add_text("sample", point.sample, point.step)

    def weights(self, tensors: Mapping[str, Any], step: int) -> None:
        """Histograms of the weights."""
        for name, weight in tensors.items():
            self._board.add_histogram(name, weight.detach().float().cpu(), step)

    def flush(self) -> None:
        """Hand everything to the operating system: before a checkpoint that counts on it."""
        for file in self._files.values():
            file.flush()
        self._board.flush()

    def close(self) -> None:
        """Write the rest."""
        for file in self._files.values():
            file.close()
        self._board.close()

    def _row(self, name: str, point: TrainPoint | EvalPoint) -> None:
        self._files[name].write(_csv([[_cell(getattr(point, c)) for c in _COLUMNS[name]]]))
        self._files[name].flush()


def _cell(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, tuple) else value


def _csv(rows: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
