"""Whatever is wrong with a folder or a prompt: one clear sentence, and the model that was loaded goes on working."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import DynoError, for_people
from engine.messages import Failed, Finished, Generate, LoadModel, ModelLoaded, Sampling
from engine.models.checkpoint import load_masters
from engine.session import Session
from tests.conftest import CONTEXT
from tests.engine.support import Engine, cpu, open_session

GREEDY = Sampling(temperature=0.0, repetition_penalty=1.0, max_tokens=12, seed=1)
Damage = Callable[[Path], None]


def edit_json(name: str, **changes: Any) -> Damage:
    """Change entries of a JSON file; None removes one."""
    def damage(folder: Path) -> None:
        raw = json.loads((folder / name).read_text(encoding="utf-8"))
        for key, value in changes.items():
            raw.pop(key, None)
            if value is not None:
                raw[key] = value
        (folder / name).write_text(json.dumps(raw), encoding="utf-8")
    return damage


def write(name: str, content: str | bytes) -> Damage:
    """Replace a file's content."""
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return damage


def remove(*names: str) -> Damage:
    """Remove files."""
    def damage(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()
    return damage


def edit_weights(change: Callable[[dict[str, torch.Tensor]], None]) -> Damage:
    """Change the tensors and save them again."""
    def damage(folder: Path) -> None:
        path = folder / "model.safetensors"
        tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
        change(tensors)
        save_file(tensors, path)
    return damage


def edit_header(change: Callable[[dict[str, Any]], Any]) -> Damage:
    """Change the header of the safetensors file and leave the data as they are."""
    def damage(folder: Path) -> None:
        path = folder / "model.safetensors"
        content = path.read_bytes()
        size = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8:8 + size])
        change(header)
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size:])
    return damage


def cut(share: float) -> Damage:
    """Keep only the first part of the weights."""
    def damage(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:int(path.stat().st_size * share)])
    return damage


def index(files: dict[str, str]) -> Damage:
    """A shard index that names these files."""
    return write("model.safetensors.index.json", json.dumps({"weight_map": files}))


EMBED, Q = "model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"


def _set(tensors: dict[str, torch.Tensor], name: str, tensor: torch.Tensor) -> None:
    tensors[name] = tensor


def _poison(value: float) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[Q][3, 5] = value
    return change


def _huge(header: dict[str, Any]) -> None:
    header[EMBED]["shape"] = [1 << 40, 1 << 20]


def _far_away(header: dict[str, Any]) -> None:
    header[EMBED]["data_offsets"] = [0, 1 << 60]


# name -> (what is done to a good folder, words the sentence must contain)
DAMAGES: dict[str, tuple[Damage, str]] = {
    "no config": (remove("config.json"), "config.json is missing"),
    "no weights": (remove("model.safetensors"), "no weights"),
    "no tokenizer": (remove("tokenizer.json"), "no tokenizer"),
    "truncated weights": (cut(0.6), "damaged or incomplete"),
    "weights of a few bytes": (cut(0.00001), "damaged or incomplete"),
    "empty weights": (write("model.safetensors", b""), "damaged or incomplete"),
    "weights of noise": (write("model.safetensors", os.urandom(5000)), "damaged or incomplete"),
    "header longer than the file": (write("model.safetensors", struct.pack("<Q", 1 << 50) + b"{}"), "damaged"),
    "header of 99 MB that is not there": (write("model.safetensors", struct.pack("<Q", 99_000_000) + b"{}"), "damaged"),
    "header that is not JSON": (write("model.safetensors", struct.pack("<Q", 4) + b"oops"), "damaged"),
    "shape of a trillion rows": (edit_header(_huge), "damaged"),
    "data beyond the end": (edit_header(_far_away), "damaged"),
    "wrong shape": (edit_weights(lambda t: _set(t, Q, torch.zeros(64, 32))), "q_proj.weight has the shape"),
    "transposed": (edit_weights(lambda t: _set(t, "model.layers.0.mlp.down_proj.weight", torch.zeros(104, 64))),
                   "down_proj.weight has the shape"),
    "missing tensor": (edit_weights(lambda t: t.pop(Q)), "lacks the tensor model.layers.0.self_attn.q_proj.weight"),
    "many missing tensors": (edit_weights(lambda t: [t.pop(n) for n in list(t) if "mlp" in n]), "and 5 more"),
    "NaN": (edit_weights(_poison(float("nan"))), "q_proj.weight holds 1 value that is not a number"),
    "infinity": (edit_weights(_poison(float("inf"))), "not a number"),
    "int8 tensors": (edit_weights(lambda t: _set(t, Q, torch.zeros(64, 64, dtype=torch.int8))), "stored as I8"),
    "unknown architecture": (edit_json("config.json", model_type="mamba"), "'mamba'"),
    "no architecture": (edit_json("config.json", model_type=None), "architecture"),
    "other sizes in config.json": (edit_json("config.json", hidden_size=128), "has the shape"),
    "config.json without sizes": (edit_json("config.json", hidden_size=None), "hidden_size"),
    "config.json with a word for a size": (edit_json("config.json", hidden_size="big"), "config.json"),
    "config.json with an absurd size": (edit_json("config.json", vocab_size=1 << 60), "vocab_size"),
    "config.json with absurdly many layers": (edit_json("config.json", num_hidden_layers=1 << 24), "n_layers"),
    "config.json with an infinite size": (write("config.json", '{"model_type": "llama", "hidden_size": 1e999}'),
                                          "config.json"),
    "config.json with no heads": (edit_json("config.json", num_attention_heads=0), "n_heads"),
    "config.json with heads that do not fit": (edit_json("config.json", num_key_value_heads=3), "share"),
    "config.json with a negative size": (edit_json("config.json", num_hidden_layers=-2), "n_layers"),
    "config.json with a list for rope": (edit_json("config.json", rope_parameters=[1, 2]), "config.json"),
    "config.json with unknown rope": (edit_json("config.json", rope_parameters={"rope_type": "spiral"}), "'spiral'"),
    "config.json with a rope factor of zero": (edit_json("config.json", rope_parameters={
        "rope_type": "linear", "factor": -1.0}), "rotary scaling"),
    "config.json with longrope of too few factors": (edit_json("config.json", rope_parameters={
        "rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}), "short_factor"),
    "config.json with unknown layers": (edit_json("config.json", model_type="qwen3", use_sliding_window=True,
                                                  layer_types=["mamba", "mamba"]), "'mamba'"),
    "config.json with too few layers": (edit_json("config.json", model_type="smollm3", no_rope_layers=[0]), "layer"),
    "config.json with unknown activation": (edit_json("config.json", hidden_act="cosine"), "'cosine'"),
    "config.json that is not JSON": (write("config.json", "{model_type: llama"), "config.json cannot be read"),
    "config.json that is a list": (write("config.json", "[1]"), "config.json does not hold"),
    "config.json in another encoding": (write("config.json", b"\xff\xfe{\x00"), "config.json cannot be read"),
    "empty config.json": (write("config.json", ""), "config.json cannot be read"),
    "deeply nested config.json": (write("config.json", '{"a":' * 100_000), "config.json cannot be read"),
    "damaged generation_config.json": (write("generation_config.json", "{"), "generation_config.json cannot be read"),
    "damaged tokenizer.json": (write("tokenizer.json", '{"version": "1.0", "model": {'), "tokenizer cannot be read"),
    "tokenizer.json that is noise": (write("tokenizer.json", os.urandom(500)), "tokenizer cannot be read"),
    "tokenizer.json of another kind": (write("tokenizer.json", "{}"), "tokenizer cannot be read"),
    "damaged tokenizer_config.json": (write("tokenizer_config.json", "{"), "tokenizer cannot be read"),
    "tokenizer_config.json that is a list": (write("tokenizer_config.json", "[]"), "tokenizer cannot be read"),
    "index that is not JSON": (write("model.safetensors.index.json", "{"), "index.json cannot be read"),
    "index that is a list": (write("model.safetensors.index.json", "[]"), "index.json cannot be read"),
    "index of numbers": (write("model.safetensors.index.json", '{"weight_map": {"a": 1, "b": "c"}}'), "index.json"),
    "index of missing shards": (index({EMBED: "model-00001-of-00002.safetensors"}), "missing"),
    "index that points outside": (index({EMBED: "../outside.safetensors"}), "outside.safetensors"),
    "index that points to an absolute path": (index({EMBED: "/etc/passwd"}), "passwd"),
    "index that points into a folder": (index({EMBED: "sub/model.safetensors"}), "model.safetensors"),
}


@pytest.fixture
def damaged(llama_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny Llama to break, beside a good checkpoint outside its folder."""
    shutil.copy(llama_folder / "model.safetensors", tmp_path / "outside.safetensors")
    folder = shutil.copytree(llama_folder, tmp_path / "damaged")
    shutil.copytree(llama_folder, folder / "sub")
    return folder


@pytest.mark.parametrize("name", list(DAMAGES))
def test_a_damaged_folder_is_refused_with_one_clear_sentence(name: str, damaged: Path) -> None:
    damage, words = DAMAGES[name]
    damage(damaged)
    with pytest.raises(DynoError) as caught:
        Session.open(damaged, cpu())
    assert words in caught.value.summary
    assert caught.value.hint
    said = str(caught.value)
    assert len(said) < 500 and "\n" not in said and "rrno" not in said and "os error" not in said


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_link_to_a_file_that_has_gone_is_said_to_be_missing_and_named_once(damaged: Path, file: str) -> None:
    (damaged / file).unlink()
    (damaged / file).symlink_to(damaged / "gone" / "blob")
    with pytest.raises(DynoError) as caught:
        Session.open(damaged, cpu())
    assert caught.value.summary.count(file) == 1 and caught.value.summary.endswith("is missing.")


@pytest.mark.parametrize("error", [FileNotFoundError(2, "No such file or directory", "/x/y.bin"),
                                   PermissionError(13, "Permission denied", "/x/y.bin"),
                                   OSError(28, "No space left on device", "/x/y.bin")])
def test_a_file_that_cannot_be_used_is_told_without_number_and_path(error: OSError) -> None:
    summary, hint = for_people(error)
    assert summary.startswith("y.bin cannot be used: ") and hint
    assert "rrno" not in summary and summary.count("y.bin") == 1 and "/x" not in summary


def test_after_every_refusal_the_loaded_model_goes_on_with_the_same_bits(damaged: Path, llama_folder: Path,
                                                                         engine: Engine) -> None:
    engine.load(llama_folder)
    ask = Generate(0, prompt="At last a light", sampling=GREEDY)

    def answer() -> tuple[Any, ...]:
        job = Generate(**ask.__dict__ | {"job_id": engine.next_id()})
        end = engine.run(job)
        assert isinstance(end, Finished)
        from engine.messages import Tokens

        return tuple(p for e in engine.seen if isinstance(e, Tokens) and e.job_id == job.job_id for p in e.pieces)

    before = answer()
    good = {path.name: path.read_bytes() for path in damaged.iterdir() if path.is_file()}
    for name, (damage, words) in DAMAGES.items():
        damage(damaged)
        end = engine.run(LoadModel(engine.next_id(), str(damaged), device="cpu"))
        assert isinstance(end, Failed), name
        assert words in end.summary and end.hint, name
        for path in damaged.iterdir():
            if path.is_file():
                path.unlink()
        for file, content in good.items():
            (damaged / file).write_bytes(content)
    assert answer() == before
    assert sum(isinstance(e, ModelLoaded) for e in engine.seen) == 1
    assert isinstance(engine.run(LoadModel(engine.next_id(), str(damaged), device="cpu")), Finished)


@pytest.mark.parametrize("what", ["missing", "file", "empty", "other files"])
def test_a_folder_that_is_no_model_is_named(what: str, tmp_path: Path, engine: Engine) -> None:
    folder = tmp_path / "place"
    if what == "file":
        folder.write_text("not a folder")
    elif what != "missing":
        folder.mkdir()
        if what == "other files":
            (folder / "holiday.jpg").write_bytes(b"\xff\xd8")
    end = engine.run(LoadModel(engine.next_id(), str(folder), device="cpu"))
    assert isinstance(end, Failed)
    assert str(folder) in end.summary and end.hint


def test_asking_without_a_model_says_so(engine: Engine) -> None:
    end = engine.run(Generate(engine.next_id(), prompt="hello"))
    assert isinstance(end, Failed) and "No model is loaded" in end.summary


class _Bomb:
    """Unpickling this writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "last.ckpt"])
def test_a_pickle_is_refused_and_never_executed(name: str, damaged: Path, tmp_path: Path) -> None:
    target = tmp_path / "executed"
    (damaged / "model.safetensors").unlink()
    (damaged / name).write_bytes(pickle.dumps(_Bomb(target)))
    with pytest.raises(DynoError, match=r"is a pickle.*was not opened"):
        Session.open(damaged, cpu())
    assert not target.exists()
    pickle.loads((damaged / name).read_bytes())
    assert target.exists(), "the bomb must work for the test to prove anything"


def test_a_pickle_beside_good_weights_is_left_alone(damaged: Path, tmp_path: Path) -> None:
    target = tmp_path / "executed"
    (damaged / "pytorch_model.bin").write_bytes(pickle.dumps(_Bomb(target)))
    Session.open(damaged, cpu())
    assert not target.exists()


def test_a_pickle_that_calls_itself_safetensors_is_refused(damaged: Path, tmp_path: Path) -> None:
    target = tmp_path / "executed"
    (damaged / "model.safetensors").write_bytes(pickle.dumps(_Bomb(target)))
    with pytest.raises(DynoError, match="damaged"):
        Session.open(damaged, cpu())
    assert not target.exists()


def test_an_index_out_of_the_folder_reads_nothing_there(damaged: Path) -> None:
    tensors = load_file(damaged / "model.safetensors")
    index(dict.fromkeys(tensors, "../outside.safetensors"))(damaged)
    with pytest.raises(DynoError):
        load_masters(damaged)


# ------------------------------------------------------------------------------------------------------------ prompts


def refusal(engine: Engine, **changes: Any) -> Failed:
    """The failure of a Generate with these fields; afterwards a good one must still work."""
    end = engine.run(Generate(engine.next_id(), **{"sampling": GREEDY} | changes))
    assert isinstance(end, Failed), end
    assert isinstance(engine.run(Generate(engine.next_id(), prompt="The gulls", sampling=GREEDY)), Finished)
    return end


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(model_folder: Path, engine: Engine) -> None:
    engine.load(model_folder)
    end = refusal(engine, prompt="the waves said the same word again " * 200)
    assert str(CONTEXT) in end.summary and "tokens long" in end.summary and end.hint


def test_a_prompt_that_fills_the_context_leaves_room_for_one_token(model_folder: Path, engine: Engine) -> None:
    engine.load(model_folder)
    tokenizer = engine.session.tokenizer
    text = ""
    while len(tokenizer.encode(text)) < CONTEXT - 1:
        text += "x"
    end = engine.run(Generate(engine.next_id(), prompt=text, sampling=GREEDY))
    assert isinstance(end, Finished)
    assert end.result.output_tokens == 1 and end.result.finish == "context"  # type: ignore[union-attr]
    assert "tokens long" in refusal(engine, prompt=text + "x").summary


def test_an_empty_prompt_is_refused_where_the_tokenizer_adds_nothing(gpt2_folder: Path, engine: Engine) -> None:
    engine.load(gpt2_folder)
    assert refusal(engine, prompt="").summary == "The prompt is empty."


def test_a_reply_to_nothing_at_all_is_refused(model_folder: Path, engine: Engine) -> None:
    engine.load(model_folder)
    assert "prompt" in refusal(engine).summary


@pytest.mark.parametrize(("field", "value"), [("temperature", -1.0), ("temperature", float("nan")), ("top_p", 0.0),
                                              ("top_k", -5), ("min_p", 2.0), ("max_tokens", 0),
                                              ("repetition_penalty", 0.0), ("seed", 1 << 70)])
def test_sampling_out_of_its_limits_is_refused(llama_folder: Path, engine: Engine, field: str, value: float) -> None:
    engine.load(llama_folder)
    end = refusal(engine, prompt="The gulls", sampling=Sampling(**{field: value}))  # type: ignore[arg-type]
    assert field.replace("_", " ") in end.summary.replace("-", " ") and end.hint


def test_a_tokenizer_of_another_model_is_noticed(damaged: Path, engine: Engine) -> None:
    from tokenizers import Tokenizer

    backend = Tokenizer.from_file(str(damaged / "tokenizer.json"))
    backend.add_tokens([f"word{i}" for i in range(500)])
    backend.save(str(damaged / "tokenizer.json"))
    engine.load(damaged)
    end = refusal(engine, prompt="The gulls word499")
    assert "tokenizer" in end.summary and end.hint


def test_strange_text_is_just_text(model_folder: Path) -> None:
    session = open_session(model_folder)
    for text in ("\0", "\ufffd", "a" * 200, "\u202e\u05d0\u05d1", "👩\u200d👩\u200d👧", "\r\n\t", "<s>", "\ud7ff"):
        ids = session.tokenizer.encode(text)
        session.begin(ids, len(ids), reuse=False)
        assert torch.isfinite(session.read(ids[:CONTEXT])).all()
