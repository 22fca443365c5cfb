"""One against one: points by halves, from both orders."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sparring.rollout.errors import BudgetError, RolloutError
from sparring.rollout.judging.evaluation import Match, MatchResult, compare_entries
from sparring.rollout.judging.judge import Comparison, Judgement, Preference
from sparring.rollout.judging.panel import Member, Panel
from sparring.scenarios.contests.contest import Criterion

ARGUMENT, CLARITY = Criterion(name="argument", question="?", weight=3.0), Criterion(name="clarity", question="?")


def compare(matches: list[Match], *judges: Any, **options: Any) -> list[MatchResult]:
    return asyncio.run(compare_entries(matches, Panel(tuple(Member(judge) for judge in judges)), **options))


def match(lab: Any, policy: str, comparison: str, criteria: tuple[Criterion, ...] = (ARGUMENT,), group: str = "g") -> Match:
    return Match(
        group=group,
        policy=lab.entry(policy, empty=not policy),
        comparison=lab.entry(comparison, empty=not comparison),
        criteria=criteria,
    )


def test_points(lab: Any) -> None:
    judge = lab.FakeJudge(lab.longest)
    texts = [("xx", "x"), ("x", "xx"), ("ab", "cd"), ("x", "x"), ("", "x"), ("x", ""), ("", "")]
    results = compare([match(lab, *pair) for pair in texts], judge)
    assert [result.points for result in results] == [1.0, 0.0, 0.5, 0.5, 0.0, 1.0, 0.5]
    assert [len(result.judgements) for result in results] == [2, 2, 2, 0, 0, 0, 0] and len(judge.asked) == 6
    assert {(j.first, j.second) for j in results[0].judgements} == {("policy", "comparison"), ("comparison", "policy")}


def test_a_judge_that_prefers_a_place_gives_half(lab: Any) -> None:
    (result,) = compare([match(lab, "xx", "x")], lab.FakeJudge(lab.first_always))
    assert (result.points, result.value) == (0.5, 0.0)


def test_a_panel_decides_by_weight_and_a_failure_is_no_result(lab: Any) -> None:
    def by_criterion(comparison: Comparison) -> Preference:
        found = Preference(lab.longest(comparison))
        return found if comparison.criterion.name == "argument" else found.swapped

    (result,) = compare([match(lab, "xx", "x", (ARGUMENT, CLARITY))], lab.FakeJudge(by_criterion))
    assert (result.points, result.value) == (1.0, 0.5)
    (down,) = compare([match(lab, "xx", "x")], lab.FakeJudge(lab.failing))
    assert (down.points, down.value) == (None, None) and [j.preference for j in down.judgements] == [None, None]
    (other,) = compare([match(lab, "xx", "x")], lab.FakeJudge(lab.failing), lab.FakeJudge(lab.longest, "up"))
    assert other.points == 1.0


def test_what_ends_a_run(lab: Any) -> None:
    def spent(comparison: Comparison) -> Preference:
        raise BudgetError("spent")

    with pytest.raises(BudgetError):
        compare([match(lab, "xx", "x", group=str(n)) for n in range(5)], lab.FakeJudge(spent))
    with pytest.raises(RolloutError, match="concurrency"):
        compare([], lab.FakeJudge(lab.longest), concurrency=0)
    kept: list[Judgement] = []
    compare([match(lab, "xx", "x")], lab.FakeJudge(lab.longest), on_judgement=kept.append)
    assert len(kept) == 2
