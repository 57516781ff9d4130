"""The model's own tokenizer, and documents as token ids with a mark on every token that is trained on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from scripts.bundled.corpora import Document

END_OF_TEXT, SYSTEM, USER, ASSISTANT, END = "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
SPECIAL = (END_OF_TEXT, SYSTEM, USER, ASSISTANT, END)
_ROLE_TOKEN = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}

# GPT-4's splitting, with single digits: words keep their leading space, contractions split off.
_SPLIT = Regex(r"'(?:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+")

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>' + message['content'] | trim + '<|end|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE: any text round-trips, because every byte is a token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(_SPLIT, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=list(SPECIAL), show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, context: int) -> None:
    """Write tokenizer.json and tokenizer_config.json, chat template included."""
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context,
        "clean_up_tokenization_spaces": False, "eos_token": END, "pad_token": END_OF_TEXT,
        "additional_special_tokens": list(SPECIAL[1:4]),
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def special_id(tokenizer: Tokenizer, token: str) -> int:
    """Id of a role or end token. Raises ValueError for a tokenizer that lacks it."""
    found: int | None = tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"The tokenizer has no {token}.")
    return found


class Encoder:
    """Documents to ids. A loss mark stands on each token the model should learn to produce."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._id = {token: special_id(tokenizer, token) for token in SPECIAL}

    def encode(self, document: Document) -> tuple[list[int], list[int]]:
        """(ids, marks) of a document, closed by the end-of-text token.

        Marks are 1 on plain text, and in chats on the assistant's words and the end of its turn.
        """
        pieces = self._tokenizer.encode_batch([content for _, content in document], add_special_tokens=False)
        ids: list[int] = []
        marks: list[int] = []
        for (role, _), piece in zip(document, pieces, strict=True):
            learned = int(role in ("assistant", "text"))
            if role != "text":
                ids.append(self._id[_ROLE_TOKEN[role]])
                marks.append(0)
            ids += piece.ids
            marks += [learned] * len(piece.ids)
            if role != "text":
                ids.append(self._id[END])
                marks.append(learned)
        ids.append(self._id[END_OF_TEXT])
        marks.append(int(document[-1][0] == "text"))
        return ids, marks

    def stream(self, documents: Iterable[Document]) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint8]]:
        """All documents one after the other: ids and marks of the same length."""
        ids: list[npt.NDArray[np.uint16]] = []
        marks: list[npt.NDArray[np.uint8]] = []
        for document in documents:
            token_ids, token_marks = self.encode(document)
            ids.append(np.array(token_ids, dtype=np.uint16))
            marks.append(np.array(token_marks, dtype=np.uint8))
        return np.concatenate(ids), np.concatenate(marks)
