"""A checksum of a tensor's bits that is the same on every device: what tells weights apart without copying them to the CPU.

Not cryptographic: it finds accidents, not forgeries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_GOLDEN, _MIX1, _MIX2 = -7046029254386353131, -4658895280553007687, -7723592293110705685
"""The constants of SplitMix64 (Steele, Lea and Flood, 2014), as signed 64-bit integers."""


def checksum(tensor: Tensor) -> Tensor:
    """An int64 scalar on the tensor's device: sum of bits_i * w_i modulo 2^64, with pseudo-random odd weights w_i.

    It depends on the value and the place of every element, and not on the device. No copy of the tensor is made where it is
    contiguous, beside an int64 one of the product.
    """
    bits_N = tensor.detach().contiguous().flatten().view(_INTEGERS[tensor.element_size()])
    return (bits_N * _weights(len(bits_N), tensor.device)).sum()


def checksums(tensors: Sequence[Tensor]) -> list[int]:
    """Of the tensors laid end to end, one for about every 4M elements: few launches for many small tensors, and one
    synchronisation of the device. Equal for equal tensors in equal order."""
    found = [checksum(chunk) for chunk in joined(tensors)]
    return torch.stack(found).tolist() if found else []


def joined(tensors: Sequence[Tensor], *, limit: int = 1 << 22) -> Iterator[Tensor]:
    """Tensors of one dtype and device in flat pieces [N]: neighbours are laid end to end until a piece has `limit` elements."""
    held: list[Tensor] = []
    size = 0
    for tensor in tensors:
        held.append(tensor.detach().reshape(-1))
        size += tensor.numel()
        if size >= limit:
            yield torch.cat(held)
            held, size = [], 0
    if held:
        yield torch.cat(held)


@lru_cache(maxsize=32)
def _weights(length: int, device: torch.device) -> Tensor:
    """SplitMix64 of 1, 2, ...; integer arithmetic wraps around alike on every device. `>>` fills with the sign here, which a
    mask takes away."""
    x = torch.arange(1, length + 1, dtype=torch.int64, device=device) * _GOLDEN
    x = (x ^ (x >> 30 & (1 << 34) - 1)) * _MIX1
    x = (x ^ (x >> 27 & (1 << 37) - 1)) * _MIX2
    return (x ^ (x >> 31 & (1 << 33) - 1)) | 1
