"""Intervals and agreement against published values and other implementations."""

from __future__ import annotations

from random import Random

import pytest
from scipy.stats import binomtest

from sparring.engine.evaluation.statistics import wilson
from sparring.rollout.judging.agreement import Rate, kappa


@pytest.mark.parametrize(("hits", "trials"), [(0, 5), (1, 7), (9, 20), (14, 20), (50, 50), (448, 896)])
@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_wilson_against_scipy(hits: int, trials: int, confidence: float) -> None:
    other = binomtest(hits, trials).proportion_ci(confidence, "wilson")
    assert Rate(hits, trials).interval(confidence) == pytest.approx((other.low, other.high), abs=1e-12)
    house = wilson(hits, trials, confidence)
    assert Rate(hits, trials).interval(confidence) == pytest.approx((house.low, house.high), abs=1e-12)


def test_nothing_tried() -> None:
    assert Rate(0, 0).value == 0.0 and Rate(0, 0).interval() == (0.0, 1.0) and Rate(3, 4).value == 0.75


def test_kappa_of_a_textbook_table() -> None:
    # Cohen's formula on 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: observed 0.7, chance 0.5.
    answers = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    assert kappa([a for a, _ in answers], [b for _, b in answers]) == pytest.approx(0.4)


def test_kappa_at_its_ends() -> None:
    rng = Random(1)
    answers = [rng.choice("abc") for _ in range(20_000)]
    assert kappa(answers, answers) == 1.0
    assert kappa(answers, [rng.choice("abc") for _ in answers]) == pytest.approx(0.0, abs=0.02)
    assert kappa("ab" * 10, "ba" * 10) == -1.0
    assert kappa([], []) is None and kappa("aaa", "aaa") is None and kappa("aaa", "bbb") == 0.0
