"""The decoder against Transformers: same weights, same logits, both ways."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.models.checkpoint import load_masters, save_folder
from engine.models.tokenizer import Tokenizer
from engine.recipe import Recipe
from engine.session import Session
from tests.conftest import write_tokenizer
from tests.engine.support import cpu, decode_logits, open_session, read_logits

transformers = pytest.importorskip("transformers")

LENGTH = 90
LLAMA_SHAPE: dict[str, Any] = {"vocab_size": 300, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6,
                               "num_key_value_heads": 2, "intermediate_size": 72, "max_position_embeddings": 128}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}


YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 32}
LONG = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [1.5, 2.0, 3.0, 4.0]}
GEMMA_SHAPE = LLAMA_SHAPE | {"head_dim": 12, "num_hidden_layers": 4, "query_pre_attn_scalar": 17, "sliding_window": 17}
NEOX_SHAPE = {key: value for key, value in LLAMA_SHAPE.items() if key != "num_key_value_heads"}


def _rope(kind: str, **fields: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 10000.0} | fields


def _cases() -> dict[str, Any]:
    t, shape, gemma = transformers, LLAMA_SHAPE, GEMMA_SHAPE
    mixed = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    return {
        "gpt2": t.GPT2Config(vocab_size=300, n_embd=48, n_layer=2, n_head=4, n_positions=128),
        "gpt2-untied": t.GPT2Config(vocab_size=300, n_embd=48, n_layer=2, n_head=4, n_positions=128, n_inner=56,
                                    activation_function="gelu", tie_word_embeddings=False),
        "llama": t.LlamaConfig(**shape),
        "llama-tied-biases": t.LlamaConfig(**shape, tie_word_embeddings=True, attention_bias=True, mlp_bias=True),
        "llama-one-kv-head": t.LlamaConfig(**shape | {"num_key_value_heads": 1, "head_dim": 12}),
        "llama-all-kv-heads": t.LlamaConfig(**shape | {"num_key_value_heads": 6}),
        "llama-rope-llama3": t.LlamaConfig(**shape, rope_parameters=LLAMA3),
        "llama-rope-linear": t.LlamaConfig(**shape, rope_parameters=_rope("linear", factor=3.0)),
        "llama-rope-dynamic": t.LlamaConfig(**shape, rope_parameters=_rope("dynamic", factor=2.0)),
        "llama-rope-yarn": t.LlamaConfig(**shape, rope_parameters=YARN),
        "llama-rope-yarn-mscale": t.LlamaConfig(**shape, rope_parameters=YARN | {
            "mscale": 1.2, "mscale_all_dim": 0.7, "beta_fast": 16.0, "beta_slow": 2.0, "truncate": False}),
        "llama-gelu": t.LlamaConfig(**shape, hidden_act="gelu"),
        "smollm2": t.LlamaConfig(**shape | {"num_attention_heads": 3, "num_key_value_heads": 1},
                                 tie_word_embeddings=True),
        "smollm3": t.SmolLM3Config(**shape | {"num_hidden_layers": 5}, pad_token_id=0),
        "smollm3-window": t.SmolLM3Config(**shape | {"num_hidden_layers": 4}, pad_token_id=0, use_sliding_window=True,
                                          sliding_window=17, no_rope_layers=[1, 0, 0, 1]),
        "qwen2": t.Qwen2Config(**shape),
        "qwen2-tied": t.Qwen2Config(**shape, tie_word_embeddings=True),
        "qwen2-window": t.Qwen2Config(**shape | {"num_hidden_layers": 4}, use_sliding_window=True, sliding_window=17,
                                      max_window_layers=2),
        "qwen2-yarn": t.Qwen2Config(**shape, rope_parameters=YARN),
        "qwen3": t.Qwen3Config(**shape, head_dim=16),
        "qwen3-biases": t.Qwen3Config(**shape, head_dim=16, attention_bias=True, tie_word_embeddings=True),
        "qwen3-layer-types": t.Qwen3Config(**shape | {"num_hidden_layers": 4}, head_dim=16, use_sliding_window=True,
                                           sliding_window=17, layer_types=mixed),
        "mistral": t.MistralConfig(**shape, sliding_window=None),
        "mistral-window": t.MistralConfig(**shape, sliding_window=17),
        "phi3": t.Phi3Config(**shape, pad_token_id=0),
        "phi3-window-tied": t.Phi3Config(**shape, pad_token_id=0, sliding_window=17, tie_word_embeddings=True),
        "phi3-partial-rotary": t.Phi3Config(**shape | {"hidden_size": 96}, pad_token_id=0,
                                            rope_parameters=_rope("default", partial_rotary_factor=0.75)),
        "phi3-longrope-within": t.Phi3Config(**shape, pad_token_id=0, original_max_position_embeddings=96,
                                             rope_parameters=dict(LONG)),
        "gemma": t.GemmaConfig(**shape, head_dim=12, pad_token_id=0),
        "gemma2": t.Gemma2Config(**gemma, pad_token_id=0, attn_logit_softcapping=3.0, final_logit_softcapping=5.0),
        "gemma2-no-caps": t.Gemma2Config(**gemma, pad_token_id=0, attn_logit_softcapping=None,
                                         final_logit_softcapping=None),
        "gemma3": t.Gemma3TextConfig(**gemma | {"num_hidden_layers": 7}, pad_token_id=0, rope_parameters={
            "full_attention": _rope("linear", rope_theta=1e6, factor=8.0),
            "sliding_attention": _rope("default", rope_theta=100.0)}),
        "gemma3-layer-types": t.Gemma3TextConfig(**gemma, pad_token_id=0, layer_types=mixed),
        "neox": t.GPTNeoXConfig(**NEOX_SHAPE | {"hidden_size": 96}),
        "neox-sequential": t.GPTNeoXConfig(**NEOX_SHAPE, use_parallel_residual=False, attention_bias=False,
                                           rope_parameters=_rope("default", partial_rotary_factor=0.5)),
        "neox-whole-heads": t.GPTNeoXConfig(**NEOX_SHAPE, tie_word_embeddings=True,
                                            rope_parameters=_rope("linear", partial_rotary_factor=1.0, factor=2.0)),
    }


CASES = _cases()
IDS = torch.randint(300, (LENGTH,), generator=torch.Generator().manual_seed(5)).tolist()


@dataclass(frozen=True)
class Pair:
    """A random model as Transformers made it, its folder, its logits for IDS, and our session over the folder."""

    hf: Any
    folder: Path
    logits: torch.Tensor  # (T, V)
    session: Session


def random_model(config: Any) -> Any:
    """A Transformers model with random weights; biases and norms too, so that none can be forgotten unnoticed."""
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.15 * noise if parameter.dim() == 2 else 0.3 * noise + (parameter == 1))
    return model


@torch.no_grad()
def hf_logits(model: Any) -> torch.Tensor:
    """Transformers' logits for IDS (T, V)."""
    logits: torch.Tensor = model(torch.tensor([IDS]), use_cache=False).logits[0].float()
    return logits


def session_of(folder: Path) -> Session:
    """Our fp32 session over a folder without a tokenizer."""
    write_tokenizer(folder / "tokenizer", adds_bos=False)
    session = Session(load_masters(folder), Tokenizer.from_folder(folder / "tokenizer"), cpu())
    session.apply(Recipe())
    return session


@pytest.fixture(scope="module", params=list(CASES))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Every architecture in turn."""
    model = random_model(CASES[request.param])
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    yield Pair(model, folder, hf_logits(model), session_of(folder))


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_prefill_gives_the_logits_of_transformers(pair: Pair) -> None:
    assert pair.logits.std() > 0.3, "a flat model would prove nothing"
    assert_close(read_logits(pair.session, IDS), pair.logits)


def test_decoding_token_by_token_gives_the_logits_of_transformers(pair: Pair) -> None:
    assert_close(decode_logits(pair.session, IDS), pair.logits)


@pytest.mark.parametrize("chunk", [7, 32])
def test_a_prompt_read_in_chunks_gives_the_logits_of_transformers(pair: Pair, chunk: int) -> None:
    ends = [min(i + chunk, LENGTH) - 1 for i in range(0, LENGTH, chunk)]
    assert_close(decode_logits(pair.session, IDS, chunk), pair.logits[ends])


def test_our_export_gives_transformers_the_same_logits(pair: Pair, tmp_path: Path) -> None:
    masters = load_masters(pair.folder)
    save_folder(tmp_path, masters.config, masters, torch.float32)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, attn_implementation="eager", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    torch.testing.assert_close(hf_logits(model.float().eval()), pair.logits, atol=1e-6, rtol=0)


def test_our_export_reads_back_as_the_same_configuration_and_bits(pair: Pair, tmp_path: Path) -> None:
    masters = load_masters(pair.folder)
    save_folder(tmp_path, masters.config, masters, torch.float32)
    again = load_masters(tmp_path)
    assert again.config == masters.config
    assert all(torch.equal(again[name], masters[name]) for name in masters)


def test_the_number_of_parameters_is_the_one_transformers_counts(pair: Pair) -> None:
    assert load_masters(pair.folder).parameters == sum(p.numel() for p in pair.hf.parameters())


def test_single_tokens_are_made_by_the_native_step(pair: Pair) -> None:
    if not cpu().native:
        pytest.skip("there is no native step here")
    assert pair.session.active is not None
    assert pair.session.active.report.token_step.startswith("native step"), "what decoding was compared with"


MOVING = {
    "phi3-longrope": lambda: transformers.Phi3Config(**LLAMA_SHAPE, pad_token_id=0, rope_parameters=dict(LONG),
                                                     original_max_position_embeddings=48),
    "llama-dynamic": lambda: transformers.LlamaConfig(**LLAMA_SHAPE | {"max_position_embeddings": 48},
                                                      rope_parameters=_rope("dynamic", factor=4.0)),
}


@pytest.mark.parametrize("chunk", [1, 7, LENGTH])
@pytest.mark.parametrize("name", list(MOVING))
def test_frequencies_that_change_with_the_length_change_as_in_transformers(name: str, chunk: int,
                                                                          tmp_path: Path) -> None:
    """Beyond the original context a pass turns its tokens by its own frequencies and leaves the cache as it is, so
    both must read the text in the same parts."""
    model = random_model(MOVING[name]())
    model.save_pretrained(tmp_path)
    cache, expected = transformers.DynamicCache(), []
    with torch.no_grad():
        for at in range(0, LENGTH, chunk):
            expected.append(model(torch.tensor([IDS[at:at + chunk]]), past_key_values=cache).logits[0, -1].float())
    session = session_of(tmp_path)
    assert session.config.context > LENGTH > session.config.rope_scaling.original_context
    assert_close(decode_logits(session, IDS, chunk), torch.stack(expected))


def test_gpt2_without_the_transformer_prefix_loads_to_the_same_logits(tmp_path: Path) -> None:
    random_model(CASES["gpt2"]).save_pretrained(tmp_path / "new")
    tensors = load_file(tmp_path / "new" / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    assert bare.keys() != tensors.keys()
    (tmp_path / "old").mkdir()
    save_file(bare, tmp_path / "old" / "model.safetensors")
    (tmp_path / "old" / "config.json").write_bytes((tmp_path / "new" / "config.json").read_bytes())
    assert torch.equal(read_logits(session_of(tmp_path / "old"), IDS), read_logits(session_of(tmp_path / "new"), IDS))


@pytest.mark.parametrize("name", ["gpt2", "qwen2", "llama-tied-biases"])
def test_a_checkpoint_sharded_by_transformers_loads(name: str, tmp_path: Path) -> None:
    model = random_model(CASES[name])
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert_close(read_logits(session_of(tmp_path), IDS), hf_logits(model))


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_our_sharded_export_loads_in_transformers_and_here(name: str, tmp_path: Path) -> None:
    model = random_model(CASES[name])
    model.save_pretrained(tmp_path / "hf")
    masters = load_masters(tmp_path / "hf")
    save_folder(tmp_path / "ours", masters.config, masters, torch.float32, shard_bytes=40_000)
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) > 2
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", attn_implementation="eager")
    torch.testing.assert_close(hf_logits(again.float().eval()), hf_logits(model), atol=1e-6, rtol=0)
    assert_close(read_logits(session_of(tmp_path / "ours"), IDS), hf_logits(model))


def test_an_export_over_a_sharded_one_is_what_loads_next(tmp_path: Path) -> None:
    for name, seed_shift in (("first", 0.0), ("second", 0.5)):
        model = random_model(CASES["llama"])
        with torch.no_grad():
            model.model.embed_tokens.weight += seed_shift
        model.save_pretrained(tmp_path / name)
    first, second = load_masters(tmp_path / "first"), load_masters(tmp_path / "second")
    save_folder(tmp_path / "out", first.config, first, torch.float32, shard_bytes=40_000)
    save_folder(tmp_path / "out", second.config, second, torch.float32)
    loaded = load_masters(tmp_path / "out")
    assert all(torch.equal(loaded[name], second[name]) for name in second)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_checkpoint_stored_in_16_bits_runs_in_fp32_like_transformers(name: str, dtype: torch.dtype,
                                                                     tmp_path: Path) -> None:
    random_model(CASES[name]).to(dtype).save_pretrained(tmp_path)
    assert load_masters(tmp_path).stored_dtype == dtype
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32,
                                                              attn_implementation="eager")
    assert_close(read_logits(session_of(tmp_path), IDS), hf_logits(model.eval()))


def test_layers_wide_enough_for_packed_kernels_give_the_logits_of_transformers(tmp_path: Path) -> None:
    model = random_model(transformers.LlamaConfig(**LLAMA_SHAPE | {"hidden_size": 384, "intermediate_size": 1500,
                                                                   "num_hidden_layers": 1}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter *= 0.3
    model.save_pretrained(tmp_path)
    write_tokenizer(tmp_path, adds_bos=False)
    session = open_session(tmp_path, native=False)
    assert session.active is not None
    if cpu().packed_linear:
        assert any("packed" in kernel for kernel, _ in session.active.report.kernels)
    assert_close(read_logits(session, IDS), hf_logits(model))
    assert_close(decode_logits(session, IDS), hf_logits(model))
