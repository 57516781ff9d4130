"""The same model in llama.cpp: the tokens that are counted, and the perplexity that its llama-perplexity would print.

The tool itself is not in llama-cpp-python, so its loop is written out here over llama.cpp's own tokens and logits
(tools/perplexity: disjoint chunks, the first token BOS where the tokenizer adds one, the last half scored).
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from engine.bench.quality import score_text
from engine.bench.texts import TextFile
from engine.export import export_model
from engine.measurements import QualityTest
from engine.recipe import Recipe
from tests.conftest import GPT2, TEXT, write_model
from tests.engine.support import finish, open_session

CONTEXT = 64


@pytest.fixture(params=["gpt2", "stories260K"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A random model whose tokenizer adds no BOS, and a real one whose tokenizer does."""
    if request.param == "gpt2":
        return write_model(tmp_path / "gpt2", GPT2)
    found: Path = request.getfixturevalue("shared") / "checkpoints" / "stories260K" / "hf"
    return found


def test_tokens_chunks_and_perplexity_are_llama_cpps(folder: Path, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    session = open_session(folder)
    assert session.active is not None
    weights, text = tmp_path / "model.gguf", tmp_path / "text.txt"
    finish(export_model(session.masters, session.tokenizer, Recipe(), "gguf-f16", weights, session.device,
                        session.calibrator()))
    text.write_text(TEXT * 2, encoding="utf-8")
    steps = score_text((session.active,), session.tokenizer, TextFile(text, text.stat().st_size),
                       QualityTest(context=CONTEXT))
    ours = finish(steps)[0]

    model = llama_cpp.Llama(str(weights), n_ctx=CONTEXT, n_threads=1, verbose=False, logits_all=True)
    adds_bos = session.tokenizer.adds_bos
    ids = model.tokenize((TEXT * 2).encode(), add_bos=adds_bos, special=False)
    chunks, first, nll, scored = len(ids) // CONTEXT, CONTEXT // 2, 0.0, 0
    for start in range(0, chunks * CONTEXT, CONTEXT):
        chunk = ids[start:start + CONTEXT]
        if adds_bos:
            chunk[0] = model.token_bos()
        model.reset()
        model.eval(chunk)
        for at in range(first, CONTEXT - 1):
            logits = np.asarray(model.scores[at], dtype=np.float64)
            nll += math.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[chunk[at + 1]]
            scored += 1
    model.close()
    assert chunks > 3 and (ours.chunks, ours.tokens) == (chunks, scored)
    assert ours.perplexity == pytest.approx(math.exp(nll / scored), rel=5e-3), "llama.cpp computes in fp16"
