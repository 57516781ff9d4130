"""One optimizer step: learning rate, scaling, clipping, and what became of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import DynoError
from engine.train_plan import TrainPlan
from engine.training.schedule import LearningRate
from engine.training.sharding import gathered, sharded_like

_LEAST_SCALE = 2.0**-10  # gradients that overflow even when scaled down by this are not a matter of scaling


def make_optimizer(plan: TrainPlan, trained: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    """The plan's optimizer; matrices decay, biases and norms do not."""
    matrices = [p for p in trained.values() if p.ndim >= 2]
    rest = [p for p in trained.values() if p.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": matrices, "weight_decay": plan.weight_decay}]
    if rest:
        groups.append({"params": rest, "weight_decay": 0.0})
    fused = all(p.device.type in ("cpu", "cuda") for p in trained.values())
    if plan.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=plan.lr, momentum=plan.momentum, fused=fused)
    kind = torch.optim.AdamW if plan.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=plan.lr, betas=(plan.momentum, plan.beta2), fused=fused)


class Stepper:
    """Optimizer, learning rate and gradient scaler together."""

    def __init__(self, plan: TrainPlan, trained: dict[str, nn.Parameter], device: torch.device) -> None:
        self._plan, self._trained = plan, list(trained.values())
        self.optimizer = make_optimizer(plan, trained)
        self.rate = LearningRate(plan.lr, plan.steps, plan.warmup, plan.schedule, plan.floor)  # type: ignore[arg-type]
        self.scaled = plan.precision == "fp16" and plan.scaler == "on"
        self._scaler = torch.amp.GradScaler(device.type, enabled=self.scaled)

    @property
    def scale(self) -> float:
        """What the loss is multiplied by; 0 without scaling."""
        return float(self._scaler.get_scale()) if self.scaled else 0.0

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def unscale(self) -> None:
        """Bring the gradients back to their own size, before anyone looks at them."""
        if self.scaled:
            self._scaler.unscale_(self.optimizer)

    def update(self, step: int) -> tuple[Tensor, bool]:
        """Clip and step; (norm of the gradients before clipping, whether the step was skipped). Raises DynoError
        where gradients overflow at any scale."""
        norm = nn.utils.clip_grad_norm_(self._trained, self._plan.clip or float("inf"), foreach=True)
        rate = self.rate.at(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        before = self.scale
        self._scaler.step(self.optimizer)
        self._scaler.update()
        skipped = self.scaled and self.scale < before
        if skipped and self.scale < _LEAST_SCALE:
            raise DynoError(f"The gradients overflow fp16 at any scale; step {step:,} is the last of many that were "
                            "skipped.", "Train in bf16 or fp32, or lower the learning rate.")
        self.optimizer.zero_grad(set_to_none=True)
        return gathered(norm), skipped

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, whole; every process has to ask."""
        return {"optimizer": gathered(self.optimizer.state_dict()), "scaler": self._scaler.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        weights = [p for group in self.optimizer.param_groups for p in group["params"]]
        kept = state["optimizer"]
        self.optimizer.load_state_dict(kept | {"state": {
            n: {key: sharded_like(v, weights[n]) if isinstance(v, Tensor) else v for key, v in of_weight.items()}
            for n, of_weight in kept["state"].items()}})
        if self.scaled:
            self._scaler.load_state_dict(state["scaler"])
