"""Draws against direct formulas, row by row."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparring.engine.embedded.token_sampling import draw, uniforms


def drawn(logits: Tensor, temperature: float, top_p: float, uniform: float) -> tuple[int, float]:
    columns = torch.tensor([[temperature], [top_p], [uniform]], dtype=torch.float64)
    ids, logprobs = draw(logits[None], *columns)
    return int(ids[0]), float(logprobs[0])


def nucleus(logits: list[float], temperature: float, top_p: float) -> list[tuple[int, float]]:
    """Ids and renormalised masses of the nucleus, likeliest first, written as the definition reads."""
    weights = [math.exp((x - max(logits)) / temperature) for x in logits]
    masses = [w / sum(weights) for w in weights]
    ranked = sorted(range(len(logits)), key=lambda i: (-masses[i], i))
    kept: list[int] = []
    while not kept or math.fsum(masses[i] for i in kept) < top_p:
        kept.append(ranked[len(kept)])
    total = math.fsum(masses[i] for i in kept)
    return [(i, masses[i] / total) for i in kept]


@given(
    logits=st.lists(st.integers(-40, 40), min_size=2, max_size=30, unique=True),
    temperature=st.sampled_from([0.3, 1.0, 2.5]),
    top_p=st.sampled_from([0.05, 0.5, 0.9, 0.999]),
    uniform=st.floats(0, 1, exclude_max=True),
)
def test_a_nucleus_draw_inverts_the_renormalised_nucleus(
    logits: list[int], temperature: float, top_p: float, uniform: float
) -> None:
    values = [x / 8 for x in logits]
    expected = nucleus(values, temperature, top_p)
    cumulative = np.cumsum([mass for _, mass in expected])
    index = min(int(np.searchsorted(cumulative, uniform, side="right")), len(expected) - 1)
    token, logprob = drawn(torch.tensor(values), temperature, top_p, uniform)
    if np.abs(cumulative - uniform).min() > 1e-9:
        assert token == expected[index][0]
    assert token in {i for i, _ in expected}
    assert logprob == pytest.approx(torch.log_softmax(torch.tensor(values).double() / temperature, -1)[token].item(), abs=1e-12)


def test_draws_follow_the_softmax() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    num = 20_000
    uniform = torch.from_numpy(uniforms(np.full(num, 3, np.uint64), np.arange(num, dtype=np.uint64)))
    ones = torch.ones(num, dtype=torch.float64)
    ids, _ = draw(logits.expand(num, 4), ones, ones, uniform)
    expected = torch.softmax(logits.double(), -1) * num
    chi_square = ((torch.bincount(ids, minlength=4) - expected) ** 2 / expected).sum().item()
    assert chi_square < 16.3  # 0.999 quantile of chi-square with 3 degrees of freedom


def test_greedy_is_the_argmax_with_the_unscaled_log_prob() -> None:
    logits = torch.tensor([0.5, 2.0, 2.0, -3.0])
    token, logprob = drawn(logits, 0.0, 0.5, 0.99)
    assert token == 1
    assert logprob == pytest.approx(torch.log_softmax(logits.double(), -1)[1].item(), abs=1e-12)


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-52])
def test_a_token_of_zero_mass_is_never_drawn(uniform: float) -> None:
    token, _ = drawn(torch.tensor([-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]), 1.0, 1.0, uniform)
    assert token in (1, 3)


def test_rows_do_not_influence_each_other() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 100, generator=generator) * 3
    temperature = torch.tensor([0.0, 0.5, 1.0, 1.7], dtype=torch.float64).repeat(16)
    top_p = torch.tensor([1.0, 1.0, 0.7, 1.0, 0.2], dtype=torch.float64).repeat(13)[:64]
    uniform = torch.rand(64, dtype=torch.float64, generator=generator)
    ids, logprobs = draw(logits, temperature, top_p, uniform)
    for row in range(64):
        one = slice(row, row + 1)
        alone = draw(logits[one], temperature[one], top_p[one], uniform[one])
        assert int(ids[row]) == int(alone[0])
        assert logprobs[row] == pytest.approx(float(alone[1]), abs=1e-12)


def test_uniforms_depend_on_seed_and_draw_alone_and_are_uniform() -> None:
    seeds = np.repeat(np.arange(200, dtype=np.uint64), 100)
    draws = np.tile(np.arange(100, dtype=np.uint64), 200)
    values = uniforms(seeds, draws)
    assert values.min() >= 0
    assert values.max() < 1
    assert len(np.unique(values)) == len(values)
    assert np.array_equal(values[::-7], uniforms(seeds[::-7], draws[::-7]))
    assert abs(values.mean() - 0.5) < 4 / math.sqrt(12 * len(values))
    grid = values.reshape(200, 100)
    assert abs(np.corrcoef(grid[:-1].ravel(), grid[1:].ravel())[0, 1]) < 0.03
    assert abs(np.corrcoef(grid[:, :-1].ravel(), grid[:, 1:].ravel())[0, 1]) < 0.03
