"""The loaded model: master weights, active recipe, built variants, and the sequence in the KV cache.

Undo is never a reverse operation: every variant is built from the masters, so switching back gives the same bits.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from engine.errors import DynoError
from engine.models.cache import KVCache
from engine.models.checkpoint import Masters
from engine.models.devices import DeviceFacts
from engine.models.opening import open_model, open_tokenizer
from engine.models.tokenizer import Tokenizer
from engine.paths import CALIBRATION_TEXT
from engine.recipe import Recipe
from engine.techniques.base import BuildStep
from engine.techniques.calibration import Calibrator
from engine.variant import Variant, build_variant, compiled_capacity
from engine.words import counted

_CACHE_SHARE = 0.25
_CACHE_STEP = 128


class Session:
    """One model on one device. `active` is what runs now; it is None until the first recipe is activated."""

    def __init__(self, masters: Masters, tokenizer: Tokenizer, device: DeviceFacts) -> None:
        self.masters = masters
        self.config = masters.config
        self.tokenizer = tokenizer
        self.device = device
        self.active: Variant | None = None
        self._built: OrderedDict[Recipe, Variant] = OrderedDict()
        self._cache: KVCache | None = None
        self._ids: list[int] = []
        self._owner: Variant | None = None
        self._filled_by = Recipe()
        self._calibrator: Calibrator | None = None
        self._build_s: dict[Recipe, float] = {}
        # Called on the compiler's thread whenever its state has changed.
        self.compiler_told: Callable[[Variant], None] = lambda variant: None

    @classmethod
    def open(cls, folder: Path, device: DeviceFacts) -> Session:
        """Read a model folder or .gguf file in one go. Raises DynoError saying what is wrong with it."""
        steps = cls.opening(folder, device)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                session: Session = done.value
                return session

    @classmethod
    def opening(cls, folder: Path, device: DeviceFacts) -> Generator[BuildStep, None, Session]:
        """open() step by step, for whoever shows progress or may stop it."""
        masters = yield from open_model(folder)
        return cls(masters, open_tokenizer(folder), device)

    # ------------------------------------------------------------------------------------------------------ recipes

    def build(self, recipe: Recipe) -> Generator[BuildStep, None, Variant]:
        """The variant of a recipe: from the cache at once, else built step by step. Nothing is activated."""
        known = self._built.get(recipe)
        if known is not None:
            self._built.move_to_end(recipe)
            known.report = replace(known.report, from_cache=True, build_s=0.0)
            return known
        self._evict(room_for=None)
        variant = yield from build_variant(self.masters, recipe, self.device, self.calibrator(), self._make_room)
        self._built[recipe] = variant
        self._build_s[recipe] = variant.report.build_s
        self._evict(room_for=variant)
        return variant

    def calibrator(self) -> Calibrator:
        """What shows techniques that ask for it what activations look like; it runs at most once."""
        if self._calibrator is None:
            text = CALIBRATION_TEXT.read_text(encoding="utf-8")
            ids = self.tokenizer.encode(text, special_tokens=False)
            self._calibrator = Calibrator(self.masters, ids, self.device)
        return self._calibrator

    def build_seconds(self, recipe: Recipe) -> float | None:
        """How long the recipe's last build took, also where its variant has come from the cache since."""
        return self._build_s.get(recipe)

    def activate(self, variant: Variant) -> None:
        """Make a variant the one that runs from the next token on."""
        self.active = variant
        if self._owner is not variant and self._owner not in self._built.values():
            self._owner = None  # an evicted variant must not live on as the owner of a stale cache

    def compile_in_background(self) -> None:
        """Start the compiler where the active recipe asks for it. Call once the number of threads is set: the compiled
        code is made for it."""
        compiled = self.active.compiled if self.active is not None else None
        if self.active is None or compiled is None:
            return
        session, variant = weakref.ref(self), weakref.ref(self.active)  # the compiler must not keep a model alive

        def told() -> None:
            here, made = session(), variant()
            if here is not None and made is not None:
                here.compiler_told(made)

        compiled.told = told
        compiled.begin(compiled_capacity(0, self.config.context))

    def apply(self, recipe: Recipe) -> Variant:
        """Build and activate in one go (headless use and tests)."""
        steps = self.build(recipe)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                variant: Variant = done.value
                self.activate(variant)
                self.compile_in_background()
                return variant

    def _make_room(self, nbytes: int) -> None:
        """Drop built variants, the active one excepted, until `nbytes` are free or none is left."""
        for recipe in list(self._built):
            if self.device.free_bytes() >= nbytes:
                return
            if self._built[recipe] is not self.active:
                del self._built[recipe]

    def _evict(self, room_for: Variant | None) -> None:
        """Drop the least recently used variants beyond the budget, never the active one or the newest."""
        budget = int(self.device.memory_bytes * _CACHE_SHARE)
        pressed = self.device.free_bytes() < self.device.memory_bytes * 0.1
        for recipe in list(self._built):
            used = sum(v.report.weight_bytes for v in self._built.values())
            if used <= budget and not pressed:
                return
            if self._built[recipe] not in (self.active, room_for):
                del self._built[recipe]

    # ----------------------------------------------------------------------------------------------------- sequence

    @property
    def known_ids(self) -> Sequence[int]:
        """The tokens in the cache, where the active recipe has written it."""
        return self._ids if self._cache is not None and self._owner is self.active else ()

    def begin(self, ids: Sequence[int], capacity: int, reuse: bool) -> int:
        """Make the cache ready for a prompt and return how many of its tokens it already holds.

        At least the last token is always left to run, because its logits are needed. With `reuse` off the whole prompt
        is read again, so that a seeded run repeats exactly.
        """
        assert self.active is not None, "activate a recipe first"
        capacity = min(self.config.context, -(-capacity // _CACHE_STEP) * _CACHE_STEP)
        common = 0
        if reuse and self._cache is not None and self._owner is self.active:
            limit = min(len(ids) - 1, len(self._ids), self._cache.length)
            while common < limit and ids[common] == self._ids[common]:
                common += 1
        if common == 0 or self._cache is None or self._cache.capacity < capacity:
            known = self._cache if common else None
            self._new_cache(capacity)
            if known is not None and self._cache is not None:
                self._cache.take(known, common)
        assert self._cache is not None
        self._cache.truncate(common)
        self._ids = list(ids[:common])
        return common

    def read(self, ids: Sequence[int]) -> torch.Tensor:
        """Run a part of a prompt after what is in the cache; fp32 logits (V,) of its last token, on the CPU."""
        assert self.active is not None and self._cache is not None
        batch = torch.tensor([ids], device=self.device.torch_name)  # (1, T)
        logits = self.active.forward(batch, self._cache)[0, -1]  # (V,)
        self._ids.extend(ids)
        return logits.cpu()

    def step(self, ids: Sequence[int]) -> torch.Tensor:
        """Run one new token and those proposed after it; fp32 logits (T, V) of each, on the CPU."""
        assert self.active is not None and self._cache is not None
        batch = torch.tensor([ids], device=self.device.torch_name)  # (1, T)
        logits = self.active.step(batch, self._cache)[0]  # (T, V)
        self._ids.extend(ids)
        return logits.cpu()

    def forget(self, count: int) -> None:
        """Take back the last `count` tokens: proposals that were not what the model says."""
        if count:
            assert self._cache is not None
            self._cache.truncate(self._cache.length - count)
            del self._ids[-count:]

    @property
    def switched(self) -> bool:
        """Whether the active variant is not the one that filled the cache."""
        return self._owner is not self.active

    @property
    def filled_by(self) -> Recipe:
        """The recipe that filled the cache."""
        return self._filled_by

    @property
    def running(self) -> str:
        """The label of that recipe; says so where it asks for a compiled step and none answers at this depth."""
        label, step = self._filled_by.label, self._owner.compiled if self._owner is not None else None
        if step is None or self._cache is None or step.runs(self._cache.capacity):
            return label
        return f"{label} ({'uncompiled' if step.settled(self._cache.capacity) else 'uncompiled so far'})"

    def restart(self) -> list[int]:
        """After a switch: an empty cache of the new variant's format. Returns the tokens that must be read again.

        Raises DynoError where it does not fit; the old cache then stands, and the variant that filled it is active.
        """
        assert self._cache is not None and self.active is not None
        ids, capacity = self._ids, self._cache.capacity
        try:
            check_room(self.active, self.device, capacity, spare=self._cache.nbytes)
        except DynoError:
            self.active = self._owner or self.active
            raise
        self._cache = None
        self._new_cache(capacity)
        return ids

    def _new_cache(self, capacity: int) -> None:
        """Raises DynoError where the cache does not fit."""
        assert self.active is not None
        check_room(self.active, self.device, capacity)
        self._cache = self.active.new_cache(capacity)
        self._owner, self._filled_by = self.active, self.active.recipe
        self._ids = []


def check_room(variant: Variant, device: DeviceFacts, capacity: int, spare: int = 0) -> None:
    """Raises DynoError where a variant's cache for `capacity` tokens would not fit, `spare` bytes being given back
    before. A compiled step's cache is larger than asked for."""
    if variant.compiled is not None:
        capacity = compiled_capacity(capacity, variant.decoder.config.context)
    whole = variant.report.kv_bytes_per_token * capacity
    for place, share in variant.shares():
        held = device if share == 1.0 else place
        need, free = int(share * whole), held.free_bytes() + int(share * spare)
        if need <= free:
            continue
        raise DynoError(f"A KV cache for {counted(capacity, 'token')} needs {need / 1e9:.2f} GB; {free / 1e9:.2f} GB "
                        "are free.",
                        "Choose a shorter longest reply, or close other programs.")
