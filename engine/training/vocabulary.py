"""Tokenizers of models trained from scratch: byte-level BPE or single characters, as files that Transformers reads.

Both know the same five special tokens, so a new model can be trained on plain text and on chats.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from engine.errors import DynoError
from engine.models.checkpoint import write_text

END_OF_TEXT, END, UNKNOWN = "<|endoftext|>", "<|end|>", "<|unknown|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
SPECIAL = (END_OF_TEXT, *ROLES, END)
CHAT_TEMPLATE = (
    "{%- for message in messages -%}{{- '<|' + message['role'] + '|>' + message['content'] | trim + '<|end|>' -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}")
# Letters with the space before them, single digits, punctuation, white space: pieces that merges may not cross.
_WORDS = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+")
_LEAST_BPE = 256 + len(SPECIAL)


def train_tokenizer(kind: str, texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """A tokenizer of at most `vocabulary` tokens. kind: "bpe" or "character". Raises DynoError where the texts are
    empty, or need more tokens than that."""
    return _bpe(texts, vocabulary) if kind == "bpe" else _characters(texts, vocabulary)


def save_tokenizer(tokenizer: Tokenizer, folder: Path, context: int) -> None:
    """Write tokenizer.json and tokenizer_config.json with the chat template, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "tokenizer.json", tokenizer.to_str())
    known = tokenizer.get_vocab(with_added_tokens=True)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context,
        "clean_up_tokenization_spaces": False, "eos_token": END, "pad_token": END_OF_TEXT,
        "additional_special_tokens": list(ROLES), "chat_template": CHAT_TEMPLATE,
    } | ({"unk_token": UNKNOWN} if UNKNOWN in known else {})
    write_text(folder / "tokenizer_config.json", json.dumps(settings, indent=2) + "\n")


def _bpe(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    if vocabulary < _LEAST_BPE:
        raise DynoError(f"A BPE vocabulary of {vocabulary:,} tokens has no room for the 256 bytes and "
                        f"{len(SPECIAL)} special tokens.",
                        f"Choose {_LEAST_BPE:,} or more, or the character tokenizer.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(_WORDS, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=list(SPECIAL), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer


def _characters(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    counts: dict[str, int] = {}
    for text in texts:
        for character in text:
            counts[character] = counts.get(character, 0) + 1
    if not counts:
        raise DynoError("The data holds no text.", "Choose a text of a few thousand words.")
    room = vocabulary - len(SPECIAL) - 1
    frequent = sorted(sorted(counts), key=lambda c: -counts[c])[:room]  # the same for equal counts on any machine
    names = (*SPECIAL, UNKNOWN, *sorted(frequent))
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([*SPECIAL, UNKNOWN])
    return tokenizer


def lines_of(texts: Iterable[str]) -> Iterator[str]:
    """The same text in lines, which is what the BPE trainer counts words in without holding a whole file."""
    held = ""
    for text in texts:
        *lines, held = (held + text).split("\n")
        yield from (line + "\n" for line in lines)
    if held:
        yield held
