"""Attention in blocks of queries: which rows ask, which rows they may see, padded only within blocks of like size.

Owns the plan; `attention.py` carries it out. A row is asked once, even where many paths run through it, and a block sees no
keys behind its own end, which spares the upper half of the causal square without a kernel of our own.

Axes: Q blocks, C queries of a block, L keys of a block.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

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
    """[Q, C] int64: rows that ask; padded with row 0, and nobody reads what comes of that."""
    keys: Tensor
    """[Q, L] int64: rows that they may see."""
    mask: Tensor
    """[Q, 1, C, L] fp32: 0 where a query sees a key, -inf elsewhere; a padded query sees the first key."""

    def to(self, device: torch.device) -> Blocks:
        return Blocks(self.queries.to(device), self.keys.to(device), self.mask.to(device))


def plan(paths: Sequence[Sequence[int]], shares: Sequence[int]) -> tuple[tuple[Blocks, ...], Tensor]:
    """The blocks of all rows, and [N] where each row's answer stands in their concatenated [Q * C] cells.

    `paths[b]` lists the rows of sequence b, the first `shares[b]` of which an earlier sequence owns.
    """
    buckets: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for b, (path, common) in enumerate(zip(paths, shares, strict=True)):
        fresh = len(path) - common
        parts = -(-fresh // QUERIES)
        for part in range(parts):
            start, stop = common + fresh * part // parts, common + fresh * (part + 1) // parts
            buckets[-(-stop // KEYS)].append((b, start, stop))
    home = torch.empty(sum(map(len, paths)) - sum(shares), dtype=torch.int64)
    blocks, cells = [], 0
    for _, ranges in sorted(buckets.items()):
        block = _pad(paths, ranges)
        width = block.queries.shape[1]
        for q, (b, start, stop) in enumerate(ranges):
            home[paths[b][start] : paths[b][stop - 1] + 1] = torch.arange(cells + q * width, cells + q * width + stop - start)
        blocks.append(block)
        cells += block.queries.numel()
    return tuple(blocks), home


def _pad(paths: Sequence[Sequence[int]], ranges: list[tuple[int, int, int]]) -> Blocks:
    width = max(stop - start for _, start, stop in ranges)
    length = max(stop for _, _, stop in ranges)
    queries = [[*paths[b][start:stop], *[0] * (width - stop + start)] for b, start, stop in ranges]
    keys = [[*paths[b][:stop], *[0] * (length - stop)] for b, _, stop in ranges]
    starts = torch.tensor([start for _, start, _ in ranges])[:, None]
    stops = torch.tensor([stop for _, _, stop in ranges])[:, None]
    position = starts + torch.arange(width)
    last_seen = torch.where(position < stops, position, 0)
    hidden = torch.arange(length) > last_seen[:, :, None]
    mask = torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf"))
    return Blocks(torch.tensor(queries), torch.tensor(keys), mask[:, None])
