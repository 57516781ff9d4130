"""What this machine offers the engine, and what is missing and why: the report behind `main.py doctor`."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from typing import Any

import psutil

from engine.models.devices import DeviceFacts, find_devices
from engine.monitor.monitor import Monitor
from engine.techniques import all_techniques
from engine.techniques.base import Options, Technique, cases

_PACKAGES = ("torch", "PySide6-Essentials", "pyqtgraph", "numpy", "safetensors", "tokenizers", "transformers",
             "nvidia-ml-py", "psutil")


def doctor_report() -> dict[str, Any]:
    """Versions, devices, kernels, techniques by device with reasons, and the GPU driver, as plain JSON data."""
    devices = find_devices()
    monitor = Monitor()
    monitor.sample_now()
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "memory_bytes": psutil.virtual_memory().total,
        "gpu_monitoring": monitor.gpu_unavailable_reason or f"NVML, driver {monitor.driver_version}",
        "devices": [_device(device) for device in devices],
    }


def doctor_text(report: dict[str, Any]) -> str:
    """The report as lines for a terminal."""
    lines = [f"Python {report['python']} on {report['platform']}, {report['memory_bytes'] / 1e9:.1f} GB of memory", ""]
    lines += [f"  {name:20} {version or 'not installed'}" for name, version in report["packages"].items()]
    lines += ["", f"GPU monitoring: {report['gpu_monitoring']}"]
    for device in report["devices"]:
        lines += ["", f"{device['name']} ({device['device']}, {device['memory_bytes'] / 1e9:.1f} GB)"]
        lines += [f"  kernels   {text}" for text in device["kernels"]]
        for row in device["techniques"]:
            mark = "yes" if row["available"] else "no "
            lines.append(f"  {mark}  {row['label']}{': ' + row['reason'] if row['reason'] else ''}")
    return "\n".join(lines)


def _device(device: DeviceFacts) -> dict[str, Any]:
    return {"device": device.torch_name, "name": device.name, "memory_bytes": device.memory_bytes,
            "cores": device.cores, "kernels": _kernels(device),
            "techniques": [_availability(t, name, o, device) for t in all_techniques() for name, o in cases(t)]}


def _kernels(device: DeviceFacts) -> list[str]:
    if device.kind != "cpu":
        return ["F.linear (the device's own library)"]
    packed = "available" if device.packed_linear else "missing from this PyTorch"
    int8 = "available" if device.int8_kernels else "none that this processor runs fast"
    others = ", ".join(t.label for t in all_techniques() if t.own_step)
    native = f"{device.native}; not with {others}" if device.native else f"missing. {device.native_missing}"
    return [f"native token step: {native}",
            f"PyTorch's instruction set: {device.instruction_set}",
            f"oneDNN packed weights, fp32 and bf16: {packed}", f"oneDNN int8 products: {int8}",
            f"aten int8 weight-only: {'available' if device.int8_weight_kernel else 'missing from this PyTorch'}",
            f"aten int4 weight-only: {'available' if device.int4_kernel else 'missing from this PyTorch'}",
            f"C++ compiler for torch.compile: {'found' if device.compiler else 'none found'}"]


def _availability(technique: Technique, case: str, options: Options, device: DeviceFacts) -> dict[str, Any]:
    verdict = technique.available(options, device, None)
    return {"technique": technique.key, "label": f"{technique.label} {case}".strip(), "available": verdict.ok,
            "reason": verdict.reason}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
