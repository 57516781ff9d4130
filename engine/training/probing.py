"""The data probe: the same job, briefly, on a quarter, a half and all of the data, and what that says about more.

A trend is three held-out losses at doubling amounts of data. Where the second doubling brought r times what the first
one did, the next is taken to bring r times the second: L(2D) = L3 - r (L2 - L3), r = (L2 - L3) / (L1 - L2), which is
the power law E + B / D^b through the three points (Hestness et al., 2017). For the model's size a new model is made
smaller (or, the smallest, larger) by one size, and ln L is taken to fall in a line with ln N; as the loss that no size
can go below is left out of that, it is the most that can be expected.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Generator
from pathlib import Path

from engine.errors import DynoError
from engine.models.devices import DeviceFacts
from engine.train_events import Preparing, Probed, ProbeReport, RunStarted, TrainEvent
from engine.train_plan import SIZES, TrainPlan
from engine.training.checkpoints import has_state
from engine.training.dataset import MADE_OF
from engine.training.records import RunRecord
from engine.training.setup import set_up, unless_paused
from engine.training.team import Team
from engine.training.trainer import train

SHARES = (0.25, 0.5, 1.0)
_NOTHING = 0.003  # of the loss: less is noise
_LEAST_STEPS = 20
_READS_OF_A_QUARTER = 2.0  # data that is read less than once cannot be too little
_CLOSE = 0.15  # nats between training and held-out loss below which nothing is learned by heart
ProbeSteps = Generator[TrainEvent, None, ProbeReport | None]


def probe(plan: TrainPlan, folder: Path, device: DeviceFacts, steps: int = 0,
          asked: Callable[[], str] = lambda: "") -> ProbeSteps:
    """Make the short runs, each in a folder of its own under `folder`; None where it was asked to stop, and the same
    call goes on from there. steps: of each run, 0 for as many as the data ask for. Raises DynoError."""
    brief = plan.changed(patience=0, sample="", histograms="off", sharding="off", data_share=1.0,
                         **({"prune": "off"} if plan.prune == "weights" else {}))
    windows = yield from _measured(brief, folder / "all", device, asked)
    if windows is None:
        return None
    each = plan.batch * plan.accumulate
    if not steps:
        steps = max(_LEAST_STEPS, plan.steps // 4, math.ceil(_READS_OF_A_QUARTER * SHARES[0] * windows / each))
        steps = min(steps, plan.steps)
    brief = brief.changed(steps=steps, warmup=min(plan.warmup, steps // 5), evaluate_every=max(1, steps // 8),
                          log_every=max(1, steps // 20))
    plans = {"all": brief} | {name: brief.changed(data_share=share)
                              for name, share in zip(("quarter", "half"), SHARES, strict=False)}
    if not plan.model:
        place = SIZES.index(plan.size)
        plans["size"] = brief.changed(size=SIZES[place - 1 if place else 1])
    found: dict[str, Probed] = {}
    for name in sorted(plans, key=lambda n: n == "size"):
        if name != "all":
            _share_tokens(folder / "all", folder / name)
        result = yield from _run(plans[name], folder / name, device, asked)
        if result is None:
            return None
        found[name] = Probed(plans[name].data_share, result.facts.parameters,
                             steps * each / max(1.0, windows * plans[name].data_share),
                             min(p.loss for p in result.evaluations if not p.label), result.train[-1].loss)
        yield found[name]
    return conclude(tuple(found[n] for n in ("quarter", "half", "all")), found.get("size"), steps)


def conclude(runs: tuple[Probed, ...], other: Probed | None, steps: int) -> ProbeReport:
    """What the runs on growing shares, and one of another size on all of the data, say about more of either."""
    quarter, half, everything = runs
    sentences: list[str] = []
    gain, told = _data_gain(quarter.loss, half.loss, everything.loss)
    sentences.append(told)
    if everything.epochs < 1:
        sentences.append(f"In {steps:,} steps the data was read {everything.epochs:.1f} times only: more steps would "
                         "use what is there already.")
    twice_model, model_gain = math.nan, 0.0
    if other is not None:
        small, large = sorted((other, everything), key=lambda p: p.parameters)
        slope = math.log(small.loss / large.loss) / math.log(large.parameters / small.parameters)
        model_gain = everything.loss * (1 - 2 ** -max(0.0, slope))
        twice_model = everything.loss - model_gain
        if model_gain > _NOTHING * everything.loss:
            sentences.append(f"A model of twice the size would likely bring the held-out loss from "
                             f"{everything.loss:.3f} to {twice_model:.3f} at best, if it is trained for as many steps.")
        else:
            sentences.append("A larger model would bring next to nothing in so many steps.")
        if max(gain, model_gain) > _NOTHING * everything.loss:
            sentences.append("More data promises more than a larger model." if gain > model_gain else
                             "A larger model promises more than more data.")
    else:
        apart = everything.loss - everything.train_loss
        sentences.append(
            f"The held-out loss is {apart:.2f} above the training loss: the model still learns what holds in general, "
            "and a larger one could learn more." if apart < _CLOSE else
            f"The held-out loss is {apart:.2f} above the training loss: the model learns its text by heart already, so "
            "a larger one needs more data first.")
    runs = runs if other is None else (*runs, other)
    return ProbeReport(runs, steps, everything.loss - gain, twice_model, tuple(sentences))


def _data_gain(quarter: float, half: float, everything: float) -> tuple[float, str]:
    """Nats that twice the data would bring, and the sentence that says so."""
    first, second = quarter - half, half - everything
    if second <= _NOTHING * everything:
        return 0.0, ("From half to all of the data the held-out loss fell by "
                     f"{max(0.0, second):.3f} only: twice the data would bring next to nothing in so many steps.")
    ratio = min(1.0, second / first) if first > 0 else 1.0
    gain = ratio * second
    loss = everything - gain
    return gain, (f"The held-out loss fell from {quarter:.3f} over {half:.3f} to {everything:.3f} as the data grew: "
                  f"twice the data would likely bring {loss:.3f} (perplexity {math.exp(everything):.1f} to "
                  f"{math.exp(loss):.1f}).")


def _measured(plan: TrainPlan, folder: Path, device: DeviceFacts,
              asked: Callable[[], str]) -> Generator[TrainEvent, None, int | None]:
    """Windows of all the training data, which is encoded on the way; None where it was asked to stop meanwhile."""
    ready = yield from unless_paused(set_up(plan, folder, device, Team()), asked)
    if ready is None:
        return None
    data = ready.data
    if len(data.validation.ids) < 2:
        raise DynoError("A data probe needs text that is held out.", "Raise the held-out share, or name validation "
                        "data.")
    return max(1, data.train.windows(data.sequence))


def _share_tokens(source: Path, folder: Path) -> None:
    """The same tokens and tokenizer for another run, without a second copy where the disk allows it."""
    for name in ("data", "tokenizer"):
        if (source / name).is_dir() and not (folder / name).is_dir():
            shutil.copytree(source / name, folder / name, copy_function=_linked)
    shutil.copyfile(source / MADE_OF, folder / MADE_OF)


def _linked(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    return target


def _run(plan: TrainPlan, folder: Path, device: DeviceFacts,
         asked: Callable[[], str]) -> Generator[TrainEvent, None, RunRecord | None]:
    """One short run; None where it was paused."""
    yield Preparing(f"Probing with {plan.data_share:.0%} of the data" + (f", {plan.size}" if not plan.model else ""))
    steps = train(plan, folder, device, resume=has_state(folder), asked=asked)
    while True:
        try:
            event = next(steps)
        except StopIteration as finished:
            if finished.value.state == "paused":
                return None
            record = RunRecord.open(folder)
            while record.look():
                pass
            return record
        if not isinstance(event, RunStarted):
            yield event
