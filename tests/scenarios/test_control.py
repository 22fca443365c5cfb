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
            alone = sum(s.skin == scenario.skin and len(s.seats) > seat for s in scenarios) == 1
            assert changed == ([] if alone else [seat])


@pytest.mark.parametrize("family", registry.names())
def test_values_are_permuted_within_the_skin(family: str) -> None:
    """Each shown text is what the family would write for some scenario's values, and each scenario's values are shown once."""
    scenarios, kind = held_out(family, 40), registry.get(family)
    versions = with_shuffled_values(scenarios, seed=1)
    for skin in {s.skin for s in scenarios}:
        numbers = [i for i, s in enumerate(scenarios) if s.skin == skin]
        shown: Counter[int] = Counter()
        for i in numbers:
            public = msgspec.convert(scenarios[i].public, kind.public_type)
            for j in numbers:
                private = msgspec.convert(scenarios[j].seats[0].private, kind.private_type)
                text = kind.instructions(public, private, 0, scenarios[i].seat_names)
                shown[j] += text == versions[i][0].seats[0].instructions
        own = Counter(str(scenarios[i].seats[0].private) for i in numbers)
        given = Counter(
            {value: sum(shown[i] > 0 for i in numbers if str(scenarios[i].seats[0].private) == value) for value in own}
        )
        assert given == own


def test_seeded() -> None:
    scenarios = held_out("haggle", 30)
    assert with_shuffled_values(scenarios, seed=1) == with_shuffled_values(scenarios, seed=1)
    assert with_shuffled_values(scenarios, seed=1) != with_shuffled_values(scenarios, seed=2)


def test_a_scenario_without_company_keeps_its_values() -> None:
    scenarios = held_out("haggle", 1)
    assert with_shuffled_values(scenarios, seed=0) == [(scenarios[0], scenarios[0])]
    assert with_shuffled_values(scenarios * 2, seed=0) == [(scenarios[0], scenarios[0])] * 2
    assert with_shuffled_values([], seed=0) == []
