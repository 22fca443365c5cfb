"""Strengths against the likelihood's maximum as a general optimiser finds it, written down from the formula."""

from __future__ import annotations

import math
from itertools import combinations
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize

from sparring.rollout.judging.bradley_terry import PRIOR, fit
from sparring.rollout.judging.panel import LOST, TIED, WON, Share

Pairs = list[tuple[int, int, Share]]


def loss(point: NDArray[np.float64], pairs: Pairs, prior: float) -> float:
    """Davidson's model, each pair by itself: pi_i, nu sqrt(pi_i pi_j), pi_j."""
    strengths, tie = [math.exp(theta) for theta in point[:-1]], math.exp(point[-1])
    total = prior / 2 * sum(value * value for value in point)
    for i, j, share in pairs:
        drawn = tie * math.sqrt(strengths[i] * strengths[j])
        whole = strengths[i] + strengths[j] + drawn
        for part, chance in ((share.win, strengths[i]), (share.tie, drawn), (share.loss, strengths[j])):
            total -= part * math.log(chance / whole)
    return float(total)


def drawn_pairs(rng: Random, count: int) -> Pairs:
    def share() -> Share:
        win, tie = rng.random(), rng.random()
        return rng.choice([WON, TIED, LOST, Share(0.5, 0.5, 0.0), Share(win * (1 - tie), tie, (1 - win) * (1 - tie))])

    return [(i, j, share()) for i, j in combinations(range(count), 2) if rng.random() < 0.7]


@pytest.mark.parametrize(("seed", "count", "prior"), [(0, 3, PRIOR), (1, 5, PRIOR), (2, 8, PRIOR), (3, 5, 1.0), (4, 4, 1e-3)])
def test_the_maximum_of_the_likelihood(seed: int, count: int, prior: float) -> None:
    pairs = drawn_pairs(Random(seed), count)
    found = minimize(loss, np.zeros(count + 1), (pairs, prior), method="BFGS", options={"gtol": 1e-7})
    ours = fit(count, pairs, prior)
    assert ours.theta == pytest.approx(found.x[:-1] - found.x[:-1].mean(), abs=2e-4)
    assert ours.eta == pytest.approx(found.x[-1], abs=2e-4)
    assert loss(np.append(ours.theta, ours.eta), pairs, prior) <= found.fun + 1e-9


def test_two_entries_by_hand() -> None:
    # A win of 0.4, a tie of 0.4, and a prior that vanishes against two thousand copies: the shares themselves.
    strengths = fit(2, [(0, 1, Share(0.4, 0.4, 0.2))] * 2000, prior=1e-5)
    lead = strengths.theta[0] - strengths.theta[1]
    assert math.exp(lead) == pytest.approx(2.0, rel=1e-3) and math.exp(strengths.eta) == pytest.approx(math.sqrt(2), rel=1e-3)
    assert strengths.expected(0, 1) == pytest.approx(0.2, abs=1e-4) and strengths.expected(1, 0) == -strengths.expected(0, 1)


def test_perfect_records_ties_alone_and_strangers_stay_finite() -> None:
    perfect = fit(4, [(i, j, WON) for i, j in combinations(range(4), 2)])
    assert list(perfect.theta) == sorted(perfect.theta, reverse=True) and 1.0 < perfect.theta[0] < 5.0
    assert 0.5 < perfect.expected(0, 3) < 1.0
    even = fit(3, [(i, j, TIED) for i, j in combinations(range(3), 2)])
    assert list(even.theta) == pytest.approx([0.0] * 3, abs=1e-9) and 0.0 < even.eta < 5.0
    apart = fit(5, [(0, 1, WON), (2, 3, LOST)])
    assert apart.theta[0] == pytest.approx(apart.theta[3]) and apart.theta[4] == pytest.approx(0.0, abs=1e-9)
    assert fit(2, []).expected(0, 1) == 0.0


@given(st.integers(0, 10_000), st.integers(2, 12))
def test_renaming_entries_renames_strengths(seed: int, count: int) -> None:
    pairs, names = drawn_pairs(Random(seed), count), Random(seed).sample(range(count), count)
    one, other = fit(count, pairs), fit(count, [(names[j], names[i], share.swapped) for i, j, share in reversed(pairs)])
    assert [other.theta[name] for name in names] == pytest.approx(list(one.theta), abs=1e-7)
    assert other.eta == pytest.approx(one.eta, abs=1e-7)


def test_more_wins_against_the_same_opponents_is_stronger() -> None:
    pairs = [(0, 2, WON), (0, 3, WON), (1, 2, WON), (1, 3, TIED), (2, 3, TIED)]
    strengths = fit(4, pairs)
    assert strengths.theta[0] > strengths.theta[1] > strengths.theta[3] > strengths.theta[2]
