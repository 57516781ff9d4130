"""What a training run is asked to do: one flat, frozen dataclass, free of torch.

Each field declares its group, label, limits, unit, choices and help once: the command line, a window's form and the
remedies of a diagnosis (field -> new value) are made from them. Empty names (`model`, `size`) say what the run starts
from, and the numbers of a technique count only while it is switched on.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from engine.errors import DynoError

SIZES = ("1M", "3M", "10M", "30M", "100M")
_SGD_HIGHEST, _ADAM_HIGHEST = 10.0, 0.1


def setting(default: Any, group: str, label: str, help: str, *, unit: str = "", low: float | None = None,
            high: float | None = None, choices: tuple[str, ...] = (), flag: str = "") -> Any:
    """A field that knows its group, label, limits and help; flag: its name on the command line where it has another."""
    return dataclasses.field(default=default, metadata={
        "group": group, "label": label, "help": help, "unit": unit, "low": low, "high": high, "choices": choices,
        "flag": flag})


@dataclass(frozen=True)
class TrainPlan:
    """A training run. Raises DynoError for one that cannot be."""

    data: tuple[str, ...] = setting((), "Data", "Data", "Text to learn from: .txt, .jsonl, .parquet (also .xz, .gz), "
                                    "folders of them, or a .npy of token ids.")
    validation: tuple[str, ...] = setting((), "Data", "Validation data", "Held-out text; without it a share of the data"
                                          " is held out.")
    validation_share: float = setting(0.05, "Data", "Held-out share", "Share of the data held out for validation.",
                                      low=0.0, high=0.5)
    learn: str = setting("assistant", "Data", "Learn from chats", "assistant learns only what the assistant says; all "
                         "learns every token.", choices=("assistant", "all"))
    data_share: float = setting(1.0, "Data", "Share of the data", "Train on this share of the training data only.",
                                low=0.001, high=1.0)
    model: str = setting("", "Model", "Model to start from", "Folder of the model that is trained further; without it "
                         "a new one is trained from random weights.")
    size: str = setting("1M", "Model", "Size of a new model", "Parameters of a model trained from scratch, roughly.",
                        choices=SIZES)
    tokenizer: str = setting("bpe", "Model", "Tokenizer of a new model", "bpe learns frequent pieces of words, "
                             "character takes each character as a token.", choices=("bpe", "character"))
    vocabulary: int = setting(2048, "Model", "Vocabulary", "Most tokens a new tokenizer may have.", unit="tokens",
                              low=32, high=65536)
    context: int = setting(512, "Model", "Context of a new model", "Longest sequence a new model can read.",
                           unit="tokens", low=8, high=1 << 17)
    steps: int = setting(500, "Length", "Steps", "Optimizer steps.", low=1, high=10_000_000)
    batch: int = setting(16, "Length", "Batch", "Sequences of one forward pass on each process.", unit="sequences",
                         low=1, high=65536)
    accumulate: int = setting(1, "Length", "Accumulation", "Forward passes before an optimizer step: a larger batch in "
                              "the same memory.", low=1, high=4096)
    sequence: int = setting(256, "Length", "Sequence", "Tokens of one training sequence.", unit="tokens", low=2,
                            high=1 << 17)
    seed: int = setting(0, "Length", "Seed", "Decides initial weights, order of the data and dropout.", low=0,
                        high=2**31 - 1)
    optimizer: str = setting("adamw", "Optimizer", "Optimizer", "How gradients change weights.",
                             choices=("adamw", "adam", "sgd"))
    lr: float = setting(1e-3, "Optimizer", "Learning rate", "The highest rate, after the warm-up.", low=1e-9, high=1e6)
    schedule: str = setting("cosine", "Optimizer", "Schedule", "How the rate falls after the warm-up.",
                            choices=("cosine", "linear", "constant"))
    warmup: int = setting(20, "Optimizer", "Warm-up", "Steps over which the rate rises.", unit="steps", low=0,
                          high=1_000_000)
    floor: float = setting(0.1, "Optimizer", "Last rate", "The last step's rate, as a share of the highest.", low=0.0,
                           high=1.0)
    momentum: float = setting(0.9, "Optimizer", "Momentum", "Of SGD, and the first beta of Adam.", low=0.0, high=0.999)
    beta2: float = setting(0.95, "Optimizer", "Second beta", "Of Adam and AdamW.", low=0.0, high=0.99999)
    weight_decay: float = setting(0.1, "Optimizer", "Weight decay", "Pull of matrices towards zero.", low=0.0, high=10)
    clip: float = setting(1.0, "Optimizer", "Gradient clipping", "Longest gradient, as a Euclidean norm; 0 for any.",
                          low=0.0, high=1e6)
    dropout: float = setting(0.0, "Regularisation", "Dropout", "Share of activations dropped after the embedding and "
                             "each part of a block.", low=0.0, high=0.9)
    label_smoothing: float = setting(0.0, "Regularisation", "Label smoothing", "Share of the target spread over all "
                                     "tokens.", low=0.0, high=0.5)
    patience: int = setting(0, "Regularisation", "Early stopping", "Stop after so many evaluations without a new best; "
                            "0 never stops early.", unit="evaluations", low=0, high=10_000)
    precision: str = setting("fp32", "Precision", "Precision", "fp32; or autocast to bf16, or to fp16 with gradient "
                             "scaling.", choices=("fp32", "bf16", "fp16"))
    scaler: str = setting("on", "Precision", "Gradient scaling", "Scales the loss so that fp16 gradients do not vanish;"
                          " off shows what happens without.", choices=("on", "off"))
    activation_checkpointing: str = setting("off", "Precision", "Activation checkpointing", "Recompute each block's "
                                            "activations instead of keeping them.", choices=("off", "on"))
    prune: str = setting("off", "Prune and retrain", "Pruning", "weights zeroes the smallest ones over all layers; "
                         "neurons, heads and layers take whole parts out, once, before training.",
                         choices=("off", "weights", "neurons", "heads", "layers"))
    sparsity: float = setting(0.8, "Prune and retrain", "Amount", "Share that is pruned.", low=0.0, high=0.99)
    prune_start: int = setting(0, "Prune and retrain", "First cut", "Step of the first cut.", unit="steps", low=0,
                               high=10_000_000)
    prune_end: int = setting(0, "Prune and retrain", "Last cut", "Step of the last cut; the first one's for one shot.",
                             unit="steps", low=0, high=10_000_000)
    prune_every: int = setting(10, "Prune and retrain", "Steps between cuts", "Of the gradual schedule.", unit="steps",
                               low=1, high=1_000_000)
    qat: str = setting("off", "Quantization-aware", "Quantization-aware training", "Train with weights rounded as the "
                       "quantization technique will round them.", choices=("off", "int8", "int4", "int2"))
    qat_group: str = setting("32", "Quantization-aware", "Group size", "Columns that share a scale in int4 and int2.",
                             unit="columns", choices=("32", "64", "128"))
    qat_activations: str = setting("off", "Quantization-aware", "8-bit activations", "Round activations to 8 bits too, "
                                   "one scale a token, as int8 dynamic does.", choices=("off", "on"))
    lora_rank: int = setting(0, "LoRA", "LoRA rank", "Train two thin matrices of this rank beside each frozen weight; "
                             "0 trains the weights themselves.", low=0, high=1024)
    lora_alpha: float = setting(16.0, "LoRA", "LoRA alpha", "Strength: the update is scaled by alpha / rank.", low=0.01,
                                high=4096)
    sharding: str = setting("off", "Several processes", "Sharding", "Under torchrun, keep a share of weights, "
                            "gradients and optimizer on each process (FSDP2) instead of all of them on each.",
                            choices=("off", "on"))
    evaluate_every: int = setting(50, "Records", "Evaluate every", "Steps between evaluations.", unit="steps", low=1,
                                  high=10_000_000)
    evaluation_batches: int = setting(32, "Records", "Evaluation batches", "Most batches of one evaluation; 0 for all.",
                                      low=0, high=1_000_000)
    log_every: int = setting(10, "Records", "Log every", "Steps that one point of the curve is the mean of.",
                             unit="steps", low=1, high=1_000_000)
    save_every_s: float = setting(60.0, "Records", "Save every", "Seconds between checkpoints.", unit="s", low=0.0,
                                  high=86_400.0)
    sample: str = setting("", "Records", "Sample prompt", "Text that the model continues at each evaluation, for "
                          "TensorBoard; empty for none.")
    histograms: str = setting("off", "Records", "Weight histograms", "Write histograms of the weights for TensorBoard "
                              "at each evaluation.", choices=("off", "on"))

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, checked(field, getattr(self, field.name)))
        if not self.data:
            raise DynoError("The run has no data.", "Name a text file or a folder of them.")
        highest = _SGD_HIGHEST if self.optimizer == "sgd" else _ADAM_HIGHEST
        if self.lr > highest:
            raise DynoError(f"A learning rate of {self.lr:g} is absurdly high for {self.optimizer}: the weights would "
                            "be lost in a few steps.", f"Choose at most {highest:g}; "
                            f"{'0.1' if self.optimizer == 'sgd' else '0.001'} is usual.")
        if self.warmup > self.steps:
            raise DynoError(f"{self.warmup:,} warm-up steps do not fit into {self.steps:,} steps.",
                            "Choose fewer warm-up steps, or more steps.")
        if self.prune == "weights" and (self.prune_end < self.prune_start or self.prune_end >= self.steps):
            raise DynoError(f"Pruning from step {self.prune_start:,} to {self.prune_end:,} does not fit into "
                            f"{self.steps:,} steps.", "Choose a last cut that lies between the first one and the end.")
        if self.prune in ("neurons", "heads", "layers") and not self.model:
            raise DynoError("A new model has nothing worth pruning yet.", "Choose a model to start from.")
        if self.lora_rank and (self.prune != "off" or self.qat != "off"):
            raise DynoError("LoRA leaves the weights frozen, so they can be neither pruned nor rounded in training.",
                            "Switch LoRA off, or prune and quantize the exported model.")
        if self.sharding == "on" and (self.prune == "weights" or self.qat != "off" or self.lora_rank):
            raise DynoError("Sharded weights can be neither pruned nor rounded in training, nor have LoRA beside them.",
                            "Switch sharding off.")
        if self.sharding == "on" and self.precision == "fp16":
            raise DynoError("The gradient scaler of fp16 does not see the gradients on other processes' shards.",
                            "Train in bf16, or switch sharding off.")
        if self.lora_rank and not self.model:
            raise DynoError("LoRA needs a model to start from.", "Choose one, or train a new model without LoRA.")

    @property
    def tokens_per_batch(self) -> int:
        """Tokens of one forward pass on one process."""
        return self.batch * self.sequence

    def changed(self, **settings: Any) -> TrainPlan:
        """This plan with other settings. Raises DynoError."""
        return dataclasses.replace(self, **settings)

    def to_json(self) -> dict[str, Any]:
        """Every field by name, as plain JSON data."""
        return {name: list(value) if isinstance(value, tuple) else value
                for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> TrainPlan:
        """The plan that to_json() wrote; a field it does not know is refused. Raises DynoError."""
        known = {f.name for f in dataclasses.fields(cls)}
        if not isinstance(raw, dict) or not set(raw) <= known:
            raise DynoError("The plan of this training run cannot be read.", "Start a new run in another folder.")
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in raw.items()}
        return cls(**values)


def checked(field: dataclasses.Field[Any], value: Any) -> Any:
    """The value of a field as the plan keeps it. Raises DynoError."""
    meta, label = field.metadata, field.metadata["label"]
    if isinstance(field.default, tuple):
        if isinstance(value, str) or not all(isinstance(v, str) and v for v in value):
            raise DynoError(f"{label} is no list of files.", "Name files or folders.")
        return tuple(value)
    if meta["choices"]:
        if value not in meta["choices"]:
            raise DynoError(f"{label}: {value!r} is not a choice.", f"Choose one of: {', '.join(meta['choices'])}.")
        return value
    if isinstance(field.default, str):
        return str(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise DynoError(f"{label}: {value!r} is not a number.", f"Give a number such as {field.default:g}.")
    whole = isinstance(field.default, int)
    if not meta["low"] <= value <= meta["high"] or (whole and value != int(value)):
        raise DynoError(f"{label}: {value:g} is outside {meta['low']:g} to {meta['high']:g}"
                        f"{' or no whole number' if whole else ''}.",
                        f"Choose a {'whole ' if whole else ''}number from {meta['low']:g} to {meta['high']:g}.")
    return int(value) if whole else float(value)
