"""Text to token ids and back, and a conversation to the text a model was trained on.

Wraps the `tokenizers` library and the checkpoint's own Jinja chat template (run in Jinja's sandbox: a template is
somebody else's code).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, pre_tokenizers

from engine.errors import DynoError, reason
from engine.models.chat import ChatMessage
from engine.models.chat_template import compiled
from engine.models.weight_files import bounded_text

_LONGEST_TEXT = 16 << 20  # bytes of a settings file
_OVERLAP = 256  # characters around a window; longer than any token
_BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")


class Tokenizer:
    """A checkpoint's tokenizer and chat template.

    `chat_template` is None for a base model, which can only continue a text.
    """

    def __init__(self, backend: RustTokenizer, special: dict[str, str], chat_template: str | None) -> None:
        self._backend = self.backend = backend
        self._special = special
        self.chat_template = chat_template
        self._texts: dict[int, str] = {}
        self._special_ids: frozenset[int] | None = None
        self._template: Callable[..., str] | None = None  # compiled when it is first asked for
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)

    @classmethod
    def from_folder(cls, folder: Path) -> Tokenizer:
        """Read tokenizer.json (or GPT-2's vocab.json and merges.txt) and the chat template. Raises DynoError."""
        settings: dict[str, Any] = {}
        try:
            if (folder / "tokenizer_config.json").is_file():
                settings = json.loads(bounded_text(folder / "tokenizer_config.json", _LONGEST_TEXT))
                if not isinstance(settings, dict):
                    raise ValueError("tokenizer_config.json holds no settings")
            if (folder / "tokenizer.json").is_file():
                backend = RustTokenizer.from_file(str(folder / "tokenizer.json"))
            elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
                backend = _gpt2_backend(folder)
            else:
                raise DynoError(f"There is no tokenizer in {folder}: tokenizer.json is missing.",
                                "Download the model again with its tokenizer.")
        except DynoError:
            raise
        except Exception as error:  # the tokenizers library raises plain Exception on damaged files
            raise DynoError(f"The tokenizer cannot be read: {reason(error)}.", "Download the model again.") from error
        try:
            template = settings.get("chat_template")
            if isinstance(template, list):
                template = next((t["template"] for t in template if t.get("name") == "default"), None)
            if (folder / "chat_template.jinja").is_file():
                template = bounded_text(folder / "chat_template.jinja", _LONGEST_TEXT)
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise DynoError(f"The chat template cannot be read: {reason(error)}.",
                            "Download the model again.") from error
        return cls(backend, _special_tokens(folder, settings), template)

    def settings_text(self) -> str:
        """What tokenizer_config.json says of it: special tokens and the chat template."""
        template = {"chat_template": self.chat_template} if self.chat_template is not None else {}
        return json.dumps({k: v for k, v in self._special.items() if v} | template, indent=2, ensure_ascii=False)

    def encode(self, text: str, special_tokens: bool = True) -> list[int]:
        """Token ids; with `special_tokens`, whatever the tokenizer adds by itself (Llama's BOS)."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=special_tokens).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of several texts, without special tokens of the tokenizer's own."""
        return [list(e.ids) for e in self._backend.encode_batch(list(texts), add_special_tokens=False)]

    def encode_with_places(self, text: str) -> tuple[list[int], list[int]]:
        """Token ids without special tokens of the tokenizer's own, and the character at which each one begins."""
        encoded = self._backend.encode(text, add_special_tokens=False)
        return list(encoded.ids), [start for start, _ in encoded.offsets]

    def token_id(self, token: str) -> int | None:
        """Id of a token by its text, None where there is none."""
        found: int | None = self._backend.token_to_id(token)
        return found

    def encode_stream(self, pieces: Iterable[str], window: int = 1 << 18) -> Iterator[list[int]]:
        """Token ids of a text that comes in pieces, without special tokens and with flat memory: the ids that encode()
        gives for the whole.

        A window of about `window` characters is cut where a word ends, and encoded with some text around it; the
        tokens that begin inside it are kept. (Encoding the parts alone would put a token into each seam, and
        SentencePiece tokenizers begin every text with a space of their own.)
        """
        before, held, source = "", "", _slices(pieces, window)
        ended = False
        while not ended or held:
            while not ended and len(held) < window + 2 * _OVERLAP:
                piece = next(source, None)
                ended = piece is None
                held += piece or ""
            cut = len(held) if ended and len(held) <= window + 2 * _OVERLAP else _seam(held, window)
            encoded = self._backend.encode(before + held[:cut + _OVERLAP], add_special_tokens=False)
            first, last = len(before), len(before) + cut
            whole = not before and cut == len(held)
            yield (list(encoded.ids) if whole else
                   [token for token, (start, _) in zip(encoded.ids, encoded.offsets, strict=True)
                    if (start >= first or not before) and (start < last or (ended and cut == len(held)))])
            tail = before + held[:cut]
            before, held = tail[_seam_before(tail):], held[cut:]

    def token_bytes(self) -> list[int]:
        """How many UTF-8 bytes of text each token id stands for, by id: byte-level tokens have a letter for each byte;
        elsewhere "▁" is a space and "<0x..>" one byte."""
        decoder = json.loads(self._backend.to_str()).get("decoder") or {}
        byte_level = "ByteLevel" in json.dumps(decoder)
        added = {i: t.content for i, t in self._backend.get_added_tokens_decoder().items()}
        sizes = [0] * (max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1)
        for text, i in self._backend.get_vocab(with_added_tokens=True).items():
            if i in added:
                sizes[i] = len(added[i].encode())
            elif byte_level:
                sizes[i] = len(text)
            else:
                sizes[i] = 1 if _BYTE_TOKEN.fullmatch(text) else len(text.replace("▁", " ").encode())
        return sizes

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids, without special tokens."""
        return str(self._backend.decode(list(ids), skip_special_tokens=True))

    def token_text(self, token_id: int) -> str:
        """One token alone, as a person reads it (a space stays a space; half a character shows as such)."""
        text = self._texts.get(token_id)
        if text is None:
            text = str(self._backend.decode([token_id], skip_special_tokens=False))
            text = self._texts[token_id] = text or str(self._backend.id_to_token(token_id) or "")
        return text

    def stream(self, prompt_ids: Sequence[int]) -> TextStream:
        """Decoder of tokens that arrive one by one after `prompt_ids`."""
        return TextStream(self._backend, prompt_ids)

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of the tokens that are no text: roles, ends, beginnings."""
        if self._special_ids is None:
            added = self._backend.get_added_tokens_decoder()
            self._special_ids = frozenset(i for i, token in added.items() if token.special)
        return self._special_ids

    @property
    def adds_bos(self) -> bool:
        """Whether the tokenizer puts a beginning-of-text token in front by itself (GPT-2's does not)."""
        with_special = self.encode("a")
        return len(with_special) > len(self.encode("a", special_tokens=False)) and with_special[0] != self.encode(
            "a", special_tokens=False)[0]

    def render_chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Token ids of a conversation, ready for the assistant's turn.

        A model without a chat template continues the last message as plain text.
        """
        if self.chat_template is None:
            return self.encode(messages[-1].content)
        return self.encode(self.chat_text(messages, True), special_tokens=False)

    def chat_text(self, messages: Sequence[ChatMessage], answering: bool) -> str:
        """The chat template's text of a conversation; answering: up to where the assistant's turn begins. Raises
        DynoError, also where the model has no chat template."""
        if self.chat_template is None:
            raise DynoError("The model has no chat template.", "Choose a chat model, or data of plain text.")
        try:
            if self._template is None:
                self._template = compiled(self.chat_template)
            return self._template(
                messages=[{"role": m.role, "content": m.content} for m in messages], add_generation_prompt=answering,
                tools=None, documents=None, **self._special)
        except Exception as error:  # a template is a program from elsewhere: it may divide by zero or never end
            raise DynoError(f"The model's chat template refuses this conversation: {str(error)[:200].rstrip('.')}.",
                            "Remove the system prompt, or start a new chat.") from error


class TextStream:
    """Turns tokens into text as they come; bytes of an unfinished character wait for the rest of it."""

    def __init__(self, backend: RustTokenizer, prompt_ids: Sequence[int]) -> None:
        self._backend = backend
        # The last tokens give the decoder the context that decides about a leading space. `_shown` of them are old.
        self._ids = list(prompt_ids[-8:])
        self._shown = len(self._ids)

    def push(self, token_id: int) -> str:
        """The text this token completes; empty while a character is unfinished."""
        # Not tokenizers' DecodeStream: it raises on bytes that are no UTF-8 after a byte token (a Llama's newline), and
        # repeats the prompt's end where that is a U+FFFD.
        self._ids.append(token_id)
        text = self._decode(self._ids)
        new = "" if text.endswith("\ufffd") else text[len(self._decode(self._ids[:self._shown])):]
        if new:
            self._ids = self._ids[self._shown:]
            self._shown = len(self._ids)
        return new

    def _decode(self, ids: list[int]) -> str:
        return str(self._backend.decode(ids, skip_special_tokens=True))


def _seam(text: str, wanted: int) -> int:
    """A place at or before `wanted` where a word ends and white space begins; `wanted` itself where there is none."""
    for at in range(min(wanted, len(text) - 1), max(1, wanted - 4096), -1):
        if text[at].isspace() and not text[at - 1].isspace():
            return at
    return min(wanted, len(text))


def _slices(pieces: Iterable[str], size: int) -> Iterator[str]:
    """The same text in pieces of at most `size` characters: what is held grows by no more than that at a time."""
    for piece in pieces:
        for start in range(0, len(piece), size):
            yield piece[start:start + size]


def _seam_before(text: str) -> int:
    """Where the text before a window is cut: at a word's end, _OVERLAP characters back or more."""
    return _seam(text, len(text) - _OVERLAP) if len(text) > _OVERLAP else 0


def check_ids(ids: Sequence[int], vocab_size: int) -> None:
    """Raises DynoError where a token lies beyond the model's vocabulary."""
    if ids and max(ids) >= vocab_size:
        raise DynoError(f"The tokenizer gives token {max(ids):,}, but the model knows only {vocab_size:,} tokens.",
                        "The tokenizer belongs to another model: download the model again with its own.")


def _gpt2_backend(folder: Path) -> RustTokenizer:
    backend = RustTokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>"])
    return backend


def _special_tokens(folder: Path, settings: dict[str, Any]) -> dict[str, str]:
    """The named tokens that a chat template may write, those that the model has. Older folders name some in a file of
    their own."""
    other: Any = {}
    try:
        if (folder / "special_tokens_map.json").is_file():
            other = json.loads(bounded_text(folder / "special_tokens_map.json", _LONGEST_TEXT))
    except (OSError, ValueError, RecursionError) as error:
        raise DynoError(f"special_tokens_map.json cannot be read: {reason(error)}.",
                        "Download the model again.") from error
    found = {}
    for key in ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"):
        value = settings.get(key) or (other.get(key) if isinstance(other, dict) else None)
        value = value.get("content") if isinstance(value, dict) else value
        if value:
            found[key] = str(value)
    return found
