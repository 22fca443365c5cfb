"""Intervals against scipy, the bootstrap against what it must do, and Holm against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from sparring.engine.errors import EvaluationError
from sparring.engine.evaluation.statistics import Difference, Wins, cluster, holm, paired_difference, wilson, within_noise


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.8, 0.95, 0.99]))
@settings(max_examples=60, deadline=None)
def test_wilson_is_scipys(counts: tuple[int, int], confidence: float) -> None:
    wins, games = counts
    expected = binomtest(wins, games).proportion_ci(confidence, method="wilson")
    found = wilson(wins, games, confidence)
    assert found.low == pytest.approx(expected.low, abs=1e-9)
    assert found.high == pytest.approx(expected.high, abs=1e-9)
    assert wins / games in found


def test_wilson_of_the_documentations_examples() -> None:
    assert [round(100 * end) for end in (wilson(9, 20).low, wilson(9, 20).high)] == [26, 66]
    assert [round(100 * end) for end in (wilson(14, 20).low, wilson(14, 20).high)] == [48, 85]
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)
    assert wilson(0, 5).low == 0.0
    assert wilson(5, 5).high == 1.0
    with pytest.raises(EvaluationError, match="between 0 and games"):
        wilson(3, 2)


wins = st.integers(1, 6).flatmap(lambda n: st.builds(Wins, st.integers(0, n), st.just(n)))
pairs = st.lists(st.tuples(wins, wins), min_size=1, max_size=30)


def sides(drawn: list[tuple[Wins, Wins]]) -> tuple[dict[str, Wins], dict[str, Wins]]:
    return {str(i): b for i, (b, _) in enumerate(drawn)}, {str(i): t for i, (_, t) in enumerate(drawn)}


@given(pairs, st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_difference_is_seeded_bounded_and_turns_round(drawn: list[tuple[Wins, Wins]], seed: int) -> None:
    baseline, trained = sides(drawn)
    found = paired_difference(baseline, trained, seed=seed, resamples=200)
    assert found == paired_difference(dict(reversed(baseline.items())), trained, seed=seed, resamples=200)
    assert -1 <= found.low <= found.win_rate <= found.high <= 1
    assert 0 < found.p_value <= 1
    rate = [sum(s.wins for s in side.values()) / sum(s.games for s in side.values()) for side in (baseline, trained)]
    assert found.win_rate == pytest.approx(rate[1] - rate[0], abs=1e-12)
    turned = paired_difference(trained, baseline, seed=seed, resamples=200)
    assert (turned.win_rate, turned.low, turned.high) == pytest.approx((-found.win_rate, -found.high, -found.low), abs=1e-12)


@given(pairs, st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_a_policy_compared_with_itself_is_within_noise(drawn: list[tuple[Wins, Wins]], seed: int) -> None:
    baseline, _ = sides(drawn)
    found = paired_difference(baseline, baseline, seed=seed, resamples=100)
    assert (found.win_rate, found.low, found.high, found.p_value) == (0, 0, 0, 1)
    assert within_noise(found)


def test_bootstrap_has_the_spread_of_the_cluster_mean() -> None:
    """With equal cluster sizes the interval is that of the mean of the clusters' paired differences."""
    rng = np.random.default_rng(5)
    before, after = rng.integers(0, 5, 300), rng.integers(0, 5, 300)
    baseline = {f"{i:03}": Wins(float(k), 4) for i, k in enumerate(before)}
    trained = {f"{i:03}": Wins(float(k), 4) for i, k in enumerate(after)}
    found = paired_difference(baseline, trained, seed=1, resamples=8000)
    reach = 1.96 * np.std((after - before) / 4) / np.sqrt(300)
    assert found.win_rate == pytest.approx((after - before).mean() / 4)
    assert found.high - found.win_rate == pytest.approx(reach, rel=0.06)
    assert found.win_rate - found.low == pytest.approx(reach, rel=0.06)


def test_clustering_widens_the_interval() -> None:
    """Ten copies of every game are no new evidence: the interval stays, where independent games would shrink it."""
    rng = np.random.default_rng(2)
    single = [{str(i): Wins(float(rng.random() < p), 1) for i in range(100)} for p in (0.4, 0.6)]
    copied = [{key: Wins(10 * w.wins, 10) for key, w in side.items()} for side in single]
    once, tenfold = paired_difference(*single), paired_difference(*copied)
    assert (once.low, once.high) == pytest.approx((tenfold.low, tenfold.high))


def test_coverage_is_near_nominal() -> None:
    rng = np.random.default_rng(11)
    hits = 0
    for trial in range(200):
        skill = rng.random(60)  # scenarios differ in difficulty; the trained side wins 10 points more often
        baseline = {f"{i:02}": Wins(float(rng.binomial(4, 0.1 + 0.6 * s)), 4) for i, s in enumerate(skill)}
        trained = {f"{i:02}": Wins(float(rng.binomial(4, 0.2 + 0.6 * s)), 4) for i, s in enumerate(skill)}
        found = paired_difference(baseline, trained, seed=trial, resamples=400)
        hits += found.low <= 0.1 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_difference_refuses_what_is_not_paired() -> None:
    with pytest.raises(EvaluationError, match="scenario b was played by one side only"):
        paired_difference({"a": Wins(1, 1)}, {"a": Wins(1, 1), "b": Wins(0, 1)})
    for empty in ({}, {"a": Wins(0, 0)}):
        with pytest.raises(EvaluationError, match="at least one scenario"):
            paired_difference(empty, empty)


def test_a_scenario_without_games_on_one_side_is_tolerated() -> None:
    found = paired_difference({"a": Wins(0, 2), "b": Wins(0, 0)}, {"a": Wins(2, 2), "b": Wins(1, 1)}, resamples=100)
    assert (found.win_rate, found.low, found.high) == (1, 1, 1)


@pytest.mark.parametrize(
    ("low", "high", "noise"), [(-0.1, 0.2, True), (0.0, 0.2, True), (0.01, 0.2, False), (-0.2, -0.01, False)]
)
def test_within_noise(low: float, high: float, noise: bool) -> None:
    assert within_noise(Difference(win_rate=(low + high) / 2, low=low, high=high, p_value=0.5)) is noise


def test_holm_of_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.5))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values: list[float], alpha: float) -> None:
    ordered = sorted(p_values)
    kept = next((i for i, p in enumerate(ordered) if p * (len(ordered) - i) > alpha), len(ordered))
    adjusted = holm(p_values)
    assert sorted(a <= alpha for a in adjusted) == [False] * (len(ordered) - kept) + [True] * kept
    assert all(a >= p for a, p in zip(adjusted, p_values, strict=True))


def test_cluster_counts_games_by_scenario() -> None:
    assert cluster([("a", 1), ("b", 0), ("a", 0)]) == {"a": Wins(1, 2), "b": Wins(0, 1)}
