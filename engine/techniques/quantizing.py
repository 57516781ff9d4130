"""What the quantization techniques share: which layers they take, the head and embedding, and their report."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from engine.kernels.scheme import Scheme
from engine.techniques.base import Effect, option
from engine.words import agreed, counted

if TYPE_CHECKING:
    from engine.techniques.draft import Draft

EXCLUSIVE = "quantization of the weights"


def quantizes(keys: Iterable[str]) -> bool:
    """Whether one of these techniques rounds the blocks' weights to codes."""
    from engine.techniques import technique

    return any(found is not None and found.exclusive == EXCLUSIVE for found in map(technique, keys))


def head_option() -> Any:
    """The choice whether the output head is left out."""
    return option("keep", "Output head", "The head decides between all words and loses most by rounding, so it is left "
                  "out unless asked for. In a small model with many words it is most of what a token reads.",
                  choices=("keep", "int8"), formerly={"quantize": "int8"})


def embedding_option() -> Any:
    """The choice whether the embedding is left out."""
    return option("keep", "Embedding", "A token reads one row of it, so int8 saves memory and no time. On a CPU the "
                  "rows are read from the model's file and take no memory anyway.", choices=("keep", "int8"))


def quantize(draft: Draft, key: str, scheme: Scheme, head: Scheme | None, embedding: str, words: str) -> Effect:
    """Give the block layers a scheme, the head another where asked for, and report both with what was left out."""
    layers = list(draft.inner())
    head_layer = draft.layers["head"]
    touched = [*layers, head_layer] if head is not None else layers
    draft.quantize(key, layers, scheme)
    if head is not None:
        draft.quantize(key, [head_layer], head)
    if embedding != "keep" and not draft.config.foreign:
        draft.embedding = embedding
    held = sum(draft.layer_bytes(layer) for layer in touched)
    sentences = [f"{counted(len(layers), 'layer')} {agreed(len(layers), 'holds', 'hold')} {words}"
                 + (f", the head {head.name} codes." if head is not None else ".")]
    if embedding != "keep" and draft.config.foreign:
        sentences.append("The embedding stays dense: Transformers may do more with its rows than look them up.")
    if head is None:
        dense = head_layer.numel * (2 if draft.wants_16_bits else 4)
        share = dense / max(1, held + dense)
        sentences.append(f"The head stays dense: {100 * share:.0f} % of the bytes a token now reads.")
    return Effect(tuple(layer.name for layer in touched), " ".join(sentences))
