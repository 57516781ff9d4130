"""Which NVML call yields which number, with its unit: one line per series of a card.

Each reader takes the pynvml module and a card's handle and returns a number in the series' unit, or raises. Where
several are listed, the next one is asked when a driver does not know the one before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil  # type: ignore[import-untyped, unused-ignore]

from engine.monitor.nvml_library import NO_VALUE, NoReading, explain
from engine.monitor.series import Group

Reader = Callable[[Any, Any], float]

_NOT_AVAILABLE = (0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF)
"""NVML_VALUE_NOT_AVAILABLE as 32 and 64 bits: success, and yet no value (WSL, virtual GPUs)."""

NOT_LISTED = (
    "This program is not in the card's list of processes: it holds no memory there, or a container hides it."
)
FOREIGN_PIDS = "The card's list of processes has the numbers from outside this container, so ours is not found in it."
NO_PROCESS_BYTES = "The driver does not tell the memory per process here (as under Windows and WSL)."

THROTTLE_TEXT = {
    0x004: "power limit",
    0x008: "hardware slowdown",
    0x020: "temperature limit (software)",
    0x040: "temperature limit (hardware)",
    0x080: "power supply brake",
    0x200: "board limit",
    0x400: "voltage reliability limit",
}
"""Bits of nvmlDeviceGetCurrentClocksEventReasons that mean slower than the card could; idling and clocks that
somebody set are none of them."""


@dataclass(frozen=True)
class Metric:
    """name: the series' key after "gpu0_". dear: only every fourth tick, and never while timing."""

    name: str
    label: str
    unit: str
    group: Group
    readers: tuple[Reader, ...]
    dear: bool = False


def number(value: Any) -> float:
    """The value as a float; raises NoReading where NVML's marker for "not available" stands in its place."""
    if value is None or int(value) in _NOT_AVAILABLE:
        raise NoReading(NO_VALUE)
    return float(value)


def _event_reasons(nv: Any, handle: Any) -> float:
    return number(nv.nvmlDeviceGetCurrentClocksEventReasons(handle))


def _throttle_reasons(nv: Any, handle: Any) -> float:
    return number(nv.nvmlDeviceGetCurrentClocksThrottleReasons(handle))  # the name before driver 535


def throttle_texts(bits: int) -> tuple[str, ...]:
    """Plain English for the bits that mean the card is held back; empty when it is not."""
    return tuple(text for bit, text in THROTTLE_TEXT.items() if bits & bit)


def process_memory_bytes(nv: Any, handle: Any, pid: int) -> float:
    """Bytes process `pid` holds on the card.

    A process that computes and draws is in both lists with the same memory, so the larger entry counts, never the
    sum; the parts of a card split by MIG do add up. Raises NoReading with the reason where the process is not found,
    or NVMLError where the list of computing processes cannot be had.
    """
    processes = [*_processes(nv, handle, "Compute"), *_graphics_processes(nv, handle)]
    by_instance: dict[tuple[Any, Any], float] = {}
    for process in processes:
        if process.pid != pid:
            continue
        if process.usedGpuMemory is None:
            raise NoReading(NO_PROCESS_BYTES)
        instance = (process.gpuInstanceId, process.computeInstanceId)
        by_instance[instance] = max(by_instance.get(instance, 0.0), float(process.usedGpuMemory))
    if by_instance:
        return sum(by_instance.values())
    if processes and not any(psutil.pid_exists(process.pid) for process in processes):
        raise NoReading(FOREIGN_PIDS)
    raise NoReading(NOT_LISTED)


def _graphics_processes(nv: Any, handle: Any) -> list[Any]:
    """The list of drawing processes, empty where the driver keeps none: models are in the other list anyway."""
    try:
        return _processes(nv, handle, "Graphics")
    except Exception as error:
        if explain(error).lost:
            raise
        return []


def _processes(nv: Any, handle: Any, kind: str) -> list[Any]:
    """Entries with pid, usedGpuMemory (bytes or None), gpuInstanceId, computeInstanceId; drivers before 510 know v2.

    The versions are named because pynvml's unversioned function raises NVMLLibraryMismatchError on older drivers.
    """
    try:
        return list(getattr(nv, f"nvmlDeviceGet{kind}RunningProcesses_v3")(handle))
    except Exception as error:
        if not explain(error).try_another:
            raise
    return list(getattr(nv, f"nvmlDeviceGet{kind}RunningProcesses_v2")(handle))


def card_metrics(pid: int) -> tuple[Metric, ...]:
    """Every series of a card, for the process `pid`."""
    return (
        Metric("memory_used", "GPU memory in use, all programs", "B", "memory", (
            lambda nv, handle: number(nv.nvmlDeviceGetMemoryInfo(handle, nv.nvmlMemory_v2).used),
            lambda nv, handle: number(nv.nvmlDeviceGetMemoryInfo(handle).used),  # counts the driver's reserve in
        )),
        Metric("process_memory", "GPU memory, this program", "B", "memory",
               (lambda nv, handle: process_memory_bytes(nv, handle, pid),), dear=True),
        Metric("utilisation", "GPU utilisation", "%", "utilisation",
               (lambda nv, handle: number(nv.nvmlDeviceGetUtilizationRates(handle).gpu),)),
        Metric("power", "GPU power", "W", "power",
               (lambda nv, handle: number(nv.nvmlDeviceGetPowerUsage(handle)) / 1e3,)),  # from milliwatts
        Metric("temperature", "GPU temperature", "°C", "temperature", (
            lambda nv, handle: number(nv.nvmlDeviceGetTemperature(handle, nv.NVML_TEMPERATURE_GPU)),
            lambda nv, handle: number(nv.nvmlDeviceGetTemperatureV(handle, nv.NVML_TEMPERATURE_GPU)),
        )),
        Metric("sm_clock", "GPU clock", "MHz", "clocks",
               (lambda nv, handle: number(nv.nvmlDeviceGetClockInfo(handle, nv.NVML_CLOCK_SM)),)),
        Metric("memory_clock", "GPU memory clock", "MHz", "clocks",
               (lambda nv, handle: number(nv.nvmlDeviceGetClockInfo(handle, nv.NVML_CLOCK_MEM)),)),
        Metric(THROTTLE, "GPU held back (power, heat)", "on/off", "clocks", (_event_reasons, _throttle_reasons)),
    )


THROTTLE = "throttled"
"""Its readers yield the bits; the card turns them into 0 or 1 and keeps the words."""


def energy_mj(nv: Any, handle: Any) -> float:
    """Millijoules the card used since its driver was loaded (Volta and newer); raises where not offered."""
    return number(nv.nvmlDeviceGetTotalEnergyConsumption(handle))
