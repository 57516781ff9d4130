"""Token ids on disk, and the batches a step reads.

Documents lie one after the other in one stream, cut into windows of a fixed length. Which windows a step reads depends
on the step's number and the seed alone, so a resumed run reads exactly what an uninterrupted one would have read.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import DynoError, reason
from engine.models.checkpoint import write_text
from engine.models.tokenizer import Tokenizer
from engine.train_events import Notice, Preparing
from engine.train_plan import TrainPlan
from engine.training.documents import find_files, kind_of, read_documents
from engine.training.encoding import Encoder
from engine.words import agreed, counted

IGNORED = -100  # the target of a token without loss, as F.cross_entropy has it
_BY_DOCUMENT = 20  # from so many documents on, whole ones are held out
_LEAST_TOKENS = 16
_MANY_REPEATED = 0.02


@dataclass(frozen=True)
class Stream:
    """Token ids in a row, and marks of those that carry loss (None: all)."""

    ids: NDArray[np.uint16] | NDArray[np.uint32]
    marks: NDArray[np.uint8] | None

    @property
    def learned(self) -> int:
        """Tokens that carry loss."""
        return len(self.ids) if self.marks is None else int(self.marks.sum(dtype=np.int64))

    def windows(self, length: int) -> int:
        """How many whole windows there are."""
        return max(0, (len(self.ids) - 1) // length)

    def batch(self, windows: Iterable[int], length: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets (B, T) int64 of these windows; what lies beyond the end is IGNORED."""
        numbers = list(windows)
        ids = np.zeros((len(numbers), length + 1), dtype=np.int64)
        marks = np.zeros((len(numbers), length + 1), dtype=np.bool_)
        for row, number in enumerate(numbers):
            part = self.ids[number * length:(number + 1) * length + 1]
            ids[row, :len(part)] = part
            marks[row, :len(part)] = True if self.marks is None else (
                self.marks[number * length:(number + 1) * length + 1] > 0)
        targets = np.where(marks[:, 1:], ids[:, 1:], IGNORED)
        return torch.from_numpy(ids[:, :-1].copy()), torch.from_numpy(targets)


class Order:
    """The order in which windows are read: epoch after epoch, each shuffled anew.

    share: only this part of the windows is used; smaller shares lie within larger ones.
    """

    def __init__(self, windows: int, seed: int, share: float = 1.0) -> None:
        chosen = np.random.default_rng(0).permutation(windows)[:max(1, round(share * windows))]
        self._chosen = np.sort(chosen)
        self._seed, self._epoch, self._shuffled = seed, -1, chosen

    @property
    def windows(self) -> int:
        """Windows of one epoch."""
        return len(self._chosen)

    def at(self, first: int, count: int) -> list[int]:
        """The windows of samples first to first + count - 1, counted from the beginning of the run."""
        return [self._window(i) for i in range(first, first + count)]

    def _window(self, sample: int) -> int:
        epoch, place = divmod(sample, len(self._chosen))
        if epoch != self._epoch:
            self._shuffled = np.random.default_rng([self._seed, epoch]).permutation(self._chosen)
            self._epoch = epoch
        return int(self._shuffled[place])


@dataclass(frozen=True)
class Data:
    """What a run learns from and is judged by. sequence: tokens of a window, cut to what there is."""

    train: Stream
    validation: Stream
    sequence: int


_META = "meta.json"
MADE_OF = "made_of.json"
_MADE = (*(f"data/{name}" for name in (_META, "train_ids.npy", "train_marks.npy", "validation_ids.npy",
                                       "validation_marks.npy")),
         "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json")
DataSteps = Generator[Preparing | Notice, None, Data]


def forget_other_data(plan: TrainPlan, folder: Path) -> None:
    """Remove the tokens and the tokenizer in a run's folder that an earlier start made of other data, or in another
    way, and nothing else that lies there. Raises DynoError where the data cannot be found or the disk refuses."""
    now, before = _made_of(plan), _read_json(folder / MADE_OF)
    if before == now:
        return
    tokens = _read_json(folder / "data" / _META)
    ours = before is not None or (isinstance(tokens, dict) and "data" in tokens)
    try:
        for name in _MADE if ours else ():
            (folder / name).unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / MADE_OF, json.dumps(now))
    except OSError as error:
        raise DynoError(f"{folder} cannot be written: {reason(error)}.", "Choose another folder.") from error


def _read_json(path: Path) -> Any:
    """What a file says, None where there is none or it says nothing."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _made_of(plan: TrainPlan) -> list[Any]:
    """What the tokens of a plan depend on; a file counts as another one where its size or time has changed."""
    files = [(file, file.stat()) for paths in (plan.data, plan.validation) for file in find_files(paths)]
    return [[[str(file), found.st_size, found.st_mtime_ns] for file, found in files], len(plan.validation),
            plan.validation_share, plan.learn, plan.model, plan.tokenizer, plan.vocabulary]


def prepare_data(plan: TrainPlan, tokenizer: Tokenizer, vocab_size: int, context: int, eos_id: int | None,
                 folder: Path) -> DataSteps:
    """Encode the plan's data into `folder`, or take what lies there from an earlier start. Raises DynoError."""
    meta = folder / _META
    if not meta.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        encoder = Encoder(tokenizer, vocab_size, plan.learn, eos_id)
        train = yield from _encode(plan.data, encoder, tokenizer, vocab_size, "Reading the data")
        if encoder.repeated > _MANY_REPEATED * max(encoder.parts, 1):
            share = 100 * encoder.repeated / encoder.parts
            yield Notice(f"{counted(encoder.repeated, 'document or paragraph', 'documents or paragraphs')} of "
                         f"{encoder.parts:,} ({share:.0f} %) {agreed(encoder.repeated, 'is', 'are')} there more than "
                         "once: repeated text is learned by heart, and held-out text may be known already.")
        validation: list[_Coded] = []
        if plan.validation:
            known = encoder.repeated
            validation = yield from _encode(plan.validation, encoder, tokenizer, vocab_size, "Reading validation data")
            if encoder.repeated > known:
                yield Notice(f"{encoder.repeated - known:,} of the validation documents stand in the training data "
                             "too, so the validation loss will look better than it is.")
        elif plan.validation_share:
            train, validation = _held_out(train, plan.validation_share)
        _write(folder, "train", train, vocab_size)
        _write(folder, "validation", validation, vocab_size)
        write_text(meta, json.dumps({"data": [str(p) for p in find_files(plan.data)]}))
    data = Data(_read(folder, "train"), _read(folder, "validation"), plan.sequence)
    return (yield from _fitted(data, context))


def _fitted(data: Data, context: int) -> DataSteps:
    tokens, length = len(data.train.ids), data.sequence
    if tokens < _LEAST_TOKENS:
        raise DynoError("The data has no text to learn from." if not tokens else
                        f"The data has only {counted(tokens, 'token')} to learn from.",
                        "Choose a text of a few thousand words.")
    if not data.train.learned:
        raise DynoError("No token of the data carries loss: its chats have no assistant's turn.",
                        'Learn from all tokens, or use chats with the role "assistant".')
    if length > context:
        yield Notice(f"Sequences of {length:,} tokens are longer than the model's context, so they are cut to "
                     f"{context:,}.")
        length = context
    if length > tokens - 1:
        yield Notice(f"The data has {tokens:,} tokens, less than a sequence of {length:,}, so sequences are "
                     f"{tokens - 1:,} tokens long.")
        length = tokens - 1
    if len(data.validation.ids) < 2 or not data.validation.learned:
        yield Notice("There is no held-out data to judge the model by, so its last state counts as its best.")
        return Data(data.train, Stream(data.train.ids[:0], None), length)
    return Data(data.train, data.validation, length)


_Coded = tuple[NDArray[np.uint32], NDArray[np.uint8]]


def _encode(paths: tuple[str, ...], encoder: Encoder, tokenizer: Tokenizer, vocab_size: int,
            stage: str) -> Generator[Preparing | Notice, None, list[_Coded]]:
    """(ids, marks) of each document of the files."""
    files = find_files(paths)
    coded: list[_Coded] = []
    for done, file in enumerate(files):
        yield Preparing(stage, done, len(files))
        if kind_of(file) == ".npy":
            coded.append(_shard(file, vocab_size))
            continue
        for number, document in enumerate(read_documents(file)):
            parts = list(encoder.encode(document))
            coded.append((np.concatenate([ids for ids, _ in parts]), np.concatenate([marks for _, marks in parts])))
            if number % 256 == 255:
                yield Preparing(stage, done, len(files))
    yield Preparing(stage, len(files), len(files))
    return coded


def _shard(file: Path, vocab_size: int) -> _Coded:
    """Token ids made elsewhere: a flat .npy of whole numbers, all of which carry loss."""
    try:
        ids = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DynoError(f"{file.name} holds no token ids: {error}.", "Write it with numpy.save as uint16.") from error
    if ids.ndim != 1 or ids.dtype.kind not in "ui" or not len(ids) or int(ids.max()) >= vocab_size:
        raise DynoError(f"{file.name} holds no row of token ids below {vocab_size:,}.",
                        "Make it with the tokenizer of the model that is trained.")
    return np.asarray(ids, dtype=np.uint32), np.ones(len(ids), dtype=np.uint8)


def _held_out(coded: list[_Coded], share: float) -> tuple[list[_Coded], list[_Coded]]:
    """Whole documents at even distances where there are many, else the end of the stream."""
    if len(coded) >= _BY_DOCUMENT:
        every = max(2, round(1 / share))
        return [c for i, c in enumerate(coded) if i % every != every - 1], coded[every - 1::every]
    ids, marks = _joined(coded)
    cut = len(ids) - round(share * len(ids))
    return [(ids[:cut], marks[:cut])], [(ids[cut:], marks[cut:])]


def _joined(coded: list[_Coded]) -> _Coded:
    if not coded:
        return np.zeros(0, dtype=np.uint32), np.zeros(0, dtype=np.uint8)
    return np.concatenate([ids for ids, _ in coded]), np.concatenate([marks for _, marks in coded])


def _write(folder: Path, name: str, coded: list[_Coded], vocab_size: int) -> None:
    ids, marks = _joined(coded)
    np.save(folder / f"{name}_ids.npy", ids.astype(np.uint16) if vocab_size <= 1 << 16 else ids)
    (folder / f"{name}_marks.npy").unlink(missing_ok=True)
    if not marks.all():
        np.save(folder / f"{name}_marks.npy", marks)


def _read(folder: Path, name: str) -> Stream:
    try:
        ids = np.load(folder / f"{name}_ids.npy", mmap_mode="r", allow_pickle=False)
        marks = folder / f"{name}_marks.npy"
        return Stream(ids, np.load(marks, mmap_mode="r", allow_pickle=False) if marks.is_file() else None)
    except (OSError, ValueError) as error:
        raise DynoError(f"The run's tokens cannot be read: {error}.", f"Delete {folder} and start again.") from error


def fingerprint(stream: Stream) -> str:
    """Names the content of a stream, so that a checkpoint is never continued on other data."""
    digest = sha256(stream.ids.tobytes())
    if stream.marks is not None:
        digest.update(stream.marks.tobytes())
    return digest.hexdigest()[:16]


def preview(stream: Stream, tokenizer: Tokenizer, tokens: int) -> Iterator[tuple[str, bool]]:
    """The first tokens of the data as (text, whether it carries loss)."""
    for i in range(min(tokens, len(stream.ids))):
        yield tokenizer.token_text(int(stream.ids[i])), stream.marks is None or bool(stream.marks[i])


def document_texts(plan: TrainPlan) -> Iterator[str]:
    """All text of the plan's training data, for a tokenizer to be trained on. Raises DynoError."""
    for file in find_files(plan.data):
        if kind_of(file) == ".npy":
            raise DynoError(f"{file.name} holds token ids, which a new tokenizer cannot be trained on.",
                            "Start from a model that has the tokenizer the ids were made with.")
        for document in read_documents(file):
            yield from document.text()


