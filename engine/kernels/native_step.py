"""The token step in one foreign call: the whole decoder over weights where they lie, without Python's lock.

The library keeps activations in fp32 whatever the weights are, so in 16 bits its logits are nearer to fp32's than
PyTorch's are, and equal to them within rounding.
"""

from __future__ import annotations

import ctypes
import weakref

import torch
from torch import Tensor, nn

from engine.kernels import native
from engine.kernels.embedding import Int8Embedding, RowsOnDemand
from engine.kernels.linear import LinearKernel
from engine.kernels.token_step import MAX_ROWS, DecoderStep
from engine.models.cache import Int8KVCache, KVCache
from engine.models.config import ModelConfig
from engine.models.gpt import Decoder, Norm
from engine.models.rope import rope_angles
from engine.native.library import ACTIVATIONS, KINDS, Block, Cache, Library, Matrix, Model, Table, Vector

_CACHES = {torch.float32: KINDS["fp32"], torch.bfloat16: KINDS["bf16"], torch.float16: KINDS["fp16"],
           torch.int8: KINDS["int8"]}


class NativeStep:
    """Runs 1 to MAX_ROWS tokens over any cache; more rows go through the decoder.

    spent_ns: nanoseconds in (matrix products, attention) since `timed` was set.
    """

    def __init__(self, decoder: Decoder, run: Library, session: int) -> None:
        self._plain = DecoderStep(decoder)
        self._decoder, self._config, self._run = decoder, decoder.config, run
        self._session = session
        self._rope: tuple[Tensor, Tensor] | None = None
        self._spent = (ctypes.c_int64 * 2)()
        self.timed = False
        weakref.finalize(self, run.close, session)

    @classmethod
    def of(cls, decoder: Decoder, run: Library) -> NativeStep | None:
        """The step of a decoder on a CPU; None where a layer lies in a form that the library cannot read."""
        model = _model(decoder)
        session = run.open(ctypes.byref(model), run.isa) if model is not None else None
        return cls(decoder, run, session) if session else None

    @property
    def spent_ns(self) -> tuple[int, int]:
        return self._spent[0], self._spent[1]

    def __call__(self, ids: Tensor, cache: KVCache) -> Tensor:
        """fp32 logits (1, T, V) for ids (1, T)."""
        rows, at = ids.shape[1], cache.length
        if ids.shape[0] != 1 or rows > MAX_ROWS:
            return self._plain(ids, cache)
        scale = cache.scale.data_ptr() if isinstance(cache, Int8KVCache) else None
        layout = Cache(cache.data.data_ptr(), scale, _CACHES[cache.data.dtype], cache.capacity)
        logits = torch.empty(1, rows, self._config.vocab_size)
        cosine, sine = self._turns(at, rows)
        ids = ids.contiguous()
        failed = self._run.step(self._session, ctypes.byref(layout), ids.data_ptr(), rows, at, cosine, sine,
                                logits.data_ptr(), torch.get_num_threads(),
                                ctypes.addressof(self._spent) if self.timed else None)
        if failed == 2:
            raise MemoryError("There is no memory left for the activations of a token.")
        if failed:
            raise IndexError(f"{rows} tokens after {at} do not fit the cache ({cache.capacity}) or the vocabulary.")
        cache.length = at + rows
        return logits

    def _turns(self, at: int, rows: int) -> tuple[int | None, int | None]:
        """Addresses of cosines and sines (T, d/2) of the positions from `at` on."""
        if self._config.learned_positions:
            return None, None
        if self._rope is None or self._rope[0].shape[0] < at + rows:
            length = min(self._config.context, max(1024, 1 << (at + rows - 1).bit_length()))
            angles = rope_angles(self._config, length)
            self._rope = angles.cos(), angles.sin()
        cosine, sine = self._rope
        offset = at * cosine.shape[1] * cosine.element_size()
        return cosine.data_ptr() + offset, sine.data_ptr() + offset


def _model(decoder: Decoder) -> Model | None:
    c: ModelConfig = decoder.config
    if (c.rotary_dim or c.sliding_layers or c.rotary_layers or c.parallel or c.post_norms or c.norm_offset
            or c.attention_scale or c.attention_cap or c.logit_cap or c.rope_scaling.attention_factor != 1):
        return None
    blocks = (Block * c.n_layers)()
    for i, block in enumerate(decoder.blocks):
        slots = {"qkv": block.attn.qkv, "out": block.attn.out,  # type: ignore[union-attr]
                 "up": block.mlp.up, "down": block.mlp.down}  # type: ignore[union-attr]
        for name, layer in slots.items():
            matrix = _matrix(layer)
            if matrix is None:
                return None
            setattr(blocks[i], name, matrix)
        for name in ("norm1", "norm2"):
            norm = getattr(block, name)
            setattr(blocks[i], name, native.vector(norm.weight))
            setattr(blocks[i], f"{name}_bias", native.vector(norm.bias))
        for name in ("q_norm", "k_norm"):
            setattr(blocks[i], name, _weight_of(getattr(block.attn, name)))
    head = _matrix(decoder.head)
    if head is None:
        return None
    positions = decoder.positions.weight if decoder.positions is not None else None
    return Model(
        hidden=c.hidden_size, layers=c.n_layers, heads=c.n_heads, kv_heads=c.n_kv_heads, head_size=c.head_dim,
        neurons=c.intermediate_size, vocabulary=c.vocab_size, context=c.context, window=c.sliding_window or 0,
        gated=c.gated, activation=ACTIVATIONS[c.activation], layer_norm=c.layer_norm, norm_eps=c.norm_eps,
        embedding=_table(decoder.embed), positions=_rows(positions) if positions is not None else Table(),
        norm=native.vector(decoder.norm.weight), norm_bias=native.vector(decoder.norm.bias), head=head, blocks=blocks)


def _matrix(layer: object) -> Matrix | None:
    return layer.native() if isinstance(layer, LinearKernel) else None


def _weight_of(norm: Norm | None) -> Vector:
    return native.vector(norm.weight if norm is not None else None)


def _table(embed: nn.Module) -> Table:
    if isinstance(embed, Int8Embedding):
        return Table(embed.codes.data_ptr(), native.vector(embed.scale), KINDS["int8"], native.number_kind(embed.dtype))
    if isinstance(embed, RowsOnDemand):
        return _rows(embed.master, native.number_kind(embed.dtype))
    assert isinstance(embed, nn.Embedding)
    return _rows(embed.weight)


def _rows(table: Tensor, round_to: int = KINDS["fp32"]) -> Table:
    assert table.is_contiguous(), "rows are found by their number"
    return Table(table.data_ptr(), Vector(), native.number_kind(table.dtype), round_to)
