"""The trained model as a Hugging Face folder, with a card that says how it was made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from engine.errors import DynoError
from engine.models.checkpoint import save_folder, write_text
from engine.models.config import ModelConfig
from engine.train_events import EvalPoint
from engine.train_plan import TrainPlan

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "chat_template.jinja",
                    "special_tokens_map.json", "generation_config.json")


def export_model(folder: Path, config: ModelConfig, tensors: Mapping[str, Tensor], tokenizer: Path, plan: TrainPlan,
                 point: EvalPoint | None, step: int, notes: tuple[str, ...] = ()) -> None:
    """Write fp32 weights, configuration, tokenizer files and README.md into `folder`. tokenizer: the folder they come
    from. Raises DynoError where the disk refuses."""
    try:
        save_folder(folder, config, tensors, torch.float32)
        for name in _TOKENIZER_FILES:
            if (tokenizer / name).is_file():
                shutil.copyfile(tokenizer / name, folder / f".{name}.part")
                (folder / f".{name}.part").replace(folder / name)
        write_text(folder / "README.md", model_card(folder.resolve().parent.name, config, plan, point, step, notes))
    except (OSError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise DynoError(f"The model could not be written to {folder} ({first}).", "Make room on the disk, then resume "
                        "the run.") from error


def model_card(name: str, config: ModelConfig, plan: TrainPlan, point: EvalPoint | None, step: int,
               notes: tuple[str, ...]) -> str:
    """The README.md of an exported model."""
    start = f"fine-tuned from `{Path(plan.model).name}`" if plan.model else "trained from random weights"
    judged = (f"Held-out loss {point.loss:.4f} nats a token (perplexity {point.perplexity:.2f}) over "
              f"{point.tokens:,} tokens, after step {step:,}." if point is not None else
              f"No data was held out; these are the weights after step {step:,}.")
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation", "---", f"# {name}", "",
             f"A {config.model_type} language model, {start} with GPT Dyno.", "", judged, "",
             f"- Layers {config.n_layers}, hidden size {config.hidden_size}, vocabulary {config.vocab_size:,}, context "
             f"{config.context:,} tokens", f"- Data: {', '.join(Path(d).name for d in plan.data)}",
             *(f"- {note}" for note in notes), "",
             "The licence of the data, and of the model it started from, decides how it may be used.", "",
             "## The plan", "", "```json", json.dumps(plan.to_json(), indent=2), "```", ""]
    return "\n".join(lines)
