"""Run by the NVML tests in a process of its own, over the fake library: real pynvml, real monitor, JSON out.

argv[1]: a JSON list of steps; each may hold "env" (variables to set first), "quiet" and "ticks" (default 1).
Prints a JSON list with what a reader of the monitor sees after each step. NaN comes out as null.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import sys
from typing import Any

from engine.monitor import Monitor
from engine.monitor.nvml import make_source

COUNTED = ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetPowerUsage", "nvmlDeviceGetTemperature")


def observe(monitor: Monitor) -> dict[str, Any]:
    infos = [info for info in monitor.series() if info.device.startswith("gpu")]
    latest = {info.key: monitor.latest(info.key) for info in infos}
    return {
        "latest": {key: None if math.isnan(value) else value for key, value in latest.items()},
        "points": {info.key: len(monitor.snapshot(info.key)[0]) for info in infos},
        "reasons": {info.key: info.reason_missing for info in infos},
        "scales": {info.key: info.full_scale for info in infos},
        "notes": monitor.notes(),
        "unavailable": monitor.gpu_unavailable_reason,
        "driver": monitor.driver_version,
        "cards": [vars(card) for card in monitor.cards()],
        "energy_j": [monitor.energy_j(card) for card in range(3)],
        "throttle": monitor.throttle_reasons(0),
        "second_by_uuid": monitor.device_for_uuid("0000-1"),
        "calls": count_calls(),
    }


def count_calls() -> dict[str, int]:
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
        return {name: library.fake_nvml_calls(name.encode()) for name in COUNTED}
    except (OSError, AttributeError):
        return {}


def main() -> None:
    source = make_source()
    monitor = Monitor(sources=[source])
    seen, now_s = [], 100.0
    for step in json.loads(sys.argv[1]):
        os.environ.update(step.get("env", {}))
        monitor.set_quiet(step.get("quiet", False))
        for _ in range(step.get("ticks", 1)):
            monitor.sample_now(now_s)
            now_s += 0.5
        seen.append(observe(monitor))
    source.close()
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
