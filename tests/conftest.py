"""What all tests share: tiny real models made on the spot, and the watch over warnings, error logs and threads.

A test fails on any warning (pyproject.toml), on a log line of level ERROR (unless it is marked `expects_error_log`),
and when a thread that outlives it is not a daemon, or is an engine thread.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["QT_QPA_PLATFORM"] = "offscreen"  # before anything loads Qt
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models; and the same bits on every thread
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its warning about forks would land in the output of child processes

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
VOCAB_SIZE = 384
CONTEXT = 256

TEXT = """\
The lighthouse keeper counted the boats as they came home. There were seven in the morning and six at night, and the
one that was missing was the smallest. He lit the lamp early. He boiled water, put on his coat and walked down to the
pier, where the wind pulled at the ropes and the waves said the same word again and again.
"Have you seen the Wren?" he asked the gulls. The gulls had seen the Wren, but gulls never answer a question.
At last a light moved between the waves: small, then smaller, then near. The girl at the oars was wet and laughing.
"I found the end of the rainbow," she said, "and there was nothing there but more sea."
He gave her the coat and the hot tea, and together they counted the boats once more: one, two, three, four, five, six,
seven. Then the lighthouse keeper wrote the number into his book, and the night could begin.
"""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "expects_error_log: this test makes the app log an error on purpose")
    # Known and answered in engine/kernels/int8_dynamic.py; pytest resets the filter set there.
    config.addinivalue_line("filterwarnings", "ignore:torch.quantize_per_tensor, torch.quantize_per_channel")


@pytest.fixture(autouse=True)
def no_leaked_threads() -> Iterator[None]:
    """Fails a test whose threads outlive it."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        if not thread.daemon or thread.name.startswith("engine"):
            thread.join(5.0)
            assert not thread.is_alive(), f"the thread {thread.name!r} outlives the test"


@pytest.fixture(autouse=True)
def no_error_logs(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fails a test that logs an error nobody expected."""
    yield
    if request.node.get_closest_marker("expects_error_log") is None:
        records = [r for when in ("setup", "call") for r in caplog.get_records(when)]
        lines = [r.getMessage() for r in records if r.levelno >= logging.ERROR]
        assert not lines, f"unexpected errors were logged: {lines}"


@pytest.fixture(scope="session", autouse=True)
def user_data_apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test touches the data of whoever runs it."""
    folder = tmp_path_factory.mktemp("user_data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPT_DYNO_DATA", str(folder))
        yield folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of checkpoints that nobody here made."""
    if not (SHARED / "checkpoints").is_dir():
        pytest.skip(f"the checkpoints from outside are not here: {SHARED} is absent")
    return SHARED


@pytest.fixture(scope="session")
def stories(shared: Path) -> Path:
    """Karpathy's stories260K as a Hugging Face folder."""
    folder = shared / "checkpoints" / "stories260K" / "hf"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    return folder


def write_tokenizer(folder: Path, adds_bos: bool) -> None:
    """A byte-level BPE tokenizer trained on TEXT. "<s>" is id 0, "</s>" id 1; with `adds_bos`, "<s>" leads a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(TEXT.splitlines(keepends=True), trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=["<s>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def write_model(folder: Path, hf_config: dict[str, object], seed: int = 0) -> Path:
    """A model folder with random weights (biases and norms too) for a Hugging Face configuration; returns it."""
    import torch

    from engine.models.checkpoint import save_folder
    from engine.models.config import ModelConfig
    from engine.models.gpt import Decoder

    config = ModelConfig.from_hf(hf_config)
    decoder = Decoder(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in decoder.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * 0.15 if parameter.dim() == 2 else 0.3 * noise + (parameter == 1))
    save_folder(folder, config, dict(decoder.named_parameters()), torch.float32)
    write_tokenizer(folder, adds_bos=config.model_type != "gpt2")
    return folder


GPT2 = {"model_type": "gpt2", "vocab_size": VOCAB_SIZE, "n_embd": 48, "n_layer": 2, "n_head": 4,
        "n_positions": CONTEXT, "bos_token_id": 0, "eos_token_id": None}
LLAMA = {"model_type": "llama", "vocab_size": VOCAB_SIZE, "hidden_size": 64, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 104,
         "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "bos_token_id": 0,
         "eos_token_id": None}


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 (tied head, biases everywhere) that never ends a text by itself. Read-only: copy to change it."""
    return write_model(tmp_path_factory.mktemp("models") / "tiny-gpt2", GPT2)


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama (own head, grouped queries) that never ends a text by itself. Read-only: copy to change it."""
    return write_model(tmp_path_factory.mktemp("models") / "tiny-llama", LLAMA)


@pytest.fixture(scope="session")
def tied_llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama with a tied head."""
    return write_model(tmp_path_factory.mktemp("models") / "tiny-llama-tied", LLAMA | {"tie_word_embeddings": True})


@pytest.fixture(params=["gpt2", "llama"])
def model_folder(request: pytest.FixtureRequest) -> Path:
    """Each of the two tiny models in turn."""
    folder: Path = request.getfixturevalue(f"{request.param}_folder")
    return folder
