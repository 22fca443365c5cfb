"""Tournaments: every pair in both orders, free pairs without a call, dropped pairs for both, regular pairings."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparring.rollout.errors import BudgetError, CallError
from sparring.rollout.judging.clerk import Clerk
from sparring.rollout.judging.judge import Comparison, Judgement, Preference
from sparring.rollout.judging.panel import Member, Panel
from sparring.rollout.judging.tournament import Contestant, Pairing, Standing, hold, regular_pairs
from sparring.scenarios.contests.contest import Criterion, Entry

FIRST, SECOND, TIE = Preference.FIRST, Preference.SECOND, Preference.TIE
CRITERION = Criterion(name="argument", question="?")


def play(
    entries: Sequence[Entry], *judges: Any, pairing: Pairing = "full", degree: int = 4
) -> tuple[Standing, tuple[Judgement, ...]]:
    votes = Panel(tuple(Member(judge) for judge in judges)).votes((CRITERION,))
    contestants = [Contestant(f"g{number}", entry) for number, entry in enumerate(entries)]

    async def run() -> tuple[Standing, tuple[Judgement, ...]]:
        clerk = Clerk(asyncio.Semaphore(8))
        standing = await hold("group", contestants, votes, clerk, pairing=pairing, degree=degree, seed="s")
        return standing, clerk.judgements

    return asyncio.run(run())


def of_lengths(lab: Any, *lengths: int) -> list[Entry]:
    return [lab.entry("x" * length) for length in lengths]


def test_a_full_round_robin_asks_every_pair_in_both_orders(lab: Any) -> None:
    judge = lab.FakeJudge(lab.longest)
    standing, judgements = play(of_lengths(lab, 3, 1, 4, 2), judge)
    assert standing.scores == (pytest.approx(1 / 3), -1.0, 1.0, pytest.approx(-1 / 3))
    assert len(judge.asked) == 4 * 3
    assert {(j.first, j.second) for j in judgements} == {(f"g{i}", f"g{j}") for i in range(4) for j in range(4) if i != j}
    said = {(j.first, j.second): j.preference for j in judgements}
    assert said["g0", "g1"] is FIRST and said["g1", "g0"] is SECOND
    assert {(j.group, j.judge, j.criterion, j.control) for j in judgements} == {("group", "fake", "argument", "")}


def test_a_judge_that_prefers_a_place_tips_no_pair(lab: Any) -> None:
    standing, judgements = play(of_lengths(lab, 3, 1, 4, 2), lab.FakeJudge(lab.first_always))
    assert standing.scores == (0.0,) * 4 and {j.preference for j in judgements} == {FIRST}


def test_a_win_and_a_tie_are_half_a_win(lab: Any) -> None:
    def answer(comparison: Comparison) -> Preference:
        return FIRST if len(comparison.first) > len(comparison.second) else TIE

    standing, _ = play(of_lengths(lab, 2, 1), lab.FakeJudge(answer))
    assert standing.scores == (0.5, -0.5)


def test_empty_entries_lose_and_equal_ones_tie_without_a_call(lab: Any) -> None:
    judge = lab.FakeJudge(lab.longest)
    entries = [
        lab.entry("", empty=True),
        lab.entry("xx"),
        lab.entry("xx \n"),
        lab.entry("I am an AI", empty=True),
        lab.entry("x"),
    ]
    standing, _ = play(entries, judge)
    # "xx" beats both empty ones and "x", and ties with itself.
    assert standing.scores == (-0.75, 0.75, 0.75, -0.75, 0.0)
    assert len(judge.asked) == 4 and {len(one.first) + len(one.second) for one in judge.asked} == {3, 5}


def test_a_failed_call_drops_its_pair_for_both(lab: Any) -> None:
    def answer(comparison: Comparison) -> Preference:
        if (len(comparison.first), len(comparison.second)) == (1, 3):
            raise CallError("gone")
        return Preference(lab.longest(comparison))

    standing, judgements = play(of_lengths(lab, 1, 2, 3), lab.FakeJudge(answer))
    assert standing.scores == (-1.0, 0.0, 1.0) and standing.dropped == 1
    assert [j.preference for j in judgements].count(None) == 1 and len(judgements) == 6
    assert [(pair.first, pair.second) for pair in standing.pairs if pair.share is None] == [(0, 2)]


def test_a_failed_member_leaves_the_pair_to_the_others(lab: Any) -> None:
    standing, judgements = play(of_lengths(lab, 1, 2), lab.FakeJudge(lab.failing, "down"), lab.FakeJudge(lab.longest, "up"))
    assert standing.scores == (-1.0, 1.0) and standing.dropped == 0
    assert Counter((j.judge, j.preference is None) for j in judgements) == {("down", True): 2, ("up", False): 2}


@pytest.mark.parametrize("pairing", ["full", "regular"])
def test_no_verdict_at_all_is_no_score(pairing: Pairing, lab: Any) -> None:
    standing, _ = play(of_lengths(lab, 1, 2, 3), lab.FakeJudge(lab.failing), pairing=pairing)
    assert standing.scores == (None, None, None) and standing.dropped == 3
    assert play(of_lengths(lab, 1), lab.FakeJudge(lab.longest), pairing=pairing)[0] == Standing((None,), ())
    assert play([], lab.FakeJudge(lab.longest), pairing=pairing)[0] == Standing((), ())


def test_what_ends_a_run_ends_the_tournament_and_leaves_no_task(lab: Any) -> None:
    def answer(comparison: Comparison) -> Preference:
        raise BudgetError("spent")

    async def run() -> int:
        clerk = Clerk(asyncio.Semaphore(2))
        votes = Panel((Member(lab.FakeJudge(answer)),)).votes((CRITERION,))
        with pytest.raises(BudgetError, match="spent"):
            await hold("group", [Contestant(str(n), entry) for n, entry in enumerate(of_lengths(lab, 1, 2, 3))], votes, clerk)
        return len(asyncio.all_tasks())

    assert asyncio.run(run()) == 1


@given(st.integers(0, 24), st.integers(2, 12), st.text(max_size=4))
def test_regular_pairs_are_balanced_and_connected(count: int, degree: int, seed: str) -> None:
    pairs = regular_pairs(count, degree, seed)
    assert pairs == sorted(set(pairs)) and all(0 <= i < j < count for i, j in pairs)
    assert pairs == regular_pairs(count, degree, seed)
    met = Counter(i for pair in pairs for i in pair)
    wanted = max(0, min(degree, count - 1))
    short = [i for i in range(count) if met[i] != wanted]
    assert len(short) == (1 if wanted * count % 2 else 0) and all(met[i] == wanted - 1 for i in short)
    reached, edge = set(), [0] if count else []
    while edge:
        here = edge.pop()
        if here not in reached:
            reached.add(here)
            edge += [i + j - here for i, j in pairs if here in (i, j)]
    assert len(reached) == count


def test_other_seeds_pair_others() -> None:
    drawn = {tuple(regular_pairs(16, 4, str(seed))) for seed in range(20)}
    assert len(drawn) == 20
    met = Counter(pair for pairs in drawn for pair in pairs)
    # 20 draws of 32 pairs of 120: no pair is met far more often than others.
    assert len(met) > 110 and max(met.values()) < 15


def test_a_regular_tournament_costs_less_and_ranks_alike(lab: Any) -> None:
    lengths = Random(3).sample(range(1, 100), 16)
    judge = lab.FakeJudge(lab.longest)
    standing, _ = play(of_lengths(lab, *lengths), judge, pairing="regular", degree=4)
    assert len(judge.asked) == 16 * 4
    full, _ = play(of_lengths(lab, *lengths), lab.FakeJudge(lab.longest))
    scores = [
        (one, other) for one, other in zip(standing.scores, full.scores, strict=True) if one is not None and other is not None
    ]
    assert len(scores) == 16 and all(-1.0 < one < 1.0 for one, _ in scores)
    alike = sum((a[0] > b[0]) == (a[1] > b[1]) for a, b in combinations(scores, 2))
    assert alike / 120 > 0.85
    # Against everybody, expectations add up to nothing, as wins and losses do.
    assert sum(one for one, _ in scores) == pytest.approx(0.0, abs=1e-6)


def test_free_pairs_count_in_a_regular_tournament(lab: Any) -> None:
    entries = [*of_lengths(lab, *range(1, 9)), lab.entry("", empty=True)]
    judge = lab.FakeJudge(lab.longest)
    scores = [score for score in play(entries, judge, pairing="regular", degree=2)[0].scores if score is not None]
    assert len(judge.asked) == 8 * 2 and len(scores) == 9 and scores[8] == min(scores) < -0.7


@given(st.lists(st.integers(0, 5), min_size=2, max_size=7), st.sampled_from(["full", "regular"]), st.integers(0, 99))
def test_the_order_of_entries_changes_no_score(sizes: list[int], pairing: Pairing, seed: int) -> None:
    from types import SimpleNamespace

    entries = [Entry(brief="b", text="x" * size, reasoning="", form=1.0, empty=size == 0) for size in sizes]

    async def longest(comparison: Comparison) -> Preference:
        lead = len(comparison.first) - len(comparison.second)
        return FIRST if lead > 0 else SECOND if lead < 0 else TIE

    judge = SimpleNamespace(name="longest", compare=longest)
    # A regular pairing of all pairs draws nothing, so that the order of entries cannot matter to it either.
    there = play(entries, judge, pairing=pairing, degree=12)[0].scores
    order = Random(seed).sample(range(len(entries)), len(entries))
    back = play([entries[i] for i in order], judge, pairing=pairing, degree=12)[0].scores
    assert [back[order.index(i)] for i in range(len(entries))] == pytest.approx(list(there), abs=1e-6)
