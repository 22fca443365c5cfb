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

    Values are permuted among scenarios of the same family and skin, so that each is shown as often as it occurs. A seat that
    finds none there but its own borrows from another skin; it keeps its own only where no scenario of the family has others
    that its instructions can hold. Everything but that one text is unchanged.

    Example:
        >>> versions = with_shuffled_values(scenarios, seed=0)
        >>> versions[3][1].seats[1].instructions == scenarios[3].seats[1].instructions
        False
    """
    versions: list[dict[int, Scenario]] = [{} for _ in scenarios]
    pools: dict[tuple[str, int], list[int]] = defaultdict(list)
    for number, scenario in enumerate(scenarios):
        for seat in range(len(scenario.seats)):
            pools[scenario.family, seat].append(number)
    for (family, seat), numbers in sorted(pools.items()):
        rng = Random(f"sparring/shuffled/{family}/{seat}/{seed}")
        for number, private in zip(numbers, _deal_out([scenarios[n] for n in numbers], seat, rng), strict=True):
            versions[number][seat] = _showing(scenarios[number], seat, private)
    return [tuple(version[seat] for seat in sorted(version)) for version in versions]


def _deal_out(pool: list[Scenario], seat: int, rng: Random) -> list[dict[str, Any]]:
    """The values that each scenario of a family shows: a permutation within its skin, else a loan, else its own."""
    skins: dict[str, list[int]] = defaultdict(list)
    for number, scenario in enumerate(pool):
        skins[scenario.skin].append(number)
    shown = [scenario.seats[seat].private for scenario in pool]
    for _, numbers in sorted(skins.items()):
        donors = _permute([pool[number] for number in numbers], seat, rng)
        for number, donor in zip(numbers, donors, strict=True):
            loans = [donor] if donor else [s for s in pool if _fits(pool[number], seat, s.seats[seat].private)]
            if loans:
                shown[number] = rng.choice(loans).seats[seat].private
    return shown


def _permute(pool: list[Scenario], seat: int, rng: Random) -> list[Scenario | None]:
    """Whose values each scenario of a skin shows: a random cycle, mended by swaps; `None` where that finds nobody."""
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
    return [pool[donor[i]] if fits(i, donor[i]) else None for i in range(len(pool))]


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
