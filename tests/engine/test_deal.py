"""Dealing: a pure function of settings and step, in whole groups, over every family."""

from __future__ import annotations

from collections import Counter

import msgspec

from sparring.engine.config import RunConfig
from sparring.engine.deal import deal
from sparring.scenarios import registry

CONFIG = RunConfig(scenarios_per_step=8, games_per_scenario=3)


def test_the_same_step_deals_the_same_games_and_another_step_or_seed_others() -> None:
    assert deal(CONFIG, 4) == deal(CONFIG, 4)
    assert not {d.seed for d in deal(CONFIG, 4)} & {d.seed for d in deal(CONFIG, 5)}
    other = msgspec.structs.replace(CONFIG, seed=1)
    assert {d.scenario.id for d in deal(CONFIG, 4)} != {d.scenario.id for d in deal(other, 4)}


def test_the_games_of_a_scenario_form_one_group_of_different_games() -> None:
    deals = deal(CONFIG, 0)
    groups = Counter((d.scenario.id, d.trained_seats, tuple(sorted(d.players.items()))) for d in deals)
    assert set(groups.values()) == {3}
    assert len(groups) == 8
    assert len({d.seed for d in deals}) == len({d.id for d in deals}) == 24


def test_families_take_turns_also_where_a_step_does_not_hold_all_of_them() -> None:
    odd = msgspec.structs.replace(CONFIG, scenarios_per_step=3, games_per_scenario=2)
    dealt = [d.scenario.family for step in range(4) for d in deal(odd, step)[::2]]
    assert dealt == [*registry.names()] * 3


def test_scenarios_are_of_the_training_split_and_partners_never_the_unseen_one() -> None:
    for d in deal(msgspec.structs.replace(CONFIG, scenarios_per_step=40), 0):
        family = registry.get(d.scenario.family)
        assert int(d.scenario.id[:4], 16) % 8 != 0
        assert d.scenario.skin not in family.held_out_skins
        assert f"script:{family.unseen_partner}" not in d.players.values()
        assert len(d.trained_seats) == 1


def test_in_self_play_every_seat_is_trained() -> None:
    alone = msgspec.structs.replace(CONFIG, partners=("policy",))
    assert all(set(d.trained_seats) == set(d.scenario.seat_names) for d in deal(alone, 0))
