"""Pairs of contest entries added up: points, win rates with intervals, what lies between two policies, and how entries look.

Owns the sums. Playing and judging is `contest.py`'s, the words are `contest_report.py`'s, intervals `statistics.py`'s.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sparring.engine.evaluation.compare import ALPHA, Effect
from sparring.engine.evaluation.statistics import Difference, Wins, against_even, holm, paired_difference, within_noise
from sparring.scenarios.contests.contest import Entry

MIN_TOPICS = 6
"""Below so many topics not even winning all of them is beyond chance at 5% (sign test: 2 / 2^5 = 6%)."""


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """How somebody's entries look. Shares and means are over the entries that were handed in; a failed game handed in none."""

    entries: int
    failed: int
    empty: float
    strict: float
    soft: float
    none: float
    words: float
    characters: float

    @classmethod
    def of(cls, entries: Sequence[Entry | None]) -> Form:
        """`None` stands for a game that failed."""
        own = [entry for entry in entries if entry is not None]
        count = max(1, len(own))
        return cls(
            entries=len(own),
            failed=len(entries) - len(own),
            empty=sum(entry.empty for entry in own) / count,
            strict=sum(entry.form == 1 for entry in own) / count,
            soft=sum(0 < entry.form < 1 for entry in own) / count,
            none=sum(entry.form == 0 for entry in own) / count,
            words=sum(len(entry.text.split()) for entry in own) / count,
            characters=sum(len(entry.text) for entry in own) / count,
        )


class Pairing(msgspec.Struct, frozen=True, kw_only=True):
    """One pair of entries and its points for the first: 1 won, 0.5 tied or flipped; `None` where it was dropped."""

    family: str
    topic: str
    seat: str
    points: float | None


class Points(msgspec.Struct, frozen=True, kw_only=True):
    """Pairs added up. A pair is won, tied or lost by its points; `win_rate` is the mean of the points, so ties are half a win.

    `low` and `high` are its 95% interval: a bootstrap over topics.
    """

    win: int
    tie: int
    loss: int
    dropped: int
    """Pairs that counted for neither, as a call failed."""
    win_rate: float
    low: float
    high: float

    @property
    def pairs(self) -> int:
        """Those that counted."""
        return self.win + self.tie + self.loss


class Standing(Points, frozen=True, kw_only=True):
    """One policy's entries against the comparison's: overall, by family, and how they look."""

    families: dict[str, Points]
    topics: dict[str, Wins]
    """Each topic's points, for comparisons with other evaluations on the same topics (`decline.py`)."""
    form: Form


def points_of(pairs: Sequence[Pairing], seed: int = 0) -> Points:
    """Pairs added up. The interval is [0, 1] where none counted, or too few topics say anything."""
    counted = [pair.points for pair in pairs if pair.points is not None]
    topics = wins_by_topic(pairs)
    rate, low, high = 0.0, 0.0, 1.0
    if counted:
        even = against_even(topics, seed=seed)
        rate = even.win_rate + 0.5
        low, high = max(0.0, even.low + 0.5), min(1.0, even.high + 0.5)
    return Points(
        win=sum(points > 0.5 for points in counted),
        tie=sum(points == 0.5 for points in counted),
        loss=sum(points < 0.5 for points in counted),
        dropped=len(pairs) - len(counted),
        win_rate=rate,
        low=low,
        high=high,
    )


def standing_of(pairs: Sequence[Pairing], entries: Sequence[Entry | None], seed: int = 0) -> Standing:
    """One policy's figures."""
    families = list(dict.fromkeys(pair.family for pair in pairs))
    return Standing(
        **msgspec.structs.asdict(points_of(pairs, seed)),
        families={family: points_of([pair for pair in pairs if pair.family == family], seed) for family in families},
        topics=wins_by_topic(pairs),
        form=Form.of(entries),
    )


def wins_by_topic(pairs: Sequence[Pairing]) -> dict[str, Wins]:
    """Each topic's points, also where all were dropped. Sides and samples of one topic are not independent of each other."""
    found: dict[str, Wins] = {}
    for pair in pairs:
        key = f"{pair.family}/{pair.topic}"
        before = found.setdefault(key, Wins(0.0, 0))
        if pair.points is not None:
            found[key] = Wins(before.wins + pair.points, before.games + 1)
    return found


def difference_of(
    trained: Sequence[Pairing], baseline: Sequence[Pairing] | None, seed: int = 0
) -> tuple[Effect, dict[str, Effect]]:
    """Trained minus baseline over all pairs and in each family, p-values of families corrected for their number (Holm).

    Without a baseline the other side is an even 50%. Families in which one side has no pair that counts are left out. Raises
    `EvaluationError` where that is so of all pairs.
    """
    families = dict.fromkeys(pair.family for pair in trained)
    found = {
        name: (_of(trained, name), None if baseline is None else _of(baseline, name))
        for name in families
        if _counts(_of(trained, name)) and (baseline is None or _counts(_of(baseline, name)))
    }
    differences = [_difference(after, before, seed) for after, before in found.values()]
    adjusted = holm([difference.p_value for difference in differences])
    effects = zip(found, differences, adjusted, strict=True)
    overall = _effect(_difference(trained, baseline, seed), trained)
    return overall, {name: _effect(difference, found[name][0], p) for name, difference, p in effects}


def _difference(trained: Sequence[Pairing], baseline: Sequence[Pairing] | None, seed: int) -> Difference:
    if baseline is None:
        return against_even(wins_by_topic(trained), seed=seed)
    return paired_difference(wins_by_topic(baseline), wins_by_topic(trained), seed=seed)


def _effect(difference: Difference, pairs: Sequence[Pairing], p_adjusted: float | None = None) -> Effect:
    noise = within_noise(difference) or (p_adjusted is not None and p_adjusted > ALPHA)
    few = len(wins_by_topic(pairs)) < MIN_TOPICS
    return Effect(**msgspec.structs.asdict(difference), within_noise=noise or few, p_adjusted=p_adjusted)


def _of(pairs: Sequence[Pairing], family: str) -> list[Pairing]:
    return [pair for pair in pairs if pair.family == family]


def _counts(pairs: Sequence[Pairing]) -> bool:
    return any(pair.points is not None for pair in pairs)
