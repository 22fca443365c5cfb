"""Held-out topics of contests: which instances an evaluation is made of, and which of them are one topic.

Owns the choice alone. Who writes and who judges is `contest.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sparring.engine.contests import find_family
from sparring.engine.errors import EvaluationError
from sparring.scenarios.contests.answer import fold
from sparring.scenarios.contests.contest import Contest
from sparring.scenarios.family import Split
from sparring.scenarios.scenario import Scenario

DRAWS = 24
"""Instances looked at for each topic, to find every side of it."""


def held_out_topics(
    families: Sequence[str], count: int, *, split: Split = "seed", seed: int = 0, topics: Mapping[str, str] | None = None
) -> list[Scenario]:
    """At most `count` instances of a split, spread evenly over the contests: every side of a topic before the next topic.

    A contest with fewer gives all that it has. The same ones on every machine. `topics` are files of further topics, by contest.
    """
    found: list[Scenario] = []
    for number, name in enumerate(families):
        share = count // len(families) + (number < count % len(families))
        found += _every_side(find_contest(name, topics), split, seed)[:share]
    return found


def _every_side(contest: Contest[Any, Any], split: Split, seed: int) -> list[Scenario]:
    first = seed * 1_000_000
    drawn = [contest.generate(at, split) for at in range(first, first + DRAWS * len(contest.topics(split)))]
    names = topics_of(drawn)
    sides: dict[str, dict[tuple[str, ...], Scenario]] = {}
    for scenario in drawn:
        sides.setdefault(names[scenario.id], {}).setdefault(scenario.seat_names, scenario)
    return [scenario for own in sides.values() for scenario in own.values()]


def topics_of(scenarios: Sequence[Scenario]) -> dict[str, str]:
    """Scenario id to topic: one name for all instances of a topic, in whatever order they list its parts."""
    names: dict[tuple[str, str], str] = {}
    found: dict[str, str] = {}
    for scenario in scenarios:
        contest = find_contest(scenario.family)
        subject = contest.subject(contest.setup(scenario).public)
        parts = " ".join(sorted(fold(subject).split()))
        found[scenario.id] = names.setdefault((scenario.family, parts), subject)
    return found


def find_contest(name: str, topics: Mapping[str, str] | None = None) -> Contest[Any, Any]:
    """The contest of that name. Raises `EvaluationError` for a family that a referee decides."""
    contest = find_family(name, topics)
    if not isinstance(contest, Contest):
        raise EvaluationError(f"{name} is no contest: a referee decides it")
    return contest
