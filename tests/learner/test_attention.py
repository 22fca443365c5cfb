"""Attention in blocks: query heads stacked on the key head they share, and masks made once for all layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from sparring.learner import attention
from sparring.learner.attention import attend, path_mask
from sparring.learner.batch import Batch, pack
from sparring.learner.blocks import ALIGNED, stacked_heads
from sparring.learner.learner import Learner
from sparring.rollout.trajectory import Trajectory

CPU = torch.device("cpu")


@pytest.fixture
def batch(trajectories: list[Trajectory]) -> Batch:
    zeros = [0.0] * len(trajectories)
    (packed,) = pack(trajectories, zeros, zeros, token_budget=10_000)
    return packed


def as_on_a_gpu(_: str, num_heads: int, num_kv_heads: int) -> int:
    return stacked_heads("cuda", num_heads, num_kv_heads)


def outputs_and_gradients(batch: Batch, heads: tuple[int, int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(batch.num_rows, h, 8, generator=generator, requires_grad=True) for h in (heads[0], heads[1], heads[1])]
    out = attend(*rows, batch.blocks, batch.home)
    out.backward(torch.randn(out.shape, generator=generator))  # type: ignore[no-untyped-call]
    return [out.detach(), *(x.grad for x in rows if x.grad is not None)]


@pytest.mark.parametrize("heads", [(6, 6), (6, 2), (7, 1)])
def test_stacked_heads_equal_shared_ones(heads: tuple[int, int], batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = outputs_and_gradients(batch, heads)
    monkeypatch.setattr(attention, "stacked_heads", as_on_a_gpu)
    stacked = outputs_and_gradients(batch.to(CPU), heads)
    for one, other in zip(shared, stacked, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_stacked_heads_equal_a_dense_mask(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "stacked_heads", as_on_a_gpu)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(batch.num_rows, h, 8, generator=generator) for h in (6, 2, 2))
    key_6, value_6 = key.repeat_interleave(3, dim=1), value.repeat_interleave(3, dim=1)
    score = torch.einsum("ihd,jhd->hij", query, key_6) / 8**0.5
    weights = score.masked_fill(~path_mask(batch)[0], float("-inf")).softmax(-1)
    torch.testing.assert_close(
        attend(query, key, value, batch.blocks, batch.home), torch.einsum("hij,jhd->ihd", weights, value_6), atol=1e-6, rtol=1e-5
    )


def test_only_a_gpu_stacks_heads() -> None:
    """Qwen2.5-7B's 28 query and 4 key heads."""
    assert stacked_heads("cuda", 28, 4) == 7
    assert stacked_heads("cpu", 28, 4) == 1


@pytest.mark.parametrize("stacked", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mask_hides_what_follows(batch: Batch, dtype: torch.dtype, stacked: int) -> None:
    for block in batch.blocks:
        mask = block.mask(dtype, stacked)
        (num_blocks, num_queries), num_keys = block.queries.shape, block.keys.shape[1]
        assert (mask.dtype, mask.shape) == (dtype, (num_blocks, 1, stacked * num_queries, num_keys))
        seen = mask.unflatten(2, (stacked, num_queries)) == 0
        assert torch.equal(seen.sum(-1), (block.last + 1)[:, None, None].expand(-1, -1, stacked, -1))
        assert bool((seen[..., 1:] <= seen[..., :-1]).all())
        assert all(stride % ALIGNED == 0 for stride in mask.stride()[:-1]), "PyTorch would copy it for each layer"
        assert mask.untyped_storage().nbytes() == stacked * dtype.itemsize * block.mask_cells


def test_masks_are_made_once_for_all_layers_and_go_with_the_batch(
    base: PreTrainedModel, batch: Batch, warm: Callable[..., Learner], monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    own = torch.nn.functional.scaled_dot_product_attention

    def watch(*args: Any, **kwargs: Any) -> torch.Tensor:
        used.append(args[3])
        return own(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watch)
    learner = warm(base)
    learner.forward_backward(batch)
    layers = len(used) // len(batch.blocks)
    assert layers == base.config.num_hidden_layers == 2
    assert {id(mask) for mask in used[: len(batch.blocks)]}.isdisjoint(id(m) for m in used[len(batch.blocks) :])  # trimmed
    monkeypatch.setattr("sparring.learner.decoder.TRIMMED", frozenset[str]())
    used.clear()
    learner.forward_backward(batch)
    assert len(used) == 2 * len(batch.blocks)
    assert len({id(mask) for mask in used}) == len(batch.blocks)
    assert not any(block._masks for block in (*batch.blocks, *batch.last_blocks))
