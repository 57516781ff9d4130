"""What the curves say, in words, with the change of settings that would help. Arithmetic on points, no torch.

Rules of thumb, each with the margin that keeps noise from being read as news; a remedy names plan fields and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.errors import DynoError
from engine.train_events import EvalPoint, Finding, TrainPoint
from engine.train_plan import SIZES, TrainPlan

_WORSE, _CLEARLY_WORSE = 1.002, 1.005  # of the lowest held-out loss
_MANY_EPOCHS = 4.0
_GAP = 0.3  # nats between held-out and training loss that speak of learning by heart
_EXPLODED = 1.3  # of the lowest training loss
_STILL_LEARNING = 0.02  # of the loss, over the last third of the evaluations
_FLAT = 0.003
_SLOWER = 3.0  # a learning rate that was too high is divided by this


def diagnose(plan: TrainPlan, train: Sequence[TrainPoint], evaluations: Sequence[EvalPoint],
             epochs: float = 0.0, ended: bool = True) -> tuple[Finding, ...]:
    """What a run suffers from, the worst first; ("healthy",) where nothing shows, () where there is too little to say.

    epochs: how often the training data has been read, 0 where nobody knows. ended: no more steps come, so a loss that
    still falls is news. Dropout and label smoothing raise the training loss, so the gap to the held-out one is at least
    what the curves show.
    """
    judged = [p for p in evaluations if not p.label]
    if len(train) < 3 or len(judged) < 2:
        return ()
    lost = _divergence(plan, train)
    if lost is not None:
        return (lost,)
    learned = _overfitting(plan, train, judged)
    starved = _starved(plan, train, judged, epochs)
    found = tuple(f for f in (learned, starved) if f is not None)
    if found:
        return found
    finding = (_underfitting(plan, judged) if ended else None) or _plateau(plan, train, judged)
    return (finding or Finding("healthy", "Training and held-out loss fall together."),)


def explosion(plan: TrainPlan, step: int) -> DynoError:
    """What is said where the loss is no number any more."""
    unscaled = plan.precision == "fp16" and plan.scaler == "off"
    why = "; fp16 without gradient scaling cannot hold its gradients" if unscaled else ""
    remedy = ("Switch gradient scaling on, or train in bf16." if unscaled else
              f"Lower the learning rate from {plan.lr:g} to {plan.lr / _SLOWER:.2g}, warm up longer, or clip "
              "gradients.")
    return DynoError(f"The loss is not a number since step {step:,}{why}.", remedy)


def _divergence(plan: TrainPlan, train: Sequence[TrainPoint]) -> Finding | None:
    lowest = min(train, key=lambda p: p.loss)
    recent = [p.loss for p in train[-3:]]
    cut = any(p.sparsity > lowest.sparsity for p in train[-3:])  # a cut raises the loss by nature
    if cut or lowest is train[-1] or min(recent) < _EXPLODED * lowest.loss:
        return None
    lr = plan.lr / _SLOWER
    return Finding("divergence", f"The training loss has risen from {lowest.loss:.2f} to {recent[-1]:.2f} since step "
                   f"{lowest.step:,}: the steps are too large.", f"Lower the learning rate to {lr:.2g}.", lowest.step,
                   {"lr": lr})


def _overfitting(plan: TrainPlan, train: Sequence[TrainPoint], judged: Sequence[EvalPoint]) -> Finding | None:
    lowest = min(judged, key=lambda p: p.loss)
    later = [p for p in judged if p.step > lowest.step]
    if len(later) < 2 or min(p.loss for p in later[-2:]) < _WORSE * lowest.loss:
        return None
    if later[-1].loss < _CLEARLY_WORSE * lowest.loss or not _falls(train, lowest.step):
        return None
    dropout = min(0.5, plan.dropout + 0.1)
    return Finding("over-fitting", f"Over-fitting since step {lowest.step:,}: the training loss still falls, while the "
                   f"held-out loss has risen from {lowest.loss:.3f} to {later[-1].loss:.3f}.",
                   f"Raise dropout to {dropout:.1f}, stop after 3 evaluations without a new best, or train on more "
                   "data.", lowest.step, {"dropout": dropout, "patience": plan.patience or 3})


def _falls(train: Sequence[TrainPoint], step: int) -> bool:
    before = [p.loss for p in train if p.step <= step][-2:]
    after = [p.loss for p in train if p.step > step][-2:]
    return bool(before and after) and sum(after) / len(after) < sum(before) / len(before)


def _starved(plan: TrainPlan, train: Sequence[TrainPoint], judged: Sequence[EvalPoint],
             epochs: float) -> Finding | None:
    gap = judged[-1].loss - train[-1].loss
    if epochs < _MANY_EPOCHS or gap < _GAP:
        return None
    remedy: dict[str, Any]
    if plan.data_share < 1:
        remedy, advice = {"data_share": 1.0}, "Train on all of the data."
    elif not plan.model and plan.size != SIZES[0]:
        remedy = {"size": SIZES[SIZES.index(plan.size) - 1]}
        advice = f"Add data, or take a smaller model, such as {remedy['size']}."
    else:
        remedy = {"dropout": min(0.5, plan.dropout + 0.1), "patience": plan.patience or 3}
        advice = (f"Add data; as long as there is none, raise dropout to {remedy['dropout']:.1f} and stop after "
                  f"{remedy['patience']} evaluations without a new best.")
    return Finding("data-starved", f"The data was read {epochs:.0f} times, and the held-out loss is {gap:.2f} above "
                   "the training loss: there is too little data for this model and length.", advice, -1, remedy)


def _underfitting(plan: TrainPlan, judged: Sequence[EvalPoint]) -> Finding | None:
    before = judged[len(judged) * 2 // 3 - 1]
    gain = 1 - judged[-1].loss / before.loss
    if gain < _STILL_LEARNING:
        return None
    return Finding("under-fitting", f"The held-out loss still fell by {100 * gain:.0f} % in the last third: the model "
                   "had not finished learning.", f"Train for {2 * plan.steps:,} steps.", -1, {"steps": 2 * plan.steps})


def _plateau(plan: TrainPlan, train: Sequence[TrainPoint], judged: Sequence[EvalPoint]) -> Finding | None:
    """Nothing has been gained while the rate was still high: flat where it should fall."""
    fast = [p for p in judged if p.step >= plan.warmup]
    rate = {p.step: p.lr for p in train}
    fast = [p for p in fast if rate.get(p.step, plan.lr) > plan.lr / 2]
    if len(fast) < 4 or 1 - min(p.loss for p in fast[-3:]) / fast[-4].loss > _FLAT:
        return None
    lr = min(plan.lr * _SLOWER, 0.1)
    return Finding("plateau", f"The held-out loss has been flat since step {fast[-4].step:,}, with the learning rate "
                   "still high.", f"Try a learning rate of {lr:.2g}, or a larger model.", fast[-4].step, {"lr": lr})
