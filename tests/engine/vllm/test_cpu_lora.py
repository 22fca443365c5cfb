"""LoRA by groups against one row at a time in float64, and as the stand-in for vLLM's own method."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sparring.engine.vllm.cpu_lora import GroupedLora, add_lora, group_rows

NUM_SLOTS, RANK, COLUMNS = 4, 3, 5
WIDTHS = {"plain": (6,), "packed": (4, 2, 2), "two": (7, 7)}
BATCHES = {
    "mixed": [0, -1, 2, 0, 3, -1, 1, 2, 3],
    "one slot": [2] * 9,
    "last slot and none": [-1, 3, 3, -1, 3, -1, -1, -1, 3],
    "none": [-1] * 9,
    "one row": [1],
    "one row without": [-1],
}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def stacked(widths: tuple[int, ...]) -> tuple[list[Tensor], list[Tensor]]:
    a = [draw(NUM_SLOTS, 1, RANK, COLUMNS, seed=part) for part in range(len(widths))]
    return a, [draw(NUM_SLOTS, 1, width, RANK, seed=10 + part) for part, width in enumerate(widths)]


def row_by_row(y: Tensor, x: Tensor, slots: list[int], a: list[Tensor], b: list[Tensor]) -> Tensor:
    """y_n += B_s (A_s x_n), s the row's slot."""
    wanted = y.double()
    for n, slot in enumerate(slots):
        if slot >= 0:
            wanted[n] += torch.cat(
                [bs[slot, 0].double() @ (as_[slot, 0].double() @ x[n].double()) for as_, bs in zip(a, b, strict=True)]
            )
    return wanted


@pytest.mark.parametrize("widths", WIDTHS.values(), ids=list(WIDTHS))
@pytest.mark.parametrize("slots", BATCHES.values(), ids=list(BATCHES))
def test_every_row_gets_its_own_slots_adapter(slots: list[int], widths: tuple[int, ...]) -> None:
    """fp32 against float64: 1e-5. Rows without an adapter stay as they are, bit for bit."""
    a, b = stacked(widths)
    y, x = draw(len(slots), sum(widths), seed=20), draw(len(slots), COLUMNS, seed=21)
    before, wanted = y.clone(), row_by_row(y, x, slots, a, b)
    add_lora(y, x, group_rows(torch.tensor(slots)), a, b, widths)
    assert torch.allclose(y.double(), wanted, atol=1e-5, rtol=0)
    without = torch.tensor(slots) < 0
    assert torch.equal(y[without], before[without])
    assert not torch.equal(y, before) or bool(without.all())


def test_rows_are_grouped_by_slot() -> None:
    groups = group_rows(torch.tensor([3, -1, 0, 3]))
    assert [(slot, rows.tolist()) for slot, rows in groups if rows is not None] == [(0, [2]), (3, [0, 3])]
    assert group_rows(torch.tensor([2, 2])) == [(2, None)]
    assert group_rows(torch.tensor([-1, -1])) == []
    assert group_rows(torch.tensor([], dtype=torch.long)) == []


class Wrapper:
    """What of vLLM's punica wrapper is used."""

    def __init__(self) -> None:
        self.token_lora_indices = torch.tensor([])

    def update_metadata(self, slots: list[int]) -> None:
        self.token_lora_indices = torch.tensor(slots)

    def add_lora_linear(self, *_: Any, **__: Any) -> None:
        raise AssertionError("vLLM's own way is taken")


def test_it_takes_the_place_of_the_wrappers_method_and_follows_each_batch() -> None:
    wrapper = Wrapper()
    GroupedLora(wrapper)
    a, b = stacked((4, 2))
    for slots in ([0, 1, -1], [3, 3, 3], [-1, 2, 0]):
        wrapper.update_metadata(slots)
        for seed in range(2):  # several layers of one forward pass
            y, x = draw(1, 3, 6, seed=seed), draw(1, 3, COLUMNS, seed=30 + seed)
            wanted = row_by_row(y[0], x[0], slots, a, b)
            wrapper.add_lora_linear(y, x, tuple(a), tuple(b), 1.0, (4, 2), buffers=None)
            assert torch.allclose(y[0].double(), wanted, atol=1e-5, rtol=0)
