"""The KV cache's dtype: keys and values are what grows with the conversation, and what every token reads again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from engine.models.config import ModelConfig, cache_bytes_per_token
from engine.models.devices import DeviceFacts
from engine.techniques.base import Effect, Options, Technique, Verdict, option

if TYPE_CHECKING:
    from engine.techniques.draft import Draft


@dataclass(frozen=True)
class KVCacheOptions(Options):
    """dtype in which keys and values are kept."""

    key: ClassVar[str] = "kv-cache"
    dtype: str = option("int8", "Data type", "int8 keeps one scale per head and token. Without this technique the "
                        "cache has the type of the activations.", choices=("fp32", "bf16", "fp16", "int8"))


class KVCacheType(Technique):
    """Keeps keys and values in another dtype than the activations."""

    order = 50
    label = "KV cache type"
    group = "KV cache and attention"
    summary = "Keep keys and values in another type than the activations: less memory per token of context."
    options_type = KVCacheOptions
    own_decoder = "It keeps keys and values in a cache of its own, in the type of the activations."
    case_field = "dtype"

    def available(self, options: Options, device: DeviceFacts, model: ModelConfig | None) -> Verdict:
        assert isinstance(options, KVCacheOptions)
        if options.dtype == "bf16" and not device.bf16:
            return Verdict(False, f"{device.name} has no bf16 arithmetic.")
        return Verdict(True)

    def short(self, options: Options) -> str:
        assert isinstance(options, KVCacheOptions)
        return f"KV {options.dtype}"

    def apply(self, options: Options, draft: Draft) -> Effect:
        assert isinstance(options, KVCacheOptions)
        old = draft.wants_autocast or draft.dtype  # what the cache would have been
        draft.cache = options.dtype
        before = cache_bytes_per_token(draft.config, old)
        after = cache_bytes_per_token(draft.config, options.dtype)
        full = draft.config.context
        words = (f"Keys and values in {options.dtype}: {after:,} bytes per token instead of {before:,} in {old}, "
                 f"{after * full / 1e6:,.1f} MB at the full context of {full:,} tokens.")
        if options.dtype == "int8" and not draft.device.native:
            words += " They are scaled back at every step, which costs time as the context grows."
        return Effect((), words)


TECHNIQUE = KVCacheType()
