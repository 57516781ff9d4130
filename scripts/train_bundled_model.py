"""Make the chat model that ships with GPT Dyno, from raw text to a Hugging Face folder, on a desktop CPU.

    python -m scripts.train_bundled_model --data DIR --run DIR --out DIR

Steps: prepare (clean text, train the tokenizer, write tokens), pretrain, tune, export, evaluate. Each leaves files in
the run folder and picks up where it stopped; --steps chooses some of them. The seed decides everything but the
rounding of the matrix products, which depends on the processor. Needs torch >= 2.9 (torch.optim.Muon), and
Transformers for the check after the export.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from engine.models.config import ModelConfig
from scripts.bundled.corpora import PRETRAINING, Document, Tally, documents, truecaser
from scripts.bundled.evaluation import PROMPTS, evaluate
from scripts.bundled.export import check, export
from scripts.bundled.text import HeldOut
from scripts.bundled.tokens import END, END_OF_TEXT, Encoder, special_id, train_tokenizer
from scripts.bundled.training import Phase, Run, Stream, fresh_decoder
from scripts.bundled.tuning import Mixture, OwnShare, own_documents, tuning_documents
from scripts.bundled.unseen import UNUSUAL_NUMBERS, Unseen

STEPS = ("prepare", "pretrain", "tune", "polish", "export", "evaluate")
SEED = 20
MODEL = ModelConfig(
    model_type="llama", vocab_size=8192, hidden_size=256, n_layers=8, n_heads=4, n_kv_heads=2, head_dim=64,
    intermediate_size=704, context=1024, norm_eps=1e-5, activation="silu", gated=True, layer_norm=False,
    learned_positions=False, tied=True)
PRETRAIN = Phase("pretrain", steps=1450, lengths=((0.9, 256), (0.1, 1024)), muon_lr=0.02, adam_lr=3e-3,
                 warmup_steps=60, decay_from=0.7, final_share=0.0)
TUNE = Phase("tune", steps=900, lengths=((0.8, 256), (0.1, 512), (0.1, 1024)), muon_lr=0.008, adam_lr=1.5e-3,
             warmup_steps=10, decay_from=0.1, final_share=0.02, batch_tokens=4096)
POLISH = Phase("polish", steps=1100, lengths=((0.92, 256), (0.08, 1024)), muon_lr=0.006, adam_lr=1.2e-3,
               warmup_steps=10, decay_from=0.2, final_share=0.02, batch_tokens=4096)
MIXTURES = {"tune": Mixture(1.0, 0.0, OwnShare(repeats=6, draws=0, strung=2500)),
            "polish": Mixture(0.4, 1.0, OwnShare(repeats=3, draws=20, strung=4000))}
PRETRAINED_SHARE = 0.06
"""Of the pretrained weights in what is exported: averaging wins back prose that tuning forgot (Wortsman et al., "Robust
fine-tuning of zero-shot models", 2022)."""
OWN_MATERIAL = Path(__file__).parents[1] / "resources" / "training"


def prepare(data: Path, run: Path) -> None:
    """Clean the corpora, train the tokenizer on them and write the pretraining tokens."""
    if (run / "pretrain_ids.npy").is_file():
        return
    rng = random.Random(SEED)
    held_out, truecase = HeldOut(data / "eval"), truecaser(data)
    once: list[Document] = []
    repeated: list[Document] = []
    tallies: dict[str, Tally] = {}
    for source in PRETRAINING:
        tally = tallies[source.path] = Tally()
        found = documents(data, source, held_out, truecase, rng, tally)
        once += found
        repeated += found * int(max(source.epochs, 1))
        repeated += [d for d in found if source.epochs > 1 and rng.random() < source.epochs % 1]
        print(f"{source.path}: {asdict(tally)}", flush=True)
    (run / "sources.json").write_text(json.dumps({k: asdict(v) for k, v in tallies.items()}, indent=1))
    tokenizer = train_tokenizer((content for document in once for _, content in document), MODEL.vocab_size)
    tokenizer.save(str(run / "tokenizer.json"))
    rng.shuffle(repeated)
    ids, _ = Encoder(tokenizer).stream(repeated)
    np.save(run / "pretrain_ids.npy", ids)
    print(f"{len(repeated)} documents, {len(ids)} tokens", flush=True)


def model_config(tokenizer: Tokenizer) -> ModelConfig:
    """The model's shape with the ids that end a text."""
    return replace(MODEL, eos_ids=(special_id(tokenizer, END), special_id(tokenizer, END_OF_TEXT)))


def pretrain(run: Path, compiled: bool) -> None:
    """Train from random weights on everything."""
    config = model_config(Tokenizer.from_file(str(run / "tokenizer.json")))
    stream = Stream(np.load(run / "pretrain_ids.npy", mmap_mode="r"), None)
    trainer = Run(run, fresh_decoder(config, SEED), PRETRAIN, stream, compiled, checkpoint_every_s=180)
    trainer.resume()
    trainer.train()


def prepare_tuning(data: Path, own: Path, run: Path, phase: str) -> None:
    """Write the tokens and loss marks of a tuning mixture."""
    if (run / f"{phase}_marks.npy").is_file():
        return
    held_out, truecase = HeldOut(data / "eval"), truecaser(data)
    rng = random.Random(SEED + 1 + list(MIXTURES).index(phase))
    prompts = [prompt for group in PROMPTS.values() for prompt in group]
    unseen = Unseen(prompts[number - 1] for number in UNUSUAL_NUMBERS)
    shares = MIXTURES[phase]
    ours = own_documents(own, unseen, rng, shares.own)
    mixture = tuning_documents(data, ours, held_out, truecase, rng, shares.others, shares.prose)
    ids, marks = Encoder(Tokenizer.from_file(str(run / "tokenizer.json"))).stream(mixture)
    np.save(run / f"{phase}_ids.npy", ids)
    np.save(run / f"{phase}_marks.npy", marks)
    print(f"{len(mixture)} documents, {len(ids)} tokens, {int(marks.sum())} of them learned", flush=True)


def tune(run: Path, phase: Phase, start: str, compiled: bool) -> None:
    """Continue from the weights of another phase on chats, learning only what the assistant says."""
    config = model_config(Tokenizer.from_file(str(run / "tokenizer.json")))
    decoder = fresh_decoder(config, SEED)
    decoder.load_state_dict(torch.load(run / f"{start}.pt", weights_only=True)["model"])
    stream = Stream(*(np.load(run / f"{phase.name}_{part}.npy", mmap_mode="r") for part in ("ids", "marks")))
    trainer = Run(run, decoder, phase, stream, compiled, checkpoint_every_s=180)
    trainer.resume()
    trainer.train()


def blended(run: Path, phase: str) -> Path:
    """A checkpoint of the phase's weights with a share of the pretrained ones."""
    tuned, pretrained = (torch.load(run / f"{name}.pt", weights_only=True)["model"] for name in (phase, "pretrain"))
    torch.save({"model": {name: weight.lerp(pretrained[name], PRETRAINED_SHARE) for name, weight in tuned.items()}},
               run / "blend.pt")
    return run / "blend.pt"


def main() -> None:
    """Read the command line and run the chosen steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the corpora (see their SOURCES.md)")
    parser.add_argument("--run", type=Path, required=True, help="folder for tokens, checkpoints and the log")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished model")
    parser.add_argument("--own", type=Path, default=OWN_MATERIAL, help="folder of our own prompts and replies")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--export-from", choices=("polish", "tune", "pretrain"), default="polish",
                        help="which phase's checkpoint becomes the model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-compile", action="store_true", help="do without torch.compile (no C++ compiler at hand)")
    options = parser.parse_args()
    options.run.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    if "prepare" in options.steps:
        prepare(options.data, options.run)
        for phase in MIXTURES:
            prepare_tuning(options.data, options.own, options.run, phase)
    if "pretrain" in options.steps:
        pretrain(options.run, not options.no_compile)
    if "tune" in options.steps:
        tune(options.run, TUNE, "pretrain", not options.no_compile)
    if "polish" in options.steps:
        tune(options.run, POLISH, "tune", not options.no_compile)
    if "export" in options.steps:
        tokenizer = Tokenizer.from_file(str(options.run / "tokenizer.json"))
        export(blended(options.run, options.export_from), model_config(tokenizer), tokenizer, options.out)
        print(f"Transformers agrees: logits differ by at most {check(options.out):.1e}", flush=True)
    if "evaluate" in options.steps:
        evaluate(options.out, options.data / "eval", options.run / "evaluation.json")


if __name__ == "__main__":
    main()
