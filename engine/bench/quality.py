"""How well recipes predict a text, and how far they are from a base recipe, in one pass over the text.

Perplexity in fixed chunks is llama.cpp's llama-perplexity: disjoint chunks, the first token replaced by BOS where the
tokenizer adds one by itself, the last half scored, sigma(PPL) = PPL sqrt((E[x^2] - E[x]^2) / (n - 1)). With a stride it
is Transformers' documented recipe. KL(base || recipe) = sum p (log p - log q), in nats a token.

Logits exist for a block of rows only, and only for rows that are scored; sums are kept, not tokens. Both models run the
same windows in turn, so nothing is written down in between.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from engine.bench.statistics import Ratio, normal_ratio
from engine.bench.texts import TextFile
from engine.bench.windows import Counted, Window, fixed_windows, strided_windows
from engine.errors import DynoError
from engine.measurements import QualityTest
from engine.messages import PerplexityResult
from engine.models.devices import torch_dtype
from engine.models.tokenizer import Tokenizer, check_ids
from engine.variant import Variant

PERCENTS = (99.9, 99.0, 95.0, 90.0, 50.0, 10.0, 5.0, 1.0, 0.1)
KEPT = 1 << 20
"""Percentiles are exact up to this many tokens; beyond, they are those of a random sample of so many."""
_LOGIT_BYTES = 64 << 20  # fp32 logits that exist at one time, for each model
_DENSE_BYTES = 8 << 20  # of them, worked on together: stays in the processor's caches
# Arithmetic of one forward pass, so that a stop is heeded within a second or so: 2 FLOP a weight and row.
_FLOP = {"cpu": 2e11, "mps": 2e12, "cuda": 5e13}
_ROWS = {"cpu": (128, 1024), "mps": (128, 4096), "cuda": (512, 16384)}


class ScoringFailed(Exception):
    """One of several recipes that read a text together failed; index: which one. Its own error is the cause."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


@contextmanager
def _named(index: int, of: int) -> Iterator[None]:
    """Where there are several recipes, an error says whose it is."""
    try:
        yield
    except Exception as error:
        if of == 1:
            raise
        raise ScoringFailed(index) from error


@dataclass(frozen=True)
class Divergence:
    """How far a recipe is from the base, token by token.

    kl_error: standard error of the mean. kl, dp: (percent, value) for PERCENTS; dp is the change of the correct token's
    probability. same_top: share of tokens with the same likeliest token. ratio: of the perplexities; the runs are
    paired, so the covariance is in its interval. samples: tokens behind the percentiles.
    """

    kl_mean: float
    kl_error: float
    kl_max: float
    kl: tuple[tuple[float, float], ...]
    dp_mean: float
    dp_rms: float
    dp: tuple[tuple[float, float], ...]
    same_top: float
    ratio: Ratio
    samples: int


@dataclass(frozen=True)
class Score:
    """One recipe on a text. perplexity +- sigma over `tokens` scored tokens in `chunks` windows. run_tokens: all that
    went through the model; elapsed_s: the time this model took for it. divergence: None for the base itself."""

    perplexity: float
    sigma: float
    bits_per_byte: float
    tokens: int
    chunks: int
    run_tokens: int
    elapsed_s: float
    divergence: Divergence | None = None


ScoreSteps = Generator[tuple[int, int], None, tuple[Score, ...]]


def perplexity(variant: Variant, tokenizer: Tokenizer, ids: Sequence[int], context: int,
               chunks: int | None = None) -> Generator[tuple[int, int], None, PerplexityResult]:
    """Score token ids in fixed chunks, yielding (done, total) in tokens. Raises DynoError for a short text."""
    if chunks is not None and chunks < 1:
        raise DynoError("Perplexity needs one chunk or more.", "Give no limit of chunks to score the whole text.")
    test = QualityTest(context=context, chunks=chunks or 0)
    started_s = time.perf_counter()
    size = min(context, variant.decoder.config.context)
    score, = yield from score_ids((variant,), tokenizer, [list(ids)], test, len(ids) // size * size)
    return PerplexityResult(score.perplexity, score.sigma, score.bits_per_byte, score.tokens,
                            time.perf_counter() - started_s, variant.recipe.label)


def score_text(variants: Sequence[Variant], tokenizer: Tokenizer, text: TextFile, test: QualityTest) -> ScoreSteps:
    """Score a file with one or several recipes, the first of which is the base of the others. Raises DynoError for a
    text that cannot be scored, and ScoringFailed for what one of several recipes raises."""
    lead = [tokenizer.encode("")[:1]] if tokenizer.adds_bos else []

    def lists() -> Iterator[list[int]]:
        yield from lead
        yield from tokenizer.encode_stream(text.pieces())

    return score_ids(variants, tokenizer, lists(), test, 0, text)


def score_ids(variants: Sequence[Variant], tokenizer: Tokenizer, lists: Iterable[list[int]], test: QualityTest,
              total: int, text: TextFile | None = None) -> ScoreSteps:
    """Score ids that come in lists, BOS included. total: tokens of all windows for progress, 0 to estimate them."""
    base = variants[0]
    config = base.decoder.config
    context = min(test.context, config.context)
    ids, sizes = Counted(lists), np.asarray(tokenizer.token_bytes(), dtype=np.int64)
    bos = config.bos_id if tokenizer.adds_bos else None
    windows = (strided_windows(ids, context, test.stride) if test.stride
               else fixed_windows(ids, context, bos))
    sums = [_Sums(i > 0) for i in range(len(variants))]
    total = min(total or test.chunks * context, test.chunks * context or total)
    rows, done, scored_bytes, seen_bytes, chunks = _rows(base), 0, 0, 0, 0
    for batch in _batches(windows, rows, test.chunks):
        size = len(batch[0].ids)
        for window in batch:
            check_ids(window.ids, config.vocab_size)
            known = np.asarray(window.ids)
            scored_bytes += _bytes(sizes, known[window.scored:])
            seen_bytes += _bytes(sizes, known[window.scored:] if test.stride else known)
        chunks += len(batch)
        tensor = torch.tensor([window.ids for window in batch], device=base.device.torch_name)  # (B, T)
        streams: list[Tensor] = []
        for index, (variant, one) in enumerate(zip(variants, sums, strict=True)):
            parts, stream = _streams(variant, tensor, batch[0].scored - 1, rows), None
            while stream is None:
                begun_s = time.perf_counter()
                with _named(index, len(variants)):
                    stream, ran = next(parts)
                    variant.device.synchronize()
                one.elapsed_s += time.perf_counter() - begun_s
                at = done + (len(streams) * tensor.numel() + ran) // len(variants)
                yield at, max(total, at) if total else _estimate(at, seen_bytes, text)
            streams.append(stream)
        _score_batch(variants, streams, tensor[:, batch[0].scored:].flatten(), batch, sums)
        done += size * len(batch)
    if not chunks:
        raise DynoError(f"The text is {ids.count:,} tokens long; one chunk needs {3 if test.stride else context:,}.",
                        "Choose a longer text or a smaller context.")
    yield done, done
    return tuple(one.score(scored_bytes, chunks, done, sums[0]) for one in sums)


def _bytes(sizes: NDArray[np.int64], ids: NDArray[np.int64]) -> int:
    return int(sizes[ids[ids < len(sizes)]].sum())


def _estimate(done: int, seen_bytes: int, text: TextFile | None) -> int:
    """Tokens of the whole text, by what its beginning has shown."""
    return max(done, round(done * text.size_bytes / max(1, seen_bytes))) if text is not None else done


def _rows(variant: Variant) -> int:
    """Rows of one forward pass: a rule of the model's size and the device, the same for every recipe."""
    low, high = _ROWS[variant.device.kind]
    wanted = _FLOP[variant.device.kind] / (2 * variant.report.baseline_bytes / 4)
    return min(high, max(low, 1 << int(math.log2(max(1.0, wanted)))))


def _batches(windows: Iterator[Window], rows: int, limit: int) -> Iterator[list[Window]]:
    """Windows of one shape together, as many as `rows` tokens hold, one at least."""
    batch: list[Window] = []
    for number, window in enumerate(windows):
        if limit and number == limit:
            break
        alike = batch and (len(batch[0].ids), batch[0].scored) == (len(window.ids), window.scored)
        if batch and not (alike and (len(batch) + 1) * len(window.ids) <= rows):
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _streams(variant: Variant, ids: Tensor, first: int, rows: int) -> Iterator[tuple[Tensor | None, int]]:
    """Run ids (B, T) in parts of at most `rows` rows; (what the head reads of tokens `first` to T - 2, (B n, D), or
    None before the end; tokens run)."""
    batch, length = ids.shape
    decoder = variant.decoder
    part = max(1, rows // batch)
    computed = variant.context.autocast or decoder.dtype
    plain = part >= length and variant.cache_dtype != "int8" and torch_dtype(variant.cache_dtype) == computed
    cache = None if plain else variant.plain_cache(length, batch)
    kept: list[Tensor] = []
    for start in range(0, length, part):
        end = min(start + part, length)
        with torch.inference_mode(), variant.context():
            stream = decoder.stream(ids[:, start:end], cache, last_only=end <= first)  # (B, t, D)
        begin, last = max(first, start), min(end, length - 1)
        if begin < last:
            kept.append(stream[:, begin - start:last - start])
        yield torch.cat(kept, dim=1).flatten(0, 1) if end == length else None, end * batch


@torch.inference_mode()
def _score_batch(variants: Sequence[Variant], streams: list[Tensor], targets: Tensor, batch: list[Window],
                 sums: list[_Sums]) -> None:
    """Add a batch to the sums. streams: (N, D) of each variant; targets: (N,)."""
    vocabulary = variants[0].decoder.config.vocab_size
    block = max(16, _LOGIT_BYTES // (4 * vocabulary))
    dense = max(1, _DENSE_BYTES // (4 * vocabulary))
    found: list[list[Tensor]] = [[] for _ in variants]
    versus: list[list[Tensor]] = [[] for _ in variants]
    for start in range(0, len(targets), block):
        labels = targets[start:start + block]
        logits = []
        for index, (variant, stream, one, nlls) in enumerate(zip(variants, streams, sums, found, strict=True)):
            begun_s = time.perf_counter()
            with _named(index, len(variants)), variant.context():
                rows = variant.decoder.logits(stream[None, start:start + block])[0].float()  # (R, V)
            nlls.append(torch.cat([F.cross_entropy(x, y, reduction="none") for x, y in
                                   zip(_parts(rows, dense), _parts(labels, dense), strict=True)]))
            variant.device.synchronize()
            one.elapsed_s += time.perf_counter() - begun_s
            logits.append(rows)
        for other in range(1, len(variants)):
            versus[other].append(divergences(logits[0], logits[other], dense))
    base = torch.cat(found[0]).cpu().double().numpy()
    weights = np.array([window.weight for window in batch], dtype=np.float64)
    for i, one in enumerate(sums):
        nll = torch.cat(found[i]).cpu().double().numpy()
        one.add(nll, weights)
        if i:
            kl, same = torch.cat(versus[i], dim=1).cpu().double().numpy()
            one.compare(nll, base, kl, same)


def divergences(base: Tensor, other: Tensor, dense: int = 64) -> Tensor:
    """(2, R): KL(base || other) and whether the likeliest token is the same, for fp32 logits (R, V) twice,
    `dense` rows at a time.

    sum p (q/p - 1 - log q/p) equals the KL, both summing to 1; no term is negative, so what rounding makes of the
    normalisers does not cover a small divergence, and equal logits give exactly 0.
    """
    found = []
    for x, y in zip(_parts(base, dense), _parts(other, dense), strict=True):
        p = torch.log_softmax(x, dim=-1)
        change = torch.log_softmax(y, dim=-1).sub_(p)  # log q/p
        excess = change.clamp(max=80.0).expm1_().sub_(change)
        kl = (p.exp_() * excess).sum(dim=-1)
        found.append(torch.stack((kl, (x.argmax(dim=-1) == y.argmax(dim=-1)).float())))
    return torch.cat(found, dim=1)


def _parts(tensor: Tensor, rows: int) -> tuple[Tensor, ...]:
    return tensor.split(rows)  # type: ignore[no-untyped-call, no-any-return]


class _Sums:
    """What is kept of the tokens of one recipe."""

    def __init__(self, compares: bool) -> None:
        self.elapsed_s = 0.0
        self._count = self._chunks = 0
        self._nll = self._squares = self._weighted = self._weights = 0.0
        self._versus = _Versus() if compares else None

    def add(self, nll: NDArray[np.float64], weights: NDArray[np.float64]) -> None:
        """nll (B n,) of a batch; weights (B,) of its windows."""
        self._count += len(nll)
        self._nll += float(nll.sum())
        self._squares += float(np.square(nll).sum())
        self._weighted += float(nll.reshape(len(weights), -1).mean(axis=1) @ weights)
        self._weights += float(weights.sum())

    def compare(self, nll: NDArray[np.float64], base: NDArray[np.float64], kl: NDArray[np.float64],
                same: NDArray[np.float64]) -> None:
        """The same tokens against the base's."""
        assert self._versus is not None
        self._versus.add(nll, base, kl, same)

    def score(self, scored_bytes: int, chunks: int, run_tokens: int, base: _Sums) -> Score:
        """The sums as a result."""
        mean = self._nll / self._count
        if not math.isfinite(mean):
            raise DynoError("The model gave no numbers for the text, so it has no perplexity.",
                            "Choose bf16 or fp32 in place of fp16, or fewer techniques.")
        spread = max(0.0, self._squares / self._count - mean * mean)
        value = math.exp(min(self._weighted / self._weights, 700.0))
        divergence = None
        if self._versus is not None:
            log_ratio = self._weighted / self._weights - base._weighted / base._weights
            divergence = self._versus.divergence(log_ratio)
        return Score(value, value * math.sqrt(spread / max(1, self._count - 1)),
                     self._nll / math.log(2) / max(1, scored_bytes), self._count, chunks, run_tokens, self.elapsed_s,
                     divergence)


class _Versus:
    """Sums and a sample of what sets one recipe apart from the base."""

    def __init__(self) -> None:
        self._count = 0
        self._kl = self._kl_squares = self._same = self._dp = self._dp_squares = self._dnll = self._dnll_squares = 0.0
        self._kl_max = 0.0
        self._sample = np.empty((2, KEPT))  # memory is taken as it fills
        self._random = np.random.default_rng(0)

    def add(self, nll: NDArray[np.float64], base: NDArray[np.float64], kl: NDArray[np.float64],
            same: NDArray[np.float64]) -> None:
        """Tokens (n,) of both."""
        dp, dnll = np.exp(-nll) - np.exp(-base), nll - base
        self._kl += float(kl.sum())
        self._kl_squares += float(np.square(kl).sum())
        self._kl_max = max(self._kl_max, float(kl.max()))
        self._same += float(same.sum())
        self._dp += float(dp.sum())
        self._dp_squares += float(np.square(dp).sum())
        self._dnll += float(dnll.sum())
        self._dnll_squares += float(np.square(dnll).sum())
        self._keep(np.stack((kl, dp)))
        self._count += len(kl)

    def _keep(self, fresh: NDArray[np.float64]) -> None:
        """Everything at first; then a token takes a random one's place with the chance that keeps all equally likely
        (reservoir sampling: Vitter, 1985)."""
        filled = min(KEPT, self._count)
        first, rest = fresh[:, :KEPT - filled], fresh[:, KEPT - filled:]
        self._sample[:, filled:filled + first.shape[1]] = first
        if rest.shape[1]:
            numbers = self._count + first.shape[1] + np.arange(rest.shape[1])
            places = (self._random.random(rest.shape[1]) * (numbers + 1)).astype(np.int64)
            chosen = places < KEPT
            self._sample[:, places[chosen]] = rest[:, chosen]

    def divergence(self, log_ratio: float) -> Divergence:
        """The sums as a result."""
        n = self._count
        variance = max(0.0, self._dnll_squares / n - (self._dnll / n) ** 2) * n / max(1, n - 1)
        kl, dp = (np.percentile(values, PERCENTS) for values in self._sample[:, :n])
        return Divergence(
            self._kl / n, math.sqrt(max(0.0, self._kl_squares / n - (self._kl / n) ** 2) / max(1, n - 1)), self._kl_max,
            tuple(zip(PERCENTS, map(float, kl), strict=True)), self._dp / n,
            math.sqrt(self._dp_squares / n), tuple(zip(PERCENTS, map(float, dp), strict=True)), self._same / n,
            normal_ratio(log_ratio, math.sqrt(variance / n), n), min(n, KEPT))
