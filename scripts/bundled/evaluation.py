"""How good the exported model is: bits per byte on held-out text, and how its chat behaves.

Bits per byte = total NLL / ln 2 / UTF-8 bytes scored. Texts are cut into disjoint chunks of one context; the first
token of a chunk is not scored, and its bytes are not counted either.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer as BytePairs
from torch import Tensor
from torch.nn import functional as F

from engine.models.chat import ChatMessage
from engine.models.checkpoint import load_decoder, load_masters
from engine.models.gpt import Decoder, KVCache
from engine.models.tokenizer import Tokenizer
from scripts.bundled.export import SAMPLING
from scripts.bundled.text import SEPARATOR

PROMPTS = (
    "Hi!", "Hello, how are you?", "good morning", "Who are you?", "What is your name?", "Are you a human?",
    "What can you do?", "What can't you do?", "Where do you live?", "Do you need the internet?",
    "What is your favourite colour?", "What is the weather like today?", "Tell me a joke.", "I feel sad today.",
    "I am bored.", "Do you like music?", "I went to the zoo yesterday.", "What should I cook tonight?",
    "Have you seen any good movies lately?", "Do you like basketball?", "Tell me a story about a dragon.",
    "Tell me a story about a little boat.", "What is attention in a transformer?", "What is a KV cache?",
    "What is quantization?", "What is perplexity?", "What is the capital of France?", "Give me three colours.",
    "Thank you very much!", "Goodbye!",
)
MAX_NEW_TOKENS = 150


@dataclass(frozen=True)
class BitsPerByte:
    """Score of one evaluation file."""

    file: str
    bits_per_byte: float
    bytes_scored: int
    tokens_scored: int


@dataclass(frozen=True)
class Reply:
    """One generated answer and whether the model ended it itself."""

    prompt: str
    text: str
    tokens: int
    ended: bool


def chat_text(path: Path) -> str:
    """The conversations of a file as the model reads them, role tokens included."""
    lines = [json.loads(line)["messages"] for line in path.read_text(encoding="utf-8").splitlines() if line]
    return SEPARATOR.join("".join(f"<|{m['role']}|>{m['content']}<|end|>" for m in chat) for chat in lines)


def bits_per_byte(decoder: Decoder, tokenizer: Tokenizer, sizes: Tensor, path: Path, max_tokens: int) -> BitsPerByte:
    """Score the first `max_tokens` tokens of a file. sizes (V,): UTF-8 bytes of every token."""
    text = chat_text(path) if path.suffix == ".jsonl" else path.read_text(encoding="utf-8")
    ids = tokenizer.encode(text, special_tokens=False)[:max_tokens]
    width = decoder.config.context
    nll_nats, scored, bytes_scored = 0.0, 0, 0
    for start in range(0, len(ids), width):
        chunk = torch.tensor(ids[start:start + width])
        if len(chunk) < 2:
            continue
        with torch.inference_mode():
            logits = decoder(chunk[None])[0, :-1].float()  # (T-1, V)
        nll_nats += float(F.cross_entropy(logits, chunk[1:], reduction="sum"))
        scored += len(chunk) - 1
        bytes_scored += int(sizes[chunk[1:]].sum())
    return BitsPerByte(path.name, nll_nats / math.log(2) / bytes_scored, bytes_scored, scored)


def token_bytes(folder: Path) -> Tensor:
    """UTF-8 bytes of every token, (V,). In a byte-level vocabulary each character of a token stands for one byte."""
    tokens = BytePairs.from_file(str(folder / "tokenizer.json"))
    return torch.tensor([len(tokens.id_to_token(i) or "") for i in range(tokens.get_vocab_size())])


def reply_to(decoder: Decoder, tokenizer: Tokenizer, prompt: str, generator: torch.Generator) -> Reply:
    """One answer with the sampling defaults that ship with the model."""
    ids = tokenizer.render_chat([ChatMessage("user", prompt)])
    cache = KVCache(decoder.config, len(ids) + MAX_NEW_TOKENS, torch.float32)
    out: list[int] = []
    with torch.inference_mode():
        logits = decoder(torch.tensor([ids]), cache, last_only=True)[0, -1]
        while len(out) < MAX_NEW_TOKENS:
            token = sampled(logits, ids + out, generator)
            if token in decoder.config.eos_ids:
                return Reply(prompt, tokenizer.decode(out), len(out), True)
            out.append(token)
            logits = decoder(torch.tensor([[token]]), cache, last_only=True)[0, -1]
    return Reply(prompt, tokenizer.decode(out), len(out), False)


def sampled(logits: Tensor, seen: list[int], generator: torch.Generator) -> int:
    """The next token under repetition penalty (Keskar et al., CTRL, 2019), temperature, top-k and top-p."""
    logits = logits.clone()
    ids = torch.tensor(sorted(set(seen)))
    penalty = float(SAMPLING["repetition_penalty"])
    logits[ids] = torch.where(logits[ids] > 0, logits[ids] / penalty, logits[ids] * penalty)
    values, order = (logits / float(SAMPLING["temperature"])).topk(int(SAMPLING["top_k"]))
    probabilities = values.softmax(-1)
    probabilities[probabilities.cumsum(-1) - probabilities >= float(SAMPLING["top_p"])] = 0
    return int(order[torch.multinomial(probabilities, 1, generator=generator)])


def distinct(texts: Iterable[str], n: int) -> float:
    """distinct-n (Li et al., 2016): share of different word n-grams among all of them, over all texts together."""
    grams = [tuple(words[i:i + n]) for text in texts if (words := text.lower().split())
             for i in range(len(words) - n + 1)]
    return len(set(grams)) / max(len(grams), 1)


def repeated_share(texts: Iterable[str], n: int = 4) -> float:
    """Share of word n-grams that already occurred earlier in the same text."""
    repeated, total = 0, 0
    for text in texts:
        words = text.lower().split()
        grams = [tuple(words[i:i + n]) for i in range(len(words) - n + 1)]
        repeated += len(grams) - len(set(grams))
        total += len(grams)
    return repeated / max(total, 1)


def evaluate(folder: Path, eval_dir: Path, report: Path, max_tokens: int = 100_000) -> None:
    """Score the model in `folder`, print and write everything to `report` (JSON)."""
    decoder, tokenizer = load_decoder(load_masters(folder)).eval(), Tokenizer.from_folder(folder)
    generator = torch.Generator().manual_seed(0)
    replies = [reply_to(decoder, tokenizer, prompt, generator) for prompt in PROMPTS]
    for reply in replies:
        print(f"> {reply.prompt}\n{reply.text}{'' if reply.ended else ' [cut]'}\n")
    texts = [reply.text for reply in replies]
    chat = {"ended_share": sum(r.ended for r in replies) / len(replies), "distinct_1": distinct(texts, 1),
            "distinct_2": distinct(texts, 2), "repeated_4gram_share": repeated_share(texts)}
    print(json.dumps(chat))
    files = sorted(p for p in eval_dir.iterdir() if p.name != "SOURCE.txt")
    sizes = token_bytes(folder)
    scores = [bits_per_byte(decoder, tokenizer, sizes, path, max_tokens) for path in files]
    for score in scores:
        print(f"{score.file}: {score.bits_per_byte:.3f} bits per byte over {score.bytes_scored} bytes")
    report.write_text(json.dumps({"chat": chat, "bits_per_byte": [asdict(s) for s in scores],
                                  "replies": [asdict(r) for r in replies]}, indent=1), encoding="utf-8")
