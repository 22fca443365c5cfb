"""The families by name."""

from __future__ import annotations

from functools import cache
from typing import Any

from sparring.scenarios.errors import ScenarioError
from sparring.scenarios.family import Family


@cache
def _families() -> dict[str, Family[Any, Any]]:
    from sparring.scenarios.families.auction import Auction
    from sparring.scenarios.families.dilemma import Dilemma
    from sparring.scenarios.families.haggle import Haggle
    from sparring.scenarios.families.split import Split

    found: tuple[Family[Any, Any], ...] = (Haggle(), Split(), Dilemma(), Auction())
    return {family.name: family for family in found}


def names() -> tuple[str, ...]:
    """The families' names, in the order of the documentation."""
    return tuple(_families())


def get(name: str) -> Family[Any, Any]:
    """The family called `name`. Raises `ScenarioError` listing the families there are."""
    if name not in _families():
        raise ScenarioError(f"no family is called {name!r}: choose from {', '.join(names())}")
    return _families()[name]
