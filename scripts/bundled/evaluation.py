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
from typing import Any

import torch
from tokenizers import Tokenizer as BytePairs
from torch import Tensor
from torch.nn import functional as F

from engine.generation import NewToken, generate
from engine.messages import Sampling
from engine.models.chat import ChatMessage
from engine.models.devices import pick_device
from engine.models.tokenizer import Tokenizer
from engine.recipe import parse_recipe
from engine.session import Session
from engine.variant import Variant
from scripts.bundled.export import SAMPLING
from scripts.bundled.text import SEPARATOR

PROMPTS: dict[str, list[str]] = json.loads((Path(__file__).parent / "prompts.json").read_text(encoding="utf-8"))
RECIPES = ("fp32", "bf16", "int8", "int4", "prune-l1:amount=0.3")
MAX_NEW_TOKENS = 200


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

    group: str
    prompt: str
    text: str
    tokens: int
    ended: bool

    @property
    def loops(self) -> bool:
        """Whether four words come again so often that a third of the reply repeats itself."""
        return repeated_share([self.text]) > 1 / 3


def chat_text(path: Path) -> str:
    """The conversations of a file as the model reads them, role tokens included."""
    lines = [json.loads(line)["messages"] for line in path.read_text(encoding="utf-8").splitlines() if line]
    return SEPARATOR.join("".join(f"<|{m['role']}|>{m['content']}<|end|>" for m in chat) for chat in lines)


def bits_per_byte(variant: Variant, tokenizer: Tokenizer, sizes: Tensor, path: Path, max_tokens: int) -> BitsPerByte:
    """Score the first `max_tokens` tokens of a file. sizes (V,): UTF-8 bytes of every token."""
    text = chat_text(path) if path.suffix == ".jsonl" else path.read_text(encoding="utf-8")
    ids = tokenizer.encode(text, special_tokens=False)[:max_tokens]
    width = variant.decoder.config.context
    nll_nats, scored, bytes_scored = 0.0, 0, 0
    for start in range(0, len(ids), width):
        chunk = torch.tensor(ids[start:start + width])
        if len(chunk) < 2:
            continue
        logits = variant.forward(chunk[None], None, last_only=False)[0, :-1]  # (T-1, V)
        nll_nats += float(F.cross_entropy(logits, chunk[1:], reduction="sum"))
        scored += len(chunk) - 1
        bytes_scored += int(sizes[chunk[1:]].sum())
    return BitsPerByte(path.name, nll_nats / math.log(2) / bytes_scored, bytes_scored, scored)


def token_bytes(folder: Path) -> Tensor:
    """UTF-8 bytes of every token, (V,). In a byte-level vocabulary each character of a token stands for one byte."""
    tokens = BytePairs.from_file(str(folder / "tokenizer.json"))
    return torch.tensor([len(tokens.id_to_token(i) or "") for i in range(tokens.get_vocab_size())])


def replies(session: Session) -> list[Reply]:
    """An answer to each of the fixed prompts, by the app's own generator with the settings that ship with the model."""
    sampling = Sampling(SAMPLING["temperature"], int(SAMPLING["top_k"]), SAMPLING["top_p"], 0.0,
                        SAMPLING["repetition_penalty"], MAX_NEW_TOKENS, seed=0)
    out: list[Reply] = []
    for group, prompts in PROMPTS.items():
        for prompt in prompts:
            text, steps = "", generate(session, session.tokenizer.render_chat([ChatMessage("user", prompt)]), sampling)
            while True:
                try:
                    step = next(steps)
                except StopIteration as done:
                    out.append(Reply(group, prompt, text, done.value.output_tokens, done.value.finish == "end"))
                    break
                text += step.piece.text if isinstance(step, NewToken) else ""
    return out


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
    """Score the model in `folder` under each recipe, print and write everything to `report` (JSON).

    The first recipe scores `max_tokens` of each file, the others an eighth of that, and `fp32` is scored again on the
    same eighth, so that they can be compared.
    """
    session = Session.open(folder, pick_device("cpu"))
    files = sorted(p for p in eval_dir.iterdir() if p.name != "SOURCE.txt")
    sizes = token_bytes(folder)
    whole: list[BitsPerByte] = []
    rows: list[dict[str, Any]] = []
    for recipe in RECIPES:
        variant = session.apply(parse_recipe(recipe))
        if not whole:
            whole = [bits_per_byte(variant, session.tokenizer, sizes, path, max_tokens) for path in files]
            for score in whole:
                print(f"{score.file}: {score.bits_per_byte:.3f} bits per byte over {score.bytes_scored} bytes")
        parts = [bits_per_byte(variant, session.tokenizer, sizes, path, max_tokens // 8) for path in files]
        said = replies(session)
        texts = [reply.text for reply in said]
        rows.append({"recipe": recipe, "weight_bytes": variant.report.weight_bytes,
                     "bits_per_byte": {score.file: score.bits_per_byte for score in parts},
                     "ended": sum(r.ended for r in said), "loops": sum(r.loops for r in said), "replies": len(said),
                     "distinct_1": distinct(texts, 1), "distinct_2": distinct(texts, 2),
                     "repeated_4gram_share": repeated_share(texts),
                     "texts": [asdict(r) for r in said]})
        print(json.dumps({k: v for k, v in rows[-1].items() if k != "texts"}), flush=True)
    for row in rows[0]["texts"]:
        print(f"[{row['group']}] > {row['prompt']}\n{row['text']}{'' if row['ended'] else ' [cut]'}\n")
    report.write_text(json.dumps({"bits_per_byte": [asdict(s) for s in whole], "recipes": rows}, indent=1),
                      encoding="utf-8")
