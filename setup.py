"""Builds the native token step, engine/native/libdyno, where a C++ compiler is at hand. Everything else is in
pyproject.toml. Without a compiler the installation succeeds and the app runs on PyTorch alone.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

FOLDER = "engine/native/src"
SOURCES = ("step", "layer", "team", "portable", "avx2", "avx512", "neon")
# Not .so, which Python would take for a module of its own.
NAME = {"win32": "dyno.dll", "darwin": "libdyno.dylib"}.get(sys.platform, "libdyno.so.1")
# Sums must not depend on which of two products a compiler fuses, so it fuses none.
COMMON = ["-std=c++17", "-O3", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-pthread",
          "-g0", "-Wno-uninitialized", "-Wno-maybe-uninitialized"]  # gcc 12 warns of its own intrinsics
# Each instruction set is a file of its own, compiled for it and called only where the machine has it.
X86 = {"avx2": ["-mavx2", "-mfma", "-mf16c"],
       "avx512": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mfma", "-mf16c"]}
ARM = {"neon": ["-march=armv8.2-a+dotprod"]}


def flags_of(source: str, machine: str) -> list[str]:
    """Compiler flags for a source file on a machine as platform.machine() names it."""
    if machine.lower() in ("x86_64", "amd64"):
        return COMMON + X86.get(source, [])
    if machine.lower() in ("arm64", "aarch64"):
        return COMMON + ARM.get(source, [])
    return COMMON


class BuildNative(build_ext):
    """Compiles each source with its own flags into a library that has no Python interface.

    The extension is optional, so setuptools goes on with a warning where the compiler is missing or fails.
    """

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split(".")[:-1], NAME))

    def build_extension(self, ext: Extension) -> None:
        machine, objects = platform.machine(), []
        for source in ext.sources:
            objects += self.compiler.compile([source], output_dir=self.build_temp, depends=ext.depends,
                                             extra_postargs=flags_of(Path(source).stem, machine))
        static = ["-static-libgcc", "-static-libstdc++"] if sys.platform == "linux" else []
        self.compiler.link_shared_object(objects, self.get_ext_fullpath(ext.name), target_lang="c++",
                                         extra_postargs=["-pthread", *static])


class PlatformWheel(bdist_wheel):
    """Any Python 3, one kind of machine: the library knows nothing of Python."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("engine.native.libdyno", [f"{FOLDER}/{source}.cpp" for source in SOURCES],
                           depends=sorted(str(path) for path in Path(FOLDER).iterdir()), optional=True)],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": PlatformWheel})
