"""A checksum of a tensor's bits that is the same on every device: what tells weights apart without copying them to the CPU.

Not cryptographic: it finds accidents, not forgeries.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors

WORD = 8
"""Bytes of a word. An int64 product for each 4-byte element would take twice the memory and twice the time."""
PIECE = 1 << 20
"""Elements of a piece: few launches on a GPU; on a CPU, where fresh memory is what costs, temporaries that are used again."""
_GOLDEN, _MIX1, _MIX2 = -7046029254386353131, -4658895280553007687, -7723592293110705685
"""The constants of SplitMix64 (Steele, Lea and Flood, 2014), as signed 64-bit integers."""


class Survey(NamedTuple):
    """What one pass over some tensors finds."""

    checksums: list[int]
    """One for each piece of about `PIECE` elements. Equal for equal tensors in equal order."""
    largest: float
    """The largest magnitude; NaN where there is one."""


def checksum(tensor: Tensor) -> Tensor:
    """An int64 scalar on the tensor's device: sum of words_i * w_i modulo 2^64, with pseudo-random odd weights w_i.

    A word is 8 bytes of the tensor, laid row by row; the last one is filled up with zeros. The sum depends on the value and the
    place of every element, and not on the device.
    """
    words_N = words(tensor)
    weights_N = _weights(len(words_N), tensor.device)
    if tensor.is_cuda:  # which has no dot product of integers
        return (words_N * weights_N).sum()
    return torch.dot(words_N, weights_N)


def words(tensor: Tensor) -> Tensor:
    """The tensor's bits as int64 [N], row by row, the last word filled up with zeros: two tensors are equal to the last bit where
    these are."""
    flat = tensor.detach().contiguous().flatten()
    missing = -flat.nbytes % WORD // flat.element_size()
    if missing or flat.data_ptr() % WORD:
        flat = torch.cat([flat, flat.new_zeros(missing)])
    return flat.view(torch.int64)


def checksums(tensors: Sequence[Tensor]) -> list[int]:
    """Of the tensors laid end to end, one for each piece: few launches for many small tensors, and one synchronisation."""
    found = [checksum(piece) for piece in joined(tensors)]
    return torch.stack(found).tolist() if found else []


def survey(tensors: Sequence[Tensor]) -> Survey:
    """`checksums` and the largest magnitude together."""
    sums, ends = list[Tensor](), list[Tensor]()
    for piece in joined(tensors):
        sums.append(checksum(piece))
        ends += piece.aminmax()
    if not sums:
        return Survey([], 0.0)
    magnitudes = [abs(end) for end in torch.stack(ends).tolist()]
    return Survey(torch.stack(sums).tolist(), math.nan if any(map(math.isnan, magnitudes)) else max(magnitudes))


def joined(tensors: Sequence[Tensor], *, limit: int = PIECE) -> Iterator[Tensor]:
    """Tensors of one dtype and device, each row by row, in flat pieces [N] as `spans` cuts them; a piece may be a tensor's own
    memory."""
    with torch.no_grad():
        for span in spans(tensors, limit=limit):
            yield _flatten_dense_tensors(tensors[span])


def spans(tensors: Sequence[Tensor], *, limit: int = PIECE) -> Iterator[slice]:
    """Neighbours that lie end to end in one piece: as many as it takes to have `limit` elements."""
    start = size = 0
    for i, tensor in enumerate(tensors):
        size += tensor.numel()
        if size >= limit:
            yield slice(start, i + 1)
            start, size = i + 1, 0
    if start < len(tensors):
        yield slice(start, len(tensors))


def _weights(length: int, device: torch.device) -> Tensor:
    return _power_of_two_weights(1 << max(0, length - 1).bit_length(), device)[:length]


@lru_cache(maxsize=32)
def _power_of_two_weights(length: int, device: torch.device) -> Tensor:
    """SplitMix64 of 1, 2, ...; integer arithmetic wraps around alike on every device. `>>` fills with the sign here, which a
    mask takes away."""
    x = torch.arange(1, length + 1, dtype=torch.int64, device=device) * _GOLDEN
    x = (x ^ (x >> 30 & (1 << 34) - 1)) * _MIX1
    x = (x ^ (x >> 27 & (1 << 37) - 1)) * _MIX2
    return (x ^ (x >> 31 & (1 << 33) - 1)) | 1
