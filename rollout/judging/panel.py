"""A weighted panel: several judges on several criteria, and how their votes on a pair add up.

Owns who votes and the arithmetic of votes. Which pairs are asked is `tournament.py`'s business, and who asks is `clerk.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sparring.rollout.errors import RolloutError
from sparring.rollout.judging.judge import Judge, Preference
from sparring.scenarios.contests.contest import Criterion

VALUES = {Preference.FIRST: 1.0, Preference.TIE: 0.0, Preference.SECOND: -1.0}


@dataclass(frozen=True)
class Member:
    """A judge, its weight, and the names of the criteria that it judges; none named is all."""

    judge: Judge
    weight: float = 1.0
    criteria: tuple[str, ...] = ()


@dataclass(frozen=True)
class Vote:
    """One judge on one criterion. `weight` is the member's times the criterion's."""

    judge: Judge
    criterion: Criterion
    weight: float


@dataclass(frozen=True)
class Panel:
    """The judges of a contest.

    Example:
        >>> Panel((Member(EmbeddedJudge()), Member(LlmJudge(chat, "gpt-4o-mini"), weight=3.0, criteria=("humour",))))
    """

    members: tuple[Member, ...]

    def votes(self, criteria: Sequence[Criterion]) -> tuple[Vote, ...]:
        """Who votes on what in a contest with these criteria. Raises `RolloutError` where nobody does."""
        found = tuple(
            Vote(member.judge, criterion, member.weight * criterion.weight)
            for member in self.members
            for criterion in criteria
            if (not member.criteria or criterion.name in member.criteria) and member.weight * criterion.weight > 0
        )
        if not found:
            names = ", ".join(criterion.name for criterion in criteria)
            raise RolloutError(
                f"no judge takes any of this contest's criteria ({names}): set judging.judges' criteria to some of them"
            )
        return found


@dataclass(frozen=True)
class Share:
    """How a pair went for its first entry: `win`, `tie` and `loss` are shares that add up to 1."""

    win: float
    tie: float
    loss: float

    @property
    def value(self) -> float:
        """In [-1, 1]: wins minus losses."""
        return self.win - self.loss

    @property
    def swapped(self) -> Share:
        """The same pair as the other entry sees it."""
        return Share(self.loss, self.tie, self.win)


WON, TIED, LOST = Share(1.0, 0.0, 0.0), Share(0.0, 1.0, 0.0), Share(0.0, 0.0, 1.0)


def both_orders(there: Preference | None, back: Preference | None) -> Share | None:
    """What one vote says of a pair: `there` was read in the pair's order, `back` in the other.

    Each order counts half. A flip, where the judge prefers a place and not a text, is half a point each: a tie. A failure in
    either order drops the vote, or else a judge that prefers a place would tip the pair.
    """
    if there is None or back is None:
        return None
    value = (VALUES[there] - VALUES[back]) / 2
    return Share(max(value, 0.0), 1.0 - abs(value), max(-value, 0.0))


def ordered_value(votes: Iterable[tuple[float, Preference | None]]) -> float | None:
    """The panel's preference in [-1, 1] for the first text of one ordered pair: the weighted mean of those who voted.

    Failed members drop out and the others' weights are renormalised; `None` where all failed.
    """
    counted = [(weight, VALUES[vote]) for weight, vote in votes if vote is not None]
    total = sum(weight for weight, _ in counted)
    return sum(weight * value for weight, value in counted) / total if counted else None


def combine(votes: Iterable[tuple[float, Share | None]]) -> Share | None:
    """The panel's share of a pair asked in both orders, weighted as `ordered_value`; `None` where no vote counts."""
    counted = [(weight, share) for weight, share in votes if share is not None]
    if not counted:
        return None
    total = sum(weight for weight, _ in counted)
    win = sum(weight * share.win for weight, share in counted) / total
    loss = sum(weight * share.loss for weight, share in counted) / total
    return Share(win, max(0.0, 1.0 - win - loss), loss)
