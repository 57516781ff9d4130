"""What a row was measured on, and what disturbed it: facts, versions, other programs, battery, a card held back.

NVML is asked before and after a test, never in between. What cannot be had is None or left out, never guessed.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import platform
import subprocess
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

from engine.models.devices import DeviceFacts, find_devices
from engine.monitor.nvml import Card, NvmlSource
from engine.monitor.source import Tick

ROOT = Path(__file__).resolve().parent.parent.parent
BUSY_PERCENT = 10.0
"""Other programs above this share of the processor label a row."""
SLOW_CLOCK = 0.5
"""A processor below this share of its highest clock at the end of a test labels the row."""


def facts(device: DeviceFacts) -> dict[str, Any]:
    """The fields of a row that say what it ran on."""
    cpu = next(d.name for d in find_devices() if d.kind == "cpu")
    card = device.name if device.kind != "cpu" else ""
    return {"cpu_info": cpu, "gpu_info": card, "backends": _backends(device), "build_commit": commit(),
            "version": _version("gpt-dyno"), "torch_version": torch.__version__,
            "python_version": platform.python_version(), "os": platform.platform(),
            "memory_bytes": psutil.virtual_memory().total}


def _backends(device: DeviceFacts) -> str:
    if device.kind == "cuda":
        return f"CUDA {torch.version.cuda}" if torch.version.cuda else f"HIP {torch.version.hip}"
    return f"CPU {device.instruction_set}" if device.kind == "cpu" else "MPS"


@functools.cache
def commit() -> str:
    """The commit of the source tree, with "-dirty" where files differ from it; "" where there is no repository."""
    if not (ROOT / ".git").exists():
        return ""
    try:
        done = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=8", "--exclude=*"], cwd=ROOT,
                              capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


@functools.cache
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


@dataclass(frozen=True)
class Conditions:
    """What went on besides. other_cpu_percent: other programs' share of the processor, 0 to 100, None where unknown.

    notes: sentences on what disturbed the run, empty when nothing did. energy_j: the card's over the time watched.
    peak_rss_bytes: highest resident memory of the process meanwhile.
    """

    other_cpu_percent: float | None
    notes: tuple[str, ...]
    energy_j: float | None
    peak_rss_bytes: int
    gpu_peak_allocated_bytes: int | None = None
    gpu_peak_reserved_bytes: int | None = None

    @property
    def text(self) -> str:
        """"quiet", or the notes."""
        return "; ".join(self.notes) or "quiet"


class Machine:
    """The machine while a plan runs; close() gives NVML back."""

    def __init__(self, device: DeviceFacts) -> None:
        self._device = device
        self._nvml = NvmlSource() if device.kind == "cuda" else None
        self._card: Card | None = None
        if self._nvml is not None:
            self._nvml.sample(Tick(time.monotonic(), 0, quiet=True), _Nowhere())
            self._card = self._find_card()

    def _find_card(self) -> Card | None:
        """NVML's card for torch's device: the two count in different orders."""
        uuid = str(torch.cuda.get_device_properties(self._device.index).uuid).lower().removeprefix("gpu-")
        cards = self._nvml.cards if self._nvml is not None else ()
        return next((c for c in cards if c.info.uuid.lower().removeprefix("gpu-") == uuid), None)

    def close(self) -> None:
        """Give back what was opened."""
        if self._nvml is not None:
            self._nvml.close()

    def watch(self) -> Watch:
        """Begin to watch: peaks start anew."""
        return Watch(self._device, self._card)

    def energy_j(self) -> float | None:
        """Joules of the card so far, None where not offered."""
        return self._card.energy_j() if self._card is not None else None


class Watch:
    """From its making to end()."""

    def __init__(self, device: DeviceFacts, card: Card | None) -> None:
        self._device, self._card = device, card
        self._process = psutil.Process()
        self._resettable = _reset_peak()
        self._rss_bytes = int(self._process.memory_info().rss)
        if device.kind == "cuda":
            torch.cuda.reset_peak_memory_stats(device.index)
        self._before = self._times()
        self._started_s = time.perf_counter()
        self._energy_j = card.energy_j() if card is not None else None
        self._held_back: set[str] = set()
        self._look_at_card()

    def _times(self) -> tuple[float, float, float]:
        """(busy, all, ours) in processor seconds."""
        times = psutil.cpu_times()
        total_s = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        own = self._process.cpu_times()
        return total_s - times.idle - getattr(times, "iowait", 0.0), total_s, own.user + own.system

    def _look_at_card(self) -> None:
        if self._card is not None:
            self._card.sample(Tick(time.monotonic(), 1, quiet=True), _Nowhere())
            self._held_back |= set(self._card.throttle_reasons)

    def note(self) -> None:
        """Look again, between two runs: memory where the system keeps no peak, and what holds the card back."""
        self._rss_bytes = max(self._rss_bytes, int(self._process.memory_info().rss))
        self._look_at_card()

    def end(self) -> Conditions:
        """What went on."""
        self.note()
        busy_s, all_s, own_s = (b - a for a, b in zip(self._before, self._times(), strict=True))
        other = 100 * min(1.0, max(0.0, busy_s - own_s) / all_s) if all_s > 0.2 else None
        notes = []
        if other is not None and other > BUSY_PERCENT:
            notes.append(f"busy: other programs used {other:.0f} % of the processor")
        notes += [f"the card was held back: {reason}" for reason in sorted(self._held_back)]
        notes += _power_notes()
        energy_j = self._card.energy_j() if self._card is not None else None
        used_j = energy_j - self._energy_j if energy_j is not None and self._energy_j is not None else None
        cuda = self._device.kind == "cuda"
        return Conditions(other, tuple(notes), used_j, max(self._rss_bytes, _peak() if self._resettable else 0),
                          torch.cuda.max_memory_allocated(self._device.index) if cuda else None,
                          torch.cuda.max_memory_reserved(self._device.index) if cuda else None)


def _power_notes() -> list[str]:
    """Battery, and a processor well below its own clock; systems that do not tell are taken as they are."""
    notes = []
    with contextlib.suppress(Exception):  # drivers of batteries raise what they like
        battery = psutil.sensors_battery()
        if battery is not None and not battery.power_plugged:
            notes.append(f"on battery ({battery.percent:.0f} %)")
    with contextlib.suppress(Exception):
        clock = psutil.cpu_freq()
        if clock is not None and clock.max and clock.current and clock.current < SLOW_CLOCK * clock.max:
            notes.append(f"the processor ran at {clock.current:.0f} of {clock.max:.0f} MHz")
    return notes


def _reset_peak() -> bool:
    """Start the system's peak of resident memory anew (Linux 4.0: "5" to clear_refs); whether it could be."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return _peak() > 0
    except OSError:
        return False


def _peak() -> int:
    """Peak of resident memory, bytes, since the reset; 0 where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    return 0


class _Nowhere:
    """A sink for readings of which only the card's own state is wanted."""

    def put(self, key: str, t_s: float, value: float) -> None:
        """Nothing is kept."""


def free_memory(device: DeviceFacts) -> None:
    """Give back what a failed or finished recipe held."""
    gc.collect()
    if device.kind == "cuda":
        torch.cuda.empty_cache()
