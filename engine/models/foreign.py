"""Any other causal language model, run by Transformers behind the face of our decoder.

Transformers reads the folder and computes; GPT Dyno puts its own objects into the model's linear layers, so techniques
that work on them apply. Code that comes with a model is never run (trust_remote_code is always off). Transformers is
imported when such a model is opened, and only then.

The masters are the parameters of the model as loaded. A decoder is a copy of its modules that shares them until others
are put in their place, so undo needs no reverse operation here either.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.aside import aside
from engine.errors import DynoError, reason
from engine.models.cache import KVCache
from engine.models.checkpoint import LinearSlot, Masters, Opening, check_finite
from engine.models.config import LAYER_KEYS, MAX_LAYERS, ModelConfig, read_hf
from engine.models.gpt import Decoder
from engine.models.weight_files import read_folder

_PROBE = 4  # tokens that a model is tried with before it is called open
_MADE_UP = 1 << 20  # weights that a checkpoint may leave out
_OTHER = "Choose a model that writes text and keeps keys and values of earlier tokens."


class ForeignCache(KVCache):
    """Transformers' DynamicCache in our cache's place. It grows as tokens come; `capacity` only says how far it may."""

    def __init__(self, capacity: int) -> None:
        from transformers import DynamicCache

        # Without a configuration every layer keeps all of its tokens, so that any number can be taken back.
        self.held: Any = DynamicCache()
        self.capacity, self.length = capacity, 0

    def tensors(self) -> list[Tensor]:
        """Keys and values of every layer that has met a token, (B, K, S, d)."""
        return [t for layer in self.held.layers if layer.is_initialized for t in (layer.keys, layer.values)]

    def take(self, other: KVCache, length: int) -> None:
        """Copy the first `length` tokens of another such cache, into an empty one."""
        assert isinstance(other, ForeignCache)
        for i, layer in enumerate(other.held.layers):
            self.held.update(layer.keys[..., :length, :].clone(), layer.values[..., :length, :].clone(), i)
        self.length = length

    def truncate(self, length: int) -> None:
        """Forget every token from position `length` on."""
        gone = self.length - min(self.length, length)
        for layer in self.held.layers:
            if gone and layer.is_initialized:
                layer.keys, layer.values = layer.keys[..., :-gone, :], layer.values[..., :-gone, :]
        self.length -= gone


class ForeignDecoder(Decoder):
    """A Transformers model in our decoder's place. splits: whether its head is all that follows its last norm, so
    that logits of some rows can be had apart."""

    def __init__(self, model: nn.Module, config: ModelConfig, splits: bool) -> None:
        nn.Module.__init__(self)
        self.config, self.splits = config, splits
        # Named here first, so that reports call them what they are in every model.
        self.embed: nn.Module = model.get_input_embeddings()  # type: ignore[operator]
        self.head: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
        self.model = model
        self.positions, self.blocks = None, nn.ModuleList()  # what techniques of ours would look for
        self._last = "logits_to_keep" in inspect.signature(model.forward).parameters

    @property
    def dtype(self) -> torch.dtype:
        """Of the activations."""
        return self.embed.weight.dtype  # type: ignore[return-value]

    def forward(self, ids: Tensor, cache: KVCache | None = None, last_only: bool = False) -> Tensor:
        """Logits (B, T, V) for ids (B, T); (B, 1, V) with `last_only`."""
        logits: Tensor = self._run(self.model, ids, cache, {"logits_to_keep": 1} if last_only and self._last else {}
                                   ).logits
        return logits[:, -1:] if last_only else logits

    def stream(self, ids: Tensor, cache: KVCache | None = None, last_only: bool = False) -> Tensor:
        """What `logits` takes: what the head reads, (B, T, D); the logits themselves where more than a head follows."""
        if not self.splits:
            return self(ids, cache, last_only)  # type: ignore[no-any-return]
        x: Tensor = self._run(self.model.base_model, ids, cache, {}).last_hidden_state  # type: ignore[arg-type]
        return x[:, -1:] if last_only else x

    def logits(self, stream: Tensor) -> Tensor:
        """Logits (..., V) of what `stream` gives."""
        return self.head(stream) if self.splits else stream

    def settle(self, device: str, context: contextlib.AbstractContextManager[object]) -> None:
        """After others were put in the layers' places: the head into the model as well, buffers to the device, and a
        token through it all. Raises DynoError where the model's code asks of a layer what the new one is not."""
        self.model.set_output_embeddings(self.head)  # type: ignore[operator]
        for module in self.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(device))
        try:
            with torch.inference_mode(), context:
                self(torch.zeros(1, 1, dtype=torch.long, device=device))
        except (AttributeError, TypeError, RuntimeError) as error:
            raise DynoError(f"Transformers' code of {self.config.model_type} cannot run with this recipe: "
                            f"{reason(error)}.", "Choose a recipe without quantization, or another model.") from error

    def _run(self, module: nn.Module, ids: Tensor, cache: KVCache | None, more: Mapping[str, Any]) -> Any:
        if cache is None:
            return module(input_ids=ids, use_cache=False, **more)
        assert isinstance(cache, ForeignCache)
        out = module(input_ids=ids, past_key_values=cache.held, use_cache=True, **more)
        cache.length += ids.shape[1]
        return out


class ForeignMasters(Masters):
    """Parameters of a Transformers model, under the names that they have in a ForeignDecoder. `slots`: its linear
    layers, the head last."""

    def __init__(self, model: nn.Module, config: ModelConfig, splits: bool, path: Path | None = None) -> None:
        self.config, self.path, self._model, self._splits = config, path, model, splits
        decoder = ForeignDecoder(model, config, splits)
        self._held = {name: p for name, p in decoder.named_parameters() if not (config.tied and name == "head.weight")}
        head = decoder.head
        assert isinstance(head, nn.Linear)
        inner = (LinearSlot(name, (m.out_features, m.in_features), f"{name}.weight", m.bias is not None)
                 for name, m in decoder.named_modules() if isinstance(m, nn.Linear) and m is not head)
        self.slots = (*inner, LinearSlot("head", (head.out_features, head.in_features),
                                         "embed.weight" if config.tied else "head.weight", head.bias is not None,
                                         config.tied and head.bias is None))

    def decoder(self) -> ForeignDecoder:
        """A copy of the modules that shares the masters' parameters, to put others in their place."""
        shared: dict[int, Any] = {id(p): p for p in self._model.parameters()}
        return ForeignDecoder(copy.deepcopy(self._model, shared), self.config, self._splits)

    def __getitem__(self, name: str) -> Tensor:
        return self._held[name].detach()

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def release(self, name: str) -> None:
        """Nothing: the weights lie in memory."""

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._held[name].shape)

    def mapped(self, name: str) -> bool:
        return False

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self._held.values())


def open_foreign(folder: Path) -> Opening:
    """Open a model folder with Transformers, step by step. Raises DynoError saying why it cannot be: an architecture
    that it does not know or that needs code of its own, damaged files, or no model that writes text token by token."""
    raw = read_hf(folder)
    kind = str(raw.get("model_type"))
    yield "Opening the model with Transformers", 0, 0
    held = sum(math.prod(entry.shape) for entry in read_folder(folder).values())  # safetensors alone, headers checked
    # from_pretrained cannot be stopped: whoever does not want to wait for it walks away, and what it makes is thrown
    # away once it has ended.
    waiting = aside(partial(_loaded, folder, raw, kind, held))
    while True:
        try:
            next(waiting)
        except StopIteration as made:
            model, hf = made.value
            break
        yield "Opening the model with Transformers", 0, 0
    yield from check_finite({name: partial(torch.Tensor.contiguous, p) for name, p in model.named_parameters()}, {})
    config, splits = _tried(model, hf, kind)
    return ForeignMasters(model, config, splits, folder)


def _loaded(folder: Path, raw: Mapping[str, Any], kind: str, held: int) -> tuple[Any, Any]:
    """The model and its configuration, as Transformers opens them. held: weights in the files. Raises DynoError."""
    transformers = _transformers(kind)
    with _quiet(transformers):
        try:
            hf = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            if getattr(hf, "is_encoder_decoder", False):
                raise DynoError(f"The architecture {kind!r} translates one text into another; it is no model that "
                                "continues a text.", _OTHER)
            _check_size(transformers, hf, held, kind)
            model, found = transformers.AutoModelForCausalLM.from_pretrained(
                folder, config=hf, dtype="auto", trust_remote_code=False, local_files_only=True, use_safetensors=True,
                output_loading_info=True)
        except DynoError:
            raise
        except Exception as error:  # whatever a foreign folder makes a foreign library raise
            own = " It needs code that comes with the model, which GPT Dyno never runs." if raw.get("auto_map") else ""
            raise DynoError(f"The architecture {kind!r} could not be opened with Transformers: {reason(error)}.{own}",
                            "Choose another model, or download this one again.") from error
    missing = sorted(found["missing_keys"])
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DynoError(f"The checkpoint lacks the tensor {missing[0]}{more} of the architecture {kind!r}.",
                        "Download the model again.")
    model.eval().requires_grad_(False)
    return model, hf


def _check_size(transformers: Any, hf: Any, held: int, kind: str) -> None:
    """Raises DynoError where the configuration speaks of far more weights than the files hold: Transformers would make
    the missing ones up, and with them as much memory as a few digits ask for."""
    text = hf.get_text_config()
    layers = max(int(getattr(text, key, 0) or 0) for key in LAYER_KEYS)
    if layers <= MAX_LAYERS:
        with torch.device("meta"):
            wanted = sum(p.numel() for p in transformers.AutoModelForCausalLM.from_config(hf).parameters())
        if wanted <= 2 * held + _MADE_UP:  # a tied head stands in the files once
            return
    raise DynoError(f"The checkpoint holds {held:,} weights, and its configuration speaks of many more for the "
                    f"architecture {kind!r}.", "Download the model again.")


def sketched(folder: Path) -> ForeignMasters:
    """The model's shapes without a weight, for estimates. Raises DynoError."""
    kind, held = str(read_hf(folder).get("model_type")), read_folder(folder)
    transformers = _transformers(kind)
    with _quiet(transformers):
        try:
            hf = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            _check_size(transformers, hf, sum(math.prod(entry.shape) for entry in held.values()), kind)
            with torch.device("meta"):
                model = transformers.AutoModelForCausalLM.from_config(hf)
            text, head, embed = hf.get_text_config(), model.get_output_embeddings(), model.get_input_embeddings()
            heads = int(getattr(text, "num_attention_heads", 1) or 1)
            hidden = int(embed.weight.shape[1])
            kv_heads = int(getattr(text, "num_key_value_heads", None) or heads)
            if getattr(text, "multi_query", False) and not getattr(text, "new_decoder_architecture", False):
                kv_heads = 1  # Falcon and GPT-BigCode
            wide = int(getattr(text, "head_dim", None) or int(getattr(text, "hidden_size", hidden)) // heads)
            config = _shape(kind, text, head, hidden, int(text.num_hidden_layers), heads, kv_heads, wide,
                            head.weight is embed.weight)
            return ForeignMasters(model, config, False, folder)
        except DynoError:
            raise
        except Exception as error:  # whatever a foreign folder makes a foreign library raise
            raise DynoError(f"The architecture {kind!r} gives no estimate: {reason(error)}.", _OTHER) from error


def _shape(kind: str, text: Any, head: Any, hidden: int, layers: int, heads: int, kv_heads: int, head_dim: int,
           tied: bool, ends: Any = None) -> ModelConfig:
    return ModelConfig(
        model_type=kind, vocab_size=head.out_features, hidden_size=hidden, n_layers=layers, n_heads=heads,
        n_kv_heads=kv_heads, head_dim=head_dim,
        intermediate_size=int(getattr(text, "intermediate_size", None) or 4 * hidden),
        context=_context(text),
        norm_eps=1e-5, activation="", gated=False, layer_norm=False, learned_positions=True,
        tied=tied, bos_id=getattr(text, "bos_token_id", None),
        eos_ids=tuple(ends) if isinstance(ends, (list, tuple)) else () if ends is None else (int(ends),),
        foreign=True)


def foreign_context(folder: Path) -> int:
    """Tokens that such a model can hold, from its configuration alone. Raises DynoError."""
    kind = str(read_hf(folder).get("model_type"))
    transformers = _transformers(kind)
    with _quiet(transformers):
        try:
            hf = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        except Exception as error:  # whatever a foreign folder makes a foreign library raise
            raise DynoError(f"The architecture {kind!r} is not one that GPT Dyno's decoder or Transformers can run: "
                            f"{reason(error)}.", "Choose another model.") from error
    return _context(hf.get_text_config())


def _context(text: Any) -> int:
    return int(getattr(text, "max_position_embeddings", None) or getattr(text, "seq_length", None) or 2048)


def _transformers(kind: str) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise DynoError(f"The architecture {kind!r} runs through Transformers, which is not installed.",
                        "Run pip install transformers, or choose a model that GPT Dyno's own decoder runs.") from error
    return transformers


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without progress bars and advice on the console, from Transformers or from what it imports on the way."""
    own = transformers.utils.logging
    level, bars = own.get_verbosity(), own.is_progress_bar_enabled()
    own.set_verbosity_error()
    own.disable_progress_bar()
    others = {logger: logger.level for logger in map(logging.getLogger, ("torchao", "torch.utils._pytree"))}
    for logger in others:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        own.set_verbosity(level)
        if bars:
            own.enable_progress_bar()
        for logger, before in others.items():
            logger.setLevel(before)


@torch.inference_mode()
def _tried(model: Any, hf: Any, kind: str) -> tuple[ModelConfig, bool]:
    """The model's shape, and whether head and the rest can be called apart, from running a few tokens."""
    text, head, embed = hf.get_text_config(), model.get_output_embeddings(), model.get_input_embeddings()
    if not isinstance(head, nn.Linear) or embed is None:
        raise DynoError(f"The architecture {kind!r} has no output head that GPT Dyno knows.", _OTHER)
    ids = torch.arange(1, _PROBE + 1)[None] % head.out_features
    cache = ForeignCache(_PROBE)
    try:
        whole = model(input_ids=ids, use_cache=False).logits
        parts = [model(input_ids=ids[:, i:i + 1], past_key_values=cache.held, use_cache=True).logits
                 for i in range(_PROBE)]
        tensors = cache.tensors()
        if not tensors or any(t.shape[-2] != _PROBE for t in tensors) or not _alike(torch.cat(parts, dim=1), whole):
            raise ValueError("its state is not keys and values alone")
    except Exception as error:
        raise DynoError(f"The architecture {kind!r} does not continue a text with a cache of keys and values "
                        f"({reason(error)}).", _OTHER) from error
    splits = model.base_model is not model and _alike(
        head(model.base_model(input_ids=ids, use_cache=False).last_hidden_state), whole)
    layers = len(tensors) // 2
    per_layer = sum(t.shape[1] * t.shape[-1] for t in tensors) // (2 * layers)
    heads = int(getattr(text, "num_attention_heads", 1) or 1)
    even = per_layer % tensors[0].shape[-1] == 0 and heads % max(1, per_layer // tensors[0].shape[-1]) == 0
    kv_heads = per_layer // tensors[0].shape[-1] if even else 1
    ends = getattr(model.generation_config, "eos_token_id", None)
    hidden = int(embed.weight.shape[1])
    return _shape(kind, text, head, hidden, layers, heads, kv_heads, per_layer // kv_heads,
                  head.weight is embed.weight, ends), splits


def _alike(a: Tensor, b: Tensor) -> bool:
    """Equal but for rounding in the model's own type."""
    slack = 1e-4 if a.dtype == torch.float32 else 0.05
    return a.shape == b.shape and float((a - b).float().norm()) <= slack * max(1e-6, float(b.float().norm()))
