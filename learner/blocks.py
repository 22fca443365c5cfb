"""Attention in blocks of queries: which rows ask, which rows they may see, padded only within blocks of like size.

Owns the plan; `attention.py` carries it out. A row is asked once, even where many paths run through it, and a block sees no
keys behind its own end, which spares the upper half of the causal square without a kernel of our own.

Axes: Q blocks, C queries of a block, L keys of a block.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

QUERIES = 64
"""Most queries of a block. Smaller blocks skip more of the causal square, larger ones multiply faster."""
KEYS = 64
"""Blocks are padded together where their numbers of keys round up to the same multiple of this."""


@dataclass(frozen=True, eq=False)
class Blocks:
    """Blocks of like size, padded together."""

    queries: Tensor
    """[Q, C] int64: which queries ask; padded with query 0, and nobody reads what comes of that."""
    keys: Tensor
    """[Q, L] int64: rows that they may see."""
    mask: Tensor
    """[Q, 1, C, L] fp32: 0 where a query sees a key, -inf elsewhere; a padded query sees the first key."""

    def to(self, device: torch.device) -> Blocks:
        return Blocks(self.queries.to(device), self.keys.to(device), self.mask.to(device))


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
    keys, positions, queries = (pad_sequence(list(field), batch_first=True) for field in zip(*parts, strict=True))
    hidden = torch.arange(keys.shape[1]) > positions[:, :, None]
    return Blocks(queries, keys, torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf"))[:, None])
