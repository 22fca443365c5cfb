"""Group advantages against numpy, and the edges where peers go wrong."""

from __future__ import annotations

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparring.kernels.group_advantage import Variant, group_advantage

VARIANTS: tuple[Variant, ...] = ("grpo", "dr_grpo", "rloo")


def expected(rewards: list[float], variant: Variant, eps: float) -> numpy.ndarray:
    r = numpy.array(rewards)
    n = len(r)
    if n == 1 or (r == r[0]).all():
        return numpy.zeros(n)
    d = r - r.mean()
    return {"grpo": d / (r.std(ddof=1) + eps), "dr_grpo": d, "rloo": d * n / (n - 1)}[variant]


@given(
    st.lists(st.tuples(st.integers(0, 4), st.floats(-3, 3).map(lambda x: round(x, 3))), min_size=1, max_size=30),
    st.sampled_from(VARIANTS),
)
def test_ragged_groups_match_numpy(pairs: list[tuple[int, float]], variant: Variant) -> None:
    groups = torch.tensor([group for group, _ in pairs])
    rewards = torch.tensor([reward for _, reward in pairs], dtype=torch.float64)
    found = group_advantage(rewards, groups, variant=variant, eps=1e-4)
    for group in groups.unique():
        mine = groups == group
        numpy.testing.assert_allclose(found[mine], expected(rewards[mine].tolist(), variant, 1e-4), atol=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_equal_rewards_are_exactly_zero(variant: Variant) -> None:
    """Eight rewards of 0.7 have a rounded mean: mean/std with eps gave 0.056."""
    found = group_advantage(torch.full((8,), 0.7), torch.zeros(8, dtype=torch.int64), variant=variant, eps=0.0)
    assert found.tolist() == [0.0] * 8


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_group_of_one_is_zero(variant: Variant) -> None:
    found = group_advantage(torch.tensor([1.0, -1.0, 1.0]), torch.tensor([7, 3, 3]), variant=variant)
    assert found[0] == 0.0 and found[1] == -found[2] != 0.0


def test_a_small_spread_beside_a_large_mean_is_seen() -> None:
    """sum of squares minus n mean^2 in fp32 returns 0 here."""
    rewards = torch.tensor([1000.0, 1000.0001220703125])
    found = group_advantage(rewards, torch.zeros(2, dtype=torch.int64), eps=0.0)
    torch.testing.assert_close(found, torch.tensor([-(0.5**0.5), 0.5**0.5]))


def test_arguments_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="both be"):
        group_advantage(torch.zeros(3), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="choose one of grpo, dr_grpo, rloo"):
        group_advantage(torch.zeros(2), torch.zeros(2, dtype=torch.int64), variant="median")  # type: ignore[arg-type]
    assert group_advantage(torch.zeros(0), torch.zeros(0, dtype=torch.int64)).shape == (0,)
