"""Attention in blocks of queries: which rows ask, which rows they may see, padded only within blocks of like size.

Owns the plan; `attention.py` carries it out. A row is asked once, even where many paths run through it, and a block sees no
keys behind its own end, which spares the upper half of the causal square without a kernel of our own.

Axes: Q blocks, C queries of a block, L keys of a block, G query heads stacked on a key head.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

QUERIES = 64
"""Most queries of a block. Smaller blocks skip more of the causal square, larger ones multiply faster."""
KEYS = 64
"""Blocks are padded together where their numbers of keys round up to the same multiple of this."""
ALIGNED = 8
"""A row of a mask begins at a multiple of this many elements: where one does not, PyTorch's memory-efficient kernel copies the
mask for every layer."""


@dataclass(frozen=True, eq=False)
class Blocks:
    """Blocks of like size, padded together."""

    queries: Tensor
    """[Q, C] int64: which queries ask; padded with query 0, and nobody reads what comes of that."""
    keys: Tensor
    """[Q, L] int64: rows that they may see."""
    last: Tensor
    """[Q, C] int64: which of these keys is the last that a query sees; a padded query sees the first."""
    _masks: dict[tuple[torch.dtype, int], Tensor] = field(default_factory=dict, repr=False)

    @property
    def mask_cells(self) -> int:
        """Elements of `mask` for one head."""
        return self.queries.numel() * aligned(self.keys.shape[1])

    def mask(self, dtype: torch.dtype, stacked: int) -> Tensor:
        """[Q, 1, G * C, L]: 0 where a query sees a key, -inf elsewhere, for each of the G heads; made once for all layers."""
        if (mask := self._masks.get((dtype, stacked))) is None:
            (num_blocks, num_queries), num_keys = self.queries.shape, self.keys.shape[1]
            hidden = torch.arange(num_keys, device=self.keys.device) > self.last[:, :, None]
            cells = torch.zeros(num_blocks, 1, stacked, num_queries, aligned(num_keys), dtype=dtype, device=self.keys.device)
            mask = cells[..., :num_keys].masked_fill_(hidden[:, None, None], float("-inf")).flatten(2, 3)
            self._masks[dtype, stacked] = mask
        return mask

    def to(self, device: torch.device) -> Blocks:
        """A copy on a device, without the masks that were made for this one."""
        return Blocks(self.queries.to(device), self.keys.to(device), self.last.to(device))


def stacked_heads(device: str, num_heads: int, num_kv_heads: int) -> int:
    """G: how many query heads stand below each other as rows of the key head that they share.

    All of them on a GPU, where SDPA's own `enable_gqa` may rule out the memory-efficient kernel once there is a mask, and what is
    left materialises keys, values and scores. 1 on a CPU, whose kernel shares key heads by itself, a little faster.
    """
    return 1 if device == "cpu" else num_heads // num_kv_heads


def aligned(length: int) -> int:
    """`length` rounded up to a multiple of `ALIGNED`."""
    return -(-length // ALIGNED) * ALIGNED


def plan(paths: Sequence[Tensor], asking: Sequence[Tensor]) -> tuple[tuple[Blocks, ...], Tensor]:
    """Blocks for the rows at positions `asking[b]` (rising) of each path b, and where their answers stand.

    The k-th row asked for, over all paths in order, is query k of the blocks; the second result, [R], holds its place in their
    concatenated [Q * C] cells.
    """
    buckets: dict[int, list[_Part]] = defaultdict(list)
    first = 0
    for path, positions in zip(paths, asking, strict=True):
        for mine in positions.tensor_split(-(-len(positions) // QUERIES)) if len(positions) else ():
            stop = int(mine[-1]) + 1
            buckets[-(-stop // KEYS)].append(_Part(path[:stop], mine, torch.arange(first, first + len(mine))))
            first += len(mine)
    home = torch.empty(first, dtype=torch.int64)
    blocks, cells = [], 0
    for _, parts in sorted(buckets.items()):
        block = _pad(parts)
        for part in parts:
            home[part.queries] = torch.arange(cells, cells + len(part.queries))
            cells += block.queries.shape[1]
        blocks.append(block)
    return tuple(blocks), home


class _Part(NamedTuple):
    keys: Tensor
    positions: Tensor
    queries: Tensor


def _pad(parts: list[_Part]) -> Blocks:
    """A padded query stands at position 0: it sees the first key, so no row of the mask hides everything."""
    keys, positions, queries = (pad_sequence(list(column), batch_first=True) for column in zip(*parts, strict=True))
    return Blocks(queries, keys, positions)
