"""The native step under the address, undefined-behaviour and thread sanitizers, and on an emulated ARM processor."""

from __future__ import annotations

import platform
import re
import runpy
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import pytest

from tests.conftest import ROOT

SOURCES = ("step", "layer", "team", "portable", "avx2", "avx512", "neon")
COMPILER = shutil.which("g++") or shutil.which("clang++")
ARM_COMPILER, ARM_MACHINE = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")


def flags_of_each(machine: str) -> dict[str, list[str]]:
    """The flags that setup.py gives each source, with less optimisation: sanitized code is large."""
    with patch("setuptools.setup"):  # for the whole process: never from several threads at once
        flags_of = runpy.run_path(str(ROOT / "setup.py"))["flags_of"]
    return {source: [flag for flag in flags_of(source, machine) if not flag.startswith("-O")] + ["-O1", "-g"]
            for source in (*SOURCES, "shapes")}


def build(folder: Path, compiler: str, machine: str, extra: list[str]) -> Path | None:
    """shapes.cpp with the library's sources in one program; None where the compiler cannot build with `extra`."""
    probe = folder / "probe.cpp"
    probe.write_text("int main() { return 0; }\n", encoding="utf-8")
    if subprocess.run([compiler, *extra, str(probe), "-o", str(folder / "probe")], capture_output=True).returncode:
        return None
    flags = flags_of_each(machine)

    def compiled(source: Path) -> str:
        target = folder / f"{source.stem}.o"
        subprocess.run([compiler, *flags[source.stem], *extra, f"-I{ROOT}/engine/native/src", "-c", str(source),
                        "-o", str(target)], check=True, timeout=280)
        return str(target)

    sources = [ROOT / "engine/native/src" / f"{name}.cpp" for name in SOURCES] + [ROOT / "tests/native/shapes.cpp"]
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, sources))
    program = folder / "shapes"
    subprocess.run([compiler, *extra, "-pthread", *objects, "-o", str(program)], check=True, timeout=120)
    return program


@pytest.mark.timeout(600)
@pytest.mark.skipif(COMPILER is None, reason="needs g++ or clang++")
@pytest.mark.parametrize(("sanitizer", "models"), [("address,undefined", 1000), ("thread", 100)])
def test_a_thousand_random_shapes_and_positions_make_no_bad_access(sanitizer: str, models: int, tmp_path: Path) -> None:
    assert COMPILER is not None
    extra = [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    program = build(tmp_path, COMPILER, platform.machine(), extra)
    if program is None:
        pytest.skip(f"the compiler has no {sanitizer} sanitizer here")
    child = subprocess.run([str(program), str(models)], capture_output=True, text=True, timeout=280)
    assert child.returncode == 0, child.stdout + child.stderr[-3000:]
    found = re.fullmatch(r"(\d+) steps\n", child.stdout)
    assert found is not None and int(found[1]) >= models


@pytest.mark.timeout(600)
@pytest.mark.skipif(ARM_COMPILER is None or ARM_MACHINE is None, reason="needs aarch64-linux-gnu-g++ and qemu-aarch64")
def test_neon_agrees_with_portable_code_on_an_emulated_processor(tmp_path: Path) -> None:
    assert ARM_COMPILER is not None and ARM_MACHINE is not None
    program = build(tmp_path, ARM_COMPILER, "aarch64", ["-static"])
    if program is None:
        pytest.skip("the cross compiler has no static libraries here")
    child = subprocess.run([ARM_MACHINE, str(program), "100"], capture_output=True, text=True, timeout=280)
    assert (child.returncode, child.stdout) == (0, "200 steps\n"), child.stdout + child.stderr[-3000:]
