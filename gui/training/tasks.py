"""What one can train for: which of a plan's settings belong to it, and where it starts from. No Qt widgets here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PySide6.QtCore import QT_TRANSLATE_NOOP

from engine.train_plan import TrainPlan

_NEW = ("size", "tokenizer", "vocabulary", "context")
_PRUNE = ("prune", "sparsity", "prune_start", "prune_end", "prune_every")
_QAT = ("qat", "qat_group", "qat_activations")
_LORA = ("lora_rank", "lora_alpha")
_NEVER = ("sharding",)  # the window trains in one process
FOLDED = ("validation", "validation_share", "data_share", "seed", "floor", "momentum", "beta2", "evaluation_batches",
          "log_every", "save_every_s", "histograms")
"""Settings that few people ever touch: behind a fold."""


@dataclass(frozen=True)
class Task:
    """hidden: settings that are none of this task's. start: values it begins with."""

    key: str
    title: str
    about: str
    hidden: tuple[str, ...]
    start: Mapping[str, Any]

    @property
    def needs_model(self) -> bool:
        """Whether it trains an existing model further."""
        return "model" not in self.hidden

    def fields(self) -> list[dataclasses.Field[Any]]:
        """Its settings, in the plan's order."""
        return [f for f in dataclasses.fields(TrainPlan) if f.name not in self.hidden and f.name not in _NEVER]


TASKS = (
    Task("fine-tune", str(QT_TRANSLATE_NOOP("training", "Fine-tune a model")),
         str(QT_TRANSLATE_NOOP("training", "Train a model further on a text or on chats.")),
         (*_NEW, *_PRUNE, *_QAT, *_LORA), {"lr": 3e-4, "steps": 200}),
    Task("scratch", str(QT_TRANSLATE_NOOP("training", "Train from scratch")),
         str(QT_TRANSLATE_NOOP("training", "Make a new model with a tokenizer of its own.")),
         ("model", *_PRUNE, *_QAT, *_LORA), {"lr": 3e-3, "steps": 500}),
    Task("prune", str(QT_TRANSLATE_NOOP("training", "Prune and retrain")),
         str(QT_TRANSLATE_NOOP("training", "Take weights away, and let the others learn to do without.")),
         (*_NEW, *_QAT, *_LORA), {"lr": 3e-4, "steps": 300, "prune": "weights"}),
    Task("qat", str(QT_TRANSLATE_NOOP("training", "Quantization-aware")),
         str(QT_TRANSLATE_NOOP("training", "Train with weights rounded as quantization will round them.")),
         (*_NEW, *_PRUNE, *_LORA), {"lr": 3e-4, "steps": 200, "qat": "int4"}),
    Task("lora", str(QT_TRANSLATE_NOOP("training", "LoRA fine-tuning")),
         str(QT_TRANSLATE_NOOP("training", "Train thin matrices beside frozen weights: a fraction of the memory.")),
         (*_NEW, *_PRUNE, *_QAT), {"lr": 1e-3, "steps": 200, "lora_rank": 8}),
)


def task_of(plan: TrainPlan) -> Task:
    """The task that a plan is for."""
    key = ("lora" if plan.lora_rank else "qat" if plan.qat != "off" else "prune" if plan.prune != "off" else
           "fine-tune" if plan.model else "scratch")
    return next(task for task in TASKS if task.key == key)
