"""Attention for packed rows, plugged into Transformers' attention registry under the name `ATTENTION`.

Owns the way from rows to padded paths and back around one SDPA call; linear layers never see padding. A varlen kernel takes the
same place where one is installed. `path_mask` is the plain counterpart: one dense mask over all rows.

Axes: N rows, B paths, T positions, h heads, d head size, F features of a row (h * d).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from sparring.learner.batch import Batch

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
    """Causal attention along each path. query [1, h, N, d], key and value [1, h_kv, N, d]; returns [1, N, h, d].

    Padding stands behind every position that counts, so the causal mask alone hides it.
    """
    q, k, v = (spread(x[0].transpose(0, 1), batch).transpose(1, 2) for x in (query, key, value))
    out = nn.functional.scaled_dot_product_attention(
        q, k, v, is_causal=True, scale=scaling, dropout_p=dropout, enable_gqa=q.shape[1] != k.shape[1]
    )
    cells = out.transpose(1, 2).reshape(-1, *query.shape[1::2])
    return cells[batch.home][None], None


AttentionInterface.register(ATTENTION, packed_attention)


def spread(rows: Tensor, batch: Batch) -> Tensor:
    """[N, ...] to [B, T, ...]: every path's rows in order."""
    return cast(Tensor, _Spread.apply(rows, batch.paths, batch.home, batch.shared))  # type: ignore[no-untyped-call]


class _Spread(torch.autograd.Function):
    """Rows to cells. Backward reads each row's cell back; only where paths share rows must cells be added up."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, paths: Tensor, home: Tensor, shared: bool) -> Tensor:
        ctx.save_for_backward(paths, home)
        ctx.num_rows, ctx.shared = len(rows), shared
        return rows[paths]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        paths, home = ctx.saved_tensors
        cells = grads[0].flatten(0, 1)
        if not ctx.shared:
            return cells[home], None, None, None
        total = cells.new_zeros(ctx.num_rows, *cells.shape[1:])
        return total.index_add_(0, paths.flatten(), cells), None, None, None


def path_mask(batch: Batch) -> Tensor:
    """[1, 1, N, N] bool: row j is visible to row i if a path runs through j to i. The reference for `packed_attention`."""
    visible = torch.zeros(batch.num_rows, batch.num_rows, dtype=torch.bool)
    for path, length in zip(batch.paths.cpu(), batch.lengths.tolist(), strict=True):
        rows = path[:length]
        visible[rows[:, None], rows] |= torch.ones(length, length, dtype=torch.bool).tril()
    return visible[None, None].to(batch.token_ids.device)
