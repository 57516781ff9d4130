"""Helpers of the engine's tests: sessions, greedy decoding by hand, what a variant is made of, random recipes, and an
engine thread to talk to."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import random
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from engine.bench.quality import perplexity
from engine.errors import DynoError
from engine.generation import NewToken, Step, generate
from engine.kernels.linear import LinearKernel, PackedLinear
from engine.messages import (
    Cancelled,
    Command,
    Event,
    Failed,
    Finished,
    GenerationStats,
    Job,
    LoadModel,
    ModelLoaded,
    Sampling,
    Tokens,
)
from engine.models.checkpoint import Masters, load_decoder, load_masters, save_folder
from engine.models.devices import DeviceFacts, pick_device
from engine.models.tokenizer import Tokenizer
from engine.outbox import Outbox
from engine.paths import CALIBRATION_TEXT
from engine.recipe import Recipe, parse_recipe
from engine.session import Session
from engine.techniques import all_techniques
from engine.techniques.base import Options, Technique
from engine.variant import Variant
from engine.worker import Worker

PATIENCE_S = 150.0  # only a broken engine waits this long
SLOTS = ("attn.qkv", "attn.out", "mlp.up", "mlp.down")
GREEDY = Sampling(temperature=0.0, top_k=0, top_p=1.0, repetition_penalty=1.0, max_tokens=120, seed=1)
T = TypeVar("T")


def cpu() -> DeviceFacts:
    """The processor, whatever else there is."""
    return pick_device("cpu")


def open_session(folder: Path, recipe: Recipe = Recipe(), native: bool = True) -> Session:  # noqa: B008 (frozen)
    """A session on the CPU with an active recipe. native: whether the native token step may run."""
    session = Session.open(folder, cpu() if native else dataclasses.replace(cpu(), native=""))
    session.apply(recipe)
    return session


def read_logits(session: Session, ids: Sequence[int]) -> torch.Tensor:
    """Logits (T, V) of a whole sequence in one prefill."""
    assert session.active is not None
    cache = session.active.new_cache(len(ids))
    return session.active.forward(torch.tensor([list(ids)]), cache, last_only=False)[0]


def decode_logits(session: Session, ids: Sequence[int], chunk: int = 1) -> torch.Tensor:
    """Logits (T / chunk, V) after each chunk of a sequence read through the session's cache: single tokens as a reply
    makes them, longer chunks as a prompt is read."""
    session.begin(ids, len(ids), reuse=False)
    if chunk == 1:
        return torch.cat([session.step([token]) for token in ids])
    return torch.stack([session.read(ids[i:i + chunk]) for i in range(0, len(ids), chunk)])


def finish(steps: Generator[Any, None, T]) -> T:
    """Run a generator to its end; what it returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            value: T = end.value
            return value


def reply(session: Session, ids: Sequence[int], sampling: Sampling = GREEDY, *, stop: tuple[str, ...] = (),
          switches: Mapping[int, Recipe] | None = None) -> tuple[list[int], GenerationStats]:
    """Token ids and statistics of a reply; switches[n] is applied when the n-th token has come."""
    made: list[int] = []
    steps: Generator[Step, None, GenerationStats] = generate(session, ids, sampling, stop=stop)
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            stats: GenerationStats = end.value
            return made, stats
        if isinstance(step, NewToken):
            made.append(step.piece.token_id)
            if switches and len(made) in switches:
                session.apply(switches[len(made)])


def score(session: Session, text: str, context: int, chunks: int | None = None) -> float:
    """Perplexity of the active recipe on a text."""
    assert session.active is not None
    ids = session.tokenizer.encode(text, special_tokens=False)
    return finish(perplexity(session.active, session.tokenizer, ids, context, chunks)).perplexity


# ------------------------------------------------------------------------------------------ what a variant is made of


def built(folder: Path, text: str) -> tuple[Session, Variant]:
    """A session and its active variant, the recipe as the command line writes it."""
    session = open_session(folder, parse_recipe(text))
    assert session.active is not None
    return session, session.active


def edited(folder: Path, into: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Session:
    """A session over a copy of a model whose weights `change` has changed."""
    masters = load_masters(folder)
    tensors = {name: masters[name].clone() for name in masters}
    change(tensors)
    save_folder(into, masters.config, tensors, torch.float32)
    return Session(load_masters(into), Tokenizer.from_folder(folder), cpu())


def kernels(variant: Variant) -> dict[str, LinearKernel]:
    """The linear layers of a variant by name."""
    return {n: m for n, m in variant.decoder.named_modules() if isinstance(m, LinearKernel)}


def block_weights(session: Session, variant: Variant) -> dict[str, torch.Tensor]:
    """The fp32 weights the layers inside the blocks really multiply by."""
    return {f"blocks.{i}.{slot}": kernels(variant)[f"blocks.{i}.{slot}"].dense()
            for i in range(session.config.n_layers) for slot in SLOTS}


def masters_of(session: Session) -> dict[str, torch.Tensor]:
    """The same layers' master weights."""
    return {f"blocks.{i}.{slot}": session.masters[f"blocks.{i}.{slot}.weight"].float()
            for i in range(session.config.n_layers) for slot in SLOTS}


@dataclasses.dataclass(frozen=True)
class Seen:
    """What the calibration text shows: mean square of every input of each linear layer, and 1 - E[cos(in, out)] of
    each block."""

    mean_square: dict[str, torch.Tensor]
    influence: list[float]


@torch.no_grad()
def seen_by_hand(session: Session) -> Seen:
    """Calibration done again: the training decoder over the same text with hooks, summed up in fp64."""
    ids = session.tokenizer.encode(CALIBRATION_TEXT.read_text(encoding="utf-8"), special_tokens=False)
    length = min(256, session.config.context, len(ids))
    rows = torch.tensor(ids[:min(8, len(ids) // length) * length]).view(-1, length)
    decoder = load_decoder(session.masters)
    sums: dict[str, torch.Tensor] = {}
    cosines: dict[int, float] = {}

    def add(name: str, inputs: torch.Tensor) -> None:
        sums[name] = inputs.double().flatten(0, -2).square().sum(dim=0)

    def turn(block: int, before: torch.Tensor, after: torch.Tensor) -> None:
        a, b = before.double(), after.double()
        cosines[block] = float(((a * b).sum(-1) / a.norm(dim=-1) / b.norm(dim=-1)).mean())

    for name in (*masters_of(session), "head"):
        decoder.get_submodule(name).register_forward_pre_hook(lambda m, args, name=name: add(name, args[0]))
    for i, block in enumerate(decoder.blocks):
        block.register_forward_hook(lambda m, args, out, i=i: turn(i, args[0], out))
    decoder(rows)
    return Seen({name: total / rows.numel() for name, total in sums.items()},
                [1 - cosines[i] for i in range(session.config.n_layers)])


def live_bytes(variant: Variant) -> int:
    """Bytes of every parameter and buffer a variant keeps alive, each block of memory once.

    Packed matrices are no tensors whose bytes one could count; they enter as reported, and the allocator test of
    test_memory_report.py holds that report against what was handed out.
    """
    layers = {layer.name: layer for layer in variant.report.layers}
    tensors: dict[int, int] = {}
    packed = 0
    for name, module in variant.decoder.named_modules():
        if isinstance(module, PackedLinear):
            packed += layers[name].nbytes
            assert layers[name].nbytes >= module.packed.element_size() * module.packed.numel()
        else:
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                tensors[tensor.data_ptr()] = tensor.element_size() * tensor.numel()
    return packed + sum(tensors.values())


# ---------------------------------------------------------------------------------------------------- random recipes


@functools.cache
def runnable() -> tuple[Technique, ...]:
    """The techniques the processor can run, less compile: it takes half a minute, and has a file of its own."""
    return tuple(t for t in all_techniques() if t.key != "compile" and t.available(t.options_type(), cpu(), None).ok)


def some_options(rng: random.Random) -> list[Options]:
    """One random setting of every technique that can run here, from what its options say about themselves."""
    found: list[Options] = []
    device = cpu()
    for technique in runnable():
        while True:
            values = {}
            for field in dataclasses.fields(technique.options_type):
                meta = field.metadata
                values[field.name] = (rng.choice(meta["choices"]) if meta["choices"]
                                      else rng.randint(meta["low"], meta["high"]) if isinstance(field.default, int)
                                      else round(rng.uniform(meta["low"], meta["high"]), 2))
            options = technique.options_type(**values)
            if technique.available(options, device, None).ok:
                break
        found.append(options)
    return found


def random_recipe(rng: random.Random) -> Recipe:
    """A random valid recipe of up to all techniques that can stand together."""
    options = some_options(rng)
    recipe = Recipe()
    for chosen in rng.sample(options, rng.randint(0, len(options))):
        try:
            recipe = recipe.with_options(chosen)
        except DynoError:  # two that exclude each other
            continue
    return recipe


def hash_of(masters: Masters) -> str:
    """A fingerprint of every bit of the master weights."""
    digest = hashlib.sha256()
    for name in masters:
        digest.update(name.encode())
        digest.update(masters[name].contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class WatchedOutbox(Outbox):
    """An outbox that lets a test act on the engine thread right after an event, so that nothing depends on timing."""

    react: Callable[[Event], None] | None = None

    def put(self, event: Event) -> None:
        """Add an event, then let the test react to it."""
        super().put(event)
        if self.react is not None:
            self.react(event)


class Engine:
    """A real engine thread and everything it has said so far."""

    def __init__(self, probe: bool = False) -> None:
        self.outbox = WatchedOutbox()
        self.worker = Worker(self.outbox, probe=probe)
        self.seen: list[Event] = []
        self.worker.start()

    def submit(self, command: Command) -> None:
        """Hand over a command."""
        self.worker.submit(command)

    def wait(self, condition: Callable[[Event], bool]) -> Event:
        """The first event from now on for which `condition` holds; everything up to then is in `seen`."""
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            events = self.outbox.drain(timeout_s=1.0)
            self.seen += events
            for event in events:
                if condition(event):
                    return event
        raise AssertionError(f"the event never came; last seen: {self.seen[-5:]}")

    def end_of(self, job_id: int) -> Finished | Cancelled | Failed:
        """The event that ends a job, waited for if it has not come yet."""
        def ends(event: Event) -> bool:
            return isinstance(event, (Finished, Cancelled, Failed)) and event.job_id == job_id

        event = next((e for e in self.seen if ends(e)), None) or self.wait(ends)
        assert isinstance(event, (Finished, Cancelled, Failed))
        return event

    def run(self, job: Job) -> Finished | Cancelled | Failed:
        """Submit a job and wait for its end."""
        self.submit(job)
        return self.end_of(job.job_id)

    def at(self, commands: dict[int, Command],
           counts: Callable[[Event], bool] = lambda event: isinstance(event, Tokens)) -> None:
        """From now on, submit commands[n] when the n-th token has come (or the n-th event that `counts`)."""
        count = 0

        def react(event: Event) -> None:
            nonlocal count
            if counts(event):
                count += 1
                if count in commands:
                    self.submit(commands[count])

        self.outbox.react = react

    def text_of(self, job_id: int) -> str:
        """What a job has written so far."""
        return "".join(e.text for e in self.seen if isinstance(e, Tokens) and e.job_id == job_id)

    def next_id(self) -> int:
        """A fresh job id."""
        return self.worker.next_id()

    def load(self, folder: Path, recipe: Recipe = Recipe()) -> ModelLoaded:  # noqa: B008 (frozen)
        """Load a model on the CPU and wait for it."""
        job = LoadModel(self.next_id(), str(folder), recipe, "cpu")
        end = self.run(job)
        assert isinstance(end, Finished), end
        return next(e for e in self.seen if isinstance(e, ModelLoaded) and e.job_id == job.job_id)

    @property
    def session(self) -> Session:
        """The engine's session; look at it only while the engine is idle or has stopped."""
        assert self.worker._state is not None and self.worker._state.session is not None
        return self.worker._state.session

    def stop(self) -> None:
        """End the thread."""
        assert self.worker.stop(timeout_s=PATIENCE_S), "the engine thread did not end"
