"""The token step through torch.compile, made in the background while the decoder answers.

The step has fixed shapes: one token over a cache of one capacity. A capacity is compiled when it is first met; until
that is done, and for more than one row, the plain decoder runs. On a card the step is replayed as a CUDA graph.
"""

from __future__ import annotations

import threading
import time
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from engine.kernels.token_step import DecoderStep
from engine.models.gpt import Decoder, KVCache

_MODES = {("cpu", "default"): "default", ("cpu", "tuned"): "max-autotune-no-cudagraphs",
          ("cuda", "default"): "reduce-overhead", ("cuda", "tuned"): "max-autotune"}


class CompiledStep:
    """Compiles on a thread of its own; `told` is called there whenever `state` or `error` changed.

    state: "waiting", "compiling", "ready" or "failed". compile_s: seconds the newest capacity took.
    """

    def __init__(self, decoder: Decoder, device: str, mode: str, context: Callable[[], Any],
                 new_cache: Callable[[int], KVCache]) -> None:
        self._decoder, self._plain = decoder, DecoderStep(decoder)
        self._device, self._mode = device, _MODES[device.partition(":")[0], mode]
        self._context, self._new_cache = context, new_cache
        self._ready: dict[tuple[int, int], Callable[..., Tensor]] = {}  # by capacity and number of threads
        self._thread: threading.Thread | None = None
        self._begun_s = 0.0
        self.state, self.error, self.compile_s = "waiting", "", 0.0
        self.told: Callable[[], None] = lambda: None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the compilation in progress began."""
        return time.perf_counter() - self._begun_s

    def begin(self, capacity: int) -> None:
        """Compile for this capacity, unless that is done, under way, or has failed."""
        if (capacity, torch.get_num_threads()) in self._ready or self.state in ("failed", "compiling"):
            return
        self.state, self._begun_s = "compiling", time.perf_counter()
        self._thread = threading.Thread(target=self._compile, args=(capacity, torch.get_num_threads()),
                                        name="compile", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until the compilation under way has ended (headless use and tests)."""
        if self._thread is not None:
            self._thread.join()

    def __call__(self, ids: Tensor, cache: KVCache) -> Tensor:
        """Logits (1, T, V): compiled for one token where that is ready, plain otherwise."""
        run = self._ready.get((cache.capacity, torch.get_num_threads())) if ids.shape[1] == 1 else None
        if run is None:
            self.begin(cache.capacity)
            return self._plain(ids, cache)
        try:
            logits = run(ids, cache, cache.length)
        except Exception as error:  # whatever the compiled code trips over, the reply goes on without it
            del self._ready[cache.capacity, torch.get_num_threads()]
            self._fail(error)
            return self._plain(ids, cache)
        cache.length += 1
        return logits

    def _compile(self, capacity: int, threads: int) -> None:
        try:
            torch.set_num_threads(threads)  # a guard of the compiled code, and set for each thread apart
            run = self._made(capacity)
            cache = self._new_cache(capacity)
            ids = torch.zeros(1, 1, dtype=torch.long, device=self._device)
            with torch.inference_mode(), self._context():
                for at in range(min(3, capacity)):  # the first compiles, the second records a graph, the third replays
                    run(ids, cache, at)
        except Exception as error:
            self._fail(error)
            return
        self.compile_s = self.elapsed_s
        self._ready[capacity, threads] = run
        self.state = "ready"
        self.told()

    def _made(self, capacity: int) -> Callable[..., Tensor]:
        decoder = self._decoder
        rope = None
        if decoder.positions is None:
            like = torch.empty(0, dtype=decoder.norm.weight.dtype, device=self._device)
            rope = decoder.rope_tables(like, capacity)
        # The compiler counts recompilations by code object, so each capacity gets one of its own.
        code = _entry.__code__.replace(co_name=f"token_step_{capacity}")
        entry = types.FunctionType(code, globals())
        compiled = torch.compile(entry, mode=self._mode, dynamic=False, fullgraph=True)
        positions = torch.arange(capacity, device=self._device)

        def run(ids: Tensor, cache: KVCache, at: int) -> Tensor:
            return compiled(decoder, ids, cache, positions[at:at + 1], rope)  # type: ignore[no-any-return]

        return run

    def _fail(self, error: Exception) -> None:
        lines = [line.strip() for line in str(error).splitlines()]
        # torch puts "backend='inductor' raised:" before what went wrong.
        first = next((line for line in lines if line and not line.endswith("raised:")), type(error).__name__)
        self.state, self.error = "failed", first[:300]
        self.told()


def _entry(decoder: Decoder, ids: Tensor, cache: KVCache, at: Tensor, rope: tuple[Tensor, Tensor] | None) -> Tensor:
    return decoder.fixed_step(ids, cache, at, rope)
