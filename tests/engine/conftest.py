"""The engine's fixtures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import LLAMA, VOCAB_SIZE, write_model
from tests.engine.support import Engine


@pytest.fixture
def engine() -> Iterator[Engine]:
    """An engine thread without a model, stopped after the test."""
    running = Engine()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def qwen3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3: norms on queries and keys, one key/value head, heads of an odd multiple."""
    shape = LLAMA | {"model_type": "qwen3", "num_key_value_heads": 1, "head_dim": 24, "num_hidden_layers": 3}
    return write_model(tmp_path_factory.mktemp("models") / "qwen3", shape)


@pytest.fixture(scope="session")
def mistral_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Mistral that sees 17 tokens back."""
    return write_model(tmp_path_factory.mktemp("models") / "mistral", LLAMA | {"model_type": "mistral",
                                                                           "sliding_window": 17})


@pytest.fixture(scope="session")
def gemma2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Gemma 2: capped scores and logits, norms after layers, every second layer sees 17 tokens back."""
    shape = LLAMA | {"model_type": "gemma2", "head_dim": 24, "num_hidden_layers": 3, "query_pre_attn_scalar": 17,
                     "sliding_window": 17, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 8.0,
                     "tie_word_embeddings": True}
    return write_model(tmp_path_factory.mktemp("models") / "gemma2", shape)


@pytest.fixture(scope="session")
def gemma3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Gemma 3: norms on queries and keys, layers with a window turned by a base of their own."""
    shape = LLAMA | {"model_type": "gemma3_text", "head_dim": 16, "num_hidden_layers": 4, "query_pre_attn_scalar": 16,
                     "sliding_window": 17, "sliding_window_pattern": 3, "rope_theta": 5000.0,
                     "rope_local_base_freq": 50.0, "tie_word_embeddings": True}
    return write_model(tmp_path_factory.mktemp("models") / "gemma3", shape)


@pytest.fixture(scope="session")
def neox_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Pythia: a quarter of each head turned, attention and feed-forward side by side, rows interleaved."""
    return write_model(tmp_path_factory.mktemp("models") / "neox", NEOX)


@pytest.fixture(scope="session")
def phi3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Phi-4-mini: fused matrices, three quarters of each head turned, longrope whose long form begins at 128."""
    shape = LLAMA | {"model_type": "phi3", "hidden_size": 64, "original_max_position_embeddings": 128,
                     "rope_scaling": {"type": "longrope", "partial_rotary_factor": 0.75,
                                      "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
                                      "long_factor": [1.5, 2.0, 3.0, 4.0, 5.0, 6.0]}}
    return write_model(tmp_path_factory.mktemp("models") / "phi3", shape)


@pytest.fixture(scope="session")
def smollm3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SmolLM3: every second layer without positions."""
    shape = LLAMA | {"model_type": "smollm3", "num_hidden_layers": 3, "no_rope_layer_interval": 2}
    return write_model(tmp_path_factory.mktemp("models") / "smollm3", shape)


NEOX = {"model_type": "gpt_neox", "vocab_size": VOCAB_SIZE, "hidden_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 104, "max_position_embeddings": 256, "bos_token_id": 0,
        "eos_token_id": None}
