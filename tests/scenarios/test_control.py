"""The shuffled-values control changes one seat's text, to values of the same pool, and nothing that the referee reads."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from sparring.scenarios import registry
from sparring.scenarios.control import with_shuffled_values
from sparring.scenarios.scenario import Scenario


def held_out(family: str, count: int) -> list[Scenario]:
    return [registry.get(family).generate(seed, "seed") for seed in range(count)]


@pytest.mark.parametrize("family", registry.names())
def test_one_seat_reads_values_of_another_instance(family: str) -> None:
    scenarios = held_out(family, 40)
    for scenario, versions in zip(scenarios, with_shuffled_values(scenarios, seed=3), strict=True):
        assert len(versions) == len(scenario.seats)
        for seat, version in enumerate(versions):
            assert (version.public, version.tags, version.seed) == (scenario.public, scenario.tags, scenario.seed)
            assert [s.private for s in version.seats] == [s.private for s in scenario.seats]
            changed = [i for i, s in enumerate(scenario.seats) if s.instructions != version.seats[i].instructions]
            alone = sum(len(s.seats) > seat for s in scenarios) == 1
            assert changed == ([] if alone else [seat])


@pytest.mark.parametrize("family", registry.names())
def test_values_are_permuted_within_the_skin(family: str) -> None:
    """Each shown text is what the family writes for another scenario's values; each of these is shown as often as it occurs."""
    scenarios, kind, permuted = held_out(family, 60), registry.get(family), 0
    versions = with_shuffled_values(scenarios, seed=1)
    for skin in {s.skin for s in scenarios}:
        mine = [i for i, s in enumerate(scenarios) if s.skin == skin]
        values = {str(private): private for private in (scenarios[i].seats[0].private for i in mine)}
        shown: Counter[str | None] = Counter()
        for i in mine:
            public = msgspec.convert(scenarios[i].public, kind.public_type)
            texts = {
                kind.instructions(public, msgspec.convert(private, kind.private_type), 0, scenarios[i].seat_names): name
                for name, private in values.items()
                if same_shape(scenarios[i], private)
            }
            shown[texts.get(versions[i][0].seats[0].instructions)] += 1
        if None not in shown:  # nobody had to borrow
            permuted += 1
            assert shown == Counter(str(scenarios[i].seats[0].private) for i in mine)
    assert permuted


def same_shape(scenario: Scenario, private: dict[str, object]) -> bool:
    return len(str(scenario.seats[0].private).split(",")) == len(str(private).split(","))


def test_seeded() -> None:
    scenarios = held_out("haggle", 30)
    assert with_shuffled_values(scenarios, seed=1) == with_shuffled_values(scenarios, seed=1)
    assert with_shuffled_values(scenarios, seed=1) != with_shuffled_values(scenarios, seed=2)


def test_a_scenario_alone_in_its_skin_borrows_from_another() -> None:
    alone, *others = held_out("haggle", 30)
    others = [s for s in others if s.skin != alone.skin]
    (version, *_), *rest = with_shuffled_values([alone, *others], seed=0)
    assert version.seats[0].instructions != alone.seats[0].instructions
    assert str(alone.seats[0].private["limit"]) not in version.seats[0].instructions.replace("from 0 to 99", "")
    assert [v[0] for v in rest] != others


def test_a_scenario_without_company_keeps_its_values() -> None:
    scenarios = held_out("haggle", 1)
    assert with_shuffled_values(scenarios, seed=0) == [(scenarios[0], scenarios[0])]
    assert with_shuffled_values(scenarios * 2, seed=0) == [(scenarios[0], scenarios[0])] * 2
    assert with_shuffled_values([], seed=0) == []
