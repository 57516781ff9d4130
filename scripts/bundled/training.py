"""The training loop: one for pretraining and chat tuning, which differ in their tokens and their loss marks.

Batches walk through a stream of shuffled documents, so the step number alone decides what a step reads: a run that was
killed and resumed sees exactly what an uninterrupted one would have seen.

Muon (Jordan et al., 2024, here torch.optim.Muon) trains the hidden matrices; AdamW the embedding and the norms.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.models.config import ModelConfig
from engine.models.gpt import Decoder


@dataclass(frozen=True)
class Phase:
    """One pass of training.

    lengths: (share of the steps, sequence length in tokens) in order; shares add up to 1.
    muon_lr, adam_lr: peak learning rates. decay_from: share of the steps after which they fall linearly to
    `final_share` of the peak.
    """

    name: str
    steps: int
    lengths: tuple[tuple[float, int], ...]
    muon_lr: float
    adam_lr: float
    warmup_steps: int
    decay_from: float
    final_share: float
    batch_tokens: int = 8192

    def length_at(self, step: int) -> int:
        """Sequence length of a step, in tokens."""
        reached = 0.0
        for share, length in self.lengths:
            reached += share
            if step < round(reached * self.steps):
                return length
        return self.lengths[-1][1]

    def lr_share(self, step: int) -> float:
        """Learning rate of a step as a share of its peak: warm up, hold, fall linearly."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        start = self.decay_from * self.steps
        if step < start:
            return 1.0
        return 1.0 - (1.0 - self.final_share) * (step - start) / (self.steps - start)


@dataclass(frozen=True)
class Stream:
    """Token ids of all documents in a row, and the marks of those that carry loss (None: all of them)."""

    ids: npt.NDArray[np.uint16]
    marks: npt.NDArray[np.uint8] | None

    def batch(self, position: int, rows: int, length: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets (B, T) from a position in the stream; unmarked targets are -100, as F.cross_entropy
        ignores them."""
        count = rows * length
        start = position % (len(self.ids) - count - 1)
        ids = torch.from_numpy(self.ids[start:start + count + 1].astype(np.int64))
        targets = ids[1:]
        if self.marks is not None:
            marks = torch.from_numpy(self.marks[start + 1:start + count + 1].astype(np.bool_))
            targets = targets.masked_fill(~marks, -100)
        return ids[:-1].view(rows, length), targets.view(rows, length)


def fresh_decoder(config: ModelConfig, seed: int) -> Decoder:
    """A decoder with random weights; the matrices that write into the residual stream start at zero."""
    torch.manual_seed(seed)
    decoder = Decoder(config)
    with torch.no_grad():
        for name, weight in decoder.named_parameters():
            if weight.ndim == 2 and name.endswith(("attn.out.weight", "mlp.down.weight")):
                weight.zero_()
            elif weight.ndim == 2:
                weight.normal_(std=0.02 if "embed" in name else 0.6 / math.sqrt(weight.shape[1]))
    return decoder


def optimizers(decoder: Decoder, phase: Phase) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices and AdamW for the rest, each group with its peak rate under "peak"."""
    hidden = [p for n, p in decoder.named_parameters() if p.ndim == 2 and n.startswith("blocks.")]
    rest = [p for n, p in decoder.named_parameters() if not (p.ndim == 2 and n.startswith("blocks."))]
    out: list[torch.optim.Optimizer] = [
        torch.optim.Muon(hidden, lr=phase.muon_lr, weight_decay=0.05, momentum=0.95),
        torch.optim.AdamW(rest, lr=phase.adam_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    for optimizer in out:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return out


def loss_function(decoder: Decoder, compiled: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """Mean cross-entropy of a batch in nats per marked token, computed under bf16 autocast."""
    decoder.rope_tables(torch.zeros(1), decoder.config.context)  # outside: a compiled graph reads a constant

    def loss(ids: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits = decoder(ids)  # (B, T, V)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-100)

    return torch.compile(loss, dynamic=False) if compiled else loss


class Run:
    """One phase of training in a folder: checkpoint.pt to resume from and log.jsonl with one line per ten steps."""

    def __init__(self, folder: Path, decoder: Decoder, phase: Phase, stream: Stream, compiled: bool,
                 checkpoint_every_s: float) -> None:
        self._folder = folder
        self._decoder = decoder
        self._phase = phase
        self._stream = stream
        self._loss = loss_function(decoder, compiled)
        self._optimizers = optimizers(decoder, phase)
        self._checkpoint_every_s = checkpoint_every_s
        self._step = 0
        self._elapsed_s = 0.0
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def checkpoint(self) -> Path:
        """Where weights, optimiser states and progress are kept."""
        return self._folder / f"{self._phase.name}.pt"

    def resume(self) -> bool:
        """Continue from the checkpoint, if there is one."""
        if not self.checkpoint.is_file():
            return False
        state = torch.load(self.checkpoint, weights_only=True)
        self._decoder.load_state_dict(state["model"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self._step, self._elapsed_s = state["step"], state["elapsed_s"]
        return True

    def save(self) -> None:
        """Write the checkpoint whole or not at all."""
        temporary = self.checkpoint.with_suffix(".part")
        torch.save({"model": self._decoder.state_dict(), "optimizers": [o.state_dict() for o in self._optimizers],
                    "step": self._step, "elapsed_s": self._elapsed_s}, temporary)
        temporary.replace(self.checkpoint)

    def train(self) -> float:
        """Run the steps that are left. Returns the seconds spent in this phase, earlier sessions included."""
        saved_at = time.perf_counter()
        losses: list[float] = []
        self._decoder.train()
        while self._step < self._phase.steps:
            started = time.perf_counter()
            losses.append(self._one_step())
            self._step += 1
            self._elapsed_s += time.perf_counter() - started
            if self._step % 10 == 0 or self._step == self._phase.steps:
                self._log(sum(losses) / len(losses), time.perf_counter() - started)
                losses.clear()
            if time.perf_counter() - saved_at > self._checkpoint_every_s:
                self.save()
                saved_at = time.perf_counter()
        self.save()
        return self._elapsed_s

    def _one_step(self) -> float:
        phase = self._phase
        length = phase.length_at(self._step)
        ids, targets = self._stream.batch(self._step * phase.batch_tokens, phase.batch_tokens // length, length)
        share = phase.lr_share(self._step)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * share
        loss = self._loss(ids, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._decoder.parameters(), 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    def _log(self, loss_nats: float, step_s: float) -> None:
        row = {"phase": self._phase.name, "step": self._step, "loss_nats": round(loss_nats, 4),
               "length_tokens": self._phase.length_at(self._step - 1), "step_s": round(step_s, 3),
               "elapsed_s": round(self._elapsed_s, 1)}
        with open(self._folder / "log.jsonl", "a", encoding="utf-8") as handle:
            handle.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
