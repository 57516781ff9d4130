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
from engine.models.gpt import Decoder, Norm, rounded
from engine.models.rope import rope_angles, turn_factor
from engine.native.library import ACTIVATIONS, KINDS, PARTS, Block, Cache, Library, Matrix, Model, Table, Turn, Vector

_CACHES = {torch.float32: KINDS["fp32"], torch.bfloat16: KINDS["bf16"], torch.float16: KINDS["fp16"],
           torch.int8: KINDS["int8"]}


class NativeStep:
    """Runs 1 to MAX_ROWS tokens over any cache; more rows go through the decoder.

    While `timed` is set, its time is counted by parts.
    """

    def __init__(self, decoder: Decoder, run: Library, session: int, kept: list[Tensor]) -> None:
        self._plain = DecoderStep(decoder)
        self._decoder, self._config, self._run = decoder, decoder.config, run
        self._session, self._kept = session, kept
        self._rope: tuple[tuple[Tensor, Tensor], ...] = ()
        self._spent = (ctypes.c_int64 * PARTS)()
        self.timed = False
        weakref.finalize(self, run.close, session)

    @classmethod
    def of(cls, decoder: Decoder, run: Library) -> NativeStep | None:
        """The step of a decoder on a CPU; None where a layer lies in a form that the library cannot read."""
        kept: list[Tensor] = []
        model = _model(decoder, kept)
        session = run.open(ctypes.byref(model), run.isa) if model is not None else None
        return cls(decoder, run, session, kept) if session else None

    @property
    def spent_ns(self) -> tuple[int, ...]:
        """Nanoseconds so far in matrix products, in attention, and in the small operators, of timed steps."""
        return tuple(self._spent)

    def __call__(self, ids: Tensor, cache: KVCache) -> Tensor:
        """fp32 logits (1, T, V) for ids (1, T)."""
        rows, at = ids.shape[1], cache.length
        if ids.shape[0] != 1 or rows > MAX_ROWS:
            return self._plain(ids, cache)
        scale = cache.scale.data_ptr() if isinstance(cache, Int8KVCache) else None
        layout = Cache(cache.data.data_ptr(), scale, _CACHES[cache.data.dtype], cache.capacity)
        logits = torch.empty(1, rows, self._config.vocab_size)
        ids = ids.contiguous()
        failed = self._run.step(self._session, ctypes.byref(layout), ids.data_ptr(), rows, at, self._turns(at, rows),
                                logits.data_ptr(), torch.get_num_threads(),
                                ctypes.addressof(self._spent) if self.timed else None)
        if failed == 2:
            raise MemoryError("There is no memory left for the activations of a token.")
        if failed:
            raise IndexError(f"{rows} tokens after {at} do not fit the cache ({cache.capacity}) or the vocabulary.")
        cache.length = at + rows
        return logits

    def _turns(self, at: int, rows: int) -> ctypes.Array[Turn]:
        """Addresses of cosines and sines (T, r/2) of the positions from `at` on, for each rotary table."""
        turns, c = (Turn * 2)(), self._config
        if c.learned_positions:
            return turns
        if not self._rope or self._rope[0][0].shape[0] < at + rows:
            length = min(c.context, max(1024, 1 << (at + rows - 1).bit_length()))
            angles = [(rope_angles(c, length, which), turn_factor(c, which)) for which in range(2 if c.local_rope_theta
                                                                                               else 1)]
            self._rope = tuple((a.cos() * factor, a.sin() * factor) for a, factor in angles)
        for turn, (cosine, sine) in zip(turns, self._rope, strict=False):
            offset = at * cosine.shape[1] * cosine.element_size()
            turn.cosine, turn.sine = cosine.data_ptr() + offset, sine.data_ptr() + offset
        return turns


def _model(decoder: Decoder, kept: list[Tensor]) -> Model | None:
    """The decoder in the library's words. kept: takes tensors that the words point to and nobody else holds."""
    c: ModelConfig = decoder.config

    def weight(norm: Norm | None) -> Vector:
        if norm is None:
            return Vector()
        if not norm.offset:
            return native.vector(norm.weight)
        kept.append(1 + norm.weight.detach().float())
        return native.vector(kept[-1])

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
            setattr(blocks[i], name, weight(norm))
            setattr(blocks[i], f"{name}_bias", native.vector(norm.bias))
        for name, norm in (("q_norm", block.attn.q_norm), ("k_norm", block.attn.k_norm),  # type: ignore[union-attr]
                           ("post1", block.post1), ("post2", block.post2)):
            setattr(blocks[i], name, weight(norm))  # type: ignore[arg-type]
        turn = c.rope(i)
        blocks[i].window, blocks[i].turn = c.window(i) or 0, -1 if turn is None else turn
    head = _matrix(decoder.head)
    if head is None:
        return None
    positions = decoder.positions.weight if decoder.positions is not None else None
    return Model(
        hidden=c.hidden_size, layers=c.n_layers, heads=c.n_heads, kv_heads=c.n_kv_heads, head_size=c.head_dim,
        neurons=c.intermediate_size, vocabulary=c.vocab_size, context=c.context, gated=c.gated,
        activation=ACTIVATIONS[c.activation], layer_norm=c.layer_norm,
        turned=0 if c.learned_positions else c.rotary_dim or c.head_dim, parallel=c.parallel, norm_eps=c.norm_eps,
        embed_scale=rounded(c.embed_scale, decoder.dtype), score_scale=c.score_scale, score_cap=c.attention_cap,
        logit_cap=c.logit_cap,
        embedding=_table(decoder.embed), positions=_rows(positions) if positions is not None else Table(),
        norm=weight(decoder.norm), norm_bias=native.vector(decoder.norm.bias), head=head, blocks=blocks)


def _matrix(layer: object) -> Matrix | None:
    return layer.native() if isinstance(layer, LinearKernel) else None


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
