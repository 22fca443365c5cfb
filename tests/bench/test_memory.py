"""`peak_bytes` on calls whose needs are known."""

from __future__ import annotations

import pytest
import torch

from sparring.bench.memory import peak_bytes

FLOAT = 4


def test_what_is_freed_makes_room() -> None:
    def one_after_the_other() -> None:
        for _ in range(3):
            torch.zeros(1000)

    def at_once() -> list[torch.Tensor]:
        return [torch.zeros(1000) for _ in range(3)]

    assert peak_bytes(one_after_the_other) == 1000 * FLOAT
    assert peak_bytes(at_once) == 3 * 1000 * FLOAT


def test_temporaries_of_an_operator_and_of_its_backward_count() -> None:
    x = torch.ones(1000, requires_grad=True)

    def work() -> None:
        x.grad = None
        (x.exp() * 2).sum().backward()

    assert peak_bytes(work) >= 3 * 1000 * FLOAT  # exp's result, kept for its gradient; the product; a gradient


def test_what_lived_before_does_not_count() -> None:
    before = torch.zeros(100_000)
    assert peak_bytes(lambda: before.add_(1)) < 1000
    assert peak_bytes(lambda: None) == 0


@pytest.mark.parametrize("rows", [1, 7])
def test_the_matrix_product_needs_its_result(rows: int) -> None:
    left, right = torch.ones(rows, 64), torch.ones(64, 32)
    assert peak_bytes(lambda: left @ right) == pytest.approx(rows * 32 * FLOAT, abs=64)
