"""LoRA on vLLM's CPU build, as two matrix products for each adapter in the batch.

vLLM's own CPU path copies the adapter once for every token, and reads slot -1, the last one, for tokens without an adapter. This
one groups the rows of a batch by slot and leaves rows without an adapter alone. CUDA has kernels that do the like; this is never
used there.

Axes: N rows of the batch, I in, O out, R rank, S slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Groups = list[tuple[int, Tensor | None]]
"""Slots in use, each with its rows; `None` stands for all rows."""


def group_rows(slots_N: Tensor) -> Groups:
    """The rows of every slot; rows of slot -1 have no adapter."""
    found = torch.unique(slots_N).tolist()
    if len(found) == 1:
        return [(found[0], None)] if found[0] >= 0 else []
    return [(slot, torch.nonzero(slots_N == slot).squeeze(1)) for slot in found if slot >= 0]


def add_lora(y_NO: Tensor, x_NI: Tensor, groups: Groups, a: Sequence[Tensor], b: Sequence[Tensor], widths: Sequence[int]) -> None:
    """y += x A^T B^T for every row's own slot, in place; a packed layer has several parts that lie side by side in y.

    `a` and `b` hold [S, 1, R, I] and [S, 1, O, R] of each part, `widths` the O of each.
    """
    for slot, rows in groups:
        x = x_NI if rows is None else x_NI.index_select(0, rows)
        left = 0
        for a_SRI, b_SOR, width in zip(a, b, widths, strict=True):
            part = y_NO[:, left : left + width]
            left += width
            low_NR = x @ a_SRI[slot, 0].T
            if rows is None:
                part.addmm_(low_NR, b_SOR[slot, 0].T)
            else:
                part.index_add_(0, rows, low_NR @ b_SOR[slot, 0].T)


class GroupedLora:
    """Takes the place of a vLLM CPU punica wrapper's `add_lora_linear`, and hears when the batch changes."""

    def __init__(self, wrapper: Any) -> None:
        self._wrapper = wrapper
        self._update = wrapper.update_metadata
        self._groups: Groups | None = None
        wrapper.update_metadata = self.update_metadata
        wrapper.add_lora_linear = self.add_lora_linear

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        self._update(*args, **kwargs)
        self._groups = None

    def add_lora_linear(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: Sequence[Tensor],
        lora_b_stacked: Sequence[Tensor],
        scale: float,
        output_slices: Sequence[int],
        **_: Any,
    ) -> None:
        """As vLLM's method of this name; `scale` is always 1 there, since B comes scaled."""
        assert scale == 1.0
        if self._groups is None:
            self._groups = group_rows(self._wrapper.token_lora_indices)
        add_lora(y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1]), self._groups, lora_a_stacked, lora_b_stacked, output_slices)
