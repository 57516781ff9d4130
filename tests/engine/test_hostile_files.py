"""Folders and files made to deceive: nothing outside is read, nothing large is allocated, and one sentence says why."""

from __future__ import annotations

import json
import os
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import DynoError
from engine.export import export_model
from engine.fit import estimate
from engine.models.chat import ChatMessage
from engine.models.gguf_header import read_gguf
from engine.models.opening import open_tokenizer
from engine.models.weight_files import read_folder, read_header
from engine.recipe import Recipe
from engine.session import Session
from tests.engine.support import cpu, finish, open_session

pytest.importorskip("gguf", reason="the gguf library is not installed")
HUGE = (1 << 64) - 1


@pytest.fixture
def folder(llama_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny Llama to break."""
    return shutil.copytree(llama_folder, tmp_path / "model")


@pytest.fixture(scope="module")
def good_gguf(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path) -> bytes:
    """A good GGUF file's bytes."""
    path = tmp_path_factory.mktemp("gguf") / "good.gguf"
    session = open_session(llama_folder)
    finish(export_model(session.masters, session.tokenizer, Recipe(), "gguf-q8_0", path, session.device))
    return path.read_bytes()


def refused(path: Path) -> str:
    """The sentence with which a model is refused, by opening and by estimating; little memory is taken for it."""
    said = []
    for act in (lambda: estimate(path, device=cpu()), lambda: Session.open(path, cpu())):
        tracemalloc.start()
        try:
            with pytest.raises(DynoError) as caught:
                act()
            assert tracemalloc.get_traced_memory()[1] < 64 << 20
        finally:
            tracemalloc.stop()
        assert caught.value.hint and len(str(caught.value)) < 600 and "\n" not in str(caught.value)
        said.append(caught.value.summary)
    return said[1]


# ------------------------------------------------------------------------------------------------------------- folders


def test_a_link_out_of_the_folder_is_not_followed(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / "model.safetensors", tmp_path / "secret.safetensors")
    (folder / "model.safetensors").symlink_to(tmp_path / "secret.safetensors")
    assert "leads out of the model's folder" in refused(folder)


def test_links_of_a_hub_cache_lead_to_its_own_blobs_and_no_others(llama_folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "models--x--y"
    snapshot = home / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (home / "blobs").mkdir()
    for i, file in enumerate(sorted(llama_folder.iterdir())):
        shutil.copyfile(file, home / "blobs" / str(i))
        (snapshot / file.name).symlink_to(Path("..") / ".." / "blobs" / str(i))
    assert Session.open(snapshot, cpu()).config.model_type == "llama"
    shutil.move(home / "blobs", tmp_path / "elsewhere")
    (snapshot / "model.safetensors").unlink()
    (snapshot / "config.json").unlink()
    shutil.copyfile(llama_folder / "config.json", snapshot / "config.json")
    (snapshot / "model.safetensors").symlink_to(sorted((tmp_path / "elsewhere").iterdir())[-1])
    assert "leads out" in refused(snapshot)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "..", "a/b.safetensors", "a\\b.safetensors",
                                  "x\0y.safetensors", "model.bin", "", "."])
def test_an_index_names_files_of_its_own_folder_only(folder: Path, tmp_path: Path, name: str) -> None:
    shutil.copyfile(folder / "model.safetensors", tmp_path / "secret.safetensors")
    names = list(read_header(folder / "model.safetensors"))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(names, name)}))
    assert "model.safetensors.index.json" in refused(folder)


def test_a_tensor_in_two_shards_is_refused(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = next(iter(tensors))
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    save_file({name: torch.zeros_like(tensors[name])}, folder / "b.safetensors")
    assert "stands in both a.safetensors and b.safetensors" in refused(folder)


def header(folder: Path, change: Callable[[str], str]) -> None:
    """Rewrite the text of the safetensors header."""
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    text = change(raw[8:8 + length].decode()).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length:])


@pytest.mark.parametrize(("name", "opens"), [
    ("model.layers.0.self_attn.q_norm.weight", False),  # of an architecture that config.json does not name
    ("model.layers.9.mlp.up_proj.weight", False),  # of a layer too many
    ("model.layers.0.self_attn.rotary_emb.inv_freq", True),  # a constant that older releases store
    ("vision_tower.layers.0.weight", True)])
def test_weights_of_the_layers_that_nothing_reads_are_refused(folder: Path, name: str, opens: bool) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {name: torch.ones(4)}, folder / "model.safetensors")
    if opens:
        assert Session.open(folder, cpu()).masters.parameters
    else:
        with pytest.raises(DynoError, match="for which this version has no use"):
            Session.open(folder, cpu())


def test_a_name_twice_in_one_header_is_refused(folder: Path) -> None:
    def twice(text: str) -> str:
        entries = json.loads(text)
        name = next(n for n in entries if n != "__metadata__")
        return text.rstrip().removesuffix("}") + f', {json.dumps(name)}: {json.dumps(entries[name])}}}'

    header(folder, twice)
    assert "stands in it twice" in refused(folder)


def test_tensors_over_each_other_are_refused(folder: Path) -> None:
    def same(text: str) -> str:
        entries: dict[str, Any] = json.loads(text)
        names = [n for n in entries if n.endswith("layernorm.weight")]
        entries[names[1]]["data_offsets"] = entries[names[0]]["data_offsets"]
        return json.dumps(entries)

    header(folder, same)
    assert "lie over each other" in refused(folder)


def test_a_configuration_of_gigabytes_is_not_read(folder: Path) -> None:
    with open(folder / "config.json", "r+b") as file:
        file.truncate(4 << 30)  # a hole, which takes no room on the disk
    assert "longer than" in refused(folder)


def test_a_pipe_in_place_of_a_file_does_not_hang(folder: Path) -> None:
    for name in ("model.safetensors", "config.json"):
        (folder / name).unlink()
        os.mkfifo(folder / name)
        assert "missing" in refused(folder)


# ---------------------------------------------------------------------------------------------------------------- GGUF


def test_a_good_file_opens(good_gguf: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(good_gguf)
    assert Session.open(path, cpu()).masters.stored_name == "Q8_0"


def _numbers(tensors: int, entries: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, entries)


def _entry(key: str, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + value


FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "too short"),
    "noise": (bytes(range(256)) * 4, "does not begin"),
    "another version": (b"GGUF" + struct.pack("<IQQ", 1, 0, 0) + bytes(64), "version 1"),
    "of the other byte order": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + bytes(64), "version"),
    "more tensors than there are": (_numbers(HUGE, 0) + bytes(64), "counts more entries"),
    "more entries than there are": (_numbers(0, 1 << 40) + bytes(64), "counts more entries"),
    "a key longer than the file": (_numbers(0, 1) + struct.pack("<Q", HUGE) + bytes(64), "string"),
    "a key beyond the end": (_numbers(0, 1) + struct.pack("<Q", 1 << 20) + bytes(64), "in the middle"),
    "an endless array": (_numbers(0, 1) + _entry("a", 9, struct.pack("<IQ", 4, 1 << 60)), "array"),
    "an endless array of strings": (_numbers(0, 1) + _entry("a", 9, struct.pack("<IQ", 8, 1 << 21)), "in the middle"),
    "an array of arrays": (_numbers(0, 1) + _entry("a", 9, struct.pack("<IQ", 9, 4)) + bytes(64), "unknown type 9"),
    "a value of no type": (_numbers(0, 1) + _entry("a", 77, bytes(64)), "unknown type 77"),
    "an alignment of nothing": (_numbers(0, 1) + _entry("general.alignment", 4, struct.pack("<I", 0)), "alignment"),
    "a key twice": (_numbers(0, 2) + 2 * _entry("a", 4, struct.pack("<I", 0)), "twice"),
    "a tensor of 2^64 rows": (_numbers(1, 0) + struct.pack("<Q", 1) + b"x" + struct.pack("<IQQIQ", 2, 32, HUGE, 0, 0),
                              "beyond the end"),
    "a tensor of nothing": (_numbers(1, 0) + struct.pack("<Q", 1) + b"x" + struct.pack("<IQIQ", 1, 0, 0, 0), "blocks"),
    "a tensor of a hundred dimensions": (_numbers(1, 0) + struct.pack("<Q", 1) + b"x" + struct.pack("<I", 100)
                                         + bytes(900), "dimensions"),
    "a tensor of an unknown type": (_numbers(1, 0) + struct.pack("<Q", 1) + b"x" + struct.pack("<IQIQ", 1, 32, 16, 0)
                                    + bytes(64), "IQ2_XXS"),
    "no architecture": (_numbers(0, 0) + bytes(64), "architecture"),
    "of another architecture": (_numbers(0, 1) + _entry("general.architecture", 8, struct.pack("<Q", 5) + b"mamba")
                                + bytes(64), "'mamba'"),
}


@pytest.mark.parametrize("name", list(FILES))
def test_a_file_that_lies_about_itself_is_refused(name: str, tmp_path: Path) -> None:
    raw, words = FILES[name]
    path = tmp_path / "x.gguf"
    path.write_bytes(raw)
    assert words in refused(path)


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.1, 0.5, 0.9, 0.9999])
def test_a_truncated_file_is_refused(good_gguf: bytes, tmp_path: Path, share: float) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(good_gguf[:int(share * len(good_gguf))])
    assert "damaged or incomplete" in refused(path)


def changed(good: bytes, path: Path, old: bytes, new: bytes) -> Path:
    """A copy of a good file with some bytes of its header replaced by as many others."""
    assert len(old) == len(new) and old in good
    path.write_bytes(good.replace(old, new, 1))
    return path


def test_a_file_without_a_tokenizer_is_refused(good_gguf: bytes, tmp_path: Path) -> None:
    path = changed(good_gguf, tmp_path / "x.gguf", b"tokenizer.ggml.tokens", b"tokenizer.ggml.tokenz")
    assert read_gguf(path).tensors
    with pytest.raises(DynoError, match="no tokenizer"):
        open_tokenizer(path)
    with pytest.raises(DynoError, match="no tokenizer"):
        Session.open(path, cpu())


def test_a_tokenizer_that_cuts_in_an_unknown_way_is_refused(good_gguf: bytes, tmp_path: Path) -> None:
    path = changed(good_gguf, tmp_path / "x.gguf", b"gpt-2", b"gpt-9")
    with pytest.raises(DynoError, match="'gpt-9'"):
        open_tokenizer(path)


def test_a_missing_tensor_is_named(good_gguf: bytes, tmp_path: Path) -> None:
    path = changed(good_gguf, tmp_path / "x.gguf", b"blk.1.ffn_gate.weight", b"blk.1.ffn_gato.weight")
    with pytest.raises(DynoError, match=r"lacks the tensor blk\.1\.ffn_gate\.weight"):
        Session.open(path, cpu())


def test_numbers_that_are_no_numbers_are_refused(good_gguf: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(good_gguf)
    entry = read_gguf(path).tensors["blk.0.ffn_up.weight"]
    with open(path, "r+b") as file:
        file.seek(entry.begin)
        file.write(b"\x00\x7e")  # an fp16 NaN as a block's scale
    with pytest.raises(DynoError, match="not numbers"):
        Session.open(path, cpu())


def test_every_folder_entry_knows_its_place(llama_folder: Path) -> None:
    found = read_folder(llama_folder)
    tensors = load_file(llama_folder / "model.safetensors")
    raw = (llama_folder / "model.safetensors").read_bytes()
    for name, entry in found.items():
        assert raw[entry.begin:entry.end] == tensors[name].numpy().tobytes()


@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral", "smollm3", "gemma2", "gemma3_text", "phi3", "gpt_neox"])
@pytest.mark.parametrize("layers", [10**8, 10**12])
def test_an_absurd_number_of_layers_is_refused_before_any_list_is_made(folder: Path, kind: str, layers: int) -> None:
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {
        "model_type": kind, "num_hidden_layers": layers, "use_sliding_window": True}))
    assert "cannot be right" in refused(folder)


@pytest.mark.parametrize("template", [
    "{{ 1 / 0 }}", "{{ messages[0].content + 1 }}", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ 'a' * 300000000 }}", "{{ [0] * 300000000 }}", "{{ '%1000000000d' % 1 }}", "{{ '%1000000000d'|format(1) }}",
    "{{ '{:1000000000}'.format(1) }}", "{{ '{:{}}'.format(1, 1000000000) }}", "{{ 'a'.ljust(1000000000) }}",
    "{% set n = namespace(a='ab') %}{% for i in range(60) %}{% set n.a = n.a + n.a %}{% endfor %}",
    "{% set n = namespace(a='ab') %}{% for i in range(60) %}{% set n.a = n.a ~ n.a %}{% endfor %}",
    "{% set n = namespace(a=['a']) %}{% for i in range(60) %}{% set n.a = n.a + n.a %}{% endfor %}",
    "{% set n = namespace(a='ab') %}{% for i in range(60) %}{% set x %}{{ n.a }}{{ n.a }}{% endset %}"
    "{% set n.a = x %}{% endfor %}",
    "{% macro m(a, n) %}{% if n %}{{ m(a ~ a, n - 1) }}{% else %}{{ a }}{% endif %}{% endmacro %}{{ m('ab', 60) }}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "{% set n = namespace(a='ab') %}{% for i in range(60) %}{% set n.a = n.a|replace('a', n.a) %}{% endfor %}",
    "{% set n = namespace(a='ab') %}{% for i in range(60) %}{% set n.a = n.a.replace('a', n.a) %}{% endfor %}",
    "{% set n = namespace(a='ab') %}{% for i in range(60) %}{% set n.a = [n.a, n.a]|join(n.a) %}{% endfor %}",
    "{% set n = namespace(a='ab') %}{% for i in range(60) %}{% set n.a = n.a.join([n.a, n.a]) %}{% endfor %}",
    "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
    "{% for i in range(90000) %}{{ 'abcdefghijklmnopqrstuvwxyz' }}{% endfor %}",
    "{{ 10 ** 1000000 }}", "{{ messages.append(1) }}", "{{ ''.__class__.__mro__ }}{{ 1 / 0 }}",
])
def test_a_chat_template_that_misbehaves_is_one_sentence(folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template)
    tokenizer = open_tokenizer(folder)
    tracemalloc.start()
    try:
        with pytest.raises(DynoError, match="chat template refuses") as caught:
            tokenizer.render_chat([ChatMessage("user", "Hello")])
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert "\n" not in caught.value.summary and len(caught.value.summary) < 300


def test_an_export_never_takes_the_place_of_its_source(folder: Path) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    session = open_session(folder)
    for form, out in (("safetensors", folder), ("gguf-f16", folder / "model.safetensors")):
        with pytest.raises(DynoError, match="holds the model itself"):
            finish(export_model(session.masters, session.tokenizer, Recipe(), form, out, session.device))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_three_ends_of_a_text_come_back_from_a_gguf_file_and_four_are_refused(folder: Path, tmp_path: Path) -> None:
    raw = json.loads((folder / "config.json").read_text())
    (folder / "generation_config.json").unlink(missing_ok=True)
    for ends, whole in (([1, 2, 3], True), ([1, 2, 3, 4], False)):
        (folder / "config.json").write_text(json.dumps(raw | {"eos_token_id": ends}))
        session, out = open_session(folder), tmp_path / "model.gguf"
        steps = export_model(session.masters, session.tokenizer, Recipe(), "gguf-f16", out, session.device)
        if whole:
            finish(steps)
            assert open_session(out).config.eos_ids == tuple(ends)
        else:
            with pytest.raises(DynoError, match="can name three"):
                finish(steps)
