"""GGUF in and out: the numbers of blocks, names and orders, tokenizers, and the same tokens in llama.cpp."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.cli import run as run_cli
from engine.errors import DynoError
from engine.export import export_model
from engine.fit import estimate
from engine.messages import ExportModel, Failed, Finished
from engine.models.config import ModelConfig
from engine.models.gguf_header import BLOCKS, read_gguf
from engine.models.gguf_names import config_of
from engine.models.gguf_quants import dequantise
from engine.models.opening import load_model, model_config, open_tokenizer
from engine.recipe import Recipe, parse_recipe
from engine.session import Session
from tests.conftest import GPT2, LLAMA, TEXT, write_model
from tests.engine.support import Engine, built, cpu, finish, live_bytes, open_session, reply
from tests.engine.test_fit import padding

gguf = pytest.importorskip("gguf", reason="the gguf library is not installed")

QWEN2 = LLAMA | {"model_type": "qwen2"}
QWEN3 = LLAMA | {"model_type": "qwen3", "head_dim": 16}
MISTRAL = LLAMA | {"model_type": "mistral", "sliding_window": None}
LLAMA3 = LLAMA | {"rope_parameters": {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192}}
LINEAR = LLAMA | {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}}
TIED = LLAMA | {"tie_word_embeddings": True}
BIASED = LLAMA | {"attention_bias": True}
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": GPT2, "llama": LLAMA, "tied": TIED, "qwen2": QWEN2, "qwen3": QWEN3, "mistral": MISTRAL, "llama3": LLAMA3,
    "linear": LINEAR, "biased": BIASED}


@pytest.fixture(scope="module", params=list(SHAPES))
def shape(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of each architecture that is exported, with weights that are exact in fp16."""
    folder = write_model(tmp_path_factory.mktemp("gguf") / str(request.param), SHAPES[request.param])
    return folder


def exported(folder: Path, into: Path, form: str, recipe: str = "fp32") -> Session:
    """The model of a folder, written in a format; the session it was written from."""
    session = open_session(folder)
    assert finish(export_model(session.masters, session.tokenizer, parse_recipe(recipe), form, into, session.device,
                               session.calibrator())) == into
    return session


def llama_cpp_greedy(path: Path, ids: list[int], count: int, **settings: Any) -> list[int]:
    """What llama.cpp says after these tokens, always the likeliest."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    model = llama_cpp.Llama(str(path), n_ctx=min(256, model_config(path).context), n_threads=1, verbose=False,
                            **settings)
    made: list[int] = []
    for token in model.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0):
        made.append(int(token))
        if len(made) == count:
            break
    model.close()
    return made


# ------------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("kind", [k for k in BLOCKS if k not in ("F32", "F16", "BF16")])
def test_blocks_stand_for_the_numbers_that_the_library_gives(kind: str) -> None:
    weights, nbytes = BLOCKS[kind]
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 256, (64, 3 * nbytes), dtype=np.uint8)
    for at in {"Q6_K": (208,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q4_1": (0, 2), "Q5_1": (0, 2)}.get(kind, (0,)):
        scales = rng.normal(0, 0.1, (64, 3)).astype("<f2").view(np.uint8).reshape(64, 3, 2)
        raw.reshape(64, 3, nbytes)[:, :, at:at + 2] = scales
    ours = dequantise(torch.from_numpy(raw.reshape(-1)), kind, (64, 3 * weights))
    theirs = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind])
    assert np.array_equal(ours.numpy(), theirs)


# ------------------------------------------------------------------------------------------------- there and back again


def test_what_is_exported_in_f16_comes_back_as_it_is_in_f16(shape: Path, tmp_path: Path) -> None:
    session = exported(shape, tmp_path / "model.gguf", "gguf-f16")
    back = load_model(tmp_path / "model.gguf")
    assert set(back) == set(session.masters)
    for name in back:
        wanted = session.masters[name]
        if wanted.dim() > 1 and name != "positions.weight":
            wanted = wanted.half()
        assert torch.equal(back[name].float(), wanted.float()), name
    ours, theirs = session.config, back.config
    for field in ("hidden_size", "n_layers", "n_heads", "n_kv_heads", "head_dim", "intermediate_size", "context",
                  "vocab_size", "tied", "qkv_bias", "qk_norm", "rope_scaling", "bos_id", "eos_ids", "activation"):
        assert getattr(ours, field) == getattr(theirs, field), field
    assert back.config.norm_eps == pytest.approx(session.config.norm_eps)
    assert back.stored_name == "fp16"


def test_what_is_exported_in_q8_0_is_what_the_library_rounds_to(shape: Path, tmp_path: Path) -> None:
    session = exported(shape, tmp_path / "model.gguf", "gguf-q8_0")
    back = load_model(tmp_path / "model.gguf")
    name = "embed.weight"
    if session.masters.shape(name)[1] % 32:  # rows that are no whole blocks stay in F16
        assert torch.equal(back[name], session.masters[name].half())
        return
    theirs = gguf.quants.dequantize(gguf.quants.quantize(session.masters[name].numpy(), gguf.GGMLQuantizationType.Q8_0),
                                    gguf.GGMLQuantizationType.Q8_0)
    assert np.array_equal(back[name].numpy(), theirs)
    for name in back:
        wanted = session.masters[name]
        assert (back[name].float() - wanted).abs().max() <= wanted.abs().max() / 127, name
    assert back.stored_name == "Q8_0"


def test_a_tokenizer_comes_back_from_the_metadata(shape: Path, tmp_path: Path) -> None:
    session = exported(shape, tmp_path / "model.gguf", "gguf-f16")
    back = open_tokenizer(tmp_path / "model.gguf")
    for text in (TEXT, "", " two  spaces\n\n", "Ünïcode 👩‍👧 12345 don't", "<s>inside</s>"):
        assert back.encode(text) == session.tokenizer.encode(text), text
        ids = back.encode(text)
        assert back.decode(ids) == session.tokenizer.decode(ids)


def test_a_sentencepiece_tokenizer_comes_back_from_its_scores(stories: Path, tmp_path: Path) -> None:
    session = exported(stories, tmp_path / "model.gguf", "gguf-f16")
    back = open_tokenizer(tmp_path / "model.gguf")
    for text in (TEXT, "Once upon a time", "", "  spaces", "Ünïcode 👩 12345"):
        assert back.encode(text) == session.tokenizer.encode(text), text
        assert back.decode(back.encode(text)) == session.tokenizer.decode(session.tokenizer.encode(text))
    assert back.adds_bos


def test_a_chat_template_travels_with_the_model(llama_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(llama_folder, tmp_path / "model")
    template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    exported(folder, tmp_path / "model.gguf", "gguf-f16")
    assert open_tokenizer(tmp_path / "model.gguf").chat_template == template


def test_the_apps_own_model_comes_back_with_its_own_cut(tmp_path: Path) -> None:
    from engine.paths import bundled_model

    session = exported(bundled_model(), tmp_path / "model.gguf", "gguf-f16")
    back = open_tokenizer(tmp_path / "model.gguf")
    for text in (TEXT, "WE'LL see\n\n\nempty lines", "1234"):
        assert back.encode(text) == session.tokenizer.encode(text)
    assert back.chat_template == session.tokenizer.chat_template


# --------------------------------------------------------------------------------------------------------- llama.cpp


def test_llama_cpp_says_the_same_tokens_as_we_do_of_stories(stories: Path, tmp_path: Path) -> None:
    exported(stories, tmp_path / "model.gguf", "gguf-f16")
    session = open_session(tmp_path / "model.gguf")
    ids = session.tokenizer.encode("Once upon a time")
    assert llama_cpp_greedy(tmp_path / "model.gguf", ids, 100) == reply(session, ids)[0][:100]


def test_llama_cpp_says_the_same_tokens_as_we_do_of_a_124m_gpt2(tmp_path: Path) -> None:
    """Random weights in the shape of the smallest GPT-2. Among 50,257 random logits two are now and then so close that
    rounding activations to fp16, which llama.cpp does and we do not, decides: from there on ours go on."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    folder = write_model(tmp_path / "gpt2", GPT2 | {"n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024,
                                                    "vocab_size": 50257})
    exported(folder, tmp_path / "model.gguf", "gguf-f16")
    session = open_session(tmp_path / "model.gguf")
    assert session.masters.parameters == 124_439_808
    ids = session.tokenizer.encode("Have you seen the Wren?")
    ours = reply(session, ids)[0][:60]
    model = llama_cpp.Llama(str(tmp_path / "model.gguf"), n_ctx=128, n_threads=1, verbose=False, logits_all=True)
    model.eval(ids)
    for token in ours:  # as generate() goes on, but with our tokens
        model.eval([token])
    logits = np.array(model.scores[len(ids) - 1:len(ids) + len(ours) - 1])  # (60, V)
    model.close()
    theirs = logits.argmax(axis=1)
    ties = [i for i, token in enumerate(ours) if theirs[i] != token]
    assert len(set(ours)) > 20 and len(ties) <= 3
    for i in ties:
        assert logits[i, theirs[i]] - logits[i, ours[i]] < 0.01 * np.abs(logits[i]).max()


def test_llama_cpp_says_every_token_as_we_do_of_a_124m_gpt2_in_fp32(tmp_path: Path) -> None:
    """With weights and cache in fp32 on both sides nothing is rounded, so no near-tie falls otherwise."""
    folder = write_model(tmp_path / "gpt2", GPT2 | {"n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024,
                                                    "vocab_size": 50257})
    exported(folder, tmp_path / "model.gguf", "gguf-f32")
    session = open_session(tmp_path / "model.gguf")
    ids = session.tokenizer.encode("Have you seen the Wren?")
    ours = reply(session, ids)[0][:60]
    assert len(set(ours)) > 20
    assert llama_cpp_greedy(tmp_path / "model.gguf", ids, 60, type_k=0, type_v=0) == ours  # 0: GGML_TYPE_F32


def test_with_codes_llama_cpp_says_the_same_tokens_until_two_are_nearly_as_likely(stories: Path,
                                                                                  tmp_path: Path) -> None:
    """Beside Q8_0 weights it rounds activations to 8 bits, which we do not."""
    exported(stories, tmp_path / "model.gguf", "gguf-q8_0")
    session = open_session(tmp_path / "model.gguf")
    ids = session.tokenizer.encode("Once upon a time")
    ours, theirs = reply(session, ids)[0][:100], llama_cpp_greedy(tmp_path / "model.gguf", ids, 100)
    same = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), len(ours))
    assert same >= 20
    if same < len(ours):
        before = [*ids, *ours[:same]]
        session.begin(before, len(before), reuse=False)
        logits = session.read(before)
        assert logits[ours[same]] - logits[theirs[same]] < 0.02 * logits.abs().max()


def test_llama_cpp_reads_every_architecture_that_is_exported(shape: Path, tmp_path: Path) -> None:
    """Random weights give near-ties that rounding decides; weights three times as large give few."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    path = tmp_path / "model.gguf"
    exported(shape, path, "gguf-f16")
    session = open_session(path)
    ids = session.tokenizer.encode("Have you seen the Wren?")
    model = llama_cpp.Llama(str(path), n_ctx=128, n_threads=1, verbose=False, logits_all=True)
    model.eval(ids)
    theirs = torch.tensor(np.array(model.scores[:len(ids)]))
    model.close()
    session.begin(ids, len(ids), reuse=False)
    ours = torch.cat([session.step([token]) for token in ids])
    # llama.cpp computes with fp16 weights and rounds activations to them.
    assert (ours - theirs).abs().max() < 0.02 * ours.abs().max()
    assert model_config(path).model_type in ("gpt2", "llama", "qwen2", "qwen3")


@pytest.mark.parametrize("recipe", ["prune-neurons:amount=0.5", "prune-heads:amount=0.5", "prune-layers:amount=0.5",
                                    "prune-l1:amount=0.5", "int8"])
def test_a_pruned_model_is_exported_in_its_real_shapes(llama_folder: Path, tmp_path: Path, recipe: str) -> None:
    path = tmp_path / "model.gguf"
    exported(llama_folder, path, "gguf-f16", recipe)
    session = open_session(path)
    _, pruned = built(llama_folder, recipe if recipe != "int8" else "fp32")
    assert session.config.intermediate_size == pruned.decoder.config.intermediate_size
    assert session.config.n_layers == pruned.decoder.config.n_layers
    assert session.config.n_heads == pruned.decoder.config.n_heads
    ids = torch.tensor([session.tokenizer.encode(TEXT)[:60]])
    assert session.active is not None
    ours, theirs = (v.forward(ids, None, last_only=False) for v in (session.active, pruned))
    assert (ours - theirs).abs().max() < 5e-3 * theirs.abs().max()


# ------------------------------------------------------------------------------------------------- wherever a model is


def test_a_gguf_file_opens_where_a_folder_does(llama_folder: Path, tmp_path: Path, engine: Engine) -> None:
    path = tmp_path / "tiny model.gguf"
    exported(llama_folder, path, "gguf-q8_0")
    model = engine.load(path, parse_recipe("bf16")).model
    assert model.stored_dtype == "Q8_0" and model.architecture == "llama" and model.name == "tiny model.gguf"
    assert model.file_bytes == path.stat().st_size
    out = tmp_path / "again.gguf"
    assert isinstance(engine.run(ExportModel(engine.next_id(), str(out), "gguf-f16")), Finished)
    assert load_model(out).config.hidden_size == model_config(path).hidden_size
    wrong = engine.run(ExportModel(engine.next_id(), str(tmp_path / "none" / "x.gguf"), "gguf-f16"))
    assert isinstance(wrong, Failed) and "could not be written" in wrong.summary


@pytest.mark.parametrize("form", ["gguf-f16", "gguf-q8_0", "gguf-f32"])
@pytest.mark.parametrize("recipe", ["fp32", "bf16", "int8-dynamic:head=int8", "int4-weight,bf16"])
def test_the_estimate_of_a_gguf_file_is_what_it_takes(llama_folder: Path, tmp_path: Path, form: str,
                                                      recipe: str) -> None:
    path = tmp_path / "model.gguf"
    exported(llama_folder, path, form)
    fit = estimate(path, parse_recipe(recipe), device=cpu())
    _, variant = built(path, recipe)
    assert fit.weight_bytes == pytest.approx(live_bytes(variant) - padding(variant), rel=0.001)
    assert fit.mapped_bytes == variant.report.mapped_bytes
    assert fit.stored == form.removeprefix("gguf-").upper()


def test_safetensors_written_from_a_gguf_file_open_as_the_same_model(llama_folder: Path, tmp_path: Path) -> None:
    exported(llama_folder, tmp_path / "model.gguf", "gguf-f16")
    session = exported(tmp_path / "model.gguf", tmp_path / "folder", "safetensors")
    back = Session.open(tmp_path / "folder", cpu())
    for name in back.masters:
        assert torch.equal(back.masters[name].float(), session.masters[name].half().float()), name
    assert back.tokenizer.encode(TEXT) == session.tokenizer.encode(TEXT)


def test_the_command_line_exports(llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.gguf"
    assert run_cli(["export", "--model", str(llama_folder), "--format", "gguf-q8_0", "--out", str(out)]) == 0
    assert "out.gguf" in capsys.readouterr().out
    assert config_of(read_gguf(out)) == model_config(out)
    assert run_cli(["export", "--model", str(llama_folder), "--format", "gguf-q8_0", "--out",
                    str(tmp_path / "no" / "x.gguf")]) == 1


def test_tensors_that_would_not_be_used_are_not_passed_over(tmp_path: Path) -> None:
    """Qwen 3 has no biases for us; a file with some is another model."""
    exported(write_model(tmp_path / "model", QWEN3), tmp_path / "model.gguf", "gguf-f16")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    writer = gguf.GGUFWriter(tmp_path / "biased.gguf", "qwen3")
    for name, held in reader.fields.items():
        if not name.startswith(("GGUF.", "general.architecture")):
            kind = held.types[0]
            writer.add_key_value(name, held.contents(), kind, held.types[-1] if len(held.types) > 1 else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.add_tensor("blk.0.attn_q.bias", np.zeros(64, np.float32))
    writer.add_tensor("blk.1.attn_q.bias", np.zeros(64, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(DynoError, match=r"holds blk\.0\.attn_q\.bias and 1 more tensor, for which .* no use"):
        load_model(tmp_path / "biased.gguf")


def test_an_export_that_is_stopped_leaves_what_was_there(llama_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.gguf"
    out.write_bytes(b"what was there")
    session = open_session(llama_folder)
    steps = export_model(session.masters, session.tokenizer, Recipe(), "gguf-f16", out, session.device)
    for _ in range(5):
        next(steps)
    steps.close()
    assert out.read_bytes() == b"what was there" and [p.name for p in tmp_path.iterdir()] == ["model.gguf"]


Change = Callable[[dict[str, object]], object]


@pytest.mark.parametrize(("change", "words"), [
    ({"sliding_window": 16, "model_type": "mistral"}, "window"),
    ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "dynamic"),
    ({"hidden_act": "gelu"}, "activation"),
])
def test_what_llama_cpp_would_run_otherwise_is_not_exported(change: dict[str, object], words: str,
                                                            tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", LLAMA | change)
    with pytest.raises(DynoError, match=words) as said:
        exported(folder, tmp_path / "model.gguf", "gguf-f16")
    assert said.value.hint and not (tmp_path / "model.gguf").exists()


def test_a_configuration_says_the_same_in_both_formats(shape: Path, tmp_path: Path) -> None:
    exported(shape, tmp_path / "model.gguf", "gguf-f16")
    kind = json.loads((shape / "config.json").read_text(encoding="utf-8"))["model_type"]
    assert model_config(tmp_path / "model.gguf").model_type == ("llama" if kind == "mistral" else kind)
    assert isinstance(model_config(shape), ModelConfig)
