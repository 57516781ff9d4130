"""Models that Transformers runs behind the decoder's face: logits, caches, techniques, and what is refused, and why."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.errors import DynoError
from engine.export import export_model
from engine.fit import estimate
from engine.hub.catalogue import Catalogue
from engine.hub.library import Library
from engine.jobs import model_info, unavailable_techniques
from engine.kernels.linear import LinearKernel
from engine.models.checkpoint import load_masters
from engine.models.foreign import ForeignCache, ForeignMasters, open_foreign
from engine.models.known import transformers_has
from engine.models.opening import model_context
from engine.recipe import Recipe, parse_recipe
from engine.session import Session
from tests.conftest import VOCAB_SIZE, write_tokenizer
from tests.engine.support import GREEDY, cpu, decode_logits, finish, read_logits, reply, score
from tests.engine.test_fit import padding

transformers = pytest.importorskip("transformers")

LENGTH = 70
SHAPE: dict[str, Any] = {"vocab_size": VOCAB_SIZE, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
                         "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": None}
IDS = torch.randint(1, 300, (LENGTH,), generator=torch.Generator().manual_seed(5)).tolist()


def _llama_like(name: str, **more: Any) -> Any:
    return getattr(transformers, name)(**SHAPE, intermediate_size=72, max_position_embeddings=128, **more)


CONFIGS: dict[str, Callable[[], Any]] = {
    "opt": lambda: transformers.OPTConfig(**SHAPE, ffn_dim=72, max_position_embeddings=128, word_embed_proj_dim=48),
    "opt-projected": lambda: transformers.OPTConfig(**SHAPE, ffn_dim=72, max_position_embeddings=128,
                                                    word_embed_proj_dim=32, do_layer_norm_before=True),
    "bloom": lambda: transformers.BloomConfig(vocab_size=VOCAB_SIZE, hidden_size=48, n_layer=2, n_head=4,
                                              bos_token_id=0, eos_token_id=None, pad_token_id=0),
    "gptj": lambda: transformers.GPTJConfig(vocab_size=VOCAB_SIZE, n_embd=48, n_layer=2, n_head=4, rotary_dim=6,
                                            n_positions=128, bos_token_id=0, eos_token_id=None),
    "falcon": lambda: transformers.FalconConfig(**SHAPE, multi_query=True, parallel_attn=True),
    # Cohere scales its logits after the head.
    "cohere": lambda: _llama_like("CohereConfig", num_key_value_heads=2, logit_scale=0.5),
    "stablelm": lambda: _llama_like("StableLmConfig", num_key_value_heads=2, rope_parameters={
        "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}),
    "starcoder2": lambda: _llama_like("Starcoder2Config", num_key_value_heads=2, sliding_window=17),
    "qwen2_moe": lambda: _llama_like("Qwen2MoeConfig", num_key_value_heads=2, num_experts=4, num_experts_per_tok=2,
                                     moe_intermediate_size=32, shared_expert_intermediate_size=40),
}


@dataclass(frozen=True)
class Pair:
    """A random model as Transformers made it, its folder, its logits for IDS, and our session over the folder."""

    hf: Any
    folder: Path
    logits: torch.Tensor  # (T, V)
    session: Session


def write_foreign(name: str, folder: Path) -> Any:
    """A model of random weights in a folder with a tokenizer; the model."""
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name]()).float().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.15 * noise if parameter.dim() >= 2 else 0.3 * noise + (parameter == 1))
    model.save_pretrained(folder)
    write_tokenizer(folder, adds_bos=False)
    return model


@pytest.fixture(scope="module", params=list(CONFIGS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Every architecture in turn."""
    folder = tmp_path_factory.mktemp(request.param)
    model = write_foreign(request.param, folder)
    session = Session.open(folder, cpu())
    session.apply(Recipe())
    with torch.no_grad():
        logits = model(torch.tensor([IDS]), use_cache=False).logits[0]
    yield Pair(model, folder, logits, session)


@pytest.fixture(scope="module")
def opt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny OPT: tied head, biases, learned positions."""
    folder = tmp_path_factory.mktemp("opt")
    write_foreign("opt", folder)
    return folder


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_prompts_tokens_and_chunks_give_the_logits_of_transformers(pair: Pair) -> None:
    assert pair.logits.std() > 0.3, "a flat model would prove nothing"
    assert_close(read_logits(pair.session, IDS), pair.logits)
    assert_close(decode_logits(pair.session, IDS), pair.logits)
    ends = [min(i + 7, LENGTH) - 1 for i in range(0, LENGTH, 7)]
    assert_close(decode_logits(pair.session, IDS, 7), pair.logits[ends])


def test_the_cache_takes_tokens_back_and_keeps_a_common_beginning(pair: Pair) -> None:
    session = pair.session
    session.begin(IDS[:40], 60, reuse=False)
    session.read(IDS[:40])
    session.step(IDS[:3])
    session.forget(3)
    assert_close(session.step(IDS[40:41])[0], pair.logits[40])
    other = [*IDS[:25], 7, 9, 11]
    assert session.begin(other, len(other), reuse=True) == 25
    with torch.no_grad():
        expected = pair.hf(torch.tensor([other]), use_cache=False).logits[0, -1]
    assert_close(session.read(other[25:]), expected)
    assert session.begin(other, 10_000, reuse=True) == len(other) - 1, "a larger cache takes over what the smaller held"
    assert_close(session.read(other[-1:]), expected)


def test_the_sizes_told_are_those_of_the_model(pair: Pair) -> None:
    session, active = pair.session, pair.session.active
    assert active is not None and isinstance(session.masters, ForeignMasters)
    assert session.masters.parameters == sum(p.numel() for p in pair.hf.parameters())
    cache = active.new_cache(LENGTH)
    assert isinstance(cache, ForeignCache)
    active.forward(torch.tensor([IDS]), cache)
    assert cache.nbytes == active.report.kv_bytes_per_token * LENGTH


@pytest.mark.parametrize("recipe", ["bf16", "int8-weight", "int8-dynamic:head=int8", "int4-weight:fit=fit", "l1-50",
                                    "prune-wanda:amount=0.5", "int8-weight:head=int8:embedding=int8,bf16"])
def test_techniques_on_linear_layers_apply_and_undo_is_exact(pair: Pair, recipe: str) -> None:
    session = pair.session
    session.apply(Recipe())
    before = read_logits(session, IDS)
    variant = session.apply(parse_recipe(recipe))
    changed = read_logits(session, IDS)
    apart = float((changed - before).norm() / before.norm())
    assert 0 < apart < (0.9 if "prune" in recipe or "l1" in recipe else 0.5 if "int4" in recipe else 0.12)
    assert all(report.engaged for report in variant.report.techniques)
    kernels = [m for m in variant.decoder.modules() if isinstance(m, LinearKernel)]
    assert len(kernels) == len(session.masters.slots), "every linear layer is ours"
    session.apply(Recipe())
    assert torch.equal(read_logits(session, IDS), before)


def test_quantized_layers_hold_fewer_bytes_and_the_report_adds_up(opt: Path) -> None:
    session = Session.open(opt, cpu())
    plain = session.apply(Recipe()).report
    codes = session.apply(parse_recipe("int8-weight:head=int8")).report
    dense, coded = (sum(la.nbytes for la in report.layers if not la.shared) for report in (plain, codes))
    assert coded < 0.45 * (dense + 4 * session.config.vocab_size * session.config.hidden_size)
    assert codes.weight_bytes - coded == plain.weight_bytes - dense, "embedding, positions and norms stay"
    assert codes.baseline_bytes == plain.weight_bytes
    assert {la.dtype for la in codes.layers} == {"int8"}


def test_the_panel_is_told_what_cannot_run_and_why(opt: Path) -> None:
    session = Session.open(opt, cpu())
    refused = dict(unavailable_techniques(cpu(), session.config))
    for key in ("prune-heads", "prune-neurons", "prune-layers", "kv-cache", "attention", "compile"):
        assert refused[key].startswith("opt runs through Transformers. "), key
        with pytest.raises(DynoError, match="runs through Transformers"):
            session.apply(parse_recipe(key))
    assert not {"int8-weight", "int4-weight", "prune-l1", "prune-wanda", "precision"} & refused.keys()
    report = session.apply(Recipe()).report
    assert report.token_step == ("PyTorch, not the native step. Transformers runs opt: GPT Dyno's own decoder does not "
                                 "know this architecture.")
    assert model_info(session, opt, cpu()).architecture == "opt, through Transformers"


def test_replies_lookup_and_scoring_work(pair: Pair) -> None:
    session = pair.session
    session.apply(Recipe())
    ids, _ = reply(session, IDS[:20])
    assert len(ids) == min(GREEDY.max_tokens, session.config.context - 20)
    session.apply(parse_recipe("lookup"))
    assert reply(session, IDS[:20])[0] == ids
    session.apply(Recipe())
    text = session.tokenizer.decode(IDS) * 4
    perplexity = score(session, text, 64)
    coded = session.tokenizer.encode(text, special_tokens=False)
    losses = []
    with torch.no_grad():
        for at in range(0, len(coded) // 64 * 64, 64):
            part = torch.tensor(coded[at:at + 64])
            logits = pair.hf(part[None], use_cache=False).logits[0]
            losses.append(torch.nn.functional.cross_entropy(logits[32:-1], part[33:], reduction="none"))
    assert perplexity == pytest.approx(float(torch.cat(losses).mean().exp()), rel=1e-4)


def test_training_says_that_it_knows_only_its_own_decoder(opt: Path) -> None:
    with pytest.raises(DynoError, match="'opt' is not one that GPT Dyno's decoder can run"):
        load_masters(opt)


@pytest.mark.parametrize("form", ["safetensors", "gguf-f16"])
def test_an_export_is_refused_before_a_file_is_made(form: str, opt: Path, tmp_path: Path) -> None:
    session = Session.open(opt, cpu())
    out = tmp_path / "out"
    with pytest.raises(DynoError, match="opt"):
        finish(export_model(session.masters, session.tokenizer, Recipe(), form, out, cpu()))
    assert not out.exists()


def _rewrite(folder: Path, **values: Any) -> None:
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(raw | values), encoding="utf-8")


def test_code_that_comes_with_a_model_is_never_run(tmp_path: Path) -> None:
    write_foreign("opt", tmp_path)
    _rewrite(tmp_path, model_type="evil", auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\nclass Model: pass\n",
                                      encoding="utf-8")
    with pytest.raises(DynoError, match="code that comes with the model, which GPT Dyno never runs"):
        Session.open(tmp_path, cpu())
    assert not (tmp_path / "ran").exists()


def test_models_that_do_not_continue_a_text_are_refused_by_name(tmp_path: Path) -> None:
    mamba = transformers.MambaConfig(vocab_size=VOCAB_SIZE, hidden_size=32, num_hidden_layers=2)
    translator = transformers.T5Config(vocab_size=VOCAB_SIZE, d_model=32, d_ff=32, num_layers=1, num_heads=2, d_kv=16)
    for name, config, auto in (("mamba", mamba, transformers.AutoModelForCausalLM),
                               ("t5", translator, transformers.AutoModelForSeq2SeqLM)):
        folder = tmp_path / name
        auto.from_config(config).save_pretrained(folder)
        write_tokenizer(folder, adds_bos=False)
        with pytest.raises(DynoError, match=f"'{name}'"):
            Session.open(folder, cpu())


def test_a_pickle_is_not_opened_by_transformers_either(opt: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((opt / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(DynoError, match="pickle"):
        Session.open(tmp_path, cpu())


def test_a_checkpoint_that_lacks_a_tensor_is_refused_instead_of_filled_with_chance(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    write_foreign("opt", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(n for n in tensors if n.endswith("fc1.weight"))
    del tensors[name]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DynoError, match=r"lacks the tensor .*fc1\.weight"):
        Session.open(tmp_path, cpu())


def test_a_build_can_be_stopped_between_layers(opt: Path) -> None:
    session = Session.open(opt, cpu())
    steps = list(iter_steps(session))
    assert len(steps) > len(session.masters.slots) and steps[0][0] == "Building"


def iter_steps(session: Session) -> Iterator[tuple[str, int, int]]:
    """Every step of building int8."""
    build = session.build(parse_recipe("int8-weight"))
    yield next(build)
    yield from build
    finish(session.build(Recipe()))


def test_the_list_of_models_calls_ready_what_transformers_has_code_for(opt: Path, tmp_path: Path) -> None:
    shutil.copytree(opt, tmp_path / "models" / "mine")
    shutil.copytree(opt, tmp_path / "models" / "strange")
    _rewrite(tmp_path / "models" / "strange", model_type="unheard_of")
    catalogue = Catalogue(Library(tmp_path / "data"), tmp_path / "models", tmp_path / "none")
    found = {model.name: model for model in catalogue.scan()}
    assert found["mine"].ready and found["mine"].architecture == "opt"
    assert "unheard_of" in found["strange"].problem
    assert transformers_has("gpt_neox") and not transformers_has("../opt") and not transformers_has("")


def test_the_context_is_known_before_the_model_is_opened(pair: Pair) -> None:
    assert model_context(pair.folder) == pair.session.config.context


def test_a_load_by_transformers_can_be_walked_away_from(opt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, end = threading.Event(), threading.Event()
    own = transformers.AutoModelForCausalLM.from_pretrained

    def slow(*arguments: Any, **named: Any) -> Any:
        begun.set()
        assert end.wait(60)
        return own(*arguments, **named)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", slow)
    steps = open_foreign(opt)
    next(steps)
    while not begun.is_set():
        next(steps)
    assert next(steps)[0] == "Opening the model with Transformers"  # it is asked again and again, so it can be stopped
    steps.close()
    end.set()
    for thread in threading.enumerate():
        if thread.name == "building":
            thread.join(60)


@pytest.mark.parametrize("recipe", ["fp32", "bf16", "int8-weight"])
def test_the_fit_is_known_before_the_model_is_opened(pair: Pair, recipe: str) -> None:
    fit = estimate(pair.folder, parse_recipe(recipe), device=cpu())
    session = Session.open(pair.folder, cpu())
    variant = session.apply(parse_recipe(recipe))
    assert fit.weight_bytes == pytest.approx(variant.report.weight_bytes - padding(variant), rel=0.1)
    assert fit.kv_bytes == fit.context * variant.report.kv_bytes_per_token
    assert fit.parameters == session.masters.parameters and fit.context == model_context(pair.folder)
    masters = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
               for t in (session.masters[name] for name in session.masters)}
    own = {p.untyped_storage().data_ptr() for p in variant.decoder.parameters()}
    beside = sum(nbytes for at, nbytes in masters.items() if at not in own)
    assert fit.master_bytes == pytest.approx(beside, rel=0.1, abs=2000)
