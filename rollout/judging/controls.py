"""Controls: questions with known answers, which score nobody and show what a judge is worth.

A text compared with itself must tie; a text with nothing added to it must not beat itself. Owns which texts are taken and the
asking; what the answers show is `audit.py`'s.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from sparring.rollout.judging.audit import IDENTICAL, PAD, PADDED, padded
from sparring.rollout.judging.clerk import Clerk, gather
from sparring.rollout.judging.panel import Vote
from sparring.rollout.judging.tournament import Contestant


@dataclass(frozen=True)
class Subject:
    """A text that may be taken for a control, and who votes on its like."""

    group: str
    contestant: Contestant
    votes: Sequence[Vote]


def controls(subjects: Sequence[Subject], clerk: Clerk, count: int, seed: str) -> list[Coroutine[Any, Any, None]]:
    """`count` identical pairs and as many padded ones for each judge, still to be awaited: three calls for one of each.

    Texts are drawn from the seed among those that are not empty, and each is judged on the first criterion that the judge has.
    """
    filled = [subject for subject in subjects if not subject.contestant.entry.empty]
    rng = Random(f"sparring/controls/{seed}")
    work = []
    for judge in sorted({vote.judge.name for subject in filled for vote in subject.votes}):
        own = [(subject, vote) for subject in filled if (vote := _first_vote(subject, judge)) is not None]
        for kind in (IDENTICAL, PADDED):
            work += [_ask(kind, subject, vote, clerk) for subject, vote in rng.sample(own, min(count, len(own)))]
    return work


def _first_vote(subject: Subject, judge: str) -> Vote | None:
    return next((vote for vote in subject.votes if vote.judge.name == judge), None)


async def _ask(kind: str, subject: Subject, vote: Vote, clerk: Clerk) -> None:
    name, entry = subject.contestant.id, subject.contestant.entry
    own = (name, entry.text)
    other = own if kind == IDENTICAL else (name + PAD, padded(entry.text))
    orders = [(own, own)] if kind == IDENTICAL else [(own, other), (other, own)]
    await gather(clerk.ask(vote, subject.group, entry.brief, *order, kind) for order in orders)
