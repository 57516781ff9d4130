"""What a decoder is made of, read from and written to a Hugging Face `config.json`.

One dataclass describes every family; the decoder looks at these fields and never at an architecture's name. How each
family spells them in config.json and names its weights: engine/models/families.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.errors import DynoError, reason
from engine.models.weight_files import bounded_text
from engine.words import counted

_LONGEST_JSON = 16 << 20  # bytes
_NAMED = 5  # files that a sentence names
_MAX_DIMENSION = 1 << 24
MAX_LAYERS = 1 << 12
LAYER_KEYS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched for contexts longer than the model was trained on.

    kind: "default", "linear", "dynamic", "yarn", "llama3" or "longrope"; engine/models/rope.py has the formulas.
    original_context: tokens that the model was trained on before. attention_factor: cosines and sines are multiplied
    by it. beta_fast, beta_slow, truncate: yarn's. short_factors, long_factors: longrope's divisor of each frequency,
    up to the original context and beyond it.
    """

    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192
    attention_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()

    @property
    def moves(self) -> bool:
        """Whether frequencies change with the length of the text, beyond the original context."""
        return self.kind in ("dynamic", "longrope")


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a decoder-only transformer.

    Sizes are counts of features, heads, layers or tokens. `gated` marks SwiGLU-style feed-forwards, whose first
    matrix holds gate and up rows one after the other. `learned_positions` and rotary positions exclude each other.

    rotary_dim: channels of a head that are turned, 0 for all. local_rope_theta: rotary base of the layers with a
    window, unscaled; 0 where they share the others'. sliding_layers, rotary_layers: of each layer, whether it has the
    window, whether it is rotary; empty for all. parallel: attention and feed-forward read the same stream.
    post_norms: what they give is normed before it is added. norm_offset: norms multiply by 1 + w. attention_scale: 0
    for 1 / sqrt(head_dim). attention_cap, logit_cap: scores and logits become cap tanh(x / cap); 0 for none.
    foreign: run by Transformers, not by our decoder (engine/models/foreign.py).
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    intermediate_size: int
    context: int
    norm_eps: float
    activation: str
    gated: bool
    layer_norm: bool
    learned_positions: bool
    tied: bool
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling = field(default_factory=RopeScaling)
    rotary_dim: int = 0
    local_rope_theta: float = 0.0
    rotary_layers: tuple[bool, ...] = ()
    sliding_window: int | None = None
    sliding_layers: tuple[bool, ...] = ()
    parallel: bool = False
    post_norms: bool = False
    norm_offset: bool = False
    embed_scale: float = 1.0
    attention_scale: float = 0.0
    attention_cap: float = 0.0
    logit_cap: float = 0.0
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    foreign: bool = False

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "n_layers", "n_heads", "n_kv_heads", "head_dim",
                     "intermediate_size", "context"):
            value = getattr(self, name)
            limit = MAX_LAYERS if name == "n_layers" else _MAX_DIMENSION
            if not isinstance(value, int) or not 0 < value <= limit:
                raise DynoError(f"The model's configuration gives {name} = {value!r}, which cannot be right.",
                                "Check config.json, or download the model again.")
        if self.n_heads % self.n_kv_heads:
            raise DynoError(f"{counted(self.n_heads, 'attention head')} cannot share "
                            f"{counted(self.n_kv_heads, 'key/value head')} evenly.",
                            "Check num_attention_heads and num_key_value_heads in config.json.")
        turned = self.rotary_dim or self.head_dim
        if not self.learned_positions and not self.foreign and (turned % 2 or not 0 < turned <= self.head_dim):
            raise DynoError(f"Rotary positions turn pairs of channels; config.json gives {turned} of "
                            f"{self.head_dim} in a head.", "Check head_dim and the rotary factor in config.json.")
        for layers in (self.sliding_layers, self.rotary_layers):
            if layers and len(layers) != self.n_layers:
                raise DynoError(f"config.json describes {counted(len(layers), 'layer')}; the model has "
                                f"{self.n_layers}.", "Check layer_types in config.json.")

    @property
    def qkv_size(self) -> int:
        """Rows of the fused query/key/value matrix."""
        return (self.n_heads + 2 * self.n_kv_heads) * self.head_dim

    @property
    def score_scale(self) -> float:
        """What products of queries and keys are multiplied by."""
        return float(self.attention_scale or self.head_dim ** -0.5)

    def window(self, layer: int) -> int | None:
        """Tokens that a query of this layer may look back on, itself included; None for all."""
        return self.sliding_window if not self.sliding_layers or self.sliding_layers[layer] else None

    def rope(self, layer: int) -> int | None:
        """Which of the rotary tables this layer turns by: 0 the model's, 1 that of layers with a window; None: none."""
        if self.learned_positions or (self.rotary_layers and not self.rotary_layers[layer]):
            return None
        return 1 if self.local_rope_theta and self.window(layer) else 0

    def keeping(self, layers: Sequence[int]) -> ModelConfig:
        """The same model with only these of its layers, in this order."""
        return replace(self, n_layers=len(layers), sliding_layers=tuple(self.sliding_layers[i] for i in layers
                                                                        if self.sliding_layers),
                       rotary_layers=tuple(self.rotary_layers[i] for i in layers if self.rotary_layers))

    def kv_elements_per_token(self) -> int:
        """Numbers stored in the KV cache for one position, all layers, keys and values together."""
        return 2 * self.n_layers * self.n_kv_heads * self.head_dim

    @classmethod
    def from_folder(cls, folder: Path) -> ModelConfig:
        """Read `config.json` (and the end-of-text ids of `generation_config.json`). Raises DynoError."""
        return cls.from_hf(read_hf(folder))

    @classmethod
    def from_hf(cls, raw: dict[str, Any]) -> ModelConfig:
        """Translate the dictionary of a Hugging Face configuration. Raises DynoError on what the decoder is not."""
        from engine.models.families import family_of, supported

        kind = raw.get("model_type")
        family = family_of(kind)
        if family is None:
            raise DynoError(f"The architecture {kind!r} is not one that GPT Dyno's decoder can run.",
                            f"It runs {', '.join(supported())}.")
        try:
            for key in LAYER_KEYS:  # before a family makes lists that long
                if int(raw.get(key) or 0) > MAX_LAYERS:
                    raise DynoError(f"config.json gives {key} = {str(raw[key])[:20]}, which cannot be right.",
                                    "Check config.json, or download the model again.")
            return family.read(raw, str(kind))
        except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            raise DynoError(f"config.json lacks a usable value: {error}.",
                            "Check config.json, or download the model again.") from error

    def to_hf(self) -> dict[str, Any]:
        """The Hugging Face configuration of this model, as `config.json` holds it. Raises DynoError where the
        architecture's configuration cannot say what the model is."""
        from engine.models.families import family_of

        family = family_of(self.model_type)
        if family is None or self.foreign:
            raise DynoError(f"A model of the architecture {self.model_type!r} cannot be written by GPT Dyno.",
                            "Use a model that its own decoder runs.")
        return {
            "architectures": [family.names[self.model_type]],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "bos_token_id": self.bos_id,
            "eos_token_id": list(self.eos_ids) if len(self.eos_ids) > 1 else next(iter(self.eos_ids), None),
            "pad_token_id": None,  # some classes' own lies beyond a small vocabulary
            "tie_word_embeddings": self.tied,
        } | family.write(self)


def read_hf(folder: Path) -> dict[str, Any]:
    """The dictionary of a model folder's config.json, with the end-of-text ids of generation_config.json. Raises
    DynoError."""
    if not folder.is_dir():
        raise DynoError(f"There is no folder {folder}.", "Choose a Hugging Face model folder.")
    path = folder / "config.json"
    if not path.is_file():
        raise no_config(folder)
    raw = _read_json(path)
    generation = folder / "generation_config.json"
    extra = _read_json(generation) if generation.is_file() else {}
    if extra.get("eos_token_id") is not None:
        raw["eos_token_id"] = extra["eos_token_id"]
    return raw


def no_config(folder: Path) -> DynoError:
    """What to say of a folder without config.json; the GGUF files in it are models by themselves."""
    files: list[str] = []
    with contextlib.suppress(OSError):  # a folder that may not be looked into
        files = sorted(p.name for p in folder.iterdir() if p.suffix.lower() == ".gguf" and p.is_file())
    if files:
        more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
        return DynoError(f"{folder} is no model folder, but holds {', '.join(files[:_NAMED])}{more}.",
                         "Open one of these files by itself." if len(files) > 1 else "Open that file itself.")
    if (folder / "model" / "config.json").is_file():
        return DynoError(f"{folder} is the folder of a training run; its model lies in {folder / 'model'}.",
                         "Open that folder.")
    return DynoError(f"There is no model in {folder}: config.json is missing.",
                     "Choose a Hugging Face model folder: config.json, *.safetensors and tokenizer.json.")


def cache_bytes_per_token(config: ModelConfig, dtype: str) -> int:
    """Bytes of the KV cache for one position. int8 keeps an fp32 scale for every head, of keys and of values."""
    elements = config.kv_elements_per_token()
    if dtype == "int8":
        return elements + 4 * elements // config.head_dim
    return elements * (4 if dtype == "fp32" else 2)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(bounded_text(path, _LONGEST_JSON))
    except (OSError, ValueError, RecursionError) as error:
        raise DynoError(f"{path.name} cannot be read: {reason(error)}.", "Download the model again.") from error
    if not isinstance(raw, dict):
        raise DynoError(f"{path.name} does not hold a configuration.", "Download the model again.")
    return raw
