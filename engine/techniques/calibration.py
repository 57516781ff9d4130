"""What activations look like on a short text: how strong each input of each linear layer is, and how much each block
changes the stream. Techniques that weigh weights by their use read it.

The model is run in fp32, one block at a time, so calibrating a large model never needs more than a block in memory.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from engine.errors import DynoError
from engine.models.devices import DeviceFacts
from engine.techniques.base import BuildStep

if TYPE_CHECKING:
    from torch import Tensor, nn

    from engine.models.checkpoint import Masters
    from engine.models.gpt import Block

CHUNK = 256
CHUNKS = 8


@dataclass(frozen=True)
class Calibration:
    """mean_square: E[x_j^2] of every input of a linear slot, (K,) fp32, by the slot's name.

    influence: of each block, 1 - E[cos(stream in, stream out)]: how far the block turns the stream (block influence of
    Men et al., "ShortGPT", 2024). tokens: how many were run.
    """

    mean_square: dict[str, Tensor]
    influence: tuple[float, ...]
    tokens: int


class Calibrator:
    """Runs a fixed text through the masters once, on the first call of `steps`, and remembers what it saw."""

    def __init__(self, masters: Masters, ids: Sequence[int], device: DeviceFacts) -> None:
        self._masters, self._device = masters, device
        self._ids = list(ids)
        self._known: Calibration | None = None

    def steps(self) -> Generator[BuildStep, None, Calibration]:
        """The calibration, one block a step. Raises DynoError where the text is too short for a chunk."""
        if self._known is None:
            self._known = yield from self._run()
        return self._known

    def _run(self) -> Generator[BuildStep, None, Calibration]:
        import torch
        from torch.nn import functional as F

        from engine.models.gpt import Block, Norm, place, rounded
        from engine.models.rope import rope_tables

        c, name = self._masters.config, self._device.torch_name
        length = min(CHUNK, c.context, len(self._ids))
        count = min(CHUNKS, len(self._ids) // max(1, length))
        if length < 2:
            raise DynoError("The calibration text gives this model no tokens to run.",
                            "Choose a technique that needs no calibration.")
        ids = torch.tensor(self._ids[:count * length], device=name).view(count, length)  # (B, T)

        def master(key: str) -> Tensor:
            return self._masters[key].to(name, torch.float32)

        squares: dict[str, Tensor] = {}
        if c.foreign:
            yield from self._run_foreign(squares, ids)
            return Calibration(squares, (), count * length)
        influence = []
        with torch.inference_mode():
            x = F.embedding(ids, master("embed.weight")) * rounded(c.embed_scale, torch.float32)  # (B, T, D)
            if c.learned_positions:
                x = x + master("positions.weight")[:length]
            turns = tuple((cos.to(name), sin.to(name)) for cos, sin in rope_tables(c, length, reach=length))
            here = place(c, 0, length, turns, name)
        for i in range(c.n_layers):
            yield "Calibrating", i, c.n_layers
            with torch.inference_mode():
                block = Block(c, i, _bare_linear)
                _fill(block, {n: master(f"blocks.{i}.{n}") for n, _ in block.named_parameters()})
                for slot in ("attn.qkv", "attn.out", "mlp.up", "mlp.down"):
                    block.get_submodule(slot).register_forward_pre_hook(
                        partial(_note_square, squares, f"blocks.{i}.{slot}"))
                y = block(x, here, None)
                influence.append(1 - float(F.cosine_similarity(x.double(), y.double(), dim=-1).mean()))
                x = y
                for key, _ in block.named_parameters():
                    self._masters.release(f"blocks.{i}.{key}")
        with torch.inference_mode():
            norm = Norm(c.hidden_size, c.norm_eps, c.layer_norm, c.norm_offset)
            _fill(norm, {n: master(f"norm.{n}") for n, _ in norm.named_parameters()})
            _note_square(squares, "head", norm, (norm(x),))
        return Calibration(squares, tuple(influence), count * length)

    def _run_foreign(self, squares: dict[str, Tensor], ids: Tensor) -> Generator[BuildStep, None, None]:
        """A model that Transformers runs goes whole, in the type of its file, a chunk a step. ids (B, T)."""
        import torch

        from engine.models.foreign import ForeignMasters

        assert isinstance(self._masters, ForeignMasters)
        decoder = self._masters.decoder().to(ids.device)
        sums: dict[str, Tensor] = {}
        for slot in self._masters.slots:
            decoder.get_submodule(slot.name).register_forward_pre_hook(partial(_add_square, sums, slot.name))
        for i in range(len(ids)):
            yield "Calibrating", i, len(ids)
            with torch.inference_mode():
                decoder(ids[i:i + 1])
        for name, total in sums.items():
            squares[name] = (total[:-1] / total[-1]).float()


def _bare_linear(columns: int, rows: int, bias: bool) -> nn.Module:
    """A linear layer whose memory is replaced at once."""
    from torch import nn

    layer: nn.Module = nn.utils.skip_init(nn.Linear, columns, rows, bias)  # type: ignore[no-untyped-call]
    return layer


def _fill(module: Block | nn.Module, tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        owner, _, leaf = name.rpartition(".")
        getattr(module.get_submodule(owner), leaf).data = tensor


def _note_square(squares: dict[str, Tensor], name: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
    squares[name] = args[0].float().square().flatten(0, -2).mean(dim=0).cpu()  # (K,)


def _add_square(sums: dict[str, Tensor], name: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
    """Add the squares of a layer's inputs, and behind them how many rows they were, (K + 1,)."""
    rows = args[0].double().flatten(0, -2)  # (N, K)
    found = rows.square().sum(dim=0)
    count = found.new_tensor([float(len(rows))])
    both = found.new_zeros(len(found) + 1)
    both[:-1], both[-1:] = found, count
    sums[name] = sums.get(name, 0) + both.cpu()
