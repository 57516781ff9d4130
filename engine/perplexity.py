"""Perplexity in fixed chunks, as llama.cpp's llama-perplexity defines it.

Disjoint chunks of `context` tokens; the first token of each is replaced by BOS where the tokenizer adds one by itself;
the last half of each chunk is scored. PPL = exp(mean NLL), sigma(PPL) = PPL sqrt((E[x^2] - E[x]^2) / (n - 1)).
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Sequence

import torch

from engine.errors import DynoError
from engine.messages import PerplexityResult
from engine.models.tokenizer import Tokenizer, check_ids
from engine.variant import Variant
from engine.words import counted

_PIECE = 128
_SHORTEST = 4


def perplexity(variant: Variant, tokenizer: Tokenizer, ids: Sequence[int], context: int,
               chunks: int | None = None) -> Generator[tuple[int, int], None, PerplexityResult]:
    """Score a text, yielding (done, total) in tokens between pieces of a chunk. Raises DynoError for a short text."""
    config = variant.decoder.config
    if context < _SHORTEST or (chunks is not None and chunks < 1):
        raise DynoError(f"Perplexity needs chunks of {_SHORTEST} tokens or more, and one chunk or more.",
                        "Choose a context such as 512, and no limit of chunks to score the whole text.")
    check_ids(ids, config.vocab_size)
    context = min(context, config.context)
    count = len(ids) // context
    if count == 0:
        raise DynoError(f"The text is {counted(len(ids), 'token')} long; one chunk needs {context:,}.",
                        "Choose a longer text or a smaller context.")
    count = min(count, chunks) if chunks else count
    started_s = time.perf_counter()
    bos = config.bos_id if tokenizer.adds_bos else None
    losses: list[torch.Tensor] = []
    scored_bytes = 0
    for chunk in range(count):
        part = list(ids[chunk * context:(chunk + 1) * context])
        if bos is not None:
            part[0] = bos
        losses.append((yield from _chunk_nll(variant, part, chunk * context, count * context)))
        scored_bytes += len(tokenizer.decode(part[context // 2 + 1:]).encode())
    nll = torch.cat(losses)  # (n,) fp64
    mean = float(nll.mean())
    sigma_mean = float(nll.std(unbiased=False)) / math.sqrt(max(1, nll.numel() - 1))
    value = math.exp(min(mean, 700.0))
    return PerplexityResult(value, value * sigma_mean, float(nll.sum()) / math.log(2) / max(1, scored_bytes),
                            nll.numel(), time.perf_counter() - started_s, variant.recipe.label)


def _chunk_nll(variant: Variant, part: list[int], done: int,
               total: int) -> Generator[tuple[int, int], None, torch.Tensor]:
    """NLL of the chunk's scored tokens, (context - context/2 - 1,) fp64. Pieces keep each step short."""
    first = len(part) // 2
    ids = torch.tensor([part], device=variant.device.torch_name)  # (1, context)
    cache = variant.new_cache(len(part))
    losses = []
    for start in range(0, len(part), _PIECE):
        end = min(start + _PIECE, len(part))
        logits = variant.forward(ids[:, start:end], cache, last_only=end <= first)[0]  # (T or 1, V)
        yield done + end, total
        begin, last = max(start, first), min(end, len(part) - 1)
        if begin < last:
            targets = ids[0, begin + 1:last + 1]
            rows = logits[begin - start:last - start]
            losses.append(torch.nn.functional.cross_entropy(rows, targets, reduction="none").cpu().double())
    return torch.cat(losses)
