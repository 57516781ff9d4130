"""The trained weights as a Hugging Face folder, and the check that Transformers computes the same from it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer

from engine.models.checkpoint import load_decoder, load_masters, save_folder
from engine.models.config import ModelConfig
from scripts.bundled.tokens import SPECIAL, save_tokenizer

SAMPLING = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 40, "repetition_penalty": 1.1,
            "max_new_tokens": 200}
SHARD_BYTES = 14_900_000
_ROUND_TRIPS = ("Hello, world!", "Grüße aus Köln 🙂👍🏽", "  two spaces\n\n\tand a tab", "日本語 и русский",
                "3.14 + 2 = 5.14?")


def export(checkpoint: Path, config: ModelConfig, tokenizer: Tokenizer, out: Path) -> None:
    """Write bf16 weights, configuration, tokenizer and sampling defaults into `out`."""
    state = torch.load(checkpoint, weights_only=True)["model"]
    save_folder(out, config, state, torch.bfloat16, shard_bytes=SHARD_BYTES)
    for shard in out.glob("*.safetensors"):
        shard.chmod(0o644)  # safetensors creates it for its owner alone
    save_tokenizer(tokenizer, out, config.context)
    generation = {"eos_token_id": list(config.eos_ids), "pad_token_id": config.eos_ids[-1]} | SAMPLING
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")


def check(folder: Path) -> float:
    """Largest difference of our logits from Transformers', both in fp32. Raises ValueError on text that does not
    survive the tokenizer, or logits further apart than 1e-4."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in _ROUND_TRIPS:
        if tokenizer.decode(tokenizer(text)["input_ids"]) != text:
            raise ValueError(f"The tokenizer changes {text!r}.")
    if any(len(tokenizer(token)["input_ids"]) != 1 for token in SPECIAL):
        raise ValueError("A role token is not one token.")
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    theirs.train(False)
    ours = load_decoder(load_masters(folder)).eval()
    ids = torch.randint(0, ours.config.vocab_size, (2, 512), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        difference = float((theirs(ids).logits - ours(ids)).abs().max())
    if difference > 1e-4:
        raise ValueError(f"Transformers' logits differ by up to {difference:.1e}.")
    return difference
