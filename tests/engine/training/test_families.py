"""Fine-tuning of every family: what is exported loads in Transformers, and what could not be written is said first."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.errors import DynoError
from engine.models.checkpoint import load_decoder, load_masters
from tests.engine.training.support import plan_for, run_plan

IDS = torch.randint(2, 300, (1, 60), generator=torch.Generator().manual_seed(3))
FAMILIES = ["gpt2", "qwen3", "gemma2", "gemma3", "neox", "phi3", "smollm3"]


def tuned(folder: Path, into: Path, **settings: object) -> Path:
    """The exported model of a short run from a folder."""
    plan = plan_for(into, model=str(folder), steps=3, context=64, lr=1e-3, **settings)
    run_plan(plan, into / "run")
    return into / "run" / "model"


def differs(folder: Path) -> float:
    """The largest difference between our logits and Transformers' of an exported folder."""
    from transformers import AutoModelForCausalLM

    ours = load_decoder(load_masters(folder)).eval()
    theirs, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                                        output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    with torch.inference_mode():
        return float((ours(IDS) - theirs.eval()(IDS).logits).abs().max())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tuned_model_gives_transformers_the_same_logits(family: str, request: pytest.FixtureRequest,
                                                          tmp_path: Path) -> None:
    folder: Path = request.getfixturevalue(f"{family}_folder")
    exported = tuned(folder, tmp_path)
    before, after = load_masters(folder), load_masters(exported)
    assert any(not torch.equal(before[name], after[name]) for name in before), "it has learned"
    assert differs(exported) < 1e-4


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "gemma3", "smollm3"])
@pytest.mark.parametrize("part", ["layers", "neurons", "heads"])
def test_a_model_cut_before_training_is_written_with_its_layers_as_they_are(
        family: str, part: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder: Path = request.getfixturevalue(f"{family}_folder")
    if family == "qwen3" and part == "heads":
        pytest.skip("it has one key/value head")
    exported = tuned(folder, tmp_path, prune=part, sparsity=0.5)
    assert load_masters(exported).parameters < load_masters(folder).parameters
    assert differs(exported) < 1e-4


@pytest.mark.parametrize("family", ["gpt2", "neox"])
def test_heads_that_a_configuration_has_no_word_for_are_refused_before_training(
        family: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder: Path = request.getfixturevalue(f"{family}_folder")
    with pytest.raises(DynoError, match="its heads fill the stream") as caught:
        tuned(folder, tmp_path, prune="heads", sparsity=0.5)
    assert "neurons or layers" in caught.value.hint
    assert not (tmp_path / "run" / "model").exists()
