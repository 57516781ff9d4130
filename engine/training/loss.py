"""Cross-entropy of the output head, a few rows at a time.

The logits of a batch are its largest tensor by far (rows x vocabulary). Here a chunk of them exists at a time: its
loss and its gradients are computed while it lies in the processor's caches, and the next one takes its place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from engine.models.gpt import capped
from engine.training.dataset import IGNORED

_CHUNK_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20}
_LEAST_ROWS = 64


def head_loss(x: Tensor, weight: Tensor, targets: Tensor, smoothing: float = 0.0,
              dtype: torch.dtype = torch.float32, cap: float = 0.0) -> Tensor:
    """Sum of the cross-entropies in nats, fp32, of x (N, D) against targets (N,); targets of IGNORED count nothing.

    weight (V, D). smoothing: the share of the target that is spread over all V tokens. dtype: of the products; sums
    and softmax are taken in fp32. cap: logits become cap tanh(x / cap), 0 for none.
    """
    kept = targets != IGNORED
    if not bool(kept.all()):
        x, targets = x[kept], targets[kept]
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _HeadLoss.apply(x, weight, targets, smoothing, dtype, cap)  # type: ignore[no-any-return,no-untyped-call]
    w = weight.to(dtype)
    total = torch.zeros((), device=x.device)
    for rows in _chunks(x, weight):
        total += _losses(capped(x[rows].to(dtype) @ w.t(), cap), targets[rows], smoothing)[0]
    return total


def _chunks(x: Tensor, weight: Tensor) -> list[slice]:
    size = max(_LEAST_ROWS, _CHUNK_BYTES.get(x.device.type, 64 << 20) // (4 * weight.shape[0]))
    return [slice(i, i + size) for i in range(0, x.shape[0], size)]


def _losses(logits: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Sum of the losses, and the log-probabilities (n, V) in fp32."""
    logp = torch.log_softmax(logits.float(), dim=1)  # (n, V)
    loss = -logp.gather(1, targets[:, None]).sum()
    if smoothing:
        loss = (1 - smoothing) * loss - smoothing * logp.mean(dim=1).sum()
    return loss, logp


class _HeadLoss(torch.autograd.Function):
    """Gradients are made along with the loss, for a loss of weight 1; backward() only scales them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, smoothing: float, dtype: torch.dtype,
                cap: float) -> Tensor:
        w = weight.to(dtype)
        grad_x = torch.empty_like(x)
        grad_w = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        total = torch.zeros((), device=x.device)
        for rows in _chunks(x, weight):
            part = x[rows].to(dtype)
            logits = capped(part @ w.t(), cap)
            loss, logp = _losses(logits, targets[rows], smoothing)
            total += loss
            grad = logp.exp_()  # (n, V): softmax - target
            if smoothing:
                grad.sub_(smoothing / weight.shape[0])
            grad[torch.arange(grad.shape[0], device=x.device), targets[rows]] -= 1 - smoothing
            if cap:
                grad *= 1 - (logits.float() / cap).square()  # the derivative of the cap
            grad = grad.to(dtype)
            grad_x[rows] = (grad @ w).to(x.dtype)
            if grad_w is not None:
                grad_w += (grad.t() @ part).to(grad_w.dtype)
        ctx.save_for_backward(grad_x, grad_w)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        grad_x, grad_w = ctx.saved_tensors
        return grad_x * grads[0], None if grad_w is None else grad_w * grads[0], None, None, None, None
