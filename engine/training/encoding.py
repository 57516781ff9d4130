"""Documents to token ids, with a mark on every token that carries loss."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from engine.errors import DynoError
from engine.models.chat import ChatMessage
from engine.models.tokenizer import Tokenizer, check_ids
from engine.training.documents import Document
from engine.training.vocabulary import END_OF_TEXT

_LEAST_PARAGRAPH = 120  # characters; shorter ones repeat by nature


class Encoder:
    """Ids of documents, each closed by the end-of-text token; and a watch over what came before.

    learn: "assistant" marks only what the assistant says in chats, "all" every token; texts are marked whole.
    eos_id: closes a text, None where the model has no such token.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, learn: str, eos_id: int | None) -> None:
        self._tokenizer, self._vocab_size, self._learn = tokenizer, vocab_size, learn
        end = tokenizer.token_id(END_OF_TEXT)
        self._end = [end] if end is not None else [eos_id] if eos_id is not None else []
        self._begin = tokenizer.encode("")[:1] if tokenizer.adds_bos else []
        self._seen: set[bytes] = set()
        self.repeated = 0  # documents, or paragraphs of a text, that had been there before
        self.parts = 0  # of them in all

    def encode(self, document: Document) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.uint8]]]:
        """(ids, marks) of a document in parts. Raises DynoError where ids lie beyond the model's vocabulary."""
        if document.turns:
            self._watch("\n".join(f"{t.role}: {t.content}" for t in document.turns))
            yield self._chat(document.turns)
            return
        assert document.pieces is not None
        yield self._arrays(self._begin, 1)
        for ids in self._tokenizer.encode_stream(self._watched(document.pieces())):
            yield self._arrays(ids, 1)
        yield self._arrays(self._end, 1)

    def _chat(self, turns: tuple[ChatMessage, ...]) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
        text = self._tokenizer.chat_text(turns, False)
        if self._learn == "all":
            return self._arrays(self._tokenizer.encode(text, special_tokens=False), 1)
        spans = [self._span(turns, i, text) for i, turn in enumerate(turns) if turn.role == "assistant"]
        ids, places = self._tokenizer.encode_with_places(text)
        tokens, marks = self._arrays(ids, 0)
        at = np.asarray(places)
        for first, last in spans:
            marks[(at >= first) & (at < last)] = 1
        return tokens, marks

    def _span(self, turns: tuple[ChatMessage, ...], i: int, text: str) -> tuple[int, int]:
        """Characters of the whole text that the assistant's turn `i` takes."""
        before = self._tokenizer.chat_text(turns[:i], True)
        upto = self._tokenizer.chat_text(turns[:i + 1], False)
        if not (upto.startswith(before) and text.startswith(upto)):
            raise DynoError("The model's chat template rewrites earlier turns, so the assistant's words cannot be told "
                            "apart from the rest.", "Learn from all tokens of the chats instead.")
        return len(before), len(upto)

    def _arrays(self, ids: list[int], mark: int) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
        check_ids(ids, self._vocab_size)
        return np.asarray(ids, dtype=np.uint32), np.full(len(ids), mark, dtype=np.uint8)

    def _watched(self, pieces: Iterator[str]) -> Iterator[str]:
        held = ""
        for piece in pieces:
            *paragraphs, held = (held + piece).split("\n\n")
            for paragraph in paragraphs:
                self._watch(paragraph)
            yield piece
        self._watch(held)

    def _watch(self, text: str) -> None:
        text = text.strip()
        if len(text) < _LEAST_PARAGRAPH:
            return
        key = hashlib.blake2b(text.encode(), digest_size=8).digest()
        self.parts += 1
        self.repeated += key in self._seen
        self._seen.add(key)
