"""A tokenizer out of GGUF's metadata, and into them.

Two kinds: "gpt2" is byte-level BPE with its merges; "llama" is SentencePiece's BPE, where a token's score says when it
is put together. How a "gpt2" tokenizer cuts a text into words first is only named there, so names that are not known
here are refused: other cuts would give other tokens.
"""

from __future__ import annotations

import json
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as RustTokenizer

from engine.errors import DynoError, reason
from engine.models.gguf_header import AGAIN, GgufFile
from engine.models.tokenizer import Tokenizer

HF_JSON = "tokenizer.huggingface.json"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
           r"|\s+(?!\S)|\s+")
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_CUTS = {"llama-bpe": _LLAMA3, "qwen2": _QWEN2}
_BY_GPT2 = ("gpt-2", "default", "")
_BY_DIGITS = ("smollm",)


def tokenizer_of(file: GgufFile) -> Tokenizer:
    """The tokenizer and chat template of a GGUF file. Raises DynoError."""
    kind = file.get("tokenizer.ggml.model", str, "")
    tokens = file.get("tokenizer.ggml.tokens", list, [])
    if not kind or not tokens:
        raise DynoError(f"There is no tokenizer in {file.path.name}.", "Choose a GGUF file that has one.")
    types = file.get("tokenizer.ggml.token_type", list, [NORMAL] * len(tokens))
    if len(types) != len(tokens) or not all(isinstance(t, str) for t in tokens):
        raise DynoError(f"The tokenizer of {file.path.name} is damaged: its tokens have no types.", AGAIN)
    try:
        if kind == "gpt2" and HF_JSON in file.metadata:  # ours: llama.cpp's name for its cut is only nearly right
            backend = RustTokenizer.from_str(file.get(HF_JSON, str))
        elif kind == "gpt2":
            backend = _byte_level(file, tokens)
        elif kind == "llama":
            backend = _sentencepiece(file, tokens, types)
        else:
            raise DynoError(f"The tokenizer of {file.path.name} is of the kind {kind[:40]!r}, which this version "
                            "cannot read.", "It reads gpt2 and llama: use the model's safetensors files.")
        if backend.get_vocab_size() > len(tokens):
            raise ValueError("it has more tokens than it says")
        _add_special(backend, tokens, types)
        _add_ends(backend, file, tokens, kind)
    except DynoError:
        raise
    except Exception as error:  # the tokenizers library raises plain Exception on what it cannot use
        raise DynoError(f"The tokenizer of {file.path.name} cannot be read: {reason(error)[:200]}.", AGAIN) from error
    special = {name: tokens[i] if i is not None and 0 <= i < len(tokens) else ""
               for name, i in ((f"{n}_token", file.get(f"tokenizer.ggml.{key}_token_id", int))
                               for n, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")))}
    return Tokenizer(backend, special, file.get("tokenizer.chat_template", str))


def _byte_level(file: GgufFile, tokens: list[str]) -> RustTokenizer:
    cut = file.get("tokenizer.ggml.pre", str, "")
    merges = [tuple(m.split(" ", 1)) for m in file.get("tokenizer.ggml.merges", list, [])]
    if any(len(m) != 2 for m in merges):
        raise ValueError("a merge is no pair")
    vocabulary = {token: i for i, token in reversed(list(enumerate(tokens)))}
    backend = RustTokenizer(models.BPE(vocabulary, merges, ignore_merges=cut == "llama-bpe"))
    if cut in _BY_GPT2:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    elif cut in _BY_DIGITS:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    elif cut in _CUTS:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(_CUTS[cut]), "isolated"),
             pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    else:
        raise DynoError(f"The tokenizer of {file.path.name} cuts text in the way {cut[:40]!r}, which this version does "
                        "not know.", "Use the model's safetensors files.")
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(file: GgufFile, tokens: list[str], types: list[int]) -> RustTokenizer:
    scores = file.get("tokenizer.ggml.scores", list, [])
    if len(scores) != len(tokens):
        raise ValueError("its tokens have no scores")
    unknown = next((t for t, kind in zip(tokens, types, strict=True) if kind == UNKNOWN), None)
    vocabulary = {token: i for i, token in reversed(list(enumerate(tokens)))}
    backend = RustTokenizer(models.BPE(vocabulary, _merges(tokens, types, scores, vocabulary), unk_token=unknown,
                                       fuse_unk=True, byte_fallback=True))
    prefixed = file.get("tokenizer.ggml.add_space_prefix", bool, True)
    spaces = normalizers.Replace(" ", "▁")
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefixed else spaces
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefixed else steps)
    return backend


def _merges(tokens: list[str], types: list[int], scores: list[float],
            vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Every pair of tokens that is a token, the best score first: what SentencePiece does at each step."""
    found: list[tuple[float, int, int, str, str]] = []
    for token, kind, score in zip(tokens, types, scores, strict=True):
        if kind != NORMAL or not 2 <= len(token) <= 512:
            continue
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocabulary and right in vocabulary:
                found.append((-score, vocabulary[left], vocabulary[right], left, right))
    found.sort()
    return [(left, right) for *_, left, right in found]


def _add_special(backend: RustTokenizer, tokens: list[str], types: list[int]) -> None:
    for wanted, special in ((CONTROL, True), (UNKNOWN, True), (USER_DEFINED, False)):
        added = [AddedToken(t, normalized=False, special=special)
                 for t, kind in zip(tokens, types, strict=True) if kind == wanted and t]
        (backend.add_special_tokens if special else backend.add_tokens)(added)


def _add_ends(backend: RustTokenizer, file: GgufFile, tokens: list[str], kind: str) -> None:
    """What the tokenizer puts around every text by itself."""
    bos, eos = (file.get(f"tokenizer.ggml.{name}_token_id", int) for name in ("bos", "eos"))
    cut = file.get("tokenizer.ggml.pre", str, "")
    leads = file.get("tokenizer.ggml.add_bos_token", bool, kind == "llama" or cut == "llama-bpe") and bos is not None
    ends = file.get("tokenizer.ggml.add_eos_token", bool, False) and eos is not None
    if not leads and not ends:
        return
    for i in (bos if leads else 0, eos if ends else 0):
        if i is None or not 0 <= i < len(tokens):
            raise ValueError(f"it puts token {i} around a text, and there is none")
    parts = ([tokens[bos]] if leads else []) + ["$A"] + ([tokens[eos]] if ends else [])
    special = [(tokens[i], i) for i, wanted in ((bos, leads), (eos, ends)) if wanted]
    backend.post_processor = processors.TemplateProcessing(single=" ".join(parts), special_tokens=special)


def tokenizer_metadata(tokenizer: Tokenizer, vocab_size: int) -> dict[str, Any]:
    """GGUF's metadata for a tokenizer: key -> str, bool or list, token ids of bos and eos apart. Raises DynoError where
    llama.cpp has no word for it."""
    raw = json.loads(tokenizer.backend.to_str())
    model = raw["model"]
    if model.get("type") != "BPE":
        raise DynoError(f"A tokenizer of the kind {model.get('type')!r} cannot be written as GGUF by this version.",
                        "Export the model as safetensors.")
    added = {int(t["id"]): t for t in raw.get("added_tokens", [])}
    tokens = [f"[PAD{i}]" for i in range(vocab_size)]
    types = [UNUSED] * vocab_size
    for token, i in model["vocab"].items():
        if i < vocab_size:
            tokens[i], types[i] = token, NORMAL
    for i, entry in added.items():
        if i < vocab_size:
            tokens[i], types[i] = entry["content"], CONTROL if entry["special"] else USER_DEFINED
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    found: dict[str, Any] = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.add_bos_token": tokenizer.adds_bos}
    if model.get("byte_fallback"):
        unknown = model.get("unk_token")
        for i, token in enumerate(tokens):
            if token == unknown:
                types[i] = UNKNOWN
            elif len(token) == 6 and token.startswith("<0x"):
                types[i] = BYTE
        prefixed = "Prepend" in json.dumps(raw.get("normalizer"))
        found |= {"tokenizer.ggml.model": "llama", "tokenizer.ggml.add_space_prefix": prefixed,
                  "tokenizer.ggml.scores": _scores(tokens, merges)}
    else:
        found |= {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": _cut_name(raw.get("pre_tokenizer")),
                  "tokenizer.ggml.merges": merges}
        if _pattern(raw.get("pre_tokenizer")) == OWN_CUT:
            found[HF_JSON] = json.dumps(raw, ensure_ascii=False)
    found["tokenizer.ggml.token_type"] = types
    if tokenizer.chat_template is not None:
        found["tokenizer.chat_template"] = tokenizer.chat_template
    return found


def _scores(tokens: list[str], merges: list[str]) -> list[float]:
    """Scores that put tokens together in the order of the merges; what no merge makes comes last."""
    rank: dict[str, int] = {}
    for i, merge in enumerate(merges):
        rank.setdefault(merge.replace(" ", "", 1), i)
    return [-float(rank.get(token, len(merges) + i)) for i, token in enumerate(tokens)]


def _cut_name(cutter: dict[str, Any] | None) -> str:
    """llama.cpp's name of the way a byte-level tokenizer cuts a text into words. Raises DynoError."""
    parts = (cutter or {}).get("pretokenizers", [cutter or {}])
    kinds = [part.get("type") for part in parts]
    if kinds == ["ByteLevel"] and parts[0].get("use_regex", True) and not parts[0].get("add_prefix_space"):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits"):
        return "smollm"
    for name, known in (*_CUTS.items(), ("qwen2", OWN_CUT)):
        if _pattern(cutter) == known:
            return name
    raise DynoError("llama.cpp has no name for how this tokenizer cuts text into words.",
                    "Export the model as safetensors.")


def _pattern(cutter: dict[str, Any] | None) -> str:
    """The regular expression by which a byte-level tokenizer cuts; empty where it does so otherwise."""
    parts = (cutter or {}).get("pretokenizers", [])
    if [part.get("type") for part in parts] != ["Split", "ByteLevel"]:
        return ""
    return str(parts[0].get("pattern", {}).get("Regex", ""))


# The cut of the app's own models. Qwen 2's differs in two ways: it takes contractions in capitals, and several line
# breaks at once. llama.cpp then makes other tokens of 'LL and of empty lines; everything else is the same.
OWN_CUT = (r"'(?:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+")
