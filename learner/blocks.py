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


def plan(paths: Sequence[Sequence[int]], asking: Sequence[Sequence[int]]) -> tuple[tuple[Blocks, ...], Tensor]:
    """Blocks for the rows at positions `asking[b]` (rising) of each path b, and where their answers stand.

    The k-th row asked for, over all paths in order, is query k of the blocks; the second result, [R], holds its place in their
    concatenated [Q * C] cells.
    """
    buckets: dict[int, list[_Part]] = defaultdict(list)
    first = 0
    for path, positions in zip(paths, asking, strict=True):
        parts = -(-len(positions) // QUERIES)
        for part in range(parts):
            start, stop = len(positions) * part // parts, len(positions) * (part + 1) // parts
            mine = _Part(path, positions[start:stop], first + start)
            buckets[-(-mine.num_keys // KEYS)].append(mine)
        first += len(positions)
    home = torch.empty(first, dtype=torch.int64)
    blocks, cells = [], 0
    for _, held in sorted(buckets.items()):
        blocks.append(_pad(held))
        width = blocks[-1].queries.shape[1]
        for q, mine in enumerate(held):
            home[mine.first : mine.first + len(mine.positions)] = cells + q * width + torch.arange(len(mine.positions))
        cells += len(held) * width
    return tuple(blocks), home


class _Part(NamedTuple):
    path: Sequence[int]
    positions: Sequence[int]
    first: int
    """Number of its first query."""

    @property
    def num_keys(self) -> int:
        return self.positions[-1] + 1


def _pad(parts: list[_Part]) -> Blocks:
    width, length = max(len(p.positions) for p in parts), max(p.num_keys for p in parts)
    queries = torch.tensor([[*range(p.first, p.first + len(p.positions)), *[0] * (width - len(p.positions))] for p in parts])
    keys = torch.tensor([[*p.path[: p.num_keys], *[0] * (length - p.num_keys)] for p in parts])
    position = torch.tensor([[*p.positions, *[0] * (width - len(p.positions))] for p in parts])
    hidden = torch.arange(length) > position[:, :, None]
    return Blocks(queries, keys, torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf"))[:, None])
