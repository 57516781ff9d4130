"""What a run does besides learning (pruning, rounding, low-rank updates), behind the calls the loop makes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from engine.models.gpt import Decoder
from engine.train_events import EvalPoint
from engine.train_plan import TrainPlan
from engine.training.export import export_model
from engine.training.lora import LoraLinear, adapt
from engine.training.masks import Masks
from engine.training.network import block_layers
from engine.training.rounding import RoundedLinear, export_weight, recipe_for, round_in_training
from engine.training.sharding import gathered


class Techniques:
    """The plan's techniques on a decoder. Made before the optimizer: they change which parameters there are."""

    def __init__(self, decoder: Decoder, plan: TrainPlan) -> None:
        self._decoder, self._plan = decoder, plan
        if plan.qat != "off":
            round_in_training(decoder, plan)
        if plan.lora_rank:
            adapt(decoder, plan.lora_rank, plan.lora_alpha, plan.seed)
        self._masks = Masks(decoder, plan) if plan.prune == "weights" else None

    @property
    def prunable(self) -> int:
        """Weights that masks may take; 0 where nothing is masked."""
        return self._masks.weights if self._masks is not None else 0

    @property
    def zeros(self) -> int:
        """Weights that are masked."""
        return self._masks.zeros if self._masks is not None else 0

    def complete(self, step: int) -> bool:
        """Whether the model is what it is to become, so that an evaluation may be the best."""
        return self._masks is None or self._masks.complete(step)

    def tighten(self, step: int) -> bool:
        """Cut weights where the schedule says so; whether it did."""
        return self._masks is not None and self._masks.tighten(step)

    @contextmanager
    def unrounded(self) -> Iterator[None]:
        """The model without its rounding, for a look at what rounding costs."""
        layers = [m for m in block_layers(self._decoder).values() if isinstance(m, RoundedLinear)]
        for layer in layers:
            layer.active = False
        try:
            yield
        finally:
            for layer in layers:
                layer.active = True

    def before_update(self) -> None:
        """Gradients are there, and nobody has looked at them."""
        if self._masks is not None:
            self._masks.apply_to_gradients()

    def after_update(self) -> None:
        """The weights have moved."""
        if self._masks is not None:
            self._masks.apply()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"masks": self._masks.state()} if self._masks is not None else {}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint, whose weights are in place."""
        if self._masks is not None:
            self._masks.load(state["masks"])

    def tensors(self) -> dict[str, Tensor]:
        """The decoder's weights as they are exported, techniques made permanent; every process has to ask."""
        tensors = {name: gathered(p.detach()) for name, p in self._decoder.named_parameters()}
        if self._plan.sharding == "on":
            return tensors
        for name, layer in block_layers(self._decoder).items():
            if isinstance(layer, LoraLinear):
                tensors[f"{name}.weight"] = layer.merged()
            else:
                tensors[f"{name}.weight"] = export_weight(layer)
        return tensors

    def export(self, folder: Path, tensors: dict[str, Tensor], tokenizer: Path, point: EvalPoint | None,
               step: int) -> None:
        """Write the model with the weights of `tensors()`. Raises DynoError where the disk refuses."""
        plan, notes = self._plan, []
        if self._masks is not None:
            notes.append(f"{self.zeros:,} of {self.prunable:,} block weights are zero")
        if plan.prune in ("neurons", "heads", "layers"):
            notes.append(f"{100 * plan.sparsity:.0f} % of its {plan.prune} were removed before training")
        if plan.qat != "off":
            notes.append(f"Trained for {plan.qat}: run it with `--recipe {recipe_for(plan)}`")
        if plan.lora_rank:
            notes.append(f"LoRA of rank {plan.lora_rank}, merged into the weights")
        export_model(folder, self._decoder.config, tensors, tokenizer, plan, point, step, tuple(notes))
