"""What a family of architectures must say of itself, and the parts of config.json that families spell alike."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from engine.errors import DynoError
from engine.models.config import ModelConfig, RopeScaling
from engine.words import counted

if TYPE_CHECKING:
    from torch import Tensor

ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
               "gelu_fast": "gelu_tanh", "gelu": "gelu", "gelu_python": "gelu", "relu": "relu"}
HF_ACTIVATION = {"silu": "silu", "gelu_tanh": "gelu_pytorch_tanh", "gelu": "gelu", "relu": "relu"}
SLIDING, FULL = "sliding_attention", "full_attention"


@dataclass(frozen=True)
class Source:
    """Where one of the decoder's tensors comes from: checkpoint tensors stacked by rows, or one laid out otherwise.

    names, rows: of the checkpoint's tensors. shape: of the decoder's. transposed: stored with rows and columns
    exchanged (GPT-2). interleaved: heads whose query, key and value rows lie together, head after head (GPT-NeoX).
    """

    names: tuple[str, ...]
    rows: tuple[int, ...]
    shape: tuple[int, ...]
    transposed: bool = False
    interleaved: int = 0

    def stored_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of each of the checkpoint's tensors."""
        return tuple(self.shape[::-1] if self.transposed else (rows, *self.shape[1:]) for rows in self.rows)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """The decoder's tensor from the checkpoint's; a view where they lie alike."""
        if self.transposed:
            return parts[0].t()
        if self.interleaved:
            return self._turned(parts[0], self.interleaved, 3)
        if len(parts) == 1:
            return parts[0]
        import torch

        return torch.cat(list(parts))

    def split(self, weight: Tensor) -> tuple[Tensor, ...]:
        """The checkpoint's tensors from the decoder's: the reverse of `join`."""
        if self.transposed:
            return (weight.t(),)
        if self.interleaved:
            return (self._turned(weight, 3, self.interleaved),)
        import torch

        return torch.split(weight, list(self.rows))

    def _turned(self, weight: Tensor, outer: int, inner: int) -> Tensor:
        """Rows (outer, inner, d) as (inner, outer, d)."""
        return weight.view(outer, inner, -1, *weight.shape[1:]).transpose(0, 1).flatten(0, 2)


class Family(ABC):
    """Architectures that one file describes. names: `model_type` -> Transformers' class. order: in lists of names."""

    names: ClassVar[Mapping[str, str]]
    order: ClassVar[int] = 50

    @abstractmethod
    def read(self, raw: dict[str, Any], kind: str) -> ModelConfig:
        """The configuration of a model of type `kind`. Raises DynoError on a variant that the decoder is not, and
        KeyError, TypeError, ValueError and their like where values are unusable."""

    @abstractmethod
    def write(self, c: ModelConfig) -> dict[str, Any]:
        """What config.json says beside what every model has. Raises DynoError where it cannot say what the model is."""

    @abstractmethod
    def sources(self, c: ModelConfig) -> dict[str, Source]:
        """The decoder's tensor names, each with where it comes from. A tied head has no entry."""


class Names:
    """Collects the sources of a decoder under its own names."""

    def __init__(self) -> None:
        self.found: dict[str, Source] = {}

    def tensor(self, name: str, stored: str, *shape: int) -> None:
        """A tensor that lies as it is stored."""
        self.found[name] = Source((stored,), (shape[0],), shape)

    def norm(self, name: str, stored: str, size: int, bias: bool = False) -> None:
        """A norm's weight, and its bias."""
        self.tensor(f"{name}.weight", f"{stored}.weight", size)
        if bias:
            self.tensor(f"{name}.bias", f"{stored}.bias", size)

    def linear(self, name: str, parts: Mapping[str, int], columns: int, bias: bool, *, transposed: bool = False,
               interleaved: int = 0) -> None:
        """A linear layer of the checkpoint's layers {name: rows}, one below the other, and its bias."""
        rows = tuple(parts.values())
        self.found[f"{name}.weight"] = Source(tuple(f"{p}.weight" for p in parts), rows, (sum(rows), columns),
                                              transposed, interleaved)
        if bias:
            self.found[f"{name}.bias"] = Source(tuple(f"{p}.bias" for p in parts), rows, (sum(rows),),
                                                interleaved=interleaved)

    def split_matrices(self, c: ModelConfig, ours: str, theirs: str) -> None:
        """The matrices of a block as Llama has them: queries, keys and values apart, gate and up apart."""
        d, f, q, kv = c.hidden_size, c.intermediate_size, c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
        attn, mlp = f"{theirs}.self_attn", f"{theirs}.mlp"
        self.linear(f"{ours}.attn.qkv", {f"{attn}.q_proj": q, f"{attn}.k_proj": kv, f"{attn}.v_proj": kv}, d,
                    c.qkv_bias)
        self.linear(f"{ours}.attn.out", {f"{attn}.o_proj": d}, q, c.out_bias)
        if c.qk_norm:
            self.norm(f"{ours}.attn.q_norm", f"{attn}.q_norm", c.head_dim)
            self.norm(f"{ours}.attn.k_norm", f"{attn}.k_norm", c.head_dim)
        self.linear(f"{ours}.mlp.up", {f"{mlp}.gate_proj": f, f"{mlp}.up_proj": f}, d, c.mlp_bias)
        self.linear(f"{ours}.mlp.down", {f"{mlp}.down_proj": d}, f, c.mlp_bias)


def ids(value: Any) -> tuple[int, ...]:
    """Token ids of a configuration's number, list or nothing."""
    if value is None:
        return ()
    return tuple(int(v) for v in value) if isinstance(value, list) else (int(value),)


def activation(name: object) -> str:
    """Our name of an activation function. Raises DynoError."""
    if str(name) not in ACTIVATIONS:
        raise DynoError(f"The activation function {name!r} is not one this version can run.",
                        f"It runs {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[str(name)]


def whole_heads(c: ModelConfig) -> None:
    """Raises DynoError where heads do not fill the stream: these configurations have no word for a head's size."""
    if c.n_heads * c.head_dim != c.hidden_size or c.n_heads != c.n_kv_heads:
        raise DynoError(f"A {c.model_type} configuration has no word for {counted(c.n_heads, 'head')} of {c.head_dim} "
                        f"channels in a model of {c.hidden_size:,}: its heads fill the stream.",
                        "Prune neurons or layers of this model instead of heads.")


def head_size(hidden: int, heads: int) -> int:
    """Channels of a head where heads fill the stream. Raises DynoError."""
    if hidden % heads:
        raise DynoError(f"{counted(hidden, 'feature')} cannot be split over {counted(heads, 'head')}.",
                        "Check config.json.")
    return hidden // heads


def sliding_layers(types: Any, layers: int) -> tuple[bool, ...]:
    """Which layers have a window, from `layer_types`. Raises DynoError on layers that are something else."""
    if not isinstance(types, (list, tuple)):
        raise TypeError("layer_types is no list")
    strange = sorted({str(t) for t in types} - {SLIDING, FULL})
    if strange:
        raise DynoError(f"Layers of type {strange[0]!r} are not ones this version can run.",
                        f"It runs {FULL} and {SLIDING}.")
    return tuple(t == SLIDING for t in types[:layers])


def windows(window: Any, sliding: Sequence[bool]) -> dict[str, Any]:
    """The fields sliding_window and sliding_layers of a configuration."""
    if not window or not any(sliding):
        return {"sliding_window": None, "sliding_layers": ()}
    return {"sliding_window": int(window), "sliding_layers": () if all(sliding) else tuple(sliding)}


def layer_types(c: ModelConfig) -> list[str]:
    """`layer_types` of a configuration."""
    return [SLIDING if c.window(i) else FULL for i in range(c.n_layers)]


def rope_block(raw: Mapping[str, Any], kind: str = "") -> dict[str, Any]:
    """Where a configuration tells of its rotary positions, in either spelling. kind: of which layers, where they
    differ."""
    block = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if kind and isinstance(block.get(kind), dict):
        block = block[kind]
    return dict(block)


def rope_fields(raw: Mapping[str, Any], block: Mapping[str, Any], context: int, head_dim: int, theta: float,
                share: float = 1.0) -> dict[str, Any]:
    """The rotary fields of a configuration, and the context they reach. theta, share: where it gives none. Raises
    DynoError on scaling that the decoder cannot do."""
    kind = str(block.get("rope_type") or block.get("type") or "default")
    known = ("default", "linear", "dynamic", "yarn", "llama3", "longrope")
    kind = "longrope" if kind == "su" else kind
    if kind not in known:
        raise DynoError(f"Rotary scaling of type {kind!r} is not one this version can run.",
                        f"It runs {', '.join(known)}.")
    share = float(block.get("partial_rotary_factor") or raw.get("partial_rotary_factor") or share)
    turned = int(head_dim * share)
    fields: dict[str, Any] = {"rope_theta": float(block.get("rope_theta") or raw.get("rope_theta") or theta),
                              "rotary_dim": 0 if turned == head_dim else turned, "context": context}
    if not 0 < fields["rope_theta"] < math.inf:
        raise ValueError(f"rope_theta is {fields['rope_theta']}")
    if kind == "default":
        return fields
    original = int(raw.get("original_max_position_embeddings") or block.get("original_max_position_embeddings")
                   or context)
    if kind in ("linear", "dynamic"):
        original = context
    given = block.get("factor")
    factor = float(given) if given else context / original
    if not 0 < factor < math.inf or original < 2 or (kind == "dynamic" and turned < 4):
        raise ValueError(f"rotary scaling by {factor} from {counted(original, 'token')}")
    if kind in ("dynamic", "yarn") and original == context:
        fields["context"] = int(context * factor)  # what the scaling is there for
    extra: dict[str, Any] = {}
    if kind == "llama3":
        extra = {"low_freq_factor": float(block.get("low_freq_factor", 1.0)),
                 "high_freq_factor": float(block.get("high_freq_factor", 4.0))}
    elif kind == "yarn":
        extra = {"attention_factor": _yarn_attention(block, factor), "beta_fast": float(block.get("beta_fast") or 32),
                 "beta_slow": float(block.get("beta_slow") or 1), "truncate": bool(block.get("truncate", True))}
    elif kind == "longrope":
        extra = {"short_factors": _factors(block, "short_factor", turned),
                 "long_factors": _factors(block, "long_factor", turned),
                 "attention_factor": float(block.get("attention_factor") or _longrope_attention(factor, original))}
    return fields | {"rope_scaling": RopeScaling(kind, factor, original_context=original, **extra)}


def rope_written(c: ModelConfig) -> dict[str, Any]:
    """`rope_parameters` of a configuration."""
    s = c.rope_scaling
    block: dict[str, Any] = {"rope_theta": c.rope_theta, "rope_type": s.kind}
    if c.rotary_dim:
        block["partial_rotary_factor"] = c.rotary_dim / c.head_dim
    if s.kind != "default":
        block["factor"] = s.factor
    if s.kind in ("llama3", "yarn", "longrope"):
        block["original_max_position_embeddings"] = s.original_context
    if s.kind == "llama3":
        block |= {"low_freq_factor": s.low_freq_factor, "high_freq_factor": s.high_freq_factor}
    if s.kind in ("yarn", "longrope"):
        block["attention_factor"] = s.attention_factor
    if s.kind == "yarn":
        block |= {"beta_fast": s.beta_fast, "beta_slow": s.beta_slow, "truncate": s.truncate}
    if s.kind == "longrope":
        block |= {"short_factor": list(s.short_factors), "long_factor": list(s.long_factors)}
    return block


def context_written(c: ModelConfig) -> int:
    """`max_position_embeddings`: dynamic scaling starts from what it says, all else reaches it."""
    return c.rope_scaling.original_context if c.rope_scaling.kind == "dynamic" else c.context


def _yarn_attention(block: Mapping[str, Any], factor: float) -> float:
    """yarn's factor for attention: 0.1 ln(factor) + 1, or what the configuration makes of it (Peng et al., "YaRN",
    2023; mscale as DeepSeek has it)."""
    def scale(m: float) -> float:
        return 0.1 * m * math.log(factor) + 1.0 if factor > 1 else 1.0

    if block.get("attention_factor"):
        return float(block["attention_factor"])
    if block.get("mscale") and block.get("mscale_all_dim"):
        return scale(float(block["mscale"])) / scale(float(block["mscale_all_dim"]))
    return scale(1.0)


def _longrope_attention(factor: float, original: int) -> float:
    """sqrt(1 + ln(factor) / ln(original)): Ding et al., "LongRoPE", 2024."""
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0


def _factors(block: Mapping[str, Any], name: str, turned: int) -> tuple[float, ...]:
    found = tuple(float(f) for f in block[name])
    if len(found) != turned // 2 or not all(f > 0 for f in found):
        raise DynoError(f"{name} holds {counted(len(found), 'number')}; {turned // 2} above zero are needed.",
                        "Check rope_scaling in config.json.")
    return found


def blocks(c: ModelConfig, theirs: str) -> Iterator[tuple[str, str]]:
    """(our prefix, the checkpoint's) of every block; `theirs` with {} for its number."""
    return ((f"blocks.{i}", theirs.format(i)) for i in range(c.n_layers))
