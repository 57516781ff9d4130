"""The native step under the address, undefined-behaviour and thread sanitizers."""

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

SOURCES = ("step", "team", "portable", "avx2", "avx512", "neon")
COMPILER = shutil.which("g++") or shutil.which("clang++")


def flags_of_each() -> dict[str, list[str]]:
    """The flags that setup.py gives each source, with less optimisation: sanitized code is large."""
    with patch("setuptools.setup"):  # for the whole process: never from several threads at once
        flags_of = runpy.run_path(str(ROOT / "setup.py"))["flags_of"]
    return {source: [flag for flag in flags_of(source, platform.machine()) if not flag.startswith("-O")] + ["-O1", "-g"]
            for source in (*SOURCES, "shapes")}


def build(folder: Path, sanitizer: str) -> Path | None:
    """shapes.cpp with the library's sources in one program; None where the compiler has no such sanitizer."""
    assert COMPILER is not None
    extra = [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    probe = folder / "probe.cpp"
    probe.write_text("int main() { return 0; }\n", encoding="utf-8")
    if subprocess.run([COMPILER, *extra, str(probe), "-o", str(folder / "probe")], capture_output=True).returncode:
        return None
    flags = flags_of_each()

    def compiled(source: Path) -> str:
        target = folder / f"{source.stem}.o"
        subprocess.run([COMPILER, *flags[source.stem], *extra, f"-I{ROOT}/engine/native/src", "-c", str(source),
                        "-o", str(target)], check=True, timeout=280)
        return str(target)

    sources = [ROOT / "engine/native/src" / f"{name}.cpp" for name in SOURCES] + [ROOT / "tests/native/shapes.cpp"]
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, sources))
    program = folder / "shapes"
    subprocess.run([COMPILER, *extra, "-pthread", *objects, "-o", str(program)], check=True, timeout=120)
    return program


@pytest.mark.timeout(600)
@pytest.mark.skipif(COMPILER is None, reason="needs g++ or clang++")
@pytest.mark.parametrize(("sanitizer", "models"), [("address,undefined", 1000), ("thread", 100)])
def test_a_thousand_random_shapes_and_positions_make_no_bad_access(sanitizer: str, models: int, tmp_path: Path) -> None:
    program = build(tmp_path, sanitizer)
    if program is None:
        pytest.skip(f"the compiler has no {sanitizer} sanitizer here")
    child = subprocess.run([str(program), str(models)], capture_output=True, text=True, timeout=280)
    assert child.returncode == 0, child.stdout + child.stderr[-3000:]
    found = re.fullmatch(r"(\d+) steps\n", child.stdout)
    assert found is not None and int(found[1]) >= models
