"""Votes on a pair: both orders, weights, and members that fall out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparring.rollout.errors import RolloutError
from sparring.rollout.judging.judge import Preference
from sparring.rollout.judging.panel import LOST, TIED, WON, Member, Panel, Share, both_orders, combine, ordered_value
from sparring.scenarios.contests.contest import Criterion

FIRST, SECOND, TIE = Preference.FIRST, Preference.SECOND, Preference.TIE
HALF_WON = Share(0.5, 0.5, 0.0)
ORDERS = {
    (FIRST, SECOND): WON,
    (SECOND, FIRST): LOST,
    (TIE, TIE): TIED,
    (FIRST, FIRST): TIED,
    (SECOND, SECOND): TIED,
    (FIRST, TIE): HALF_WON,
    (TIE, SECOND): HALF_WON,
    (SECOND, TIE): HALF_WON.swapped,
    (TIE, FIRST): HALF_WON.swapped,
}


@pytest.mark.parametrize("orders", ORDERS)
def test_both_orders_count_half_each_and_a_flip_is_a_tie(orders: tuple[Preference, Preference]) -> None:
    assert both_orders(*orders) == ORDERS[orders]
    assert both_orders(orders[0], None) is None and both_orders(None, orders[1]) is None


def test_who_votes_on_what(lab: Any) -> None:
    funny, clear = Criterion(name="funny", question="?", weight=3.0), Criterion(name="clear", question="?")
    one, other = lab.FakeJudge(lab.coin, "one"), lab.FakeJudge(lab.coin, "other")
    panel = Panel((Member(one), Member(other, 2.0, ("clear",))))
    votes = [(vote.judge.name, vote.criterion.name, vote.weight) for vote in panel.votes((funny, clear))]
    assert votes == [("one", "funny", 3.0), ("one", "clear", 1.0), ("other", "clear", 2.0)]
    with pytest.raises(RolloutError, match=r"no judge takes any of this contest's criteria \(funny\)"):
        Panel((Member(other, 2.0, ("clear",)),)).votes((funny,))


def test_the_weighted_mean_of_those_who_voted() -> None:
    assert ordered_value([(1.0, FIRST), (3.0, SECOND)]) == -0.5
    assert ordered_value([(1.0, FIRST), (3.0, None)]) == 1.0
    assert ordered_value([(1.0, FIRST), (2.0, TIE), (1.0, TIE)]) == 0.25
    assert ordered_value([(1.0, None)]) is None
    assert combine([(1.0, WON), (3.0, LOST)]) == Share(0.25, 0.0, 0.75)
    assert combine([(1.0, WON), (3.0, None), (1.0, TIED)]) == Share(0.5, 0.5, 0.0)
    assert combine([(1.0, None), (2.0, None)]) is None and combine([]) is None


PREFERENCES = st.one_of(st.none(), st.sampled_from(list(Preference)))
VOTES = st.lists(st.tuples(st.floats(0.01, 100), PREFERENCES, PREFERENCES), max_size=6)


@given(VOTES)
def test_shares_add_up_and_swapping_swaps(votes: list[tuple[float, Preference | None, Preference | None]]) -> None:
    there = combine((weight, both_orders(a, b)) for weight, a, b in votes)
    back = combine((weight, both_orders(b, a)) for weight, a, b in votes)
    if there is None or back is None:
        assert there is back is None
        return
    assert there.win + there.tie + there.loss == pytest.approx(1.0) and min(there.win, there.tie, there.loss) >= 0.0
    assert there.value == pytest.approx(-back.value) and -1.0 <= there.value <= 1.0
    both = [(weight, a, b) for weight, a, b in votes if a is not None and b is not None]
    forth, reverse = ordered_value((w, a) for w, a, _ in both), ordered_value((w, b) for w, _, b in both)
    assert forth is not None and reverse is not None and there.value == pytest.approx((forth - reverse) / 2)
