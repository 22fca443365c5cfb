"""The families by name: games that a referee decides, and contests that a judge does."""

from __future__ import annotations

from functools import cache
from typing import Any

from sparring.scenarios.errors import ScenarioError
from sparring.scenarios.family import Family


@cache
def _games() -> dict[str, Family[Any, Any]]:
    from sparring.scenarios.families.auction import Auction
    from sparring.scenarios.families.dilemma import Dilemma
    from sparring.scenarios.families.haggle import Haggle
    from sparring.scenarios.families.split import Split

    found: tuple[Family[Any, Any], ...] = (Haggle(), Split(), Dilemma(), Auction())
    return {family.name: family for family in found}


@cache
def _contests() -> dict[str, Family[Any, Any]]:
    from sparring.scenarios.contests.comedy import Comedy
    from sparring.scenarios.contests.debate import Debate, DebateRounds
    from sparring.scenarios.contests.recipes import Recipes

    found: tuple[Family[Any, Any], ...] = (Debate(), DebateRounds(), Comedy(), Recipes())
    return {contest.name: contest for contest in found}


def names() -> tuple[str, ...]:
    """The names of the families whose outcome can be verified, in the order of the documentation."""
    return tuple(_games())


def contests() -> tuple[str, ...]:
    """The names of the contests: families whose outcome a judge decides, each a `Contest`."""
    return tuple(_contests())


def get(name: str) -> Family[Any, Any]:
    """The family or contest called `name`. Raises `ScenarioError` listing those there are."""
    found = _games().get(name) or _contests().get(name)
    if found is None:
        raise ScenarioError(f"no family is called {name!r}: choose from {', '.join((*names(), *contests()))}")
    return found
