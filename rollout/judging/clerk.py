"""The clerk: puts comparisons to judges, so many at a time, and notes every answer.

Owns the asking alone: which pairs, and what their answers add up to, is `tournament.py`'s and `audit.py`'s business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol, TypeVar

from sparring.rollout.errors import CallError
from sparring.rollout.judging.judge import Comparison, Judgement, Preference
from sparring.rollout.judging.panel import Vote

T = TypeVar("T")


class ReasoningJudge(Protocol):
    """Rates reasoning by itself, without a comparison."""

    async def rate(self, brief: str, reasoning: str) -> float | None:
        """In [0, 1]; `None` where no rating could be had."""
        ...


class Clerk:
    """Asks as many comparisons at once as `gate`, which clerks may share, lets through.

    `on_judgement` is called with each judgement as it comes in, so that what was paid for is kept even if the step is not.
    """

    def __init__(self, gate: asyncio.Semaphore, on_judgement: Callable[[Judgement], None] | None = None) -> None:
        self._judgements: list[Judgement] = []
        self._gate = gate
        self._on_judgement = on_judgement

    @property
    def judgements(self) -> tuple[Judgement, ...]:
        """What was said, in an order that does not depend on when."""
        return tuple(sorted(self._judgements, key=lambda j: (j.group, j.control, j.first, j.second, j.criterion, j.judge)))

    async def ask(
        self, vote: Vote, group: str, brief: str, first: tuple[str, str], second: tuple[str, str], control: str = ""
    ) -> Preference | None:
        """The vote's preference between two (game id, text). `None` where the call failed; whatever ends the run is raised."""
        comparison = Comparison(brief=brief, criterion=vote.criterion, first=first[1], second=second[1])
        async with self._gate:
            try:
                preference = await vote.judge.compare(comparison)
            except CallError:
                preference = None
        judgement = Judgement(
            group=group,
            judge=vote.judge.name,
            criterion=vote.criterion.name,
            first=first[0],
            second=second[0],
            preference=preference,
            control=control,
        )
        self._judgements.append(judgement)
        if self._on_judgement is not None:
            self._on_judgement(judgement)
        return preference

    async def rate(self, judge: ReasoningJudge, brief: str, reasoning: str) -> float | None:
        """The judge's rating of reasoning in [0, 1]; 0 without a call where there is none. Not a judgement: it ranks nobody."""
        if not reasoning.strip():
            return 0.0
        async with self._gate:
            try:
                return await judge.rate(brief, reasoning)
            except CallError:
                return None


async def gather(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in order, or the first error once everything else has stopped."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
