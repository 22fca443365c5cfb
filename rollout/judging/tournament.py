"""A group's tournament: which pairs are judged, and the score in [-1, 1] that each entry takes from it.

Every pair is read in both orders. Nobody is asked about an empty entry, which loses, or about two equal texts, which tie. A
call that failed drops its pair for both entries. A full round robin of G entries takes at most G(G-1) calls a judge and
criterion; a regular one of degree k at most Gk, and Bradley-Terry strengths fill in the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random
from typing import Literal

from sparring.rollout.judging.bradley_terry import fit
from sparring.rollout.judging.clerk import Clerk, gather
from sparring.rollout.judging.panel import LOST, TIED, WON, Share, Vote, both_orders, combine
from sparring.scenarios.contests.contest import Entry

Pairing = Literal["full", "regular"]


@dataclass(frozen=True)
class Contestant:
    """An entry under the name that judgements give it: its game's id."""

    id: str
    entry: Entry


@dataclass(frozen=True)
class Pair:
    """Two contestants by index, and how the pair went for the first; `share` is `None` where it was dropped."""

    first: int
    second: int
    share: Share | None


@dataclass(frozen=True)
class Standing:
    """A finished tournament. A score is `None` for a contestant of whom no pair counted."""

    scores: tuple[float | None, ...]
    pairs: tuple[Pair, ...]

    @property
    def dropped(self) -> int:
        """Pairs that failed calls took out."""
        return sum(pair.share is None for pair in self.pairs)


async def hold(
    group: str,
    contestants: Sequence[Contestant],
    votes: Sequence[Vote],
    clerk: Clerk,
    *,
    pairing: Pairing = "full",
    degree: int = 4,
    seed: str = "",
) -> Standing:
    """The tournament of a group. All its pairs are asked at once, as far as the clerk lets them.

    "full" scores (wins - losses) / pairs that counted; "regular" the same as the fitted strengths expect it against everybody.
    """
    count = len(contestants)
    known = {(i, j): free_share(contestants[i].entry, contestants[j].entry) for i, j in combinations(range(count), 2)}
    asked = _asked(contestants, pairing, degree, seed)
    shares = await gather(
        _judge_pair(group, contestants[i], contestants[j], votes, clerk) for i, j in asked if known[i, j] is None
    )
    judged = dict(zip((pair for pair in asked if known[pair] is None), shares, strict=True))
    pairs = tuple(
        Pair(i, j, share if share is not None else judged[i, j])
        for (i, j), share in known.items()
        if share is not None or (i, j) in judged
    )
    return Standing(_means(count, pairs) if pairing == "full" else _expectations(count, pairs), pairs)


def free_share(first: Entry, second: Entry) -> Share | None:
    """How a pair goes that no judge need be asked about; `None` for every other pair."""
    if first.empty or second.empty:
        return TIED if first.empty and second.empty else LOST if first.empty else WON
    return TIED if first.text.split() == second.text.split() else None


def regular_pairs(count: int, degree: int, seed: str) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, in which each of `count` entries meets `degree` others, drawn from the seed; all where it must.

    Connected: the entries, shuffled, stand in a ring and each meets its neighbours, and those at `degree // 2 - 1` other
    distances. An odd degree pairs opposites too; where `count` is odd as well, one entry then has one opponent fewer.
    """
    if degree >= count - 1:
        return list(combinations(range(count), 2))
    assert degree >= 2
    rng = Random(f"sparring/pairs/{seed}/{count}/{degree}")
    ring = rng.sample(range(count), count)
    far = [] if degree % 2 == 0 else [(i, i + count // 2) for i in range(count // 2)]
    # A distance of count / 2 would pair opposites twice; of (count - 1) / 2, where an odd degree has paired them already.
    longest = (count - 1) // 2 - (1 if far and count % 2 else 0)
    distances = [1, *rng.sample(range(2, longest + 1), degree // 2 - 1)]
    near = [(i, (i + distance) % count) for distance in distances for i in range(count)]
    return sorted((min(ring[i], ring[j]), max(ring[i], ring[j])) for i, j in near + far)


async def _judge_pair(group: str, first: Contestant, second: Contestant, votes: Sequence[Vote], clerk: Clerk) -> Share | None:
    """The panel's word on a pair, read in both orders."""
    brief = first.entry.brief
    one, other = (first.id, first.entry.text), (second.id, second.entry.text)
    answers = await gather(clerk.ask(vote, group, brief, *order) for vote in votes for order in ((one, other), (other, one)))
    return combine(
        (vote.weight, both_orders(there, back)) for vote, there, back in zip(votes, answers[::2], answers[1::2], strict=True)
    )


def _asked(contestants: Sequence[Contestant], pairing: Pairing, degree: int, seed: str) -> list[tuple[int, int]]:
    """The pairs to judge: empty entries need no opponents, their pairs are all known."""
    filled = [i for i, contestant in enumerate(contestants) if not contestant.entry.empty]
    if pairing == "full":
        return list(combinations(filled, 2))
    return [(filled[i], filled[j]) for i, j in regular_pairs(len(filled), degree, seed)]


def _means(count: int, pairs: Sequence[Pair]) -> tuple[float | None, ...]:
    values: list[list[float]] = [[] for _ in range(count)]
    for pair in pairs:
        if pair.share is not None:
            values[pair.first].append(pair.share.value)
            values[pair.second].append(-pair.share.value)
    return tuple(round(sum(own) / len(own), 9) if own else None for own in values)


def _expectations(count: int, pairs: Sequence[Pair]) -> tuple[float | None, ...]:
    counted = [(pair.first, pair.second, pair.share) for pair in pairs if pair.share is not None]
    if not counted:
        return (None,) * count
    met = sorted({i for first, second, _ in counted for i in (first, second)})
    strengths = fit(count, counted)
    return tuple(
        round(sum(strengths.expected(i, j) for j in met if j != i) / (len(met) - 1), 9) if i in met else None
        for i in range(count)
    )
