"""Numbered series of instances: which seeds a family, a split and a series number stand for."""

from __future__ import annotations

from collections.abc import Iterator

from sparring.scenarios import registry
from sparring.scenarios.errors import ScenarioError
from sparring.scenarios.family import Split
from sparring.scenarios.scenario import Scenario

SERIES = 1_000_000
"""Seeds of one series: instance i of series s has seed s * SERIES + i."""


def series(family: str, count: int, *, seed: int = 0, split: Split = "train", skin: str | None = None) -> Iterator[Scenario]:
    """The first `count` instances of series `seed`: the same on every machine, and none shares its seed with another series.

    Raises `ScenarioError` for a family, a skin or a count that there is not.

    Example:
        >>> [scenario.seed for scenario in series("haggle", 3, seed=7)]
        [7000000, 7000001, 7000002]
    """
    if not 1 <= count <= SERIES:
        raise ScenarioError(f"a series has 1 to {SERIES} instances, not {count}: take another seed for more")
    found = registry.get(family)
    return (found.generate(seed * SERIES + i, split, skin) for i in range(count))
