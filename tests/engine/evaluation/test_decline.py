"""Stopping on held-out decline: a real fall stops, noise hardly ever does, and the step to go back to is the best one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from sparring.engine.errors import EvaluationError
from sparring.engine.evaluation.decline import DeclineConfig, HeldOut, decline
from sparring.engine.evaluation.statistics import Wins

TOPICS, GAMES = 40, 8


def history(rates: Sequence[float], seed: int, topics: int = TOPICS) -> list[HeldOut]:
    """Evaluations of a policy with these win rates; topics differ in difficulty, games in luck."""
    rng = np.random.default_rng(seed)
    hard = rng.normal(0, 0.1, size=topics)
    found = []
    for at, rate in enumerate(rates):
        wins = rng.binomial(2 * GAMES, np.clip(rate + hard, 0, 1)) / 2
        found.append(HeldOut(step=40 * (at + 1), topics={f"t{n}": Wins(float(w), GAMES) for n, w in enumerate(wins)}))
    return found


def stops_at(evaluations: Sequence[HeldOut], config: DeclineConfig | None = None) -> int | None:
    """How many evaluations it took to stop, looking after each."""
    return next((n for n in range(1, len(evaluations) + 1) if decline(evaluations[:n], config).stop), None)


def test_a_flat_sequence_is_stopped_in_less_than_one_run_of_twenty() -> None:
    fired = [stops_at(history([0.6] * 12, seed)) is not None for seed in range(200)]
    assert sum(fired) <= 10


def test_a_flat_sequence_over_few_topics_is_stopped_as_rarely() -> None:
    fired = [stops_at(history([0.8] * 12, seed, topics=7)) is not None for seed in range(200)]
    assert sum(fired) <= 10


def test_a_policy_that_still_learns_goes_on() -> None:
    assert all(stops_at(history(np.linspace(0.4, 0.9, 12), seed)) is None for seed in range(40))


def test_a_collapse_is_seen_within_a_few_evaluations_and_its_peak_is_named() -> None:
    """A comedy run that climbs to its peak at the fourth evaluation and falls apart."""
    rates = [0.5, 0.62, 0.74, 0.85, 0.65, 0.5, 0.45, 0.4]
    for seed in range(40):
        evaluations = history(rates, seed)
        stopped = stops_at(evaluations)
        assert stopped is not None
        assert stopped <= 8
        found = decline(evaluations[:stopped])
        assert found.best_step == 160
        assert found.drop > 0.1
        assert found.p_value < found.threshold
        assert "points or more from the" in found.text
        assert "of step 160" in found.text


def test_one_bad_evaluation_is_not_a_decline_where_patience_asks_for_three() -> None:
    rates = [0.8, 0.8, 0.55, 0.8, 0.8]
    assert stops_at(history(rates, 3), DeclineConfig(patience=3)) is None
    assert stops_at(history([0.8, 0.8, 0.4, 0.4, 0.4], 3), DeclineConfig(patience=3)) == 5


def test_too_short_a_history_says_only_which_was_best() -> None:
    assert decline([]).best_step == -1
    two = history([0.9, 0.1], 0)
    found = decline(two)
    assert (found.stop, found.best_step, found.best) == (False, 40, two[0].win_rate)
    assert found.text == f"best so far at step 40: {two[0].win_rate:.1%}"


def test_the_best_step_is_the_best_of_all_also_among_the_latest() -> None:
    assert decline(history([0.3, 0.5, 0.6, 0.9], 1)).best_step == 160


def test_an_equal_fall_in_every_topic_stops_and_no_fall_at_all_does_not() -> None:
    def level(step: int, wins: float) -> HeldOut:
        return HeldOut(step=step, topics={f"t{n}": Wins(wins, 4) for n in range(20)})

    assert decline([level(1, 4.0), level(2, 2.0), level(3, 2.0)]).stop
    still = decline([level(1, 4.0), level(2, 4.0), level(3, 4.0)])
    assert (still.stop, still.drop, still.best_step) == (False, 0.0, 1)


def test_topics_without_games_are_left_out_and_other_topics_refused() -> None:
    empty = HeldOut(step=1, topics={"a": Wins(0.0, 0), "b": Wins(2.0, 2)})
    assert not decline([empty, empty, empty]).stop
    assert decline([empty]).best == 1.0
    other = HeldOut(step=2, topics={"a": Wins(0.0, 1)})
    with pytest.raises(EvaluationError, match="steps 1 and 2 are of different topics"):
        decline([empty, other])
