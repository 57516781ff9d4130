"""The token step through torch.compile, made in the background while the decoder answers.

The step has fixed shapes: one token over a cache of one capacity. A capacity is compiled when it is first met; until
that is done, and for more than one row, the plain decoder runs. On a card the compiled step is captured as a CUDA graph
by the thread that replays it, at its first token over a cache: torch's own capture (mode "reduce-overhead") keeps its
graphs apart for each thread, and leaves out functions that write into their arguments, as this one does into the cache.
"""

from __future__ import annotations

import threading
import time
import types
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from engine.kernels.token_step import DecoderStep
from engine.leaving import COMPILING
from engine.models.cache import KVCache
from engine.models.gpt import Decoder
from engine.models.rope import Turn

_MODES = {"default": "default", "tuned": "max-autotune-no-cudagraphs"}
_CAPTURING = ("cuda",)  # kinds of device with graphs
_WARM_UPS = 3  # runs before a capture, as PyTorch's notes on CUDA graphs advise

Key = tuple[int, int]  # capacity and number of threads
Run = Callable[[Tensor, KVCache, int], Tensor]
Step = Callable[[Tensor, KVCache, Tensor], Tensor]


class CompiledStep:
    """Compiles on a thread of its own; `told` is called there whenever `state` or `error` changed.

    Each capacity is ready or has failed for itself. compile_s: seconds the newest one that is ready took.
    """

    def __init__(self, decoder: Decoder, device: str, mode: str, context: Callable[[], Any],
                 new_cache: Callable[[int], KVCache]) -> None:
        self._decoder, self._plain = decoder, DecoderStep(decoder)
        self._device, self._mode, self._captures = device, _MODES[mode], device.startswith(_CAPTURING)
        self._context, self._new_cache = context, new_cache
        self._ready: dict[Key, Run] = {}
        self._failed: dict[Key, str] = {}
        self._compiling: Key | None = None
        self._thread: threading.Thread | None = None
        self._begun_s = 0.0
        self.compile_s = 0.0
        self.told: Callable[[], None] = lambda: None

    @property
    def state(self) -> str:
        """"compiling" while it is; else "ready" where a capacity is, "failed" where only failures are; or "waiting"."""
        if self._compiling is not None:
            return "compiling"
        return "ready" if self._ready else "failed" if self._failed else "waiting"

    @property
    def error(self) -> str:
        """Why the last capacity that failed did so; empty where none has."""
        return next(reversed(self._failed.values()), "")

    @property
    def failed_capacity(self) -> int:
        """The capacity that `error` is about, 0 where none has failed."""
        return next(reversed(self._failed), (0, 0))[0]

    @property
    def elapsed_s(self) -> float:
        """Seconds since the compilation in progress began."""
        return time.perf_counter() - self._begun_s

    def begin(self, capacity: int) -> None:
        """Compile for this capacity, unless that is done, under way, or has failed."""
        key = capacity, torch.get_num_threads()
        if key in self._ready or key in self._failed or self._compiling is not None:
            return
        self._compiling, self._begun_s = key, time.perf_counter()
        self._thread = threading.Thread(target=self._compile, args=key, name=COMPILING, daemon=True)
        self._thread.start()

    def runs(self, capacity: int) -> bool:
        """Whether compiled code answers for this capacity, with the threads in use."""
        return (capacity, torch.get_num_threads()) in self._ready

    def settled(self, capacity: int) -> bool:
        """Whether it does, or never will."""
        return self.runs(capacity) or (capacity, torch.get_num_threads()) in self._failed

    def wait(self, timeout_s: float | None = None) -> None:
        """Until the compilation under way has ended, or the time is over."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def __call__(self, ids: Tensor, cache: KVCache) -> Tensor:
        """Logits (1, T, V): compiled for one token where that is ready, plain otherwise."""
        key = cache.capacity, torch.get_num_threads()
        run = self._ready.get(key) if ids.shape[1] == 1 else None
        if run is None:
            self.begin(cache.capacity)
            return self._plain(ids, cache)
        try:
            logits = run(ids, cache, cache.length)
        except Exception as error:  # whatever the compiled code trips over, the reply goes on without it
            del self._ready[key]
            self._fail(key, error)
            return self._plain(ids, cache)
        cache.length += 1
        return logits

    def _compile(self, capacity: int, threads: int) -> None:
        try:
            torch.set_num_threads(threads)  # a guard of the compiled code, and set for each thread apart
            step = self._made(capacity)
            cache = self._new_cache(capacity)
            ids = torch.zeros(1, 1, dtype=torch.long, device=self._device)
            positions = torch.arange(capacity, device=self._device)

            def run(ids: Tensor, cache: KVCache, at: int) -> Tensor:
                return step(ids, cache, positions[at:at + 1])

            with torch.inference_mode(), self._context():
                for at in range(min(3, capacity)):  # the first compiles
                    run(ids, cache, at)
        except Exception as error:
            self._fail((capacity, threads), error, over=True)
            return
        self.compile_s = self.elapsed_s
        self._ready[capacity, threads] = Replayed(step, positions) if self._captures else run
        self._compiling = None
        self.told()

    def _made(self, capacity: int) -> Step:
        decoder = self._decoder
        turns = decoder.rope_tables(torch.empty(0, dtype=decoder.dtype, device=self._device), capacity)
        # The compiler counts recompilations by code object, so each capacity gets one of its own.
        code = _entry.__code__.replace(co_name=f"token_step_{capacity}")
        entry = types.FunctionType(code, globals())
        compiled = torch.compile(entry, mode=self._mode, dynamic=False, fullgraph=True)

        def step(ids: Tensor, cache: KVCache, at: Tensor) -> Tensor:
            return compiled(decoder, ids, cache, at, turns)  # type: ignore[no-any-return]

        return step

    def _fail(self, key: Key, error: Exception, over: bool = False) -> None:
        """Remember why. over: the compilation under way is that one, and has ended; only then may another begin."""
        lines = [line.strip() for line in str(error).splitlines()]
        # torch puts "backend='inductor' raised:" before what went wrong.
        first = next((line for line in lines if line and not line.endswith("raised:")), type(error).__name__)
        self._failed[key] = first[:300]
        if over:
            self._compiling = None
        self.told()


def _entry(decoder: Decoder, ids: Tensor, cache: KVCache, at: Tensor, turns: tuple[Turn, ...]) -> Tensor:
    return decoder.fixed_step(ids, cache, at, turns)


class Replayed:
    """A step captured once for a cache and replayed for each of its tokens; another cache is captured anew.

    Called with ids (1, 1), a cache and a position, it gives logits (1, 1, V). The cache is known by a weak reference: a
    graph must not keep the memory of a conversation that is over.
    """

    def __init__(self, step: Step, positions: Tensor) -> None:
        self._step, self._positions = step, positions  # (C,)
        self._ids = torch.zeros(1, 1, dtype=torch.long, device=positions.device)
        self._at = torch.zeros_like(positions[:1])  # (1,)
        self._cache: Callable[[], KVCache | None] = lambda: None
        self._replay: Callable[[], Tensor] | None = None

    def __call__(self, ids: Tensor, cache: KVCache, at: int) -> Tensor:
        """Logits (1, 1, V) of one token."""
        self._ids.copy_(ids)
        self._at.copy_(self._positions[at:at + 1])
        if self._replay is None or self._cache() is not cache:
            self._replay = None  # its memory goes before the new graph takes its own
            self._replay = capture(lambda: self._step(self._ids, cache, self._at), self._ids.device)
            self._cache = weakref.ref(cache)
        return self._replay().clone()  # the next replay writes over what this one gave


def capture(run: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """Capture what `run` launches as a CUDA graph; calling the result launches it again and gives the same tensor.

    Running a token again before the capture changes nothing: the same keys and values are written to the same place.
    Source of the steps: PyTorch's notes, "CUDA semantics", CUDA graphs.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device):
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                run()
        torch.cuda.current_stream().wait_stream(side)
        # Another capacity may be compiling on its thread: what that one calls must not spoil this capture.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            made = run()

    def replay() -> Tensor:
        graph.replay()
        return made

    return replay
