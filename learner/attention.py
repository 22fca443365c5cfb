"""Attention for packed rows, plugged into Transformers' attention registry under the name `ATTENTION`.

Owns the way from rows to blocks of queries (`blocks.py`) and back around SDPA; linear layers never see padding. A varlen kernel
takes the same place where one is installed. `path_mask` is the plain counterpart: one dense mask over all rows.

Axes: N rows, R rows that ask, h heads, d head size, Q blocks, C queries of a block, G query heads stacked on a key head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from sparring.learner.batch import Batch
from sparring.learner.blocks import Blocks, stacked_heads

ATTENTION = "sparring_packed"


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    batch: Batch,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention along each path. query [1, h, N, d], key and value [1, h_kv, N, d]; returns [1, N, h, d]."""
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    return attend(q, k, v, batch.blocks, batch.home, scaling=scaling, dropout=dropout)[None], None


AttentionInterface.register(ATTENTION, packed_attention)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    blocks: Sequence[Blocks],
    home: Tensor,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Answers [R, h, d] to queries [R, h, d] from keys and values [N, h_kv, d], block by block."""
    stacked = stacked_heads(query.device.type, query.shape[1], key.shape[1])
    answers = []
    for block in blocks:
        q, k, v = (gather(rows, at) for rows, at in ((query, block.queries), (key, block.keys), (value, block.keys)))
        q = q.unflatten(2, (-1, stacked)).permute(0, 2, 3, 1, 4).flatten(2, 3)  # [Q, h / G, G * C, d]
        k, v, mask = k.transpose(1, 2), v.transpose(1, 2), block.mask(q.dtype, stacked)
        shared = q.shape[1] != k.shape[1]
        out = nn.functional.scaled_dot_product_attention(q, k, v, mask, scale=scaling, dropout_p=dropout, enable_gqa=shared)
        answers.append(out.unflatten(2, (stacked, -1)).permute(0, 3, 1, 2, 4).flatten(0, 1).flatten(1, 2))
    return gather(torch.cat(answers), home)


def gather(rows: Tensor, at: Tensor) -> Tensor:
    """rows[at], with a backward pass that adds whole rows: PyTorch's own sorts the indices first."""
    return cast(Tensor, _Gather.apply(rows, at))  # type: ignore[no-untyped-call]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, at: Tensor) -> Tensor:
        ctx.save_for_backward(at)
        ctx.num_rows = len(rows)
        return rows[at]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (at,) = ctx.saved_tensors
        grad = grads[0].reshape(at.numel(), -1)
        total = grad.new_zeros(ctx.num_rows, grad.shape[1]).index_add_(0, at.flatten(), grad)
        return total.view(ctx.num_rows, *grads[0].shape[at.ndim :]), None


def path_mask(batch: Batch) -> Tensor:
    """[1, 1, N, N] bool: row j is visible to row i if a path runs through j to i. The reference for `packed_attention`."""
    visible = torch.zeros(batch.num_rows, batch.num_rows, dtype=torch.bool)
    for path, length in zip(batch.paths.cpu(), batch.lengths.tolist(), strict=True):
        rows = path[:length]
        visible[rows[:, None], rows] |= torch.ones(length, length, dtype=torch.bool).tril()
    return visible[None, None].to(batch.token_ids.device)
