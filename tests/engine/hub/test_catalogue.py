"""What is on the disk: found and described, never taken for whole where it is not, and removed with care."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import DynoError
from engine.hub.catalogue import Catalogue
from engine.hub.download import SOURCE
from engine.hub.fits import FITS, RECIPES, TIGHT, TOO_LARGE, recipe_fits
from engine.hub.library import Library
from engine.hub.records import ModelOnDisk
from engine.hub.removal import remove
from engine.models.devices import pick_device, with_free_bytes
from engine.paths import bundled_model
from engine.removing import settle_all
from tests.conftest import ROOT

OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def cache(tmp_path: Path, llama_folder: Path, gpt2_folder: Path) -> Path:
    """A Hugging Face cache: two revisions that share their tokenizer, and a repository that is half there."""
    cache = tmp_path / "cache"
    whole = cache / "models--org--tiny"
    for revision, folder in ((OLD, llama_folder), (NEW, gpt2_folder)):
        for file in sorted(folder.iterdir()):
            blob = whole / "blobs" / (file.name if "tokenizer" in file.name else f"{file.name}-{revision}")
            blob.parent.mkdir(parents=True, exist_ok=True)
            if not blob.exists():
                shutil.copy(file, blob)
            link = whole / "snapshots" / revision / file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
    (whole / "refs").mkdir()
    (whole / "refs" / "main").write_text(NEW)
    half = cache / "models--org--half"
    (half / "snapshots" / OLD).mkdir(parents=True)
    (half / "blobs").mkdir()
    (half / "refs").mkdir()
    shutil.copy(llama_folder / "config.json", half / "snapshots" / OLD / "config.json")
    (half / "blobs" / "weights.incomplete").write_bytes(b"half")
    return cache


def scanned(data: Path, models: Path, cache: Path | None = None) -> dict[str, ModelOnDisk]:
    found = Catalogue(Library(data), models, cache or data / "no cache").scan()
    return {f"{m.place} {m.name} {m.revision[:1]}".strip(): m for m in found}


def test_a_folder_is_described_from_its_heads(data: Path, models: Path, llama_folder: Path) -> None:
    shutil.copytree(llama_folder, models / "mine")
    (models / "mine" / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n# Mine\nlicense: none\n")
    model = scanned(data, models)["app mine"]
    config = json.loads((llama_folder / "config.json").read_text())
    assert (model.architecture, model.context, model.dtype, model.licence, model.problem) == (
        "llama", config["max_position_embeddings"], "F32", "mit", "")
    assert model.weight_bytes == (llama_folder / "model.safetensors").stat().st_size
    assert model.nbytes == sum(file.stat().st_size for file in (models / "mine").iterdir())
    assert abs(4 * model.parameters - model.weight_bytes) < 10_000


@pytest.mark.parametrize(("spoil", "words"), [
    (lambda f: (f / "model.safetensors").unlink(), "no .safetensors file"),
    (lambda f: os.truncate(f / "model.safetensors", 20_000), "is damaged or incomplete"),
    (lambda f: os.truncate(f / "model.safetensors", 5), "is damaged or incomplete"),
    (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json is missing"),
    (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read"),
    (lambda f: (f / "config.json").write_text('{"model_type": "unheard-of"}'), "unheard-of"),
    (lambda f: (f / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}'),
     "no model that writes text"),
    (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "pickle"),
    (lambda f: (f / "model.safetensors.index.json").write_text(json.dumps(
        {"weight_map": {"x": "model.safetensors", "y": "model-00002-of-00002.safetensors"}})), "named by"),
    (lambda f: (f / "model.safetensors.index.json").write_text(json.dumps(
        {"weight_map": {"x": "../model.safetensors"}})), "not a file of this folder")])
def test_what_is_not_whole_is_never_ready(data: Path, models: Path, llama_folder: Path, spoil: object,
                                          words: str) -> None:
    import re

    shutil.copytree(llama_folder, models / "spoilt")
    spoil(models / "spoilt")  # type: ignore[operator]
    model = scanned(data, models)["app spoilt"]
    assert not model.ready and re.search(words, model.problem), model.problem


def test_what_transformers_would_run_is_ready_too(data: Path, models: Path, llama_folder: Path) -> None:
    shutil.copytree(llama_folder, models / "other")
    config = {"model_type": "opt", "architectures": ["OPTForCausalLM"]}
    (models / "other" / "config.json").write_text(json.dumps(config))
    assert scanned(data, models)["app other"].ready


def test_the_cache_is_read_and_what_is_half_there_is_not_ready(data: Path, models: Path, cache: Path) -> None:
    found = scanned(data, models, cache)
    assert found["cache org/tiny a"].ready and found["cache org/tiny b"].ready
    assert found["cache org/tiny a"].architecture == "llama" and found["cache org/tiny b"].architecture == "gpt2"
    assert not found["cache org/half a"].ready


def test_blobs_that_models_of_the_cache_share_are_followed_and_other_links_are_not(
        data: Path, models: Path, cache: Path, tmp_path: Path) -> None:
    blob = cache / "models--org--tiny" / "blobs" / f"model.safetensors-{OLD}"
    store = cache / "blobs" / "ab" / ("ab" * 32)
    store.parent.mkdir(parents=True)
    blob.rename(store)
    blob.symlink_to(os.path.relpath(store, blob.parent))
    marker = cache / "blobs" / ".huggingface-shared-blobs"
    marker.write_text("1\n")
    assert scanned(data, models, cache)["cache org/tiny a"].ready
    marker.unlink()
    assert "leads out of the model's folder" in scanned(data, models, cache)["cache org/tiny a"].problem


def test_added_folders_and_recent_models_are_listed_the_last_one_first(
        data: Path, models: Path, tmp_path: Path, llama_folder: Path, gpt2_folder: Path) -> None:
    shelf = tmp_path / "shelf"
    shutil.copytree(llama_folder, shelf / "one")
    shutil.copytree(gpt2_folder, shelf / "two")
    (shelf / "settings").mkdir()
    (shelf / "settings" / "config.json").write_text('{"colour": "blue"}')
    library = Library(data)
    library.add_folder(shelf)
    library.opened(gpt2_folder, now_s=5.0)
    library.opened(shelf / "two", now_s=7.0)
    found = list(scanned(data, models))
    assert found[:2] == ["added two", f"recent {gpt2_folder.name}"]
    assert "added one" in found and not any("settings" in name for name in found)
    library.forget(shelf)
    assert "added one" not in scanned(data, models)
    (data / "models.json").write_text("{damaged")
    assert list(scanned(data, models)) == [f"bundled {bundled_model().name}"]
    with pytest.raises(DynoError, match="There is no folder"):
        library.add_folder(tmp_path / "nowhere")


def test_an_unchanged_folder_is_not_read_again(data: Path, models: Path, llama_folder: Path) -> None:
    shutil.copytree(llama_folder, models / "mine")
    catalogue = Catalogue(Library(data), models, data / "no cache")
    first = next(m for m in catalogue.scan() if m.place == "app")
    file = models / "mine" / "model.safetensors"
    facts, content = file.stat(), file.read_bytes()
    file.write_bytes(b"\0" * len(content))
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert next(m for m in catalogue.scan() if m.place == "app") == first  # nothing tells that it changed
    os.utime(file)
    assert not next(m for m in catalogue.scan() if m.place == "app").ready


def test_a_gguf_file_is_listed_by_itself(data: Path, models: Path) -> None:
    gguf = pytest.importorskip("gguf")
    folder = models / "org--tiny-GGUF--tiny"
    folder.mkdir(parents=True)
    import numpy as np

    writer = gguf.GGUFWriter(folder / "tiny.gguf", "falcon")
    writer.add_context_length(77)
    writer.add_license("mit")
    writer.add_tensor("token_embd.weight", np.zeros((8, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = scanned(data, models)["app tiny"]
    assert (model.kind, model.architecture, model.context, model.licence, model.parameters, model.dtype) == (
        "gguf", "falcon", 77, "mit", 256, "F32")
    assert not model.ready  # an architecture that the decoder is not
    os.truncate(folder / "tiny.gguf", 300)
    assert "damaged or incomplete" in scanned(data, models)["app tiny"].problem


def test_the_fit_says_what_a_recipe_needs_and_whether_there_is_room(llama_folder: Path) -> None:
    device = pick_device("cpu")
    fits = {fit.recipe: fit for fit in recipe_fits(llama_folder, with_free_bytes(device, 1 << 33))}
    assert tuple(fits) == RECIPES and {fit.verdict for fit in fits.values()} == {FITS}
    assert fits["bf16"].needed < fits["fp32"].needed
    needed = fits["fp32"].needed
    tight = recipe_fits(llama_folder, with_free_bytes(device, round(needed * 1.12)))[0]
    assert (tight.recipe, tight.verdict, tight.needed) == ("fp32", TIGHT, needed)
    assert recipe_fits(llama_folder, with_free_bytes(device, needed // 2))[0].verdict == TOO_LARGE


def test_a_model_of_the_app_is_moved_aside_and_can_be_had_back(
        data: Path, models: Path, llama_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(llama_folder, models / "mine")
    outside = tmp_path / "outside.txt"
    outside.write_text("stays")
    (models / "mine" / "link.txt").symlink_to(outside)
    model, library = scanned(data, models)["app mine"], Library(data)
    removed = remove(model, models, library)
    assert removed is not None and "app mine" not in scanned(data, models)
    removed.restore()
    assert scanned(data, models)["app mine"].ready
    removed = remove(model, models, library)
    assert removed is not None
    (models / "mine").mkdir()
    with pytest.raises(DynoError, match="There is a mine again"):
        removed.restore()
    removed.settle()
    assert not removed.aside.exists() and outside.read_text() == "stays"


def test_links_are_never_followed_out_of_the_models_folder(
        data: Path, models: Path, llama_folder: Path, tmp_path: Path) -> None:
    elsewhere = shutil.copytree(llama_folder, tmp_path / "elsewhere")
    models.mkdir()
    (models / "linked").symlink_to(elsewhere)
    assert "app linked" not in scanned(data, models)
    fake = ModelOnDisk(str(models / "linked"), "linked", "app")
    with pytest.raises(DynoError, match="does not lie in the app's models folder"):
        remove(fake, models, Library(data))
    with pytest.raises(DynoError, match="does not lie in the app's models folder"):
        remove(ModelOnDisk(str(elsewhere), "elsewhere", "app"), models, Library(data))
    with pytest.raises(DynoError, match="part of the app"):
        remove(scanned(data, models)[f"bundled {bundled_model().name}"], models, Library(data))
    (models / ".removed").symlink_to(elsewhere)
    settle_all(models)
    assert (elsewhere / "config.json").is_file()


def test_a_folder_from_elsewhere_is_forgotten_and_not_deleted(
        data: Path, models: Path, tmp_path: Path, llama_folder: Path) -> None:
    folder = shutil.copytree(llama_folder, tmp_path / "theirs")
    library = Library(data)
    library.add_folder(folder)
    assert remove(scanned(data, models)["added theirs"], models, library) is None
    assert "added theirs" not in scanned(data, models) and (folder / "model.safetensors").is_file()


def test_removing_a_revision_of_the_cache_keeps_what_the_other_shares(
        data: Path, models: Path, cache: Path) -> None:
    found = scanned(data, models, cache)
    assert remove(found["cache org/tiny a"], models, Library(data), cache) is None
    left = scanned(data, models, cache)
    assert "cache org/tiny a" not in left and left["cache org/tiny b"].ready
    remove(left["cache org/tiny b"], models, Library(data), cache)
    assert not (cache / "models--org--tiny").exists()
    assert (cache / "models--org--half").exists()


def test_a_manifest_that_lies_hides_no_other_model(data: Path, models: Path, llama_folder: Path) -> None:
    shutil.copytree(llama_folder, models / "good")
    for name, size in (("endless", "1e999"), ("negative", "-1"), ("words", '"many"')):
        folder = shutil.copytree(llama_folder, models / name)
        (folder / SOURCE).write_text(
            '{"repo": "a/b", "revision": "c", "folder": "d", "files": [{"name": "x", "sha256": "", "git_sha1": "",'
            f' "bytes": {size}}}]}}')
    assert {"app good", "app endless", "app negative", "app words"} <= set(scanned(data, models))


def test_one_model_leaves_the_list_and_its_neighbours_stay(
        data: Path, models: Path, tmp_path: Path, llama_folder: Path) -> None:
    shelf, library = tmp_path / "shelf", Library(data)
    for name in ("one", "two"):
        shutil.copytree(llama_folder, shelf / name)
    library.add_folder(shelf)
    assert remove(scanned(data, models)["added one"], models, library) is None
    assert "added one" not in scanned(data, models) and "added two" in scanned(data, models)
    library.add_folder(shelf)  # asked for again, all of it is shown again
    assert "added one" in scanned(data, models)


def test_a_damaged_list_is_set_aside_before_a_new_one_is_written(data: Path, tmp_path: Path) -> None:
    (data / "models.json").write_text('{"folders": ["/precious"]')
    Library(data).opened(tmp_path)
    kept, = data.glob("models.json.damaged-*")
    assert "/precious" in kept.read_text() and Library(data).recent().keys() == {str(tmp_path)}


def test_a_gguf_file_beside_other_weights_is_removed_alone(
        data: Path, models: Path, llama_folder: Path, tmp_path: Path) -> None:
    folder = models / "mixed"
    folder.mkdir(parents=True)
    shutil.copy(llama_folder / "model.safetensors", folder)
    (folder / "one.gguf").write_bytes(b"GGUF")
    removed = remove(ModelOnDisk(str(folder / "one.gguf"), "one", "app", "gguf"), models, Library(data))
    assert removed is not None and removed.path == folder / "one.gguf"
    assert (folder / "model.safetensors").is_file()


def test_what_another_running_program_has_removed_can_still_be_had_back_there(
        data: Path, models: Path, llama_folder: Path) -> None:
    shutil.copytree(llama_folder, models / "mine")
    child = subprocess.Popen([sys.executable, "-c", """
import sys
from pathlib import Path
from engine.removing import move_aside
removed = move_aside(Path(sys.argv[1]) / "mine", Path(sys.argv[1]))
print(removed.aside, flush=True)
sys.stdin.read()
""", str(models)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert child.stdout is not None and child.stdin is not None
    aside = Path(child.stdout.readline().strip())
    assert not (models / "mine").exists()
    settle_all(models)
    assert (aside / "config.json").is_file()
    child.stdin.close()
    child.stdout.close()
    assert child.wait(30) == 0
    settle_all(models)
    assert not aside.exists()
