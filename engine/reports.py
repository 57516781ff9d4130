"""What the engine says of a model, of its techniques and of its work: frozen results without tensors.

Every figure names its unit and what was counted. How they travel between the threads is in engine/messages.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.chat_messages import Sampling
from engine.recipe import Recipe


@dataclass(frozen=True)
class ModelInfo:
    """The loaded model. parameters: number of weights. file_bytes: size of the weights on disk.

    unavailable: (technique key, or "key:dtype" for one of its dtypes; the reason it cannot run on this device).
    reasons_first: its chat template opens a block of reasoning, so that every reply begins inside one.
    """

    name: str
    folder: str
    architecture: str
    parameters: int
    context: int
    stored_dtype: str
    file_bytes: int
    device: str
    device_name: str
    threads: int
    chat_template: bool
    sampling: Sampling
    unavailable: tuple[tuple[str, str], ...] = ()
    reasons_first: bool = False


@dataclass(frozen=True)
class LayerReport:
    """One linear layer as it now runs. shape (rows, columns); sparsity: share of zeros; nbytes: memory it holds;
    shared: its memory is another layer's (tied); error: change of the weight against the master, relative, in the
    Frobenius norm."""

    name: str
    shape: tuple[int, int]
    dtype: str
    sparsity: float
    nbytes: int
    kernel: str
    shared: bool = False
    error: float = 0.0


@dataclass(frozen=True)
class TechniqueReport:
    """What one technique did. Bytes are those of the whole model's weights before and after it, so they chain from one
    technique to the next. build_s: time that building spent on it; kernels: (kernel, number of layers that run it) of
    the layers whose kernel is its choice."""

    key: str
    label: str
    engaged: bool
    layers_touched: int
    bytes_before: int
    bytes_after: int
    detail: str
    build_s: float = 0.0
    kernels: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class EngagedReport:
    """What really runs, as allocated. weight_bytes: live storages, shared ones once. baseline_bytes: the same model in
    fp32. sparsity: share of zeros in the block layers. mapped_bytes: the embedding's, where its rows are read from the
    model's file and take no memory of their own. context: longest sequence, in tokens.
    token_step: on a CPU, how single tokens are computed, and why not natively; "" on other devices.
    placement: which layers lie where, "" where one device holds them all."""

    recipe: Recipe
    techniques: tuple[TechniqueReport, ...]
    layers: tuple[LayerReport, ...]
    weight_bytes: int
    baseline_bytes: int
    kv_bytes_per_token: int
    cache_dtype: str
    sparsity: float
    build_s: float
    from_cache: bool = False
    mapped_bytes: int = 0
    context: int = 0
    token_step: str = ""
    placement: str = ""

    @property
    def kernels(self) -> tuple[tuple[str, int], ...]:
        """(kernel, number of layers it runs), the most used first."""
        counts: dict[str, int] = {}
        for layer in self.layers:
            counts[layer.kernel] = counts.get(layer.kernel, 0) + 1
        return tuple(sorted(counts.items(), key=lambda item: -item[1]))


@dataclass(frozen=True)
class PerplexityResult:
    """perplexity = exp(mean NLL) over `tokens` scored tokens, sigma its standard error, bits_per_byte over the UTF-8
    bytes scored."""

    perplexity: float
    sigma: float
    bits_per_byte: float
    tokens: int
    elapsed_s: float
    recipe: str


@dataclass(frozen=True)
class TimeShare:
    """One part of a token's time. part: "matrix products", "attention", "small operators" or "Python and the rest"."""

    part: str
    seconds: float
    calls: int


@dataclass(frozen=True)
class SpeedReport:
    """Where the time of one token goes, measured on the active recipe.

    token_s: a token's time without the profiler. shares: its parts, which add up to it. operators: those that took
    most, as (name, seconds a token, calls a token). weight_bytes, cache_bytes: read for a token after `context` tokens.
    bandwidth: bytes/s that this machine's memory gave in a reading test with `threads` threads. floor_s: reading those
    bytes at that bandwidth, which no kernel can beat unless the bytes fit into the last-level cache (fits_cache).
    findings: sentences computed from all this, the most important
    first.
    """

    recipe: str
    context: int
    threads: int
    token_s: float
    shares: tuple[TimeShare, ...]
    operators: tuple[tuple[str, float, int], ...]
    weight_bytes: int
    cache_bytes: int
    bandwidth: float
    floor_s: float
    findings: tuple[str, ...]
    fits_cache: bool = False

    @property
    def tokens_per_s(self) -> float:
        """1 / token_s."""
        return 1.0 / self.token_s if self.token_s > 0 else 0.0


@dataclass(frozen=True)
class GenerationStats:
    """One reply. ttft_s: request to first token. tpot_s: (end to end - ttft) / (tokens - 1), 0 for one token.

    cached_tokens: prompt tokens that were already in the KV cache. perplexity: exp(mean NLL) of the chosen tokens: how
    sure the model was, not how good. finish: "end", "length", "context", "stop string" or "stopped". drafted_tokens,
    accepted_tokens: proposed by prompt lookup, and found right. model: its name, "" in what older versions wrote.
    pace_tokens_per_s: what it was held back to, 0 for nothing; tpot_s does not count the waiting, elapsed_s does.
    """

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    ttft_s: float
    tpot_s: float
    elapsed_s: float
    perplexity: float
    seed: int
    finish: str
    recipe: str
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    pace_tokens_per_s: float = 0.0
    model: str = ""

    @property
    def tokens_per_s(self) -> float:
        """1 / TPOT: the time before the first token never dilutes it. 0 where fewer than two tokens came."""
        return 1.0 / self.tpot_s if self.tpot_s > 0 else 0.0


@dataclass(frozen=True)
class TokenPiece:
    """One generated token: the text it completed, its probability under the model, and the likeliest tokens."""

    text: str
    token_id: int
    probability: float
    alternatives: tuple[tuple[str, float], ...] = ()
