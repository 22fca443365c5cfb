"""The checksum against a plain Python sum modulo 2^64, and what it must tell apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparring.kernels.checksum import checksum, checksums, joined, survey, words


def reference(values: np.ndarray) -> int:
    """SplitMix64 in unsigned Python integers."""
    total, mask = 0, (1 << 64) - 1
    data = values.tobytes()
    words = np.frombuffer(data + bytes(-len(data) % 8), np.int64)
    for i, bits in enumerate(words.tolist(), start=1):
        x = i * 0x9E3779B97F4A7C15 & mask
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & mask
        x = (x ^ x >> 27) * 0x94D049BB133111EB & mask
        total = total + bits * (x ^ x >> 31 | 1) & mask
    return total - (1 << 64) if total >= 1 << 63 else total


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1,), (7, 13), (256, 3)])
def test_it_is_the_weighted_sum(dtype: type, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    assert int(checksum(torch.from_numpy(values))) == reference(values)


def test_a_piece_of_a_tensor_counts_as_itself() -> None:
    """A view that does not begin at a whole word has no words of its own."""
    tensor = torch.arange(8, dtype=torch.float32)
    assert int(checksum(tensor[1:4])) == int(checksum(tensor[1:4].clone()))
    assert words(tensor[1:4]).tolist() == words(torch.tensor([1.0, 2.0, 3.0, 0.0])).tolist()


@pytest.mark.parametrize("value", [-3.0, 2.0, float("nan"), float("-inf")])
def test_a_survey_finds_the_largest_magnitude(value: float) -> None:
    tensors = [torch.ones(3), torch.tensor([[0.5, value]])]
    assert survey(tensors).checksums == checksums(tensors)
    assert survey(tensors).largest == pytest.approx(abs(value), nan_ok=True)
    assert survey([]) == ([], 0.0)


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=40), st.data())
def test_a_changed_bit_or_a_swap_changes_it(values: list[float], data: st.DataObject) -> None:
    tensor = torch.tensor(values, dtype=torch.float32)
    i = data.draw(st.integers(0, len(values) - 1))
    flipped = tensor.clone()
    flipped.view(torch.int32)[i] ^= 1 << data.draw(st.integers(0, 31))
    assert int(checksum(flipped)) != int(checksum(tensor))
    j = data.draw(st.integers(0, len(values) - 1))
    swapped = tensor.clone()
    swapped[[i, j]] = tensor[[j, i]]
    same = torch.equal(swapped.view(torch.int32), tensor.view(torch.int32))
    assert (int(checksum(swapped)) == int(checksum(tensor))) == same


def test_layout_does_not_matter_and_minus_zero_does() -> None:
    tensor = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    assert int(checksum(tensor.T)) == int(checksum(tensor.T.contiguous()))
    assert checksums([tensor[:2], tensor[2:]]) == [int(checksum(tensor))]
    assert int(checksum(torch.tensor([0.0]))) != int(checksum(torch.tensor([-0.0])))
    assert checksums([]) == []


def test_pieces_hold_every_element_once_and_in_order() -> None:
    tensors = [torch.arange(n, dtype=torch.float32) + 100 * n for n in (3, 0, 8, 2, 1)]
    pieces = list(joined(tensors, limit=5))
    assert [len(piece) for piece in pieces] == [11, 3]
    assert torch.equal(torch.cat(pieces), torch.cat(tensors))
