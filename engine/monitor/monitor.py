"""The monitor: one thread that samples every source, rings that hold what it saw, and the questions about them.

Who writes what: the sampler thread writes the sources' rings; `record` and `mark` come from the engine and take a small
lock, as they are rare; `count_tokens` and `observe_nll` come with every token and only append to a deque.
All times are time.monotonic() seconds.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from engine.monitor.csv_export import to_csv
from engine.monitor.nvml import CardInfo, NvmlSource
from engine.monitor.ring import DEFAULT_CAPACITY, FloatArray, Ring
from engine.monitor.series import Marker, SeriesInfo
from engine.monitor.source import Source, Tick, discover_sources
from engine.monitor.supervised import Supervised
from engine.monitor.throughput import ThroughputSource
from engine.monitor.torch_memory import TorchMemory, TorchMemorySource

MARKER_LIMIT = 1024
NOT_RECORDED = "Nothing has been measured for this yet."
PROBE = SeriesInfo("probe_perplexity", "Quality probe (perplexity)", "", "perplexity", "model", NOT_RECORDED)


class Monitor:
    """Samples every `interval_s` seconds once started; may be stopped and started again.

    interval_s: 0.25 to 1 is sensible (NVML wants 1 to 4 Hz); raises ValueError when not above 0.
    sources: what to sample besides tokens and torch memory; None finds all there are. clock: seconds, for tests.
    capacity: points kept per series. The constructor is cheap; drivers are opened on the thread.
    """

    def __init__(
        self,
        interval_s: float = 0.5,
        *,
        sources: Sequence[Source] | None = None,
        clock: Callable[[], float] = time.monotonic,
        capacity: int = DEFAULT_CAPACITY,
    ) -> None:
        if not interval_s > 0.0:
            raise ValueError(f"the sampling interval must be above 0 seconds, not {interval_s}")
        self.interval_s = interval_s
        self._clock = clock
        self._capacity = capacity
        self._throughput = ThroughputSource(interval_s)
        self._torch_memory = TorchMemorySource()
        found, self._setup_problems = discover_sources() if sources is None else (list(sources), [])
        self._sources = [Supervised(source) for source in (*found, self._throughput, self._torch_memory)]
        self._nvml = next((source for source in found if isinstance(source, NvmlSource)), None)
        self._sampled: tuple[SeriesInfo, ...] = ()
        self._notes: tuple[str, ...] = ()
        self._rings: dict[str, Ring] = {}
        self._lock = threading.Lock()  # record, declare, mark: rare, and never taken by the sampler
        self._recorded: dict[str, SeriesInfo] = {}
        self._markers: deque[Marker] = deque(maxlen=MARKER_LIMIT)
        self._quiet = False
        self._ticks = 0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.declare(PROBE)

    # The thread

    def start(self) -> None:
        """Begin sampling on a thread named "monitor". Raises RuntimeError when it runs already."""
        if self._thread is not None:
            raise RuntimeError("the monitor runs already")
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=False)
        self._thread.start()

    def stop(self) -> None:
        """End sampling and wait for the thread, a tick's work at most; does nothing when it does not run.

        What was seen stays readable. The thread is not a daemon: without this call the process does not end.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._stopping.set()
        thread.join()

    def set_quiet(self, quiet: bool) -> None:
        """True while something is timed: only cheap calls are made. Any thread."""
        self._quiet = quiet

    def sample_now(self, t_s: float | None = None) -> None:
        """Take one sample at `t_s` (now, when None) on the caller's thread: for tests, and for use without `start`.

        Raises RuntimeError while the monitor's thread runs, as a ring has one writer.
        """
        if self._thread is not None:
            raise RuntimeError("the monitor's own thread samples; call stop() first")
        self._sample(self._clock() if t_s is None else t_s)

    def _run(self) -> None:
        due_s = self._clock()
        try:
            while not self._stopping.wait(max(0.0, due_s - self._clock())):
                now_s = self._clock()
                self._sample(now_s)
                due_s += self.interval_s
                if due_s <= self._clock():  # late: leave the missed ticks out rather than catch up in a burst
                    due_s = self._clock() + self.interval_s
        finally:
            for supervised in self._sources:
                supervised.close()

    def _sample(self, now_s: float) -> None:
        tick = Tick(now_s, self._ticks, self._quiet)
        self._ticks += 1
        for supervised in self._sources:
            supervised.sample(tick, self)
        self._sampled = tuple(info for supervised in self._sources for info in supervised.infos)
        notes = [note for supervised in self._sources for note in supervised.notes]
        self._notes = tuple(dict.fromkeys([*self._setup_problems, *notes]))

    def put(self, key: str, t_s: float, value: float) -> None:
        """Sink for the sources; sampler thread only."""
        ring = self._rings.get(key)
        if ring is None:
            ring = self._rings[key] = Ring(self._capacity)
        ring.append(t_s, value)

    # What is there: any thread

    def series(self) -> tuple[SeriesInfo, ...]:
        """Every series known so far; grows when a source finds something, and reasons come and go."""
        with self._lock:
            return self._sampled + tuple(self._recorded.values())

    def snapshot(self, key: str, since_s: float = -math.inf) -> tuple[FloatArray, FloatArray]:
        """Copies of times (s) and values, each (n,), with NaN for gaps; empty for a key not known yet."""
        ring = self._rings.get(key)
        return ring.snapshot(since_s) if ring is not None else Ring(1).snapshot()

    def latest(self, key: str) -> float:
        """The newest value in the series' unit; NaN in a gap, and for a key not known yet."""
        ring = self._rings.get(key)
        return ring.latest() if ring is not None else math.nan

    def notes(self) -> tuple[str, ...]:
        """Why things are missing, a sentence each; empty before the first sample and when nothing is."""
        return self._notes

    def markers(self, since_s: float = -math.inf) -> tuple[Marker, ...]:
        """Markers at or after `since_s`, oldest first."""
        with self._lock:
            markers = tuple(self._markers)
        return tuple(sorted((marker for marker in markers if marker.t_s >= since_s), key=lambda marker: marker.t_s))

    def to_csv(self, since_s: float = -math.inf) -> str:
        """Everything at or after `since_s` as a table; see csv_export."""
        infos = self.series()
        return to_csv(infos, [self.snapshot(info.key, since_s) for info in infos], self.markers(since_s))

    # What the engine says: any thread

    def mark(self, label: str, t_s: float | None = None, job: bool = False) -> None:
        """Mark the moment `t_s` (now, when None) of a switch, or of a job's beginning; the oldest of over 1024 goes."""
        marker = Marker(self._clock() if t_s is None else t_s, label, job)
        with self._lock:
            self._markers.append(marker)

    def declare(self, info: SeriesInfo) -> None:
        """Announce a series that `record` will fill. Raises ValueError when a source or an earlier call has the key."""
        with self._lock:
            if info.key in self._rings:
                raise ValueError(f"there is a series {info.key!r} already")
            self._rings[info.key] = Ring(self._capacity)
            self._recorded[info.key] = info

    def record(self, key: str, t_s: float, value: float) -> None:
        """Add a point to a declared series. Raises KeyError for any other: sampled series have their own writer."""
        with self._lock:
            if key not in self._recorded:
                raise KeyError(f"no series {key!r} was declared; call declare() first")
            self._rings[key].append(t_s, value)
            if self._recorded[key].reason_missing is not None and not math.isnan(value):
                self._recorded[key] = replace(self._recorded[key], reason_missing=None)

    def count_tokens(self, n: int, t_s: float) -> None:
        """`n` tokens came out at `t_s`. `n` = 0 starts the clock: call it so at a reply's first token.

        Costs about 0.1 µs and never waits.
        """
        self._throughput.tokens.append((n, t_s))

    def observe_nll(self, nll_sum: float, n: int) -> None:
        """The negative log likelihood, in nats, of `n` tokens the model chose. Costs about 0.1 µs and never waits."""
        self._throughput.nll.append((nll_sum, n))

    def set_torch_memory(self, read: Callable[[], TorchMemory | None] | None) -> None:
        """Give the callable that tells torch's memory per device: {"gpu0": {"reserved": B, "allocated": B}}, or None.

        It is called on the sampler thread at every tick, so it must be cheap and take no lock the engine holds.
        """
        self._torch_memory.read = read

    # About the cards: any thread

    def cards(self) -> tuple[CardInfo, ...]:
        """The NVIDIA cards found so far; empty before the first sample."""
        return tuple(card.info for card in self._nvml.cards) if self._nvml else ()

    @property
    def gpu_unavailable_reason(self) -> str | None:
        """Why no card is shown, one quiet sentence; None when there are cards or before the first sample."""
        return self._nvml.unavailable_reason if self._nvml else None

    @property
    def driver_version(self) -> str | None:
        """Of the NVIDIA driver, None where unknown."""
        return self._nvml.driver_version if self._nvml else None

    def device_for_uuid(self, uuid: str) -> str | None:
        """"gpu0" for the card with this uuid, with or without "GPU-": torch numbers cards in an order of its own."""
        wanted = uuid.lower().removeprefix("gpu-")
        return next((card.device for card in self.cards() if card.uuid.lower().removeprefix("gpu-") == wanted), None)

    def energy_j(self, card: int = 0) -> float | None:
        """Joules the card used since its driver was loaded, None where not offered; differences are what counts."""
        return self._nvml.energy_j(card) if self._nvml else None

    def throttle_reasons(self, card: int = 0) -> tuple[str, ...]:
        """What held the card back at the last tick ("power limit"), empty when nothing did or it is unknown."""
        cards = self._nvml.cards if self._nvml else ()
        return cards[card].throttle_reasons if 0 <= card < len(cards) else ()
