"""What a recipe says it weighs is what it weighs: counted from live storages and from what the allocator gave."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.models.devices import torch_dtype
from engine.recipe import Recipe, parse_recipe
from tests.conftest import LLAMA, ROOT, write_model
from tests.engine.support import cpu, live_bytes, open_session

RECIPES = ["fp32", "bf16", "fp16", "l1-50", "neurons-30", "autocast-bf16", "neurons-30,bf16", "l1-50,fp16", "int8",
           "int8,bf16", "int8-dynamic:head=int8", "neurons-30,int8", "heads-25,layers-10", "heads-25,bf16", "wanda-50",
           "sparse-2-4", "prune-random:amount=0.5", "int4", "int4-fit,bf16", "int8-weight-only,fp16", "kv-int8",
           "small-and-fast"]
MODELS = ["gpt2_folder", "llama_folder", "tied_llama_folder"]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("model", MODELS)
def test_reported_bytes_are_those_of_the_live_storages(model: str, recipe: str, request: pytest.FixtureRequest) -> None:
    variant = open_session(request.getfixturevalue(model), parse_recipe(recipe)).active
    assert variant is not None
    assert variant.report.weight_bytes == live_bytes(variant)


@pytest.mark.parametrize("model", MODELS)
def test_a_tied_head_is_counted_once_and_beside_an_own_head_the_embedding_stays_in_the_file(
        model: str, request: pytest.FixtureRequest) -> None:
    session = open_session(request.getfixturevalue(model))
    assert session.active is not None
    report = session.active.report
    inside = sum(4 * len(t.flatten()) for name, t in session.masters.items() if name.startswith("blocks."))
    head = 4 * session.config.vocab_size * session.config.hidden_size
    positions = 4 * session.config.context * session.config.hidden_size * session.config.learned_positions
    norm = 4 * session.config.hidden_size * (2 if session.config.layer_norm else 1)
    assert report.weight_bytes == report.baseline_bytes == inside + head + positions + norm
    assert report.mapped_bytes == (0 if session.config.tied else head)
    assert report.weight_bytes + report.mapped_bytes == 4 * session.masters.parameters


def test_16_bits_halve_the_bytes_and_pruned_neurons_leave(llama_folder: Path) -> None:
    session = open_session(llama_folder)
    assert session.active is not None
    full = session.active.report.weight_bytes
    assert session.apply(parse_recipe("fp16")).report.weight_bytes == full / 2
    assert session.apply(parse_recipe("l1-50")).report.weight_bytes == full
    pruned = session.apply(parse_recipe("prune-neurons:amount=0.5")).report
    c = session.config
    gone = c.intermediate_size - pruned.layers[3].shape[1]
    assert gone > 0.4 * c.intermediate_size
    assert full - pruned.weight_bytes == 4 * c.n_layers * gone * 3 * c.hidden_size  # gate, up and down


def test_packed_fp32_weights_are_counted_without_the_dense_copy(tmp_path: Path) -> None:
    if not cpu().packed_linear:
        pytest.skip("this PyTorch has no packed linear kernel")
    folder = write_model(tmp_path / "wide", LLAMA | {"hidden_size": 512, "intermediate_size": 2048,
                                                     "num_hidden_layers": 1})
    session = open_session(folder, Recipe(), native=False)
    assert session.active is not None
    report = session.active.report
    packed = [layer for layer in report.layers if "packed" in layer.kernel]
    assert packed
    for layer in packed:
        assert layer.nbytes == pytest.approx(4 * layer.shape[0] * layer.shape[1], rel=0.02)
    assert report.weight_bytes + report.mapped_bytes == pytest.approx(4 * session.masters.parameters, rel=0.02)


_CHILD = """
import ctypes, dataclasses, gc, json, sys
libc = ctypes.CDLL("libc.so.6")
fields = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in fields]
libc.mallinfo2.restype = Info
libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD: everything below 32 MiB comes from the heap, without page rounding
import torch
torch.set_num_threads(1)
from engine.kernels.choose import choose_kernel
from engine.kernels.linear import Weights
from engine.models.devices import pick_device
from engine.techniques.int4_weight import Int4Scheme
from engine.techniques.int8_dynamic import Int8DynamicScheme
from engine.techniques.int8_weight import Int8WeightScheme

def used():
    gc.collect()
    info = libc.mallinfo2()
    return info.uordblks + info.hblkhd

device, found = pick_device("cpu"), []
if sys.argv[4] == "PyTorch":
    device = dataclasses.replace(device, native="")
import warnings
warnings.simplefilter("ignore")
schemes = {"": None, "int8-dynamic": Int8DynamicScheme(), "int8-weight": Int8WeightScheme(),
           "int4-weight": Int4Scheme(64, False)}
dtype, scheme, shapes = sys.argv[1], schemes[sys.argv[2]], json.loads(sys.argv[3])
for rows, columns in shapes:
    weight = torch.randn(rows, columns)
    make = lambda: choose_kernel(Weights(weight), weight, dtype, scheme, None, False, device)
    alive = [make() for _ in range(3)]
    before = used()
    alive += [make() for _ in range(50)]
    found.append(((used() - before) / 50, sum(n for _, n in alive[0].memory())))
print(json.dumps(found))
"""


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc" or platform.machine() != "x86_64",
                    reason="asks glibc's allocator about kernels of x86")
@pytest.mark.parametrize("step", ["native", "PyTorch"])
@pytest.mark.parametrize(("dtype", "scheme", "shapes"), [
    ("fp32", "int8-dynamic", [(48, 48), (144, 48), (48, 192), (64, 64), (100, 513), (96, 512), (300, 700), (1000, 64),
                              (512, 1376)]),
    ("fp32", "int8-weight", [(48, 48), (100, 513), (300, 700), (512, 1376)]),
    ("fp32", "int4-weight", [(48, 96), (100, 513), (300, 700), (512, 1376)]),
    ("bf16", "", [(48, 48), (144, 48), (100, 513), (300, 700), (1000, 64), (512, 1376)]),
    ("fp32", "", [(1024, 1030), (1500, 800)]),
    ("fp16", "", [(48, 48), (300, 700)]),
], ids=["int8", "int8-weight-only", "int4", "bf16", "fp32-large", "fp16"])
def test_layers_report_what_the_allocator_handed_out(dtype: str, scheme: str, shapes: list[tuple[int, int]],
                                                     step: str) -> None:
    if step == "native" and not cpu().native:
        pytest.skip(cpu().native_missing)
    if step == "native" and (dtype, scheme) == ("fp32", ""):
        pytest.skip("the native step reads fp32 weights where they are: nothing is allocated")
    if tuple(map(int, platform.libc_ver()[1].split("."))) < (2, 33):
        pytest.skip("needs glibc 2.33 (mallinfo2)")
    child = subprocess.run([sys.executable, "-c", _CHILD, dtype, scheme, json.dumps(shapes), step], cwd=ROOT,
                           capture_output=True, text=True, timeout=120)
    assert child.returncode == 0, child.stderr
    for shape, (allocated, reported) in zip(shapes, json.loads(child.stdout), strict=True):
        # Beside the weight: the layer's Python object, oneDNN's handle and the alignment, about 1.5 KB.
        assert 0 <= allocated - reported <= 0.01 * allocated + (1024 if scheme else 2048), (shape, allocated, reported)


def test_the_kv_cache_costs_what_the_report_says(model_folder: Path) -> None:
    for recipe in ("fp32", "bf16", "fp16", "autocast-bf16"):
        variant = open_session(model_folder, parse_recipe(recipe)).active
        assert variant is not None
        cache = variant.new_cache(100)
        assert cache.nbytes == 100 * variant.report.kv_bytes_per_token
        assert sum(t.untyped_storage().nbytes() for t in cache.tensors()) == cache.nbytes
        assert {t.dtype for t in (*cache.k, *cache.v)} == {torch_dtype(variant.cache_dtype)}


def test_nothing_outlives_the_variants_a_session_keeps(llama_folder: Path) -> None:
    import gc
    import weakref

    session = open_session(llama_folder)
    variants = [weakref.ref(session.apply(parse_recipe(text))) for text in ("bf16", "int8", "fp16")]
    session.apply(Recipe())
    session._built.clear()
    gc.collect()
    assert [ref() for ref in variants] == [None] * 3
    assert torch.isfinite(session.active.decoder(torch.tensor([[3, 4]]))).all()  # type: ignore[union-attr]
