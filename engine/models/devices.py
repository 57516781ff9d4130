"""CPU, CUDA and MPS behind one small face.

`DeviceFacts` says what a device can do and is free of torch, so that the window and the techniques can reason about it.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import psutil

from engine.native.library import library, missing_reason

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DeviceFacts:
    """What the techniques need to know about a device.

    kind: "cpu", "cuda" or "mps". instruction_set: PyTorch's name for the CPU level in use ("AVX512", "AVX2", ...).
    native: the instruction set of the native token step, "" where there is none; native_missing: why there is none.
    int8_kernels: fast products of 8-bit integers. spill: devices that take the layers for which this one has no room.
    memory_bytes: all there is. free_bytes_override: for tests of what does not fit.
    """

    kind: str
    name: str
    memory_bytes: int
    index: int = 0
    cores: int = 1
    instruction_set: str = ""
    native: str = ""
    native_missing: str = ""
    packed_linear: bool = False
    int8_kernels: bool = False
    int8_weight_kernel: bool = False
    int4_kernel: bool = False
    bf16: bool = True
    fp16: bool = True
    tf32: bool = False
    fp8: bool = False
    sparse24: bool = False
    compiler: bool = False
    free_bytes_override: int | None = None
    spill: tuple[DeviceFacts, ...] = ()

    @property
    def torch_name(self) -> str:
        """The device string torch understands."""
        return f"cuda:{self.index}" if self.kind == "cuda" else self.kind

    def free_bytes(self) -> int:
        """Memory that can be allocated now without swapping, in bytes."""
        if self.free_bytes_override is not None:
            return self.free_bytes_override
        if self.kind == "cuda":
            import torch

            return int(torch.cuda.mem_get_info(self.index)[0])
        return int(psutil.virtual_memory().available)

    def synchronize(self) -> None:
        """Wait until the device has finished; call before every time stamp. Nothing to do on a CPU."""
        if self.kind == "cuda":
            import torch

            torch.cuda.synchronize(self.index)
        elif self.kind == "mps":
            import torch

            torch.mps.synchronize()


def find_devices() -> tuple[DeviceFacts, ...]:
    """Every usable device, the one to prefer first. Loads torch."""
    import torch

    found: list[DeviceFacts] = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            level = (properties.major, properties.minor)
            nvidia = torch.version.hip is None
            found.append(DeviceFacts("cuda", properties.name, properties.total_memory, index,
                                     cores=properties.multi_processor_count, bf16=level >= (8, 0),
                                     tf32=nvidia and level >= (8, 0), int4_kernel=nvidia and level >= (8, 0),
                                     fp8=nvidia and level >= (8, 9), sparse24=nvidia and level >= (8, 0),
                                     compiler=_finds("triton") and has_compiler()))
    if torch.backends.mps.is_available():
        found.append(DeviceFacts("mps", "Apple GPU", psutil.virtual_memory().total))
    found.append(_cpu())
    return tuple(found)


def pick_device(name: str | None = None) -> DeviceFacts:
    """The device called `name` ("cpu", "cuda", "cuda:1", "mps"), or the preferred one. Raises DynoError.

    A card that was not asked for by its number gives what it has no room for to other cards and the processor.
    """
    from engine.errors import DynoError

    devices = find_devices()
    if name in (None, devices[0].kind):
        return with_spill(devices)
    for device in devices:
        if name in (device.kind, device.torch_name):
            return device
    raise DynoError(f"There is no device {name!r} on this machine.",
                    f"Choose one of: {', '.join(d.torch_name for d in devices)}.")


def with_spill(devices: tuple[DeviceFacts, ...]) -> DeviceFacts:
    """The first device, the others behind it where their memory is not its own."""
    first = devices[0]
    return replace(first, spill=devices[1:]) if first.kind == "cuda" else first


def _cpu() -> DeviceFacts:
    import torch

    native = library()
    return DeviceFacts(
        kind="cpu", name=_cpu_name(), memory_bytes=psutil.virtual_memory().total, cores=usable_cores(),
        instruction_set=torch.backends.cpu.get_cpu_capability(),
        packed_linear=bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
        and _has_packed_ops(),
        native=native.name if native is not None else "", native_missing=missing_reason(),
        # Without VNNI, pairs of 8-bit products overflow 16 bits in oneDNN's kernels.
        int8_kernels=bool(torch.cpu._is_vnni_supported()),
        int8_weight_kernel=hasattr(torch.ops.aten, "_weight_int8pack_mm"),
        int4_kernel=hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu"), compiler=has_compiler(),
    )


def has_compiler() -> bool:
    """Whether torch.compile would find a C++ compiler."""
    named = os.environ.get("CXX")
    return any(shutil.which(name) for name in ((named,) if named else ("g++", "clang++", "cl")))


def _finds(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def usable_cores() -> int:
    """Physical cores this process may run on."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


def _has_packed_ops() -> bool:
    import torch

    namespace = torch.ops.mkldnn
    return hasattr(namespace, "_linear_pointwise") and hasattr(namespace, "_reorder_linear_weight")


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        import platform

        return platform.processor() or platform.machine()


def with_free_bytes(device: DeviceFacts, free_bytes: int) -> DeviceFacts:
    """The same device, said to have `free_bytes` left."""
    return replace(device, free_bytes_override=free_bytes)


def torch_dtype(name: str) -> torch.dtype:
    """fp32, bf16 or fp16 as torch writes it."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
