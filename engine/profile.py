"""Why it isn't faster: where the time of one token goes, measured on the active recipe.

Three measurements: tokens as they run, without a profiler; a few tokens under torch's profiler, which says how that
time divides between kinds of operators; and a reading test, which says how long the bytes of a token take at least.
"""

from __future__ import annotations

import os
import re
import statistics
import time
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import torch

from engine.kernels.linear import LinearKernel
from engine.kernels.native_step import NativeStep
from engine.messages import SpeedReport, TimeShare
from engine.models.cache import KVCache
from engine.models.devices import DeviceFacts
from engine.session import check_room
from engine.techniques import technique
from engine.techniques.base import BuildStep
from engine.techniques.zeroing import UNSTRUCTURED
from engine.variant import Variant
from engine.words import counted

MATMUL, ATTENTION, SMALL, REST = "matrix products", "attention", "small operators", "Python and the rest"
# By names of operators, and of kernels on a card. Only attention multiplies in batches (bmm): linear layers do not.
_ATTENTION_NAME = re.compile(r"attention|sdpa|softmax|flash|fmha|bmm")
_MATMUL_NAME = re.compile(r"linear|matmul|gemm|gemv|mkldnn|cutlass|nvjet|splitk|spmm|int[48]pack|"
                          r"(?<![a-z])(add)?mm(?![a-z])")
# What torch.compile writes: loops that carry the names of everything they fuse, and its own Python around them.
_FUSED_NAME = re.compile(r"triton_(poi|per|red|for)|cpp_fused|compiledfxgraph")
_PYTHON_NAME = re.compile(r"torchdynamo|torch-compiled region|aotdispatcher|pregraph bytecode")
_TIMED, _PROFILED = 24, 8
_LIMITED_BY_BYTES = 0.5  # of the bandwidth: products that read more slowly are held up by something else
_COMPILE_TICK_S = 0.1
_TEST_BYTES = 256 << 20  # far larger than any cache


def explain(variant: Variant, context: int) -> Generator[BuildStep, None, SpeedReport]:
    """Profile tokens after `context` others; yields (stage, done, total) between its parts.

    Raises DynoError where the cache for them does not fit. Where the recipe compiles its steps, the one for this depth
    is waited for.
    """
    config = variant.decoder.config
    context = max(1, min(context, config.context - 1))
    total = 4
    check_room(variant, variant.device, context + 1)
    yield "Measuring memory", 0, total
    threads = torch.get_num_threads()
    bandwidth = memory_bandwidth(variant.device.torch_name)
    ids = torch.arange(context, device=variant.device.torch_name)[None] % config.vocab_size  # (1, context)
    cache = variant.new_cache(context + 1)
    for start in range(0, context, 128):
        yield "Filling the cache", 1, total
        variant.forward(ids[:, start:start + 128], cache)
    yield from _until_compiled(variant, cache)
    yield "Timing tokens", 2, total
    token_s = _token_time(variant, cache, context)
    yield "Profiling tokens", 3, total
    operators = _profiled(variant, cache, context)
    weights = bytes_read(variant)
    cached = variant.report.kv_bytes_per_token * _positions_read(variant, cache, context)
    last_level = last_level_bytes(variant.device)
    shares = _shares(operators, token_s)
    floor_s = (weights + cached) / bandwidth
    top = sorted(operators.items(), key=lambda item: -item[1][0])[:8]
    return SpeedReport(
        recipe=variant.recipe.label, context=context, threads=threads, token_s=token_s, shares=shares,
        operators=tuple((name, seconds, calls) for name, (seconds, calls) in top), weight_bytes=weights,
        cache_bytes=cached, bandwidth=bandwidth, floor_s=floor_s, fits_cache=weights + cached <= last_level,
        findings=tuple(_findings(variant, cache, token_s, shares, weights, cached, bandwidth, last_level)))


def _until_compiled(variant: Variant, cache: KVCache) -> Generator[BuildStep, None, None]:
    """Wait until the compiled step for this cache is ready or has failed; nothing to do where none is asked for."""
    step = variant.compiled
    while step is not None and not step.settled(cache.capacity):
        step.begin(cache.capacity)
        step.wait(_COMPILE_TICK_S)
        yield "Compiling the token step", 1, 4


def _positions_read(variant: Variant, cache: KVCache, context: int) -> int:
    """Positions of the cache that a token's attention reads: a compiled step reads all there are, a window its own."""
    if variant.compiled is not None and variant.compiled.runs(cache.capacity):
        return cache.capacity
    c = variant.decoder.config
    return sum(min(context, c.window(layer) or context) for layer in range(c.n_layers)) // c.n_layers


def last_level_bytes(device: DeviceFacts) -> int:
    """Bytes of the cache nearest to memory, 0 where the system does not say. On a card, its L2."""
    if device.kind == "cuda":
        return int(torch.cuda.get_device_properties(device.index).L2_cache_size)
    found = [(0, 0)]
    for folder in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*") if device.kind == "cpu" else ():
        try:
            level, size = ((folder / name).read_text(encoding="ascii").strip() for name in ("level", "size"))
            found.append((int(level), int(size.rstrip("KM")) << {"K": 10, "M": 20}.get(size[-1:], 0)))
        except (OSError, ValueError):
            continue
    return max(found)[1]


def bytes_read(variant: Variant) -> int:
    """Bytes of weights that one token reads: every linear layer whole, and one row of the embedding."""
    layers = [m for m in variant.decoder.modules() if isinstance(m, LinearKernel)]
    linear = sum(dict(item for layer in layers for item in layer.memory()).values())
    return linear + 4 * variant.decoder.config.hidden_size


def memory_bandwidth(device: str) -> float:
    """Bytes/s of reading a tensor too large for any cache with the threads in use: the best of several passes.

    Measured anew each time: what memory gives depends on what else reads it, and on a shared machine that changes.
    """
    block = torch.ones(_TEST_BYTES // 4, device=device)
    best = 0.0
    for _ in range(6):
        _wait(device)
        started_s = time.perf_counter()
        torch.sum(block)
        _wait(device)
        best = max(best, _TEST_BYTES / (time.perf_counter() - started_s))
    return best


def _token_time(variant: Variant, cache: KVCache, context: int) -> float:
    """Median seconds of a token at this depth, without a profiler."""
    ids = torch.zeros(1, 1, dtype=torch.long, device=variant.device.torch_name)
    times = []
    for i in range(_TIMED + 4):
        cache.truncate(context)
        variant.device.synchronize()
        started_s = time.perf_counter()
        variant.step(ids, cache)
        variant.device.synchronize()
        if i >= 4:
            times.append(time.perf_counter() - started_s)
    return statistics.median(times)


def _profiled(variant: Variant, cache: KVCache, context: int) -> dict[str, tuple[float, int]]:
    """Operator -> (seconds of its own a token, calls a token)."""
    if isinstance(variant.token_step, NativeStep):
        return _native_parts(variant, variant.token_step, cache, context)
    # torch's profiler otherwise writes its start and stop on the terminal; it reads this when it first starts.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    from torch.profiler import ProfilerActivity, profile

    on_card = variant.device.kind == "cuda"
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if on_card else [ProfilerActivity.CPU]
    ids = torch.zeros(1, 1, dtype=torch.long, device=variant.device.torch_name)
    with profile(activities=activities) as profiler:
        for _ in range(_PROFILED):
            cache.truncate(context)
            variant.step(ids, cache)
        variant.device.synchronize()
    return own_times(profiler.key_averages(), on_card, _PROFILED)


def _native_parts(variant: Variant, step: NativeStep, cache: KVCache, context: int) -> dict[str, tuple[float, int]]:
    """The native step's own clock."""
    ids, before = torch.zeros(1, 1, dtype=torch.long), step.spent_ns
    step.timed = True
    try:
        for _ in range(_PROFILED):
            cache.truncate(context)
            variant.step(ids, cache)
    finally:
        step.timed = False
    layers = variant.decoder.config.n_layers
    # Norms and rotations before the products, softmax parts put together, and activations: five a layer, and the last.
    names = (("native matmul", len(variant.report.layers)), ("native attention", layers),
             ("native norms, rotations and activations", 5 * layers + 1))
    return {name: ((after - start) * 1e-9 / _PROFILED, calls)
            for (name, calls), after, start in zip(names, step.spent_ns, before, strict=True)}


def own_times(rows: Iterable[Any], on_card: bool, tokens: int) -> dict[str, tuple[float, int]]:
    """Name -> (seconds of its own a token, calls a token) from rows of key_averages().

    On a card these are its kernels. The operators that launched them bear the same time once more, and annotations
    span it all.
    """
    found = {}
    for row in rows:
        is_kernel = row.device_type.name != "CPU"
        own_us = row.self_device_time_total if on_card else row.self_cpu_time_total
        if own_us > 0 and is_kernel == on_card and not (on_card and row.is_user_annotation):
            found[row.key] = own_us * 1e-6 / tokens, max(1, round(row.count / tokens))
    return found


def _shares(operators: dict[str, tuple[float, int]], token_s: float) -> tuple[TimeShare, ...]:
    """The token's time divided. Where the profiler's own cost makes the parts exceed it, they are scaled to it."""
    sums = {MATMUL: [0.0, 0], ATTENTION: [0.0, 0], SMALL: [0.0, 0]}
    for name, (seconds, calls) in operators.items():
        if part_of(name) == REST:
            continue  # Python is what is left of the token's time
        part = sums[part_of(name)]
        part[0] += seconds
        part[1] += calls
    busy = sum(seconds for seconds, _ in sums.values())
    scale = min(1.0, token_s / busy) if busy else 1.0
    shares = [TimeShare(name, seconds * scale, int(calls)) for name, (seconds, calls) in sums.items()]
    return (*shares, TimeShare(REST, max(0.0, token_s - busy * scale), 0))


def part_of(operator: str) -> str:
    """The part of a token's time that an operator or kernel belongs to."""
    name = operator.lower()
    if _PYTHON_NAME.search(name):
        return REST
    if _ATTENTION_NAME.search(name):
        return ATTENTION
    return MATMUL if _MATMUL_NAME.search(name) and not _FUSED_NAME.search(name) else SMALL


def _findings(variant: Variant, cache: KVCache, token_s: float, shares: tuple[TimeShare, ...], weights: int,
              cached: int, bandwidth: float, last_level: int) -> list[str]:
    """Sentences that follow from the figures, the most important first."""
    floor_s = (weights + cached) / bandwidth
    parts = {share.part: share for share in shares}
    ratio = token_s / floor_s if floor_s else 0.0
    said = [f"A token reads {_size(weights + cached)}; at {bandwidth / 1e9:.1f} GB/s, measured here, that alone takes "
            f"{_time(floor_s)}. It takes {_time(token_s)}, {ratio:.1f} times as long."]
    if weights + cached <= last_level:
        said.append(f"That fits into the {_size(last_level)} of the last-level cache, which may give it "
                    "faster than memory: the floor is that of memory, and can be beaten.")
    compiled = variant.recipe.get("compile") is not None
    if variant.compiled is not None and not variant.compiled.runs(cache.capacity):
        said.append(f"The compiled step for a cache of {cache.capacity:,} tokens failed, so the uncompiled one was "
                    "measured.")
    biggest = max(shares, key=lambda share: share.seconds)
    share = 100 * biggest.seconds / token_s if token_s else 0.0
    matmul_s = parts[MATMUL].seconds
    if biggest.part == MATMUL and matmul_s:
        said.append(f"{share:.0f} % of it are matrix products, "
                    + about_products(weights / matmul_s, bandwidth, weights + cached <= last_level))
    elif biggest.part == ATTENTION:
        said.append(f"{share:.0f} % of it is attention over the cache. A shorter context or fewer key/value heads "
                    "help.")
    elif biggest.part == SMALL:
        what = "the small operators (norms, rotations, copies) that Compile has fused" if compiled else (
            f"{counted(biggest.calls, 'small operator')} (norms, rotations, copies)")
        said.append(f"{share:.0f} % of it are {what}. Fewer bytes do not make them faster"
                    + ("." if compiled else "; fusing them does: try Compile."))
    else:
        said.append(f"{share:.0f} % of it is Python between the operators. Fewer bytes do not make it faster; a larger "
                    "model hides it" + ("." if compiled else ", and Compile avoids some of it."))
    said += _about_recipe(variant, weights, parts, token_s)
    return said


def about_products(speed: float, bandwidth: float, in_cache: bool) -> str:
    """What their reading rate says. speed, bandwidth: bytes/s."""
    words = f"which read the weights at {speed / 1e9:.1f} GB/s"
    if in_cache:
        return (f"{words}, out of the processor's cache. Less work helps: fewer bits, or pruned neurons, heads or "
                "layers.")
    words += f", {100 * speed / bandwidth:.0f} % of what memory gives"
    if speed < _LIMITED_BY_BYTES * bandwidth:
        return f"{words}: their arithmetic and their calls take the time, not the bytes."
    return f"{words}. Fewer bytes help: fewer bits, or pruned neurons, heads or layers."


def _about_recipe(variant: Variant, weights: int, parts: dict[str, TimeShare], token_s: float) -> list[str]:
    """What the active techniques leave on the table, from the report of what engaged."""
    report, said = variant.report, []
    head = next((layer for layer in report.layers if layer.name == "head"), None)
    if head is not None and weights and head.nbytes / weights > 0.3:
        remedy = ("" if head.dtype in ("int8", "int4") else
                  " The quantization techniques leave it out unless asked: set their Output head.")
        said.append(f"The output head is {100 * head.nbytes / weights:.0f} % of the bytes.{remedy}")
    pruned = any(t.exclusive == UNSTRUCTURED for o in variant.recipe.options if (t := technique(o.key)) is not None)
    if pruned and report.sparsity > 0.05 and not any("sparse" in layer.kernel for layer in report.layers):
        said.append(f"{100 * report.sparsity:.0f} % of the block weights are zero, and the dense kernels multiply by "
                    "every one of them: unstructured pruning alone makes nothing faster.")
    if variant.context.autocast is not None:
        said.append("Autocast casts every weight again at every token. Precision casts once.")
    if variant.recipe.get("lookup") is not None:
        said.append("Prompt lookup is not in this: one token at a time was measured. What it brings depends on the "
                    "text and stands under each reply.")
    if report.placement:
        said.append(report.placement)
    if report.token_step:
        said.append(f"Single tokens: {report.token_step.removesuffix('.')}.")
    small_s = parts[SMALL].seconds + parts[REST].seconds
    if token_s and small_s / token_s > 0.35 and parts[MATMUL].seconds < 2 * small_s:
        said.append(f"{_time(small_s)} of each token do not depend on the number of bits, so no quantization can bring "
                    "it below that.")
    return said


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms" if seconds < 0.01 else f"{seconds * 1e3:.1f} ms"


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.1f} MB"
