"""What is said about memory before a model is loaded is what it then takes."""

from __future__ import annotations

import dataclasses
import math
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import DynoError
from engine.fit import estimate, stored_type
from engine.kernels.linear import PackedLinear, tensor_memory
from engine.models.devices import with_free_bytes
from engine.models.weight_files import read_folder
from engine.recipe import Recipe, parse_recipe
from engine.variant import Variant
from tests.conftest import CONTEXT, ROOT
from tests.engine.support import built, cpu, live_bytes

RECIPES = ["fp32", "bf16", "fp16", "int8-dynamic:head=int8", "int8-weight,bf16", "int4-weight:group=32:head=int4,bf16",
           "int4-weight:fit=fit:embedding=int8,bf16", "prune-heads:amount=0.5,bf16", "prune-neurons:amount=0.5",
           "prune-neurons:amount=0.3:score=activation,int8-weight", "prune-layers:amount=0.5,kv-cache:dtype=int8",
           "prune-l1:amount=0.5", "prune-wanda,bf16", "prune-random,fp16", "prune-2-4,bf16", "kv-cache:dtype=fp16"]


def padding(variant: Variant) -> int:
    """Bytes by which oneDNN fills up what it packs: much of a tiny matrix, nothing of a real one. The
    native step needs no packing."""
    return sum(tensor_memory(m.packed)[1] - math.prod(m.shape) * m.packed.element_size()
               for m in variant.decoder.modules() if isinstance(m, PackedLinear))


@pytest.mark.parametrize("text", RECIPES)
@pytest.mark.parametrize("kind", ["gpt2", "llama", "tied_llama"])
def test_the_estimate_is_what_the_storages_then_hold(kind: str, text: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(f"{kind}_folder")
    fit = estimate(folder, parse_recipe(text), device=cpu())
    session, variant = built(folder, text)
    assert fit.weight_bytes == pytest.approx(live_bytes(variant) - padding(variant), rel=0.001)
    assert fit.weight_bytes == pytest.approx(variant.report.weight_bytes - padding(variant), rel=0.001)
    assert fit.mapped_bytes == variant.report.mapped_bytes
    assert fit.parameters == session.masters.parameters
    assert fit.context == CONTEXT
    assert fit.kv_bytes == variant.new_cache(CONTEXT).nbytes
    assert fit.architecture == session.config.model_type and fit.stored == "F32"


def test_a_shorter_context_needs_less_and_a_longer_one_is_the_models(llama_folder: Path) -> None:
    whole = estimate(llama_folder, device=cpu())
    half = estimate(llama_folder, context=CONTEXT // 2, device=cpu())
    assert half.kv_bytes == whole.kv_bytes // 2 and half.weight_bytes == whole.weight_bytes
    assert half.peak_bytes <= whole.peak_bytes
    assert estimate(llama_folder, context=10 * CONTEXT, device=cpu()).kv_bytes == whole.kv_bytes


def test_what_does_not_fit_is_said_to_fit_nowhere(llama_folder: Path) -> None:
    fit = estimate(llama_folder, device=with_free_bytes(cpu(), 10_000))
    assert not fit.loads and not fit.fits and fit.free_bytes == 10_000
    enough = estimate(llama_folder, device=with_free_bytes(cpu(), fit.peak_bytes * 2))
    assert enough.loads and enough.fits
    no_context = dataclasses.replace(enough, free_bytes=fit.weight_bytes + fit.build_bytes + 100_000, kv_bytes=1 << 30)
    assert no_context.loads and not no_context.fits


def test_no_weight_is_read_for_an_estimate(llama_folder: Path, tmp_path: Path) -> None:
    """The file keeps its header and its length and loses every weight; an estimate does not notice."""
    folder = shutil.copytree(llama_folder, tmp_path / "model")
    path = folder / "model.safetensors"
    with open(path, "r+b") as file:
        start = 8 + struct.unpack("<Q", file.read(8))[0]
        length = path.stat().st_size
        file.truncate(start)
        file.truncate(length)
    text = parse_recipe("prune-wanda,prune-heads:amount=0.5,int4-weight:fit=fit,bf16")
    lost, good = (estimate(f, text, device=with_free_bytes(cpu(), 1 << 30)) for f in (folder, llama_folder))
    assert lost == good


def test_a_recipe_that_cannot_run_is_refused_as_it_is_when_loading(llama_folder: Path) -> None:
    with pytest.raises(DynoError) as said:
        estimate(llama_folder, parse_recipe("fp8"), device=cpu())
    assert said.value.hint


def test_the_stored_type_is_that_of_most_bytes(llama_folder: Path) -> None:
    entries = read_folder(llama_folder)
    assert stored_type(entries) == "F32"
    with pytest.raises(DynoError, match="no tensors"):
        stored_type({})


def test_importing_the_estimate_does_not_load_torch() -> None:
    code = "import sys, engine.fit; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_default_recipe_is_the_plain_one(gpt2_folder: Path) -> None:
    device = with_free_bytes(cpu(), 1 << 30)
    assert estimate(gpt2_folder, device=device) == estimate(gpt2_folder, Recipe(), device=device)
