"""What the learner's step holds in memory, from sizes alone: adapter, optimiser, and the activations kept for the backward pass.

Owns the formulas, which follow `learner/decoder.py`, `learner/attention.py`, `learner/fused_lora.py` and
`kernels/linear_logprob.py` tensor by tensor; a test compares them with what autograd really saves. There is no activation
checkpointing. What else is in memory at the time is `plan.py`'s.

Axes: N packed rows, R rows that predict, M trained tokens, H hidden, A all query heads, K all kv heads,
I MLP, r rank, V vocabulary.
"""

from __future__ import annotations

import msgspec

from sparring.engine.memory.model_shape import ModelShape
from sparring.kernels.linear_logprob import CHUNK_ELEMENTS
from sparring.learner.blocks import QUERIES, aligned

FP32, INT64 = 4, 8
MLP_TEMPORARIES = 3
"""Tensors of the MLP's width that are alive at once while its backward pass runs, beside what was kept."""


class Rows(msgspec.Struct, frozen=True, kw_only=True):
    """The sizes of a `Batch` that decide its memory. `cells` are those of attention's padded blocks, `last_` the last layer's."""

    rows: int
    predicting: int
    trained: int
    query_cells: int
    key_cells: int
    mask_cells: int
    last_query_cells: int
    last_key_cells: int
    last_mask_cells: int

    def batch_bytes(self, mask_itemsize: int) -> int:
        """The batch itself: indices, numbers per trained token, and one mask for all layers but the last, and its own."""
        cells = 2 * (self.query_cells + self.last_query_cells) + self.key_cells + self.last_key_cells
        indices = INT64 * (3 * self.rows + 4 * self.predicting + 3 * self.trained + cells)
        return indices + mask_itemsize * (self.mask_cells + self.last_mask_cells) + FP32 * 5 * self.trained


def worst_rows(token_budget: int, context: int) -> Rows:
    """The heaviest batch of these settings: every row predicts, and every block of queries sees a whole context of keys.

    A sequence longer than the budget makes a batch of its own, so a batch may have `context` rows.
    """
    rows = max(token_budget, context)
    blocks = -(-rows // QUERIES)
    cells = {"query_cells": rows, "key_cells": blocks * context, "mask_cells": rows * aligned(context)}
    last = {f"last_{name}": count for name, count in cells.items()}
    return Rows(rows=rows, predicting=rows, trained=rows, **cells, **last)


def kept_activations(
    shape: ModelShape,
    rows: Rows,
    *,
    rank: int,
    targets: tuple[str, ...] = (),
    itemsize: int,
    fused: bool = True,
    stacked: int = 1,
    entropy_grad: bool = False,
) -> int:
    """Bytes that one forward pass leaves for its backward pass, with base weights of `itemsize` bytes; the batch included.

    `fused` says whether `FusedLora` computes: on a quantised base PEFT's own layers do, which keep an fp32 copy of every layer's
    input. `stacked` is `stacked_heads` of attention, for each of which the mask is repeated.
    """
    layer = _Layer(shape, rank, frozenset(targets or shape.linears), itemsize, fused)
    inner = layer.kept(rows.rows, rows.rows, rows.query_cells, rows.key_cells)
    last = layer.kept(rows.rows, rows.predicting, rows.last_query_cells, rows.last_key_cells)
    rotary = 2 * shape.head_dim * itemsize * (rows.rows + rows.predicting)
    first_norm = layer.norm(rows.rows)  # the embeddings take no gradient, so the first norm keeps nothing
    head = layer.norm(rows.predicting) + (2 if entropy_grad else 1) * FP32 * rows.trained * shape.hidden_size
    return (shape.num_layers - 1) * inner + last + rotary - first_norm + head + rows.batch_bytes(stacked * itemsize)


def workspace(shape: ModelShape, rows: Rows, *, itemsize: int, fused: bool = True) -> int:
    """Bytes of temporaries at the step's worst moment, beside what was kept: a chunk of logits, or an MLP's gradients."""
    return max(_logits(shape, rows, itemsize), _gradients(shape, rows, itemsize if fused else FP32))


def _logits(shape: ModelShape, rows: Rows, itemsize: int) -> int:
    """One chunk of `linear_logprob`: logits, exponentials and their product in fp32, a copy for the matmul, and what it gives."""
    chunk = min(rows.trained, max(1, CHUNK_ELEMENTS // shape.vocab_size))
    copy = itemsize if itemsize != FP32 else 0
    return chunk * (shape.vocab_size * (3 * FP32 + copy) + 3 * shape.hidden_size * FP32)


def _gradients(shape: ModelShape, rows: Rows, itemsize: int) -> int:
    mlp = MLP_TEMPORARIES * rows.rows * shape.intermediate_size * itemsize
    return mlp + 2 * rows.rows * shape.hidden_size * FP32


class _Layer:
    """What one decoder layer keeps."""

    def __init__(self, shape: ModelShape, rank: int, targets: frozenset[str], itemsize: int, fused: bool) -> None:
        self.shape, self.rank, self.targets, self.itemsize = shape, rank, targets, itemsize
        self.fused = fused
        self.lora_itemsize = itemsize if fused else FP32

    def kept(self, num_rows: int, num_asking: int, query_cells: int, key_cells: int) -> int:
        """`num_rows` give keys and values, `num_asking` of them everything else."""
        hidden, mlp = self.shape.hidden_size, self.shape.intermediate_size
        shared = num_rows == num_asking
        qkv = self.inputs(("q_proj", "k_proj", "v_proj") if shared else ("k_proj", "v_proj"), num_rows, hidden)
        query = 0 if shared else self.inputs(("q_proj",), num_asking, hidden)
        out = self.inputs(("o_proj",), num_asking, self.shape.attention_size)
        gate_up = self.inputs(("gate_proj", "up_proj"), num_asking, hidden)
        down = self.inputs(("down_proj",), num_asking, mlp)
        silu = 3 * self.itemsize * mlp * num_asking  # its input, its result, and what it is multiplied with
        norms = self.norm(num_rows) + self.norm(num_asking) + self.head_norms(num_rows, num_asking)
        return norms + qkv + query + self.attention(query_cells, key_cells) + out + gate_up + silu + down

    def norm(self, num_rows: int) -> int:
        """RMSNorm computes in fp32: its input, and one factor a row."""
        return FP32 * num_rows * (self.shape.hidden_size + 1)

    def head_norms(self, num_rows: int, num_asking: int) -> int:
        if not self.shape.qk_norm:
            return 0
        query = num_asking * (self.shape.attention_size + self.shape.num_heads)
        key = num_rows * (self.shape.kv_size + self.shape.num_kv_heads)
        return FP32 * (query + key)

    def inputs(self, names: tuple[str, ...], num_rows: int, width: int) -> int:
        """Adapted layers that read the same input: x [N, width], once where fused and once each where not; x A^T [N, r] each."""
        adapted = len(self.targets.intersection(names))
        copies = min(1, adapted) if self.fused else adapted
        return num_rows * self.lora_itemsize * (copies * width + adapted * self.rank)

    def attention(self, query_cells: int, key_cells: int) -> int:
        """A fused kernel keeps queries, keys, values, its answers and their log-sum-exp."""
        answers = 2 * query_cells * self.shape.attention_size
        keys_values = 2 * key_cells * self.shape.kv_size
        return self.itemsize * (answers + keys_values) + FP32 * query_cells * self.shape.num_heads
