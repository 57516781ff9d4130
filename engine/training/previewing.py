"""A look at training data before anything is trained: its first tokens, and which of them carry loss.

Reads a few megabytes at most, however large the data are, and no weights. A new model's tokenizer is made from what was
read, so its tokens may differ from those of the run, whose tokenizer sees more.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from engine.errors import DynoError
from engine.models.config import ModelConfig
from engine.models.tokenizer import Tokenizer
from engine.train_events import DataPreview
from engine.train_plan import TrainPlan
from engine.training.dataset import Stream, document_texts, preview
from engine.training.documents import Document, find_files, kind_of, read_documents
from engine.training.encoding import Encoder
from engine.training.vocabulary import END, lines_of, save_tokenizer, train_tokenizer
from engine.words import agreed, counted

_LOOK_TOKENS = 500_000
_LOOK_CHARACTERS = 2_000_000


def preview_data(plan: TrainPlan, tokens: int) -> DataPreview:
    """The first `tokens` tokens of a plan's data. Raises DynoError where they cannot be read."""
    files = find_files(plan.data)
    with tempfile.TemporaryDirectory() as made:
        if plan.model:
            source = Path(plan.model).expanduser()
            tokenizer, config = Tokenizer.from_folder(source), ModelConfig.from_folder(source)
            vocabulary, eos = config.vocab_size, next(iter(config.eos_ids), None)
        else:
            texts = _some(document_texts(plan))
            save_tokenizer(train_tokenizer(plan.tokenizer, lines_of(texts), plan.vocabulary), Path(made), plan.context)
            tokenizer = Tokenizer.from_folder(Path(made))
            vocabulary, eos = tokenizer.vocab_size, tokenizer.token_id(END)
    encoder = Encoder(tokenizer, vocabulary, plan.learn, eos)
    stream, complete = _first(files, encoder, vocabulary)
    if not len(stream.ids):
        raise DynoError("The data holds no text.", "Choose a text of a few thousand words.")
    notices = []
    if encoder.repeated:
        notices.append(f"{counted(encoder.repeated, 'document or paragraph', 'documents or paragraphs')} of "
                       f"{encoder.parts:,} {agreed(encoder.repeated, 'stands', 'stand')} there more than once.")
    if not stream.learned:
        notices.append("No token carries loss: the chats have no assistant's turn.")
    return DataPreview(tuple(preview(stream, tokenizer, tokens)), len(stream.ids), stream.learned, complete, len(files),
                       sum(f.stat().st_size for f in files), tuple(notices))


def _first(files: list[Path], encoder: Encoder, vocabulary: int) -> tuple[Stream, bool]:
    """The first tokens of the files, and whether these are all."""
    ids: list[np.ndarray[tuple[int], np.dtype[np.uint32]]] = []
    marks: list[np.ndarray[tuple[int], np.dtype[np.uint8]]] = []
    count, complete = 0, True
    for part_ids, part_marks in itertools.chain.from_iterable(_coded(file, encoder, vocabulary) for file in files):
        if count >= _LOOK_TOKENS:
            complete = False
            break
        ids.append(part_ids)
        marks.append(part_marks)
        count += len(part_ids)
    if not ids:
        return Stream(np.zeros(0, dtype=np.uint32), None), True
    return Stream(np.concatenate(ids), np.concatenate(marks)), complete


def _coded(file: Path, encoder: Encoder, vocabulary: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if kind_of(file) == ".npy":
        shard = np.load(file, mmap_mode="r", allow_pickle=False)
        if shard.ndim != 1 or shard.dtype.kind not in "ui" or int(shard[:_LOOK_TOKENS].max(initial=0)) >= vocabulary:
            raise DynoError(f"{file.name} holds no row of token ids below {vocabulary:,}.",
                            "Make it with the tokenizer of the model that is trained.")
        for first in range(0, len(shard), _LOOK_TOKENS):
            ids = np.asarray(shard[first:first + _LOOK_TOKENS], dtype=np.uint32)
            yield ids, np.ones(len(ids), dtype=np.uint8)
        return
    for document in read_documents(file):
        yield from encoder.encode(Document(document.pieces, document.turns))


def _some(texts: Iterator[str]) -> Iterator[str]:
    left = _LOOK_CHARACTERS
    for text in texts:
        yield text[:left]
        left -= len(text)
        if left <= 0:
            return
