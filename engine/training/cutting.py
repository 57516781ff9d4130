"""Structured pruning before training: the techniques' own choice of neurons, heads or layers, as a decoder to train."""

from __future__ import annotations

import torch

from engine.errors import DynoError
from engine.models.checkpoint import Masters
from engine.models.devices import DeviceFacts
from engine.models.gpt import Decoder
from engine.models.tokenizer import Tokenizer
from engine.paths import RESOURCES
from engine.techniques import technique
from engine.techniques.calibration import Calibrator
from engine.techniques.draft import Draft

_CALIBRATION = RESOURCES / "evaluation" / "calibration.txt"


def cut_decoder(masters: Masters, kind: str, amount: float, tokenizer: Tokenizer) -> Decoder:
    """A trainable fp32 copy of the masters with a share of its parts gone. kind: "neurons", "heads" or "layers".
    Raises DynoError where the amount cannot be taken."""
    device = DeviceFacts("cpu", "", 0)
    ids = tokenizer.encode(_CALIBRATION.read_text(encoding="utf-8"), special_tokens=False)
    draft = Draft(masters, device, Calibrator(masters, ids, device))
    chosen = technique(f"prune-{kind}")
    assert chosen is not None
    steps = chosen.steps(chosen.options_type(amount=amount), draft)  # type: ignore[call-arg]
    while True:
        try:
            next(steps)
        except StopIteration as finished:
            if not finished.value.engaged:
                raise DynoError(finished.value.detail, "Choose a larger amount, or train without pruning.") from None
            break
    with torch.device("meta"):
        decoder = Decoder(draft.config)
    decoder.load_state_dict(_weights(draft), assign=True)
    if draft.config.tied:
        decoder.head.weight = decoder.embed.weight
    return decoder


def _weights(draft: Draft) -> dict[str, torch.Tensor]:
    """The draft's weights by the names of the decoder it describes."""
    state: dict[str, torch.Tensor] = {}
    for name in draft.masters:
        place, (layer, _, leaf) = draft.place(name), name.rpartition(".")
        if place is None:
            continue
        if layer in draft.layers:
            cut = draft.weight(layer) if leaf == "weight" else draft.bias(layer)
            assert cut is not None
        else:
            cut = draft.masters[name].to(torch.float32)
        state[place] = cut.clone().contiguous()
    if draft.config.tied:
        state["head.weight"] = state["embed.weight"]
    return state
