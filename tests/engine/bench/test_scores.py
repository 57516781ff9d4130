"""Scores against plain references: Transformers' logits in float64 and the definitions, token by token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.bench import quality
from engine.bench.quality import PERCENTS, Score, score_text
from engine.bench.texts import open_text
from engine.errors import DynoError
from engine.measurements import QualityTest
from engine.recipe import parse_recipe
from engine.session import Session
from engine.variant import Variant
from tests.conftest import TEXT
from tests.engine.support import finish, open_session

LONG_TEXT = TEXT * 5


def build(session: Session, *recipes: str) -> list[Variant]:
    """The variants of recipes."""
    return [finish(session.build(parse_recipe(recipe))) for recipe in recipes]


def scores(session: Session, variants: Sequence[Variant], path: Path, test: QualityTest) -> tuple[Score, ...]:
    """A file scored to its end."""
    return finish(score_text(variants, session.tokenizer, open_text(str(path)), test))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A text of some thousand tokens."""
    path = tmp_path / "text.txt"
    path.write_text(LONG_TEXT, encoding="utf-8")
    return path


def reference_model(folder: Path) -> Any:
    """The model as Transformers runs it."""
    transformers = pytest.importorskip("transformers")
    return transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").float().eval()


def ids_of(session: Session, path: Path) -> list[int]:
    """The whole text's ids, with the BOS that the tokenizer adds by itself."""
    return session.tokenizer.encode(path.read_bytes().decode())


def fixed_reference(model: Any, session: Session, ids: list[int], context: int, chunks: int) -> list[float]:
    """NLLs of llama-perplexity's definition, a chunk at a time, in float64."""
    losses: list[float] = []
    for number, start in enumerate(range(0, len(ids) - context + 1, context)):
        if chunks and number == chunks:
            break
        chunk = ids[start:start + context]
        if session.tokenizer.adds_bos:
            chunk[0] = session.config.bos_id or 0
        with torch.no_grad():
            logprobs = model(torch.tensor([chunk])).logits[0].double().log_softmax(-1)
        losses += [-float(logprobs[i, chunk[i + 1]]) for i in range(context // 2, context - 1)]
    return losses


def strided_reference(model: Any, ids: list[int], context: int, stride: int) -> float:
    """The loop of Transformers' page on the perplexity of fixed-length models, in its own weights."""
    every = torch.tensor([ids])
    total, count, last_end = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + context, len(ids))
        labels = every[:, begin:end].clone()
        labels[:, :-(end - last_end)] = -100
        valid = int((labels != -100).sum()) - 1  # "due to internal label shift"
        if valid > 0:
            with torch.no_grad():
                total += float(model(every[:, begin:end], labels=labels).loss.double()) * valid
            count += valid
        last_end = end
        if end == len(ids):
            break
    return math.exp(total / count)


@pytest.mark.parametrize(("context", "chunks"), [(64, 0), (33, 0), (200, 2), (256, 3)])
def test_fixed_chunks_are_llama_perplexitys(model_folder: Path, text: Path, context: int, chunks: int) -> None:
    session = open_session(model_folder)
    found, = scores(session, build(session, "fp32"), text, QualityTest(context=context, chunks=chunks))
    ids = ids_of(session, text)
    x = np.array(fixed_reference(reference_model(model_folder), session, ids, context, chunks))
    value = math.exp(x.mean())
    assert found.tokens == len(x)
    assert found.perplexity == pytest.approx(value, rel=1e-5)
    assert found.sigma == pytest.approx(value * math.sqrt(((x ** 2).mean() - x.mean() ** 2) / (len(x) - 1)), rel=1e-4)


@pytest.mark.parametrize(("context", "stride"), [(64, 32), (64, 64), (50, 7), (256, 100), (10_000, 128)])
def test_strided_windows_are_transformers(model_folder: Path, text: Path, context: int, stride: int) -> None:
    session = open_session(model_folder)
    found, = scores(session, build(session, "fp32"), text, QualityTest(context=context, stride=stride))
    expected = strided_reference(reference_model(model_folder), ids_of(session, text),
                                 min(context, session.config.context), stride)
    assert found.perplexity == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["wikitext2.test.tokens", "tinyshakespeare.txt"])
def test_a_real_model_on_real_text_agrees_with_transformers(stories: Path, shared: Path, tmp_path: Path,
                                                            name: str) -> None:
    source = shared / "data" / "eval" / name
    if not source.is_file():
        pytest.skip(f"{source} is absent")
    transformers = pytest.importorskip("transformers")
    path = tmp_path / "part.txt"
    path.write_bytes(source.read_bytes()[:12_000].rsplit(b"\n", 1)[0])
    session, model = open_session(stories), reference_model(stories)
    ids = transformers.AutoTokenizer.from_pretrained(stories)(path.read_bytes().decode())["input_ids"]
    assert ids == ids_of(session, path)
    fixed, = scores(session, build(session, "fp32"), path, QualityTest(context=256, chunks=12))
    expected = np.mean(fixed_reference(model, session, ids, 256, 12))
    assert fixed.perplexity == pytest.approx(math.exp(expected), rel=1e-5)
    strided, = scores(session, build(session, "fp32"), path, QualityTest(context=256, stride=128))
    assert strided.perplexity == pytest.approx(strided_reference(model, ids, 256, 128), rel=1e-5)


def by_hand(base: Variant, other: Variant, ids: list[int], context: int, bos: int | None) -> dict[str, Any]:
    """Every statistic of two recipes on fixed chunks, from whole logits in float64."""
    kl, dp, dnll, same, nlls = [], [], [], [], []
    for start in range(0, len(ids) - context + 1, context):
        chunk = ids[start:start + context]
        if bos is not None:
            chunk[0] = bos
        p, q = (v.forward(torch.tensor([chunk]), v.new_cache(context), last_only=False)[0].double().log_softmax(-1)
                for v in (base, other))
        for i in range(context // 2, context - 1):
            target = chunk[i + 1]
            kl.append(float((p[i].exp() * (p[i] - q[i])).sum()))
            dp.append(float(q[i, target].exp() - p[i, target].exp()))
            dnll.append(float(p[i, target] - q[i, target]))
            same.append(bool(p[i].argmax() == q[i].argmax()))
            nlls.append(-float(q[i, target]))
    return {"kl": np.array(kl), "dp": np.array(dp), "dnll": np.array(dnll), "same": np.array(same),
            "nll": np.array(nlls)}


@pytest.mark.parametrize("recipe", ["l1-50", "int8-weight-only", "kv-int8", "neurons-30"])
def test_divergence_is_what_whole_logits_in_float64_say(model_folder: Path, text: Path, recipe: str) -> None:
    session = open_session(model_folder)
    base, other = build(session, "fp32", recipe)
    _, found = scores(session, (base, other), text, QualityTest(context=64))
    bos = session.config.bos_id if session.tokenizer.adds_bos else None
    expected = by_hand(base, other, ids_of(session, text), 64, bos)
    far = found.divergence
    assert far is not None and far.samples == len(expected["kl"])
    close = {"rel": 2e-4, "abs": 1e-7}
    assert found.perplexity == pytest.approx(math.exp(expected["nll"].mean()), rel=1e-5)
    assert far.kl_mean == pytest.approx(expected["kl"].mean(), **close)
    assert far.kl_max == pytest.approx(expected["kl"].max(), **close)
    assert far.dp_mean == pytest.approx(expected["dp"].mean(), rel=1e-3, abs=1e-7)
    assert far.dp_rms == pytest.approx(math.sqrt((expected["dp"] ** 2).mean()), **close)
    assert far.same_top == pytest.approx(expected["same"].mean(), abs=2 / len(expected["same"]))
    for (percent, value), at in zip(far.kl, PERCENTS, strict=True):
        assert percent == at
        assert value == pytest.approx(np.percentile(expected["kl"], percent), rel=1e-3, abs=1e-7)
    for percent, value in far.dp:
        assert value == pytest.approx(np.percentile(expected["dp"], percent), rel=1e-3, abs=1e-6)
    error = expected["dnll"].std(ddof=1) / math.sqrt(len(expected["dnll"]))
    assert far.ratio.value == pytest.approx(math.exp(expected["dnll"].mean()), rel=1e-5)
    assert math.log(far.ratio.high / far.ratio.value) == pytest.approx(1.96 * error, rel=2e-2)


@pytest.mark.parametrize("recipe", ["fp32", "bf16", "int8", "kv-int8", "autocast-bf16"])
def test_a_recipe_against_itself_diverges_by_exactly_nothing(llama_folder: Path, text: Path, recipe: str) -> None:
    session = open_session(llama_folder)
    first, second = build(session, recipe, recipe)
    base, found = scores(session, (first, second), text, QualityTest(context=64, chunks=6))
    far = found.divergence
    assert far is not None
    assert (far.kl_mean, far.kl_max, far.dp_mean, far.dp_rms, far.same_top) == (0.0, 0.0, 0.0, 0.0, 1.0)
    assert (far.ratio.value, far.ratio.decided, found.perplexity) == (1.0, False, base.perplexity)


@pytest.mark.parametrize("name", ["gpt2_folder", "llama_folder", "stories"])
def test_bf16_against_fp32_is_small_and_positive(name: str, text: Path, request: pytest.FixtureRequest) -> None:
    session = open_session(request.getfixturevalue(name))
    _, found = scores(session, build(session, "fp32", "bf16"), text, QualityTest(context=128))
    far = found.divergence
    assert far is not None
    assert 0 < far.kl_mean < 5e-3
    assert all(value >= 0 for _, value in far.kl)
    assert far.same_top > 0.9


def test_one_pass_over_two_recipes_scores_each_as_alone(llama_folder: Path, text: Path) -> None:
    session = open_session(llama_folder)
    base, other = build(session, "fp32", "l1-50")
    test = QualityTest(context=64)
    together = scores(session, (base, other), text, test)
    assert [score.perplexity for score in together] == [scores(session, (v,), text, test)[0].perplexity
                                                        for v in (base, other)]


def test_logits_of_a_few_rows_at_a_time_change_nothing(llama_folder: Path, text: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    session = open_session(llama_folder)
    variants = build(session, "fp32", "int8-weight-only")
    test = QualityTest(context=64)
    whole = scores(session, variants, text, test)
    monkeypatch.setattr(quality, "_LOGIT_BYTES", 4 * session.config.vocab_size * 20)
    monkeypatch.setattr(quality, "_DENSE_BYTES", 4 * session.config.vocab_size * 7)
    monkeypatch.setattr(quality, "_ROWS", {"cpu": (16, 16)})  # every chunk in parts, through the cache
    parts = scores(session, variants, text, test)
    for a, b in zip(whole, parts, strict=True):
        assert a.perplexity == pytest.approx(b.perplexity, rel=1e-5)
    assert whole[1].divergence and parts[1].divergence
    assert parts[1].divergence.kl_mean == pytest.approx(whole[1].divergence.kl_mean, rel=1e-3)


def test_percentiles_of_a_long_text_come_from_a_sample_and_say_so(llama_folder: Path, text: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    session = open_session(llama_folder)
    variants = build(session, "fp32", "l1-50")
    whole = scores(session, variants, text, QualityTest(context=64))[1]
    monkeypatch.setattr(quality, "KEPT", 200)
    part = scores(session, variants, text, QualityTest(context=64))[1]
    assert whole.divergence and part.divergence
    assert part.divergence.samples == 200 < whole.tokens
    assert part.divergence.kl_mean == whole.divergence.kl_mean
    assert dict(part.divergence.kl)[50.0] == pytest.approx(dict(whole.divergence.kl)[50.0], rel=0.3)


def test_bits_per_byte_counts_every_byte_of_the_scored_tokens(model_folder: Path, text: Path) -> None:
    session = open_session(model_folder)
    found, = scores(session, build(session, "fp32"), text, QualityTest(context=64))
    ids, sizes = ids_of(session, text), session.tokenizer.token_bytes()
    nbytes = sum(sizes[t] for start in range(0, len(ids) - 63, 64) for t in ids[start + 33:start + 64])
    nats = math.log(found.perplexity) * found.tokens
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / nbytes, rel=1e-6)


@pytest.mark.parametrize("test", [QualityTest(context=64), QualityTest(context=64, stride=32)])
def test_a_text_shorter_than_a_chunk_is_refused_with_its_length(gpt2_folder: Path, tmp_path: Path,
                                                                test: QualityTest) -> None:
    (tmp_path / "short.txt").write_text("A", encoding="utf-8")
    session = open_session(gpt2_folder)
    with pytest.raises(DynoError, match="1 tokens long; one chunk needs") as caught:
        scores(session, build(session, "fp32"), tmp_path / "short.txt", test)
    assert caught.value.hint


def test_a_sliding_window_and_learned_positions_are_kept_in_batches(mistral_folder: Path, text: Path) -> None:
    session = open_session(mistral_folder)
    found, = scores(session, build(session, "fp32"), text, QualityTest(context=64))
    x = fixed_reference(reference_model(mistral_folder), session, ids_of(session, text), 64, 0)
    assert found.perplexity == pytest.approx(math.exp(np.mean(x)), rel=1e-5)
