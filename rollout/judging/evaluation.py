"""One against one: a policy's entries beside a comparison's on the same briefs, read in both orders.

Owns the comparisons of evaluation. Which games they come from, and how sure the win rate is, is the caller's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sparring.rollout.errors import RolloutError
from sparring.rollout.judging.clerk import Clerk, gather
from sparring.rollout.judging.judge import Judgement
from sparring.rollout.judging.panel import Panel
from sparring.rollout.judging.tournament import Contestant, hold
from sparring.scenarios.contests.contest import Criterion, Entry


@dataclass(frozen=True, kw_only=True)
class Match:
    """Two entries for one brief. The ids tell them apart in judgements, and must differ."""

    group: str
    policy: Entry
    comparison: Entry
    criteria: tuple[Criterion, ...]
    policy_id: str = "policy"
    comparison_id: str = "comparison"


@dataclass(frozen=True, kw_only=True)
class MatchResult:
    """How a match went for the policy's entry: `value` in [-1, 1], `None` where no verdict could be had."""

    value: float | None
    judgements: tuple[Judgement, ...]

    @property
    def points(self) -> float | None:
        """1 for a win, 0.5 for a tie (or a flip: both orders for the same place), 0 for a loss."""
        return None if self.value is None else 1.0 if self.value > 0 else 0.0 if self.value < 0 else 0.5


async def compare_entries(
    matches: Sequence[Match],
    panel: Panel,
    *,
    concurrency: int = 64,
    gate: asyncio.Semaphore | None = None,
    on_judgement: Callable[[Judgement], None] | None = None,
) -> list[MatchResult]:
    """The results of all matches, in their order; two calls a match, judge and criterion, so many at once as `concurrency` says,
    or `gate`, which others may share.

    Raises what ends a run, and `RolloutError` where no judge takes a contest's criteria.

    Example:
        >>> results = await compare_entries(matches, judging.evaluation)
        >>> points = [result.points for result in results if result.points is not None]
    """
    if concurrency < 1:
        raise RolloutError(f"judging.concurrency must be at least 1, not {concurrency}")
    shared = gate or asyncio.Semaphore(concurrency)
    return await gather(_play(match, panel, Clerk(shared, on_judgement)) for match in matches)


async def _play(match: Match, panel: Panel, clerk: Clerk) -> MatchResult:
    assert match.policy_id != match.comparison_id
    standing = await hold(
        match.group,
        (Contestant(match.policy_id, match.policy), Contestant(match.comparison_id, match.comparison)),
        panel.votes(match.criteria),
        clerk,
    )
    return MatchResult(value=standing.scores[0], judgements=clerk.judgements)
