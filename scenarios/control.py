"""The shuffled-values control: seats that read another instance's private values, under a referee that keeps the true ones.

A policy that gains as much on these has learned a habit, not to use what it was told.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from random import Random
from typing import Any

import msgspec

from sparring.scenarios import registry
from sparring.scenarios.errors import ScenarioError
from sparring.scenarios.scenario import Scenario


def with_shuffled_values(scenarios: Sequence[Scenario], seed: int) -> list[tuple[Scenario, ...]]:
    """For each scenario one version a seat: in version i, the instructions of seat i show values of another scenario's seat i.

    Values are permuted among scenarios of the same family and skin, so that each is shown as often as it occurs; no seat reads
    its own where there is another that its instructions can hold. Everything but that one text is unchanged.

    Example:
        >>> versions = with_shuffled_values(scenarios, seed=0)
        >>> versions[3][1].seats[1].instructions == scenarios[3].seats[1].instructions
        False
    """
    versions: list[dict[int, Scenario]] = [{} for _ in scenarios]
    pools: dict[tuple[str, str, int], list[int]] = defaultdict(list)
    for number, scenario in enumerate(scenarios):
        for seat in range(len(scenario.seats)):
            pools[scenario.family, scenario.skin, seat].append(number)
    for (family, skin, seat), numbers in sorted(pools.items()):
        pool = [scenarios[number] for number in numbers]
        donors = _deal_out(pool, seat, Random(f"sparring/shuffled/{family}/{skin}/{seat}/{seed}"))
        for number, scenario, donor in zip(numbers, pool, donors, strict=True):
            versions[number][seat] = _showing(scenario, seat, donor.seats[seat].private)
    return [tuple(version[seat] for seat in sorted(version)) for version in versions]


def _deal_out(pool: list[Scenario], seat: int, rng: Random) -> list[Scenario]:
    """Whose values each scenario of the pool shows: a random permutation, mended by swaps, its own where none fits."""
    order = rng.sample(range(len(pool)), len(pool))
    donor = {taker: order[i - 1] for i, taker in enumerate(order)}

    def fits(taker: int, giver: int) -> bool:
        return _fits(pool[taker], seat, pool[giver].seats[seat].private)

    for taker in order:
        if fits(taker, donor[taker]):
            continue
        swaps = (other for other in order if fits(taker, donor[other]) and fits(other, donor[taker]))
        other = next(swaps, taker)
        donor[taker], donor[other] = donor[other], donor[taker]
    return [pool[donor[i] if fits(i, donor[i]) else i] for i in range(len(pool))]


def _fits(scenario: Scenario, seat: int, private: dict[str, Any]) -> bool:
    """Whether the values differ from the seat's own and make a table that the family could have dealt."""
    if scenario.seats[seat].private == private:
        return False
    seats = list(scenario.seats)
    seats[seat] = msgspec.structs.replace(seats[seat], private=private)
    try:
        registry.get(scenario.family).setup(msgspec.structs.replace(scenario, seats=tuple(seats)))
    except ScenarioError:
        return False
    return True


def _showing(scenario: Scenario, seat: int, private: dict[str, Any]) -> Scenario:
    family, seats = registry.get(scenario.family), list(scenario.seats)
    shown, public = msgspec.convert(private, family.private_type), msgspec.convert(scenario.public, family.public_type)
    text = family.instructions(public, shown, seat, scenario.seat_names)
    seats[seat] = msgspec.structs.replace(seats[seat], instructions=text)
    return msgspec.structs.replace(scenario, seats=tuple(seats))
