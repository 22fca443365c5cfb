"""How one step's tokens lie in memory: packed rows, what attends to what, and which weights apply where.

Built in numpy from the cache's table, once per step; `decoder.py` computes it. Decides nothing about which rows run.

Axes: N packed tokens, R rows, K kv heads, G query heads per kv head, T cached tokens, Q queries, M rows that get logits.

Example: rows with 1, 1 and 3 new tokens, one version of the weights:
    tokens     [ a | b | c0 c1 c2 ]
    decode     rows a, b                      (num_decode = 2)
    prefill    one bucket: start 2, stop 5, num_rows 1, num_queries 3
    last       [0, 1, 4]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparring.engine.embedded.kv_cache import KVCache

W = TypeVar("W")
Ints = NDArray[np.int64]

_WORTH_A_VIEW = 2
"""Attend over a view of up to this many times the busy slots: copying a slot costs about as much as attending to it."""
_SLACK = 8
"""Rows share a prefill bucket if the largest has at most this many tokens more than half again of the smallest."""


class Segment(NamedTuple, Generic[W]):
    """Rows start to stop see these weights."""

    start: int
    stop: int
    weights: W


class DecodeRows(NamedTuple):
    """Rows with one new token each."""

    num_rows: int
    """Slots attended over: idle ones included where they are a range."""
    num_tokens: int
    slots: Tensor | slice
    """A range to view, or, where few of many are busy, slots to copy together."""
    scatter: Tensor | None
    """Which of the slots attended over is each row's; `None` if they are the same, in order."""
    mask: Tensor
    """[num_rows * K, 1, T]: 0 or -inf."""


class PrefillRows(NamedTuple):
    """A bucket of rows with about the same number of new tokens."""

    start: int
    stop: int
    num_rows: int
    num_queries: int
    num_tokens: int
    slots: Tensor | slice
    pad: Tensor | None
    """[R * Q] into the bucket's tokens; `None` if all rows have Q."""
    unpad: Tensor | None
    """Where the bucket's tokens are in R * Q."""
    mask: Tensor
    """[R, 1, G * Q, T]: 0 or -inf."""


class Layout(NamedTuple, Generic[W]):
    """One step. Decode rows come first."""

    ids: Tensor
    """[N]"""
    positions: Tensor
    """[N]"""
    cache_rows: Tensor
    """[N * K]: where each token's keys and values go, in the cache seen as [S * K * C, D]."""
    segments: list[Segment[W]]
    num_decode: int
    decode: DecodeRows | None
    prefill: list[PrefillRows]
    last: Tensor
    """[M] into N."""
    last_segments: list[Segment[W]]
    last_slots: Ints
    """[M], on the host: whose logits these are."""
    slots: Ints
    counts: Ints


def lay_out(cache: KVCache, slots_R: Ints, counts_R: Ints, weights: Mapping[int, W], group: int) -> Layout[W]:
    """Packs the next `counts_R` tokens (at least 1) of these busy slots, whose versions are keys of `weights`."""
    is_prefill_R = counts_R > 1
    contexts_R = cache.num_computed[slots_R] + counts_R
    size_R = np.where(is_prefill_R, np.ceil(np.log2(counts_R)), 0)
    order = np.lexsort((slots_R, np.where(is_prefill_R, contexts_R, 0), cache.version[slots_R], size_R))
    slots_R, counts_R, contexts_R = slots_R[order], counts_R[order], contexts_R[order]
    ends_R = counts_R.cumsum()
    starts_R = ends_R - counts_R
    slots_N = np.repeat(slots_R, counts_R)
    positions_N = np.arange(int(ends_R[-1])) + np.repeat(contexts_R - ends_R, counts_R)
    num_kv_heads = cache.shape[3]
    cache_rows_NK = (slots_N[:, None] * num_kv_heads + np.arange(num_kv_heads)) * cache.capacity + positions_N[:, None]
    num_decode = int(len(slots_R) - is_prefill_R.sum())
    is_last_R = contexts_R == cache.num_known[slots_R]
    versions_R = cache.version[slots_R]

    def put(array: Ints) -> Tensor:
        return torch.from_numpy(array).to(cache.device, non_blocking=True)

    return Layout(
        ids=put(cache.ids[slots_N, positions_N]),
        positions=put(positions_N),
        cache_rows=put(cache_rows_NK.reshape(-1)),
        segments=_segments(versions_R, starts_R, ends_R, weights),
        num_decode=num_decode,
        decode=_decode_rows(cache, slots_R[:num_decode], contexts_R[:num_decode]) if num_decode else None,
        prefill=[
            _prefill_rows(cache, slots_R[a:b], counts_R[a:b], contexts_R[a:b], int(starts_R[a]), group)
            for a, b in _buckets(counts_R, contexts_R, num_decode)
        ],
        last=put((ends_R - 1)[is_last_R]),
        last_segments=_segments(versions_R[is_last_R], np.arange(is_last_R.sum()), np.arange(is_last_R.sum()) + 1, weights),
        last_slots=slots_R[is_last_R],
        slots=slots_R,
        counts=counts_R,
    )


def _segments(versions_R: Ints, starts_R: Ints, ends_R: Ints, weights: Mapping[int, W]) -> list[Segment[W]]:
    if not len(versions_R):
        return []
    first = np.flatnonzero(np.diff(versions_R, prepend=-2))
    last = np.append(first[1:], len(versions_R)) - 1
    return [Segment(int(starts_R[a]), int(ends_R[b]), weights[int(versions_R[a])]) for a, b in zip(first, last, strict=True)]


def _decode_rows(cache: KVCache, slots_R: Ints, contexts_R: Ints) -> DecodeRows:
    num_tokens = int(contexts_R.max())
    first, stop = int(slots_R.min()), int(slots_R.max()) + 1
    slots: Tensor | slice = slice(first, stop)
    scatter = None
    visible = contexts_R
    if stop - first > _WORTH_A_VIEW * len(slots_R):
        slots = torch.from_numpy(slots_R).to(cache.device)
    elif not np.array_equal(slots_R, np.arange(first, stop)):
        visible = np.ones(stop - first, np.int64)
        visible[slots_R - first] = contexts_R
        scatter = torch.from_numpy(slots_R - first).to(cache.device)
    mask = _bias(visible[:, None] - 1, num_tokens, cache).repeat_interleave(cache.shape[3], dim=0)
    return DecodeRows(len(visible), num_tokens, slots, scatter, mask)


def _buckets(counts_R: Ints, contexts_R: Ints, num_decode: int) -> list[tuple[int, int]]:
    """Ranges of prefill rows that are padded together: alike in new tokens and in context."""
    bounds = []
    start = num_decode
    for row in range(num_decode, len(counts_R)):
        count_R, context_R = counts_R[start : row + 1], contexts_R[start : row + 1]
        if any(int(x_R.max()) > 1.5 * int(x_R.min()) + _SLACK for x_R in (count_R, context_R)):
            bounds.append((start, row))
            start = row
    return [*bounds, (start, len(counts_R))] if start < len(counts_R) else bounds


def _prefill_rows(cache: KVCache, slots_R: Ints, counts_R: Ints, contexts_R: Ints, start: int, group: int) -> PrefillRows:
    num_rows, num_queries = len(slots_R), int(counts_R.max())
    query_RQ = np.minimum(np.arange(num_queries), counts_R[:, None] - 1)
    pad = unpad = None
    if int(counts_R.min()) < num_queries:
        first_R = counts_R.cumsum() - counts_R
        pad = torch.from_numpy((first_R[:, None] + query_RQ).reshape(-1)).to(cache.device)
        unpad = torch.from_numpy(np.flatnonzero((np.arange(num_queries) < counts_R[:, None]).reshape(-1))).to(cache.device)
    num_tokens = int(contexts_R.max())
    bias = _bias((contexts_R - counts_R)[:, None] + query_RQ, num_tokens, cache)
    slot = int(slots_R[0])
    return PrefillRows(
        start=start,
        stop=start + int(counts_R.sum()),
        num_rows=num_rows,
        num_queries=num_queries,
        num_tokens=num_tokens,
        slots=slice(slot, slot + 1) if num_rows == 1 else torch.from_numpy(slots_R).to(cache.device),
        pad=pad,
        unpad=unpad,
        mask=bias[:, None].repeat(1, 1, group, 1),
    )


def _bias(last_RQ: Ints, num_tokens: int, cache: KVCache) -> Tensor:
    """[R, Q, T]: 0 up to and with each query's last visible position, -inf beyond."""
    hidden = torch.arange(num_tokens, device=cache.device) > torch.from_numpy(last_RQ).to(cache.device)[..., None]
    return torch.zeros(hidden.shape, dtype=cache.dtype, device=cache.device).masked_fill_(hidden, float("-inf"))
