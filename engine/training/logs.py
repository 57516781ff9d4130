"""The curves on disk: two CSV files, and event files for TensorBoard.

A run that is resumed cuts off what was written after its checkpoint and goes on there, so the files hold one curve
without gaps or repeats. Numbers are written with all their digits.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import reason
from engine.models.checkpoint import write_text
from engine.train_events import EvalPoint, Notice, TrainPoint
from engine.training.records import EVALUATION, TRAIN, read_curve

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_COLUMNS = {TRAIN: tuple(f.name for f in fields(TrainPoint)), EVALUATION: tuple(f.name for f in fields(EvalPoint))}


class Logs:
    """Both kinds of log of a run. from_step: what stands there about later steps is dropped, and evaluations of this
    one too unless it is `evaluated`: a run killed between them and its next checkpoint makes them again."""

    def __init__(self, folder: Path, from_step: int, evaluated: bool = True) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._files: dict[str, _Log] = {}
        for name, columns in _COLUMNS.items():
            last = from_step if evaluated or name == TRAIN else from_step - 1
            kept = [row for row in read_curve(folder / name) if int(row["step"]) <= last] if from_step else []
            write_text(folder / name, _csv([columns, *([row.get(c, "") for c in columns] for row in kept)]))
            self._files[name] = _Log(folder / name)
        self._board: SummaryWriter | None = SummaryWriter(str(folder / "tensorboard"),
                                                          purge_step=from_step + 1 if from_step else None)

    def train(self, point: TrainPoint) -> list[Notice]:
        """Add a point of the training curve. Tells where the disk takes no more; what it did not take comes later."""
        values = {"train/loss": point.loss, "train/learning_rate": point.lr, "train/gradient_norm": point.grad_norm,
                  "train/tokens_per_s": point.tokens_per_s, "train/sparsity": point.sparsity,
                  "train/memory_bytes": float(point.memory_bytes)}
        if point.scale:
            values |= {"train/loss_scale": point.scale, "train/skipped_steps": float(len(point.skipped))}
        def write(board: SummaryWriter) -> None:
            for name, value in values.items():
                board.add_scalar(name, value, point.step)

        return self._row(TRAIN, point) + self._on_board(write)

    def evaluation(self, point: EvalPoint) -> list[Notice]:
        """Add an evaluation, likewise."""
        def write(board: SummaryWriter) -> None:
            board.add_scalar("validation/loss", point.loss, point.step)
            board.add_scalar("validation/perplexity", point.perplexity, point.step)
            if point.sample:
                board.add_text("sample", point.sample, point.step)

        return self._row(EVALUATION, point) + self._on_board(write)

    def weights(self, tensors: Mapping[str, Any], step: int) -> list[Notice]:
        """Histograms of the weights, likewise."""
        def write(board: SummaryWriter) -> None:
            for name, weight in tensors.items():
                board.add_histogram(name, weight.detach().float().cpu(), step)

        return self._on_board(write)

    def flush(self) -> list[Notice]:
        """Hand everything to the operating system: before a checkpoint that counts on it."""
        for log in self._files.values():
            log.flush()
        return self._on_board(lambda board: board.flush())

    def close(self) -> None:
        """Write the rest, as far as the disk takes it."""
        for log in self._files.values():
            log.close()
        self._on_board(lambda board: board.close())

    def _row(self, name: str, point: TrainPoint | EvalPoint) -> list[Notice]:
        log = self._files[name]
        log.add(_csv([[_cell(getattr(point, c)) for c in _COLUMNS[name]]]))
        return [Notice(f"{name} cannot be written ({log.problem}). The run goes on; its points are written when there "
                       "is room again.")] if log.waiting == 1 else []

    def _on_board(self, write: Callable[[SummaryWriter], object]) -> list[Notice]:
        """Its writer cannot go on after an error, so it is let go; the CSV files have every number."""
        if self._board is None:
            return []
        try:
            write(self._board)
        except OSError as error:
            self._board = None
            return [Notice(f"The TensorBoard log ends here ({reason(error)}); the run and its CSV files go on.")]
        return []


class _Log:
    """A file that rows are added to. Rows that the disk did not take wait, in order, and none is ever half there."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - close()
        self._rows: list[bytes] = []
        self.problem = ""

    @property
    def waiting(self) -> int:
        """Rows that are not on the disk."""
        return len(self._rows)

    def add(self, row: str) -> None:
        """Write a row, and those that wait before it."""
        self._rows.append(row.encode())
        self.flush()

    def flush(self) -> None:
        """Write what waits."""
        while self._rows:
            end = self._file.seek(0, io.SEEK_END)
            try:
                done = self._file.write(self._rows[0])
                if done != len(self._rows[0]):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                self.problem = reason(error)
                with contextlib.suppress(OSError):
                    self._file.truncate(end)
                return
            del self._rows[0]

    def close(self) -> None:
        """Write what waits, if it can be, and close the file."""
        self.flush()
        with contextlib.suppress(OSError):
            self._file.close()


def _cell(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, tuple) else value


def _csv(rows: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
