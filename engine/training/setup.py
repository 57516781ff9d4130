"""From a plan to everything a run works with: tokenizer, network, data. What is made once is kept in the run's folder,
so that a resumed run starts from the same."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.errors import DynoError
from engine.models.checkpoint import load_decoder, load_masters
from engine.models.config import ModelConfig
from engine.models.devices import DeviceFacts
from engine.models.gpt import Decoder
from engine.models.tokenizer import Tokenizer
from engine.train_events import Notice, Preparing
from engine.train_plan import TrainPlan
from engine.training.checkpoints import has_state
from engine.training.cutting import cut_decoder
from engine.training.dataset import Data, document_texts, forget_other_data, prepare_data
from engine.training.network import Network, fresh_decoder
from engine.training.sizes import config_for
from engine.training.team import Team
from engine.training.vocabulary import lines_of, save_tokenizer, train_tokenizer


@dataclass(frozen=True)
class Ready:
    """What a run works with. source: the folder of the tokenizer's files. end: the token that ends a text."""

    network: Network
    tokenizer: Tokenizer
    source: Path
    data: Data
    device: torch.device

    @property
    def decoder(self) -> Decoder:
        """The decoder in the network."""
        return self.network.decoder

    @property
    def end(self) -> int | None:
        """The token that ends a text, None where the model has none."""
        return next(iter(self.decoder.config.eos_ids), None)


SetupSteps = Generator[Preparing | Notice, None, Ready]


def set_up(plan: TrainPlan, folder: Path, device: DeviceFacts, team: Team) -> SetupSteps:
    """Tokenizer, data and network of a run, the first process making what the others read. Raises DynoError."""
    if plan.precision == "bf16" and not device.bf16:
        raise DynoError("This device has no bf16.", "Choose fp16 or fp32.")
    source = Path(plan.model).expanduser() if plan.model else folder / "tokenizer"
    if team.leads and not has_state(folder):
        forget_other_data(plan, folder)
    if team.leads and not plan.model and not (source / "tokenizer.json").is_file():
        yield Preparing("Training the tokenizer")
        save_tokenizer(train_tokenizer(plan.tokenizer, lines_of(document_texts(plan)), plan.vocabulary), source,
                       plan.context)
    team.wait()
    yield Preparing("Opening the model")
    tokenizer = Tokenizer.from_folder(source)
    config, decoder = _decoder(plan, source, tokenizer, device)
    eos = next(iter(config.eos_ids), None)
    if team.leads:
        data = yield from prepare_data(plan, tokenizer, config.vocab_size, config.context, eos, folder / "data")
    team.wait()
    if not team.leads:
        data = yield from prepare_data(plan, tokenizer, config.vocab_size, config.context, eos, folder / "data")
    place = torch.device(device.torch_name)
    return Ready(Network(decoder, plan, place), tokenizer, source, data, place)


def unless_paused(steps: SetupSteps, asked: Callable[[], str]) -> Generator[Preparing | Notice, None, Ready | None]:
    """The same steps; None, at the next of them, where asked() says "pause". What is half made is made anew."""
    while True:
        try:
            event = next(steps)
        except StopIteration as finished:
            ready: Ready = finished.value
            return ready
        yield event
        if asked() == "pause":
            steps.close()
            return None


def _decoder(plan: TrainPlan, source: Path, tokenizer: Tokenizer, device: DeviceFacts) -> tuple[ModelConfig, Decoder]:
    if not plan.model:
        end = tokenizer.token_id("<|end|>")
        config = config_for(plan.size, tokenizer.vocab_size, plan.context, end)
        return config, fresh_decoder(config, plan.seed)
    masters = load_masters(source)
    # fp32: weights, and unless they are frozen, gradients and two moments.
    need, free = (4 if plan.lora_rank else 16) * masters.parameters, device.free_bytes()
    if need > free:
        raise DynoError(f"Training the {masters.parameters / 1e6:,.0f} million weights needs {need / 1e9:.1f} GB; "
                        f"{free / 1e9:.1f} GB are free.",
                        "Choose a smaller model, or close other programs." if plan.lora_rank else
                        "Train low-rank updates instead (LoRA), choose a smaller model, or close other programs.")
    if plan.prune in ("neurons", "heads", "layers"):
        decoder = cut_decoder(masters, plan.prune, plan.sparsity, tokenizer)
        decoder.config.to_hf()  # raises now rather than after the run where the result could not be written
        return decoder.config, decoder
    return masters.config, load_decoder(masters)
